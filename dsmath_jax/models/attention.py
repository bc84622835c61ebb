"""Attention over packed sequences and over a decode cache. Axis letters: see `llama.py`; S is a cache slot."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def masked_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Bool[Array, "B T S"],
) -> Float[Array, "B T N H"]:
    """Grouped-query attention, softmax in float32. A query without any visible key gets the mean of all values."""
    groups = q.shape[2] // k.shape[2]
    q = q.reshape(*q.shape[:2], k.shape[2], groups, q.shape[3])
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    probabilities = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("BKGTS,BSKH->BTKGH", probabilities, v)
    return out.reshape(*out.shape[:2], -1, out.shape[-1])


def packed_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"],
) -> Float[Array, "B T N H"]:
    """Causal attention within segments: a token sees itself and the earlier tokens of its own segment."""
    length = q.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    mask = causal & (segment_ids[:, :, None] == segment_ids[:, None, :])
    return masked_attention(q, k, v, mask)
