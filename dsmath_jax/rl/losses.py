"""Per-token terms of the RL losses (paper §4.1): ratios, surrogates, KL estimators, token weights.

Everything is `[B,T]`, but for sums over segments, `[B,S]`. A row has several completions, each with its prompt a
segment. Values outside the mask, even NaN, affect neither the loss nor a gradient.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

BT = Float[Array, "B T"]
Mask = Bool[Array, "B T"]
SegmentIds = Int[Array, "B T"]


class Tokens(NamedTuple):
    """The input of a surrogate, `[B,T]`; all but `mask` are 0 outside completions.

    Attributes:
      logprobs: log pi of the trained policy.
      log_ratios: log(pi / pi_old), clipped at LOG_RATIO_LIMIT.
      advantages: without a gradient.
      mask: the tokens that have loss.
      segment_ids: which tokens of a row are of one prompt and completion.
    """

    logprobs: BT
    log_ratios: BT
    advantages: BT
    mask: Mask
    segment_ids: SegmentIds

    def mean_over_completion(self, x: BT) -> BT:
        """Returns at each token the mean of x over the tokens of its completion that have loss."""
        sums = segment_sums(jnp.where(self.mask, x, 0.0), self.segment_ids)
        return at_tokens(sums / jnp.maximum(lengths_of(self.mask, self.segment_ids), 1), self.segment_ids)


def segment_sums(x: Array, segment_ids: SegmentIds) -> Float[Array, "B S"]:
    """Sums x `[B,T]` over each segment of each row. S is T + 1: the ids are 1, 2, ... and 0 for padding."""
    return jax.vmap(functools.partial(jax.ops.segment_sum, num_segments=x.shape[1] + 1))(x, segment_ids)


def at_tokens(per_segment: Float[Array, "B S"], segment_ids: SegmentIds) -> BT:
    """Gives each token the value of its segment."""
    return jnp.take_along_axis(per_segment, segment_ids, axis=1)


def lengths_of(mask: Mask, segment_ids: SegmentIds) -> Int[Array, "B S"]:
    """Returns how many tokens of each segment are in the mask."""
    return segment_sums(mask.astype(int), segment_ids)


def pair_sides(per_segment: Float[Array, "B S"]) -> tuple[Array, Array]:
    """Returns the values of the segments 1, 3, ... and of the segments 2, 4, ...: the two sides of each pair."""
    pairs = (per_segment.shape[1] - 1) // 2
    return per_segment[:, 1 : 2 * pairs : 2], per_segment[:, 2 : 2 * pairs + 1 : 2]


# (tokens, lower and upper bound of the ratio) -> what is maximized at each token, and metrics of each token.
Surrogate = Callable[[Tokens, float, float], tuple[BT, dict[str, BT]]]

# Nats. Ratios of policies are clipped at e^20, beyond which they have no gradient: sums and squares stay finite in
# float32, and a single token does not dominate an update.
LOG_RATIO_LIMIT = 20.0

# Estimators of KL(pi || pi_ref) at a token drawn from pi, of d = log(pi_ref / pi) (Schulman 2020, "Approximating KL
# divergence"). k3 is the paper's Eq. 4: unbiased and never negative. Inside a loss, k2 alone has the gradient of
# KL(pi || pi_ref) on average; k3 has that of KL(pi_ref || pi), and k1 has none.
KL_ESTIMATORS: Mapping[str, Callable[[BT], BT]] = {
    "k1": lambda d: -d,
    "k2": lambda d: 0.5 * d * d,
    "k3": lambda d: jnp.expm1(d) - d,
}


def log_ratio(logprobs: BT, others: BT, mask: Mask) -> BT:
    """Returns log(pi / other) inside the mask, clipped at LOG_RATIO_LIMIT, and 0 outside."""
    return jnp.clip(jnp.where(mask, jnp.subtract(logprobs, others), 0.0), -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def clip(tokens: Tokens, low: float, high: float) -> tuple[BT, dict[str, BT]]:
    """Returns min(r A, clip(r) A), r the ratio pi / pi_old of the token (paper Eq. 1)."""
    ratio, advantages = jnp.exp(tokens.log_ratios), tokens.advantages
    gain = jnp.minimum(ratio * advantages, jnp.clip(ratio, low, high) * advantages)
    below, above = (ratio < low) & (advantages < 0), (ratio > high) & (advantages > 0)
    return gain, {"clip_low": below.astype(gain.dtype), "clip_high": above.astype(gain.dtype)}


def sequence_clip(tokens: Tokens, low: float, high: float) -> tuple[BT, dict[str, BT]]:
    """Returns `clip` with the completion's ratio s = exp(mean_t log r_t) (GSPO, arXiv 2507.18071).

    In its form GSPO-token: each token has the value of s and the gradient of s grad log pi(o_t), so that advantages
    may differ between the tokens of a completion.
    """
    mean = tokens.mean_over_completion(tokens.log_ratios)
    log_ratios = jax.lax.stop_gradient(mean - tokens.log_ratios) + tokens.log_ratios
    return clip(tokens._replace(log_ratios=log_ratios), low, high)


def cispo(tokens: Tokens, low: float, high: float) -> tuple[BT, dict[str, BT]]:
    """Returns sg(clip(r)) A log pi: a clipped ratio is a constant weight, so every token has a gradient.

    CISPO, MiniMax-M1, arXiv 2506.13585.
    """
    ratio = jnp.exp(tokens.log_ratios)
    weight = jax.lax.stop_gradient(jnp.clip(ratio, low, high))
    clipped = {"clip_low": ratio < low, "clip_high": ratio > high}
    gain = weight * tokens.advantages * tokens.logprobs
    return gain, {name: where.astype(gain.dtype) for name, where in clipped.items()}


SURROGATES: Mapping[str, Surrogate] = {"clip": clip, "sequence_clip": sequence_clip, "cispo": cispo}


# By `rl.sampler_correction`: weights of tokens, from pi_old / pi_sampler and a limit. They correct for a sampler whose
# log-probabilities differ from the trainer's. "truncate" is TIS (Yao et al. 2025, "Your Efficient RL Framework
# Secretly Brings You Off-Policy RL Training"), "mask" is MIS or IcePop (arXiv 2510.18855).
SAMPLER_CORRECTIONS: Mapping[str, Callable[[BT, float], BT]] = {
    "none": lambda ratio, limit: jnp.ones_like(ratio),
    "truncate": jnp.minimum,
    "mask": lambda ratio, limit: jnp.where((ratio >= 1 / limit) & (ratio <= limit), ratio, 0.0),
}


def completion_mean(mask: Mask, segment_ids: SegmentIds, limit: int) -> tuple[BT, Array]:
    """Returns token weights 1/|o_i| and the number of completions: the paper's (1/G) sum_i (1/|o_i|) sum_t."""
    del limit
    lengths = lengths_of(mask, segment_ids)
    return mask / jnp.maximum(at_tokens(lengths, segment_ids), 1), jnp.sum(lengths > 0)


def token_mean(mask: Mask, segment_ids: SegmentIds, limit: int) -> tuple[BT, Array]:
    """Returns token weights 1 and the number of tokens (DAPO, arXiv 2503.14476, over the whole batch)."""
    del segment_ids, limit
    return 1.0 * mask, jnp.sum(mask)


def constant_mean(mask: Mask, segment_ids: SegmentIds, limit: int) -> tuple[BT, Array]:
    """Returns token weights 1/limit and the number of completions (Dr. GRPO, arXiv 2503.20783)."""
    return mask / limit, jnp.sum(lengths_of(mask, segment_ids) > 0)


def completion_sum(mask: Mask, segment_ids: SegmentIds, limit: int) -> tuple[BT, Array]:
    """Returns token weights 1 and the number of completions (REINFORCE and RLOO, arXiv 2402.14740)."""
    del limit
    return 1.0 * mask, jnp.sum(lengths_of(mask, segment_ids) > 0)


# By `rl.normalize`: (mask, segment ids, length limit) -> token weights and the weight of the batch.
NORMALIZERS = {"completion": completion_mean, "token": token_mean, "constant": constant_mean, "sum": completion_sum}


def metric_sums(
    per_token: Mapping[str, BT], mask: Mask, segment_ids: SegmentIds, normalize: str
) -> dict[str, Array]:  # fmt: skip
    """Returns sums that, over the batch's weight, are means by token (`normalize` "token") or by completion."""
    token_weights, _ = NORMALIZERS["token" if normalize == "token" else "completion"](mask, segment_ids, 0)
    return {name: jax.lax.stop_gradient(masked_sum(x * token_weights, mask)) for name, x in per_token.items()}


def masked_sum(x: Array, mask: Array) -> Array:
    """Sums x inside the mask, whatever x is outside."""
    return jnp.sum(jnp.where(mask, x, 0.0))


def value_loss(values: BT, old: BT, returns: BT, value_clip: float) -> BT:
    """Returns PPO's clipped value loss: half the larger squared error of the value and the clipped value."""
    clipped = jnp.clip(values, old - value_clip, old + value_clip)
    return 0.5 * jnp.maximum((values - returns) ** 2, (clipped - returns) ** 2)
