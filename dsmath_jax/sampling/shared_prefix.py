"""Attention to the tokens that all prompts of a call begin with, which are prefilled and stored once.

Axis letters: see `engine.py`. The tokens are the last of U positions; those before them are padding, so that no padding
is between them and the rest of a prompt.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dsmath_jax.models.attention import PLAIN, AttentionSpec, packed_attention
from dsmath_jax.models.decoder import Attention
from dsmath_jax.models.quantization import Quantized, operand


def shared_positions(length: int, num_shared: Int[Array, ""]) -> Int[Array, "1 U"]:
    """Returns the positions in the prompts; those of padding are negative."""
    return (jnp.arange(length) - (length - num_shared))[None]


def attention_after(
    shared_k: Float[Array, "1 K U H"] | Quantized,
    shared_v: Float[Array, "1 K U H"] | Quantized,
    num_shared: Int[Array, ""],
) -> Attention:
    """Returns the causal attention of the rest of prompts, which also attends to the shared tokens."""
    length = shared_k.shape[2]

    def after(shared: Float[Array, "1 K U H"] | Quantized, own: Float[Array, "B T K H"]) -> Float[Array, "B U+T K H"]:
        x, scale = operand(shared, own.dtype)
        x = (x if scale is None else x * scale[..., None]).swapaxes(1, 2).astype(own.dtype)
        return jnp.concatenate([jnp.broadcast_to(x, (len(own), *x.shape[1:])), own], axis=1)

    def attention(q: Array, k: Array, v: Array, segment_ids: Array, *, spec: AttentionSpec = PLAIN) -> Array:
        is_token = (shared_positions(length, num_shared) >= 0).astype(segment_ids.dtype)
        segments = jnp.concatenate([jnp.broadcast_to(is_token, (len(q), length)), segment_ids], axis=1)
        return packed_attention(q, after(shared_k, k), after(shared_v, v), segments, length, spec)

    return attention
