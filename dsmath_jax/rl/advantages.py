"""Advantages from rewards (paper §4.1), in float64 on the host.

Completions are prompt-major: the G completions of a prompt are adjacent. Every token has an advantage: one array
`[len_i]` per completion.
"""

from collections.abc import Callable, Mapping, Sequence
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
      old_logprobs, ref_logprobs, old_values, teacher_logprobs: one number per token; empty where the algorithm does
        not need them.
    """

    scores: Scores
    lengths: list[int]
    group_size: int
    old_logprobs: Sequence[np.ndarray] = ()
    ref_logprobs: Sequence[np.ndarray] = ()
    old_values: Sequence[np.ndarray] = ()
    teacher_logprobs: Sequence[np.ndarray] = ()


def outcome_scores(rewards: Sequence[float] | np.ndarray, lengths: Sequence[int]) -> Scores:
    """Returns scores with one reward per completion, at its last token (paper §4.1.2)."""
    pairs = zip(rewards, lengths, strict=True)
    ends, values = zip(*((np.array([n - 1]), np.array([r], np.float64)) for r, n in pairs), strict=True)
    return Scores(list(ends), list(values))


def rewards_to_go(scores: Scores, lengths: Sequence[int]) -> PerToken:
    """Returns the rewards to go: for each token, the sum of the rewards at or after it.

    A completion with a NaN reward is NaN everywhere.
    """
    return _to_tokens(scores.ends, [_reverse_cumsum(rewards) for rewards in scores.rewards], lengths)


# By `rl.process_credit`: (rewards of a completion's steps, all step rewards of its group) -> the return of each step,
# which the group's returns normalize. None of them grows with the number of steps, as sums of normalized rewards do.
PROCESS_CREDITS: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    # The smallest reward at or after the step (PURE, arXiv 2504.15275, at temperature 0).
    "min": lambda rewards, pool: np.minimum.accumulate(rewards[::-1])[::-1],
    # Rewards to go of min(r, eta) - eta, never above 0 (Clip, arXiv 2410.15115); eta is the group's mean.
    "clip": lambda rewards, pool: _reverse_cumsum(np.minimum(rewards, pool.mean()) - pool.mean()),
    # Rewards to go of r_k - r_(k+1), which add up to the step's own reward (Delta, arXiv 2410.15115).
    "delta": lambda rewards, pool: rewards,
}


def group_relative(
    scores: Scores,
    group_size: int,
    lengths: Sequence[int],
    *,
    ddof: int = 1,
    epsilon: float = 1e-6,
    divide_by_std: bool = True,
    process_credit: str = "sum",
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
      process_credit: "sum" adds up the normalized rewards of the steps from a token's on, as the paper does; the others
        are `PROCESS_CREDITS`, whose returns are normalized instead of the rewards.
    """
    normalized: list[np.ndarray] = []
    for group in _groups(scores, group_size):
        pool = _pool(group)
        if process_credit != "sum" and pool.size:
            group = [PROCESS_CREDITS[process_credit](rewards, pool) for rewards in group]
            pool = _pool(group)
        if _has_spread(pool):
            mean, scale = pool.mean(), (pool.std(ddof=ddof) + epsilon if divide_by_std else 1.0)
        else:
            mean, scale = 0.0, np.inf
        normalized += [(rewards - mean) / scale for rewards in group]
    if process_credit == "sum":
        normalized = [_reverse_cumsum(rewards) for rewards in normalized]
    return _to_tokens(scores.ends, normalized, lengths)


def leave_one_out(scores: Scores, group_size: int, lengths: Sequence[int]) -> PerToken:
    """Computes RLOO's advantages: a completion's reward less the mean of the others of its group (arXiv 2402.14740).

    The reward is the sum of a completion's rewards. A completion with a NaN reward is left out; one without others has
    the advantage 0.
    """
    totals = _equalized(_totals(scores).reshape(-1, group_size))
    valid = np.isfinite(totals)
    others = valid.sum(axis=1, keepdims=True) - 1
    sums = np.where(valid, totals, 0.0).sum(axis=1, keepdims=True)
    baseline = np.where(others > 0, (sums - totals) / np.maximum(others, 1), totals)
    return _per_completion((totals - baseline).ravel(), lengths)


def signed_rewards(scores: Scores, lengths: Sequence[int]) -> PerToken:
    """Returns 2 r - 1 of each completion's reward r: 1 for correct ones and -1 for others, where r is 1 or 0."""
    return _per_completion(2 * _totals(scores) - 1, lengths)


def whitened_returns(scores: Scores, lengths: Sequence[int], epsilon: float = 1e-6) -> PerToken:
    """Computes REINFORCE++'s advantages: the rewards to go, normalized over all tokens (arXiv 2501.03262)."""
    return _whiten(rewards_to_go(scores, lengths), epsilon)


def whitened_group_centered(scores: Scores, group_size: int, lengths: Sequence[int], epsilon: float = 1e-6) -> PerToken:
    """Computes the advantages of REINFORCE++-baseline: rewards less their group's mean, normalized over all tokens.

    arXiv 2501.03262. The reward is the sum of a completion's rewards.
    """
    totals = _equalized(_totals(scores).reshape(-1, group_size))
    means = np.array([[_mean(group)] for group in totals])
    return _whiten(_per_completion((totals - means).ravel(), lengths), epsilon)


def distillation(rollout: ScoredRollout, scale: float) -> PerToken:
    """Computes the advantages of on-policy distillation: log pi_T - log pi_S of each token.

    With a scale other than 1 they are scale log(pi_T / pi_ref) - log(pi_S / pi_ref) (G-OPD, arXiv 2602.12125).
    """
    reference = rollout.ref_logprobs if scale != 1 else [np.zeros(n) for n in rollout.lengths]
    per_token = zip(rollout.teacher_logprobs, rollout.old_logprobs, reference, strict=True)
    return [
        scale * (np.asarray(teacher, np.float64) - ref) - (np.asarray(student, np.float64) - ref)
        for teacher, student, ref in per_token
    ]


def zero_std_groups(scores: Scores, group_size: int) -> Bool[np.ndarray, " P"]:
    """Returns which groups have equal rewards, within REWARD_RTOL, and so zero advantages."""
    return np.array([not _has_spread(_pool(group)) for group in _groups(scores, group_size)], bool)


def _groups(scores: Scores, group_size: int) -> list[list[np.ndarray]]:
    return [scores.rewards[start : start + group_size] for start in range(0, len(scores.rewards), group_size)]


def _reverse_cumsum(rewards: np.ndarray) -> np.ndarray:
    return np.cumsum(rewards[::-1])[::-1]


def _to_tokens(ends: Sequence[np.ndarray], values: Sequence[np.ndarray], lengths: Sequence[int]) -> PerToken:
    """Gives each token the value of the step that it is in, 0 after the last step, NaN if any of them is NaN."""
    return [
        np.append(steps, 0.0)[np.searchsorted(end, np.arange(length))]
        if _all_finite(steps)
        else np.full(length, np.nan)
        for end, steps, length in zip(ends, values, lengths, strict=True)
    ]


def _all_finite(rewards: np.ndarray) -> bool:
    return not np.isnan(rewards).any()


def _totals(scores: Scores) -> np.ndarray:
    """Returns the sum of each completion's rewards, NaN where one is missing."""
    return np.array([rewards.sum() for rewards in scores.rewards])


def _equalized(totals: np.ndarray) -> np.ndarray:
    """Returns rewards `[P,G]` with those of a group that are equal, within REWARD_RTOL, exactly equal."""
    rows = []
    for group in totals:
        valid = group[np.isfinite(group)]
        rows.append(group if _has_spread(valid) or not valid.size else np.where(np.isfinite(group), valid[0], np.nan))
    return np.array(rows)


def _mean(rewards: np.ndarray) -> float:
    """Returns the mean of the rewards that are not NaN, 0 without any."""
    valid = rewards[np.isfinite(rewards)]
    return float(valid.mean()) if valid.size else 0.0


def _per_completion(values: np.ndarray, lengths: Sequence[int]) -> PerToken:
    """Gives every token of a completion its value."""
    return [np.full(length, value) for value, length in zip(values, lengths, strict=True)]


def _whiten(per_token: PerToken, epsilon: float) -> PerToken:
    """Normalizes by mean and standard deviation over all tokens; equal values, within REWARD_RTOL, become 0."""
    pool = np.concatenate([values for values in per_token if _all_finite(values)] or [np.empty(0)])
    if not _has_spread(pool):
        return [np.where(np.isnan(values), np.nan, 0.0) for values in per_token]
    mean, scale = pool.mean(), pool.std(ddof=1) + epsilon
    return [(values - mean) / scale for values in per_token]


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
