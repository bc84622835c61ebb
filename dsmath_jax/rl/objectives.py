"""The policy objective of GRPO and of what it generalises (paper Eq. 3 and 4), as a loss to be minimised."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dsmath_jax.models.llama import Llama, Params
from dsmath_jax.training.objectives import Batch, Sums, batch_logprobs


def k3(logprobs: Float[Array, "B T"], ref_logprobs: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """The unbiased, non-negative KL estimator (paper Eq. 4): pi_ref/pi - log(pi_ref/pi) - 1, a token at a time."""
    difference = ref_logprobs - logprobs
    return jnp.exp(difference) - difference - 1.0


def clipped(
    logprobs: Float[Array, "B T"], old_logprobs: Float[Array, "B T"], advantages: Float[Array, "B T"], clip_eps: float
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """min(r A, clip(r, 1-eps, 1+eps) A) a token at a time, and where the clipped side was taken."""
    ratio = jnp.exp(logprobs - old_logprobs)
    free, bounded = ratio * advantages, jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps) * advantages
    return jnp.minimum(free, bounded), (bounded < free).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class PolicyObjective:
    """GRPO's objective (paper Eq. 3), negated.

    The batch of `rollouts.batch_of` is joined by `advantages`, `old_logprobs`, `ref_logprobs`, all `[B,T] float32`;
    `loss_weights` is 1 on the targets that are completion tokens, EOS among them. Every completion is divided by its
    own length |o_i|, and the weight of a batch is its number of completions, so micro-batches never change the
    mathematics.
    """

    clip_eps: float
    kl_coef: float
    temperature: float

    def __call__(self, model: Llama, params: Params, batch: Batch) -> Sums:
        logprobs, entropy = batch_logprobs(model, params, batch, self.temperature)
        mask = batch["loss_weights"]
        # Outside the completion old and reference are zeros: without this the ratio there could overflow.
        logprobs = jnp.where(mask > 0, logprobs, 0.0)
        gain, was_clipped = clipped(logprobs, batch["old_logprobs"], batch["advantages"], self.clip_eps)
        kl = k3(logprobs, batch["ref_logprobs"])
        lengths = jnp.sum(mask, axis=1, keepdims=True)
        weights = mask / jnp.maximum(lengths, 1.0)
        completions = jnp.sum(lengths > 0)
        metrics = {
            "kl": jnp.sum(kl * weights),
            "clip_fraction": jnp.sum(was_clipped * weights),
            "entropy": jnp.sum(entropy * weights),
            "ratio_error": jnp.sum(jnp.abs(logprobs - batch["old_logprobs"]) * weights),
        }
        loss = -jnp.sum((gain - self.kl_coef * kl) * weights)
        return (loss, completions.astype(jnp.float32)), jax.lax.stop_gradient(metrics)
