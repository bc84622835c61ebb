"""Filters of rollouts, by `rl.rollout_filter`: which completions have loss.

A filter is a function `(rollout, scores, group_size) -> keep`, a bool for each of the P x G completions. The update is
on the completions that every filter keeps.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from dsmath_jax.rl.advantages import Scores, zero_std_groups

if TYPE_CHECKING:
    from dsmath_jax.rl.rollouts import Rollout

Filter = Callable[["Rollout", Scores, int], Bool[np.ndarray, " PG"]]


def without_truncated(rollout: "Rollout", scores: Scores, group_size: int) -> Bool[np.ndarray, " PG"]:
    """Keeps completions that ended by themselves, not at the length limit (DAPO, arXiv 2503.14476)."""
    return np.array([completion.finished for completion in rollout.completions_PG])


def without_zero_std(rollout: "Rollout", scores: Scores, group_size: int) -> Bool[np.ndarray, " PG"]:
    """Keeps groups whose rewards are not all equal, and so teach something (DAPO; Reinforce-Rej, arXiv 2504.11343)."""
    return ~np.repeat(zero_std_groups(scores, group_size), group_size)


def without_incorrect(rollout: "Rollout", scores: Scores, group_size: int) -> Bool[np.ndarray, " PG"]:
    """Keeps completions whose rewards add up to more than 0 (RAFT, arXiv 2304.06767)."""
    return np.array([rewards.sum() > 0 for rewards in scores.rewards])


# A key says which completions the filter drops.
ROLLOUT_FILTERS: Mapping[str, Filter] = {
    "truncated": without_truncated, "zero_std": without_zero_std, "incorrect": without_incorrect
}  # fmt: skip
