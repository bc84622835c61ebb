"""Objectives: pure functions `(model, params, batch) -> (loss_sum, weight_sum), metric_sums`.

The train step divides by the global weight, so gradient accumulation and data parallelism never change the loss.
Batches are those of `data.packing.batch_of_rows`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from dsmath_jax.models.decoder import Decoder, lm_head
from dsmath_jax.models.logprobs import token_logprobs

Batch = dict[str, Array]
Sums = tuple[tuple[Array, Array], dict[str, Array]]
Objective = Callable[[Decoder, Any, Batch], Sums]


def batch_logprobs(
    model: Decoder, params: Any, batch: Batch, temperature: float = 1.0, entropy_has_gradient: bool = False
) -> tuple[Array, Array]:
    """Returns the log-probability of each target and the entropy at it, both `[B,T] float32`."""
    hidden: Any = model.apply({"params": params}, batch["tokens"], batch["positions"], batch["segment_ids"])
    logprobs = functools.partial(
        token_logprobs, temperature=temperature, cap=model.config.final_logit_softcapping,
        entropy_has_gradient=entropy_has_gradient,
    )  # fmt: skip
    return model.map_row_shards(logprobs, (hidden, batch["targets"]), lm_head(params, model.config))


def next_token(model: Decoder, params: Any, batch: Batch) -> Sums:
    """Computes the weighted cross-entropy (nats) of the targets: pre-training (paper §2.2) and SFT (§3)."""
    logprobs, _ = batch_logprobs(model, params, batch)
    return (-jnp.sum(logprobs * batch["loss_weights"]), jnp.sum(batch["loss_weights"])), {}
