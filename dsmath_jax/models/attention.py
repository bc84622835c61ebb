"""Attention over packed sequences and over a decode cache.

Axis letters: see `llama.py`; S is a key's place; the G = N/K query heads of a key head and their tokens share one axis
Q = G x T, so that every product is a plain batched matrix product.

The backward pass is written out: it makes the T x S probabilities again from the log-normaliser instead of keeping them
for every layer, which on a CPU costs more than the matrix products.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

HIDDEN = -1e30  # added to a score that must not count; finite, so that a query that sees nothing has no NaN


@jax.custom_vjp
def _attend(q: Array, k: Array, v: Array, bias: Array) -> Array:
    """q `[B,K,Q,H]` (scaled), k and v `[B,K,S,H]`, bias `[B,Q,S]` float32 -> `[B,K,Q,H]`; softmax in float32."""
    return _attend_forward(q, k, v, bias)[0]


def _scores(q: Array, k: Array, bias: Array) -> Array:
    return jnp.einsum("BKQH,BKSH->BKQS", q, k, preferred_element_type=jnp.float32) + bias[:, None]


def _attend_forward(q: Array, k: Array, v: Array, bias: Array) -> tuple[Array, tuple[Array, ...]]:
    out, total, largest = _unnormalised(q, k, v, bias)
    out = out / total
    return out.astype(q.dtype), (q, k, v, bias, out, largest + jnp.log(total))


def _attend_backward(kept: tuple[Array, ...], d_out: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, bias, out, normaliser = kept
    probabilities = jnp.exp(_scores(q, k, bias) - normaliser)
    d_v = jnp.einsum("BKQS,BKQH->BKSH", probabilities.astype(v.dtype), d_out)
    d_probabilities = jnp.einsum("BKQH,BKSH->BKQS", d_out, v, preferred_element_type=jnp.float32)
    mean = jnp.sum(d_out.astype(jnp.float32) * out, axis=-1, keepdims=True)
    d_scores = (probabilities * (d_probabilities - mean)).astype(q.dtype)
    d_q = jnp.einsum("BKQS,BKSH->BKQH", d_scores, k)
    return d_q, jnp.einsum("BKQS,BKQH->BKSH", d_scores, q), d_v, None


_attend.defvjp(_attend_forward, _attend_backward)


def packed_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"],
) -> Float[Array, "B T N H"]:
    """Causal attention within segments: a token sees itself and the earlier tokens of its own segment."""
    batch, length, heads, size = q.shape
    causal = jnp.tril(jnp.ones((length, length), bool))
    bias = jnp.where(causal & (segment_ids[:, :, None] == segment_ids[:, None, :]), 0.0, HIDDEN)
    bias = jnp.tile(bias, (1, heads // k.shape[2], 1))
    out = _attend(_by_key_head(q, k.shape[2]), k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3), bias)
    return out.reshape(batch, heads, length, size).transpose(0, 2, 1, 3)


def _by_key_head(q: Float[Array, "B T N H"], kv_heads: int) -> Float[Array, "B K Q H"]:
    """Scaled queries, those of one key head in a row."""
    return (q * q.shape[-1] ** -0.5).transpose(0, 2, 1, 3).reshape(q.shape[0], kv_heads, -1, q.shape[-1])


def cached_attention(
    q: Float[Array, "R T N H"],
    k: Float[Array, "R K S H"],
    v: Float[Array, "R K S H"],
    mask: Bool[Array, "R T S"],
    prefix: tuple[Float[Array, "P K Z H"], Float[Array, "P K Z H"], Bool[Array, "P Z"]] | None,
) -> Float[Array, "R T N H"]:
    """Attention over a row's own slots and, with a prefix, over its prompt's, of which each prompt has one copy.

    Row r belongs to prompt r // (R/P). No gradient goes through here.
    """
    rows, length, heads, size = q.shape
    kv_heads = k.shape[1]
    q = _by_key_head(q, kv_heads)
    bias = jnp.tile(jnp.where(mask, 0.0, HIDDEN), (1, heads // kv_heads, 1))
    parts: list[tuple[Array, ...]] = [_unnormalised(q, k, v, bias)]
    if prefix is not None:
        k, v, seen = prefix
        prompts = k.shape[0]
        # The queries of a prompt's rows become one long batch against the prompt's single copy, and are parted again.
        together = q.reshape(prompts, -1, *q.shape[1:]).swapaxes(1, 2)
        found = _unnormalised(
            together.reshape(prompts, kv_heads, -1, size), k, v, jnp.where(seen, 0.0, HIDDEN)[:, None]
        )
        shape = (*together.shape[:4], -1)
        parts.append(tuple(x.reshape(shape).swapaxes(1, 2).reshape(*q.shape[:3], -1) for x in found))
    top = functools.reduce(jnp.maximum, [largest for _, _, largest in parts])
    out, total = (functools.reduce(jnp.add, [part[i] * jnp.exp(part[2] - top) for part in parts]) for i in (0, 1))
    return (out / total).astype(v.dtype).reshape(rows, heads, length, size).transpose(0, 2, 1, 3)


def _unnormalised(q: Array, k: Array, v: Array, bias: Array) -> tuple[Array, Array, Array]:
    """Weighted sum of values, sum of weights, and the largest score, which both are relative to (last axis H, 1, 1)."""
    scores = _scores(q, k, bias)
    largest = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    out = jnp.einsum("BKQS,BKSH->BKQH", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return out, jnp.sum(weights, axis=-1, keepdims=True), largest
