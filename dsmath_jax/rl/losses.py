"""Per-token terms of the RL losses (paper §4.1): ratios, the clipped surrogate, KL estimators, token weights.

Everything is `[B,T]`. Values outside the mask, even NaN, affect neither the loss nor a gradient.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

BT = Float[Array, "B T"]

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


def log_ratio(logprobs: BT, others: BT, mask: Bool[Array, "B T"]) -> BT:
    """Returns log(pi / other) inside the mask, clipped at LOG_RATIO_LIMIT, and 0 outside."""
    return jnp.clip(jnp.where(mask, logprobs - others, 0.0), -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def clipped_surrogate(log_ratios: BT, advantages: BT, below: float, above: float) -> tuple[BT, BT, BT]:
    """Returns min(r A, clip(r, 1 - below, 1 + above) A) (paper Eq. 1), and where the clip is active below and above."""
    ratio = jnp.exp(log_ratios)
    gain = jnp.minimum(ratio * advantages, jnp.clip(ratio, 1.0 - below, 1.0 + above) * advantages)
    low, high = (ratio < 1.0 - below) & (advantages < 0), (ratio > 1.0 + above) & (advantages > 0)
    return gain, low.astype(gain.dtype), high.astype(gain.dtype)


def completion_mean(mask: Bool[Array, "B T"], limit: int) -> tuple[BT, Array]:
    """Returns token weights 1/|o_i| and the number of completions: the paper's (1/G) sum_i (1/|o_i|) sum_t."""
    del limit
    lengths = jnp.sum(mask, axis=1, keepdims=True)
    return mask / jnp.maximum(lengths, 1), jnp.sum(lengths > 0)


def token_mean(mask: Bool[Array, "B T"], limit: int) -> tuple[BT, Array]:
    """Returns token weights 1 and the number of tokens (DAPO, arXiv 2503.14476, over the whole batch)."""
    del limit
    return 1.0 * mask, jnp.sum(mask)


def constant_mean(mask: Bool[Array, "B T"], limit: int) -> tuple[BT, Array]:
    """Returns token weights 1/limit and the number of completions (Dr. GRPO, arXiv 2503.20783)."""
    return mask / limit, jnp.sum(jnp.any(mask, axis=1))


# By `rl.normalize`: (mask, length limit) -> token weights and the weight of the batch.
NORMALIZERS = {"completion": completion_mean, "token": token_mean, "constant": constant_mean}


def metric_sums(per_token: Mapping[str, BT], mask: Bool[Array, "B T"], normalize: str) -> dict[str, Array]:
    """Returns sums that, over the batch's weight, are means by token (`normalize` "token") or by completion."""
    token_weights, _ = NORMALIZERS["token" if normalize == "token" else "completion"](mask, 0)
    return {name: jax.lax.stop_gradient(masked_sum(x * token_weights, mask)) for name, x in per_token.items()}


def masked_sum(x: Array, mask: Array, axis: int | None = None) -> Array:
    """Sums x inside the mask, whatever x is outside."""
    return jnp.sum(jnp.where(mask, x, 0.0), axis=axis)


def value_loss(values: BT, old: BT, returns: BT, value_clip: float) -> BT:
    """Returns PPO's clipped value loss: half the larger squared error of the value and the clipped value."""
    clipped = jnp.clip(values, old - value_clip, old + value_clip)
    return 0.5 * jnp.maximum((values - returns) ** 2, (clipped - returns) ** 2)
