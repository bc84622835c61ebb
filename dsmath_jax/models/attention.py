"""Attention over packed sequences and over a decode cache.

Axis letters: see `llama.py`; S is a key's place; the G = N/K query heads of a key head and their tokens share one axis
Q = G x T, so that every product is a plain batched matrix product. I and J count the blocks of queries and of keys.

Queries and keys are taken a block at a time with the running softmax of FlashAttention (arXiv 2205.14135): memory grows
with T, not with T x T, and pairs of blocks that do not see each other cost nothing: those above the diagonal, and those
of other segments. A row of one block is the plain form: XLA drops loops of one turn. The backward pass is written out
and makes a block's probabilities again from the log-normaliser.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

HIDDEN = -1e30  # added to a score that must not count; finite, so that a query that sees nothing has no NaN
BLOCK = 128  # tokens; the scores of a few heads then stay in a CPU's cache
RESIDUALS = "attention_residuals"  # the checkpoint name of what the backward pass reads besides q, k and v


class Tokens(NamedTuple):
    """Segments and places of tokens cut into n blocks of b."""

    ids: Int[Array, "n B b"]
    places: Int[Array, "n b"]


class Part(NamedTuple):
    """Softmax over some of the keys, before it is divided; wide (float32, or float64 where the inputs are)."""

    out: Array  # [B,K,Q,H], weighted sum of values
    total: Array  # [B,K,Q,1], sum of weights
    largest: Array  # [B,K,Q,1], the largest score, which both are relative to


def packed_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    segment_ids: Int[Array, "B S"],
    first: int | Int[Array, ""] = 0,
) -> Float[Array, "B T N H"]:
    """Causal attention within segments: a token sees itself and the earlier tokens of its own segment.

    Args:
      q: queries of the tokens `first` to `first` + T - 1 of the S tokens that have keys.
      segment_ids: of the tokens that have keys. Padding, 0, is a segment like the others.
      first: may be traced.

    Returns:
      in the dtype of `q`; scores and sums are float32, float64 where `q` is.
    """
    (batch, length, heads, size), kv_heads = q.shape, k.shape[2]
    queries = _tokens(jax.lax.dynamic_slice_in_dim(segment_ids, first, length, axis=1), first)
    groups = heads // kv_heads
    q = _blocks(q * size**-0.5)
    parted = q.reshape(*q.shape[:3], kv_heads, groups, size).transpose(0, 1, 3, 4, 2, 5)
    k, v = (_blocks(x).swapaxes(2, 3) for x in (k, v))
    out = _attend(parted.reshape(*parted.shape[:3], -1, size), k, v, queries, _tokens(segment_ids, 0))
    out = out.reshape(parted.shape).transpose(1, 0, 4, 2, 3, 5)
    return out.reshape(batch, -1, heads, size)[:, :length]


def _blocks(x: Array) -> Array:
    """`[B, T, ...]` -> `[n, B, b, ...]`, blocks of at most BLOCK tokens; the last tokens of the last are zeros."""
    count = -(-x.shape[1] // BLOCK)
    size = -(-x.shape[1] // count)
    x = jnp.pad(x, ((0, 0), (0, count * size - x.shape[1]), *((0, 0) for _ in x.shape[2:])))
    return x.reshape(len(x), count, size, *x.shape[2:]).swapaxes(0, 1)


def _tokens(segment_ids: Int[Array, "B T"], first: int | Array) -> Tokens:
    """Tokens in blocks. Those that fill the last one lie behind all others, which so do not see them."""
    ids = _blocks(segment_ids)
    return Tokens(ids, first + jnp.arange(ids.shape[0] * ids.shape[2]).reshape(ids.shape[0], -1))


def _bias(queries: Tokens, keys: Tokens, i: Array, j: Array, groups: int) -> Float[Array, "B Q S"]:
    seen = (queries.ids[i][:, :, None] == keys.ids[j][:, None, :]) & (
        queries.places[i][:, None] >= keys.places[j][None, :]
    )
    return jnp.tile(jnp.where(seen, 0.0, HIDDEN), (1, groups, 1))


def _needed(queries: Tokens, keys: Tokens) -> Bool[Array, "I J"]:
    """Which pairs of blocks have to be computed: more than see each other only where segments are in disorder."""

    def ends(ids: Array) -> tuple[Array, Array]:
        ordered = jnp.where(ids == 0, jnp.iinfo(ids.dtype).max, ids)  # padding comes last
        return jnp.min(ordered, axis=-1), jnp.max(ordered, axis=-1)

    (q_low, q_high), (k_low, k_high) = ends(queries.ids), ends(keys.ids)
    meet = (q_low[:, None] <= k_high[None]) & (k_low[None] <= q_high[:, None])
    return jnp.any(meet, axis=-1) & (queries.places[:, None, -1] >= keys.places[None, :, 0])


def _spans(needed: Bool[Array, "I J"]) -> tuple[Int[Array, " I"], Int[Array, " I"]]:
    """First needed J of each I, and the one after the last; both 0 where there is none."""
    if needed.size == 1:  # the plain form; XLA has to know it
        return jnp.zeros(1, jnp.int32), jnp.ones(1, jnp.int32)
    return jnp.argmax(needed, axis=1), jnp.max(jnp.where(needed, jnp.arange(needed.shape[1]) + 1, 0), axis=1)


@jax.custom_vjp
def _attend(q: Array, k: Array, v: Array, queries: Tokens, keys: Tokens) -> Array:
    """q `[I,B,K,Q,H]` (scaled), k and v `[J,B,K,S,H]` -> `[I,B,K,Q,H]`."""
    return _attend_forward(q, k, v, queries, keys)[0]


def _attend_forward(q: Array, k: Array, v: Array, queries: Tokens, keys: Tokens) -> tuple[Array, tuple]:
    groups = q.shape[3] // queries.ids.shape[2]
    start, stop = _spans(_needed(queries, keys))

    def of_queries(i: Array) -> tuple[Array, Array]:
        def part(j: Array) -> Part:
            return _unnormalised(q[i], k[j], v[j], _bias(queries, keys, i, j, groups))

        last = stop[i] - 1
        found = jax.lax.fori_loop(start[i], last, lambda j, before: _joined(before, part(j)), part(last))
        return (found.out / found.total).astype(q.dtype), found.largest + jnp.log(found.total)

    out, normaliser = jax.lax.map(of_queries, jnp.arange(len(q)))
    out, normaliser = checkpoint_name((out, normaliser), RESIDUALS)
    return out, (q, k, v, queries, keys, out, normaliser)


def _attend_backward(kept: tuple, d_out: Array) -> tuple[Array, Array, Array, None, None]:
    q, k, v, queries, keys, out, normaliser = kept
    groups, wide = q.shape[3] // queries.ids.shape[2], normaliser.dtype
    start, stop = _spans(_needed(queries, keys).T)
    mean = jnp.sum(d_out.astype(wide) * out.astype(wide), axis=-1, keepdims=True)

    def of_keys(d_q: Array, j: Array) -> tuple[Array, tuple[Array, Array]]:
        def add(i: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            d_q, d_k, d_v = sums
            probabilities = jnp.exp(_scores(q[i], k[j], _bias(queries, keys, i, j, groups)) - normaliser[i])
            d_v += _product("BKQS,BKQH->BKSH", probabilities.astype(v.dtype), d_out[i])
            d_probabilities = _product("BKQH,BKSH->BKQS", d_out[i], v[j])
            d_scores = (probabilities * (d_probabilities - mean[i])).astype(q.dtype)
            d_k += _product("BKQS,BKQH->BKSH", d_scores, q[i])
            return d_q.at[i].add(_product("BKQS,BKSH->BKQH", d_scores, k[j])), d_k, d_v

        zeros = jnp.zeros(k.shape[1:], wide)
        d_q, d_k, d_v = jax.lax.fori_loop(start[j], stop[j], add, (d_q, zeros, zeros))
        return d_q, (d_k.astype(k.dtype), d_v.astype(v.dtype))

    d_q, (d_k, d_v) = jax.lax.scan(of_keys, jnp.zeros(q.shape, wide), jnp.arange(len(k)))
    return d_q.astype(q.dtype), d_k, d_v, None, None


_attend.defvjp(_attend_forward, _attend_backward)


def _product(axes: str, one: Array, other: Array) -> Array:
    return jnp.einsum(axes, one, other, preferred_element_type=jnp.promote_types(one.dtype, jnp.float32))


def _scores(q: Array, k: Array, bias: Array) -> Array:
    return _product("BKQH,BKSH->BKQS", q, k) + bias[:, None]


def _unnormalised(q: Array, k: Array, v: Array, bias: Array) -> Part:
    scores = _scores(q, k, bias)
    largest = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    out = _product("BKQS,BKSH->BKQH", weights.astype(v.dtype), v)
    return Part(out, jnp.sum(weights, axis=-1, keepdims=True), largest)


def _joined(one: Part, other: Part) -> Part:
    """Two parts as one, relative to the larger of their largest scores."""
    largest = jnp.maximum(one.largest, other.largest)
    left, right = jnp.exp(one.largest - largest), jnp.exp(other.largest - largest)
    return Part(one.out * left + other.out * right, one.total * left + other.total * right, largest)


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
    q = (q * size**-0.5).transpose(0, 2, 1, 3).reshape(rows, kv_heads, -1, size)
    bias = jnp.tile(jnp.where(mask, 0.0, HIDDEN), (1, heads // kv_heads, 1))
    parts = [_unnormalised(q, k, v, bias)]
    if prefix is not None:
        k, v, seen = prefix
        prompts = k.shape[0]
        # The queries of a prompt's rows become one long batch against the prompt's single copy, and are parted again.
        together = q.reshape(prompts, -1, *q.shape[1:]).swapaxes(1, 2)
        found = _unnormalised(
            together.reshape(prompts, kv_heads, -1, size), k, v, jnp.where(seen, 0.0, HIDDEN)[:, None]
        )
        shape = (*together.shape[:4], -1)
        parts.append(Part(*(x.reshape(shape).swapaxes(1, 2).reshape(*q.shape[:3], -1) for x in found)))
    found = functools.reduce(_joined, parts)
    return (found.out / found.total).astype(v.dtype).reshape(rows, heads, length, size).transpose(0, 2, 1, 3)
