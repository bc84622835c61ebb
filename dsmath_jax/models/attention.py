"""Attention over packed sequences and over a decode cache. Axis letters: see `llama.py`; S is a key's place, G = N/K.

The backward pass is written out: it makes the T x S probabilities again from the log-normaliser instead of keeping them
for every layer, which on a CPU costs more than the matrix products.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

HIDDEN = -1e30  # added to a score that must not count; finite, so that a query that sees nothing has no NaN


@jax.custom_vjp
def _attend(q: Array, k: Array, v: Array, bias: Array) -> Array:
    """q `[B,K,G,T,H]` (scaled), k and v `[B,K,S,H]`, bias `[B,T,S]` float32 -> `[B,K,G,T,H]`; softmax in float32."""
    return _attend_forward(q, k, v, bias)[0]


def _scores(q: Array, k: Array, bias: Array) -> Array:
    return jnp.einsum("BKGTH,BKSH->BKGTS", q, k, preferred_element_type=jnp.float32) + bias[:, None, None]


def _attend_forward(q: Array, k: Array, v: Array, bias: Array) -> tuple[Array, tuple[Array, ...]]:
    scores = _scores(q, k, bias)
    largest = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = jnp.einsum("BKGTS,BKSH->BKGTH", weights.astype(v.dtype), v, preferred_element_type=jnp.float32) / total
    return out.astype(q.dtype), (q, k, v, bias, out, largest + jnp.log(total))


def _attend_backward(kept: tuple[Array, ...], d_out: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, bias, out, normaliser = kept
    probabilities = jnp.exp(_scores(q, k, bias) - normaliser)
    d_v = jnp.einsum("BKGTS,BKGTH->BKSH", probabilities.astype(v.dtype), d_out)
    d_probabilities = jnp.einsum("BKGTH,BKSH->BKGTS", d_out, v, preferred_element_type=jnp.float32)
    mean = jnp.sum(d_out.astype(jnp.float32) * out, axis=-1, keepdims=True)
    d_scores = (probabilities * (d_probabilities - mean)).astype(q.dtype)
    d_q = jnp.einsum("BKGTS,BKSH->BKGTH", d_scores, k)
    return d_q, jnp.einsum("BKGTS,BKGTH->BKSH", d_scores, q), d_v, None


_attend.defvjp(_attend_forward, _attend_backward)


def masked_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Bool[Array, "B T S"],
) -> Float[Array, "B T N H"]:
    """Grouped-query attention. A query without any visible key gets the mean of all values."""
    batch, length, heads, size = q.shape
    q = (q * size**-0.5).reshape(batch, length, k.shape[2], -1, size).transpose(0, 2, 3, 1, 4)
    bias = jnp.where(mask, 0.0, HIDDEN)
    out = _attend(q, k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3), bias)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, size)


def packed_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"],
) -> Float[Array, "B T N H"]:
    """Causal attention within segments: a token sees itself and the earlier tokens of its own segment."""
    length = q.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    return masked_attention(q, k, v, causal & (segment_ids[:, :, None] == segment_ids[:, None, :]))
