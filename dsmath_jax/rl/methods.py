"""RL methods as data (paper §5.2, Table 10): where completions come from, what a reward is worth, which objective."""

import dataclasses
from collections.abc import Callable

import numpy as np

from dsmath_jax.rl.advantages import group_normalised, reward_itself


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of the paper's Table 10. Completions come from the policy itself.

    Attributes:
      advantage: rewards `[P,G]` to advantages `[P,G]`.
      has_kl: whether the objective holds the KL to the reference.
    """

    advantage: Callable[[np.ndarray], np.ndarray]
    has_kl: bool


METHODS = {
    "grpo": Method(group_normalised, has_kl=True),
    "online_rft": Method(reward_itself, has_kl=False),
}
