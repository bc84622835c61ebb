"""Advantages from rewards (paper §4.1), in float64 on the host.

Completions are prompt-major: the G completions of a prompt are adjacent. Every token has an advantage: one array
`[len_i]` per completion.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

PerToken = list[np.ndarray]

# Rewards of a group whose range is at most this share of the largest count as equal: eight float32 epsilons, 9.5e-7.
# Rounding causes such differences, and dividing by the standard deviation would turn them into full-size advantages.
# Real differences are larger: 100.001 and 100.002 are ten times the bound apart. The range is compared, since the
# standard deviation shrinks with the group size where one reward differs. Where a score is a sum that cancels, rounding
# exceeds the bound; so equal completions are scored once (`reward_model.model.scorer`).
REWARD_RTOL = 8 * float(np.finfo(np.float32).eps)


class Scores(NamedTuple):
    """The rewards of completions, and the tokens at which they are given.

    Attributes:
      ends: for each completion, the indices of its rewarded tokens, ascending. Outcome supervision has one, the last
        token; process supervision has one per step, the last of which is the last token.
      rewards: for each completion, float64 with the length of `ends`; NaN where a reward is missing.
    """

    ends: list[np.ndarray]
    rewards: list[np.ndarray]


class ScoredRollout(NamedTuple):
    """The input of `Algorithm.advantages`: rewards of P x G completions, and model outputs at their tokens.

    Attributes:
      scores: the rewards and their tokens.
      lengths: tokens of each completion, including EOS.
      group_size: G.
      old_logprobs, ref_logprobs, old_values: one number per token; empty where the algorithm does not need them.
    """

    scores: Scores
    lengths: list[int]
    group_size: int
    old_logprobs: Sequence[np.ndarray] = ()
    ref_logprobs: Sequence[np.ndarray] = ()
    old_values: Sequence[np.ndarray] = ()


def outcome_scores(rewards: Sequence[float] | np.ndarray, lengths: Sequence[int]) -> Scores:
    """Returns scores with one reward per completion, at its last token (paper §4.1.2)."""
    pairs = zip(rewards, lengths, strict=True)
    ends, values = zip(*((np.array([n - 1]), np.array([r], np.float64)) for r, n in pairs), strict=True)
    return Scores(list(ends), list(values))


def rewards_to_go(scores: Scores, lengths: Sequence[int]) -> PerToken:
    """Returns the rewards to go: for each token, the sum of the rewards at or after it.

    A completion with a NaN reward is NaN everywhere.
    """
    return [
        np.append(np.cumsum(rewards[::-1])[::-1], 0.0)[np.searchsorted(ends, np.arange(length))]
        if _all_finite(rewards)
        else np.full(length, np.nan)
        for ends, rewards, length in zip(scores.ends, scores.rewards, lengths, strict=True)
    ]


def group_relative(
    scores: Scores,
    group_size: int,
    lengths: Sequence[int],
    *,
    ddof: int = 1,
    epsilon: float = 1e-6,
    divide_by_std: bool = True,
) -> PerToken:
    """Computes GRPO's advantages: the rewards to go, normalized within each group (paper §4.1.2, §4.1.3).

    A reward is normalized over all rewards of its prompt's G completions: G numbers with outcome supervision, all step
    rewards with process supervision. Groups of equal rewards, within REWARD_RTOL, give exactly 0. A completion with a
    NaN reward is left out of its group, and its advantages are NaN.

    Args:
      scores: of P x G completions.
      group_size: G.
      lengths: tokens of each completion.
      ddof: 1 divides the squared deviations by n - 1, 0 by n.
      epsilon: added to the standard deviation.
      divide_by_std: False only subtracts the mean (Dr. GRPO, arXiv 2503.20783).
    """
    normalized: list[np.ndarray] = []
    for group in _groups(scores, group_size):
        pool = _pool(group)
        if _has_spread(pool):
            mean, scale = pool.mean(), (pool.std(ddof=ddof) + epsilon if divide_by_std else 1.0)
        else:
            mean, scale = 0.0, np.inf
        normalized += [(rewards - mean) / scale for rewards in group]
    return rewards_to_go(Scores(scores.ends, normalized), lengths)


def zero_std_groups(scores: Scores, group_size: int) -> Bool[np.ndarray, " P"]:
    """Returns which groups have equal rewards, within REWARD_RTOL, and so zero advantages."""
    return np.array([not _has_spread(_pool(group)) for group in _groups(scores, group_size)], bool)


def _groups(scores: Scores, group_size: int) -> list[list[np.ndarray]]:
    return [scores.rewards[start : start + group_size] for start in range(0, len(scores.rewards), group_size)]


def _all_finite(rewards: np.ndarray) -> bool:
    return not np.isnan(rewards).any()


def _pool(group: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0), *(rewards for rewards in group if _all_finite(rewards))])


def _has_spread(pool: np.ndarray) -> bool:
    return bool(pool.size) and bool(np.ptp(pool) > REWARD_RTOL * np.abs(pool).max())


def ppo_token_rewards(
    scores: Scores, logprobs: Sequence[np.ndarray], ref_logprobs: Sequence[np.ndarray], kl_coef: float
) -> PerToken:
    """Computes PPO's reward per token (paper Eq. 2): its reward less kl_coef log(pi / pi_ref).

    Args:
      scores: of the completions; one with a NaN gets NaN everywhere.
      logprobs: of the tokens under the policy that sampled them, `[len_i]` each.
      ref_logprobs: the same under the reference model.
      kl_coef: beta.
    """
    token_rewards = []
    for ends, rewards, policy, reference in zip(*scores, logprobs, ref_logprobs, strict=True):
        per_token = -kl_coef * (np.asarray(policy, np.float64) - np.asarray(reference, np.float64))
        per_token[ends[: len(per_token)]] += rewards[: len(per_token)]
        token_rewards.append(per_token if _all_finite(rewards) else np.full(per_token.shape, np.nan))
    return token_rewards


def gae(
    rewards: Float[np.ndarray, "*B T"], values: Float[np.ndarray, "*B T"], gamma: float = 1.0, lam: float = 1.0
) -> Float[np.ndarray, "*B T"]:
    """Computes generalized advantage estimates (Schulman et al. 2015, arXiv 1506.02438, Eq. 16).

    A_t = sum_k (gamma lam)^k (R_{t+k} + gamma V_{t+k+1} - V_{t+k}), with value 0 after the last token: padding with
    zeros does not change the advantages. The returns are advantages + values.

    Args:
      rewards: of each token.
      values: of the state before each token.
      gamma: discount.
      lam: lambda of GAE.
    """
    rewards, values = np.asarray(rewards, np.float64), np.asarray(values, np.float64)
    next_values = np.concatenate([values[..., 1:], np.zeros((*values.shape[:-1], 1))], axis=-1)[..., : values.shape[-1]]
    advantages = rewards + gamma * next_values - values
    for t in range(rewards.shape[-1] - 2, -1, -1):
        advantages[..., t] += gamma * lam * advantages[..., t + 1]
    return advantages
