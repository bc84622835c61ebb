"""Attention over packed sequences and over a KV cache.

Axis letters: see `decoder.py`; S is the position of a key; the G = N/K query heads of a key head and their tokens share
the axis Q = G x T, so that every product is a batched matrix product. I and J count the blocks of queries and of keys.

Packed attention is blockwise with the online softmax of FlashAttention (arXiv 2205.14135): memory grows with T, not
with T x T, and pairs of blocks that do not see each other are skipped: those above the diagonal, those before a sliding
window, and those of different segments. With one block it is plain attention: XLA removes loops of one iteration. The
backward pass is written by hand and recomputes the probabilities of a block from the log-sum-exp.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from dsmath_jax.models.quantization import Quantized, operand

NO_WINDOW = 1 << 30  # tokens; more than any sequence has
MASK_VALUE = -1e30  # added to masked scores; finite, so that a query without visible keys gives no NaN
BLOCK_SIZE = 128  # tokens; the scores of a few heads then stay in a CPU's cache
RESIDUALS = "attention_residuals"  # the checkpoint name of the residuals of the backward pass other than q, k and v


class AttentionSpec(NamedTuple):
    """How a layer computes and masks its scores.

    Attributes:
      scale: factor of the scores; None for H ** -0.5.
      softcap: c of `softcap`; 0 for none.
      window: tokens that a token sees, itself included; 0 for all earlier ones of its segment.
      sliding: whether this layer has the window, where layers alternate: a traced bool. None: it has.
    """

    scale: float | None = None
    softcap: float = 0.0
    window: int = 0
    sliding: Bool[Array, ""] | None = None

    def traced_window(self) -> int | Int[Array, ""] | None:
        """Returns the window as a value that may be traced, None for none."""
        if self.sliding is None:
            return self.window or None
        return jnp.where(self.sliding, self.window, NO_WINDOW)

    def scaled(self, q: Array) -> Array:
        """Returns the queries `[..., H]` times the scale."""
        return q * (q.shape[-1] ** -0.5 if self.scale is None else self.scale)


PLAIN = AttentionSpec()


class TokenBlocks(NamedTuple):
    """Segment ids and positions of tokens, in n blocks of b; of queries also the sliding window."""

    segment_ids: Int[Array, "n B b"]
    positions: Int[Array, "n b"]
    window: int | Int[Array, ""] | None = None


class PartialSoftmax(NamedTuple):
    """Unnormalized softmax over some of the keys; in float32, or float64 where the inputs are."""

    out: Array  # [B,K,Q,H], weighted sum of values
    total: Array  # [B,K,Q,1], sum of weights
    largest: Array  # [B,K,Q,1], the largest score, subtracted from all scores


def packed_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    segment_ids: Int[Array, "B S"],
    query_offset: int | Int[Array, ""] = 0,
    spec: AttentionSpec = PLAIN,
) -> Float[Array, "B T N H"]:
    """Computes causal attention within segments: a token sees itself and the earlier tokens of its own segment.

    Args:
      q: queries of tokens `query_offset` to `query_offset` + T - 1 of the S tokens.
      k: keys of all S tokens.
      v: values of all S tokens.
      segment_ids: of all S tokens. Padding, 0, is a segment like the others.
      query_offset: may be traced.
      spec: scale, soft cap and sliding window.

    Returns:
      the attention output in the dtype of `q`; scores and sums are float32, float64 where `q` is.
    """
    (batch, length, heads, size), kv_heads = q.shape, k.shape[2]
    q_tokens = _token_blocks(jax.lax.dynamic_slice_in_dim(segment_ids, query_offset, length, axis=1), query_offset)
    q_tokens = q_tokens._replace(window=spec.traced_window())
    groups = heads // kv_heads
    q = _blocks(spec.scaled(q))
    grouped = q.reshape(*q.shape[:3], kv_heads, groups, size).transpose(0, 1, 3, 4, 2, 5)
    k, v = (_blocks(x).swapaxes(2, 3) for x in (k, v))
    grouped_q, k_tokens = grouped.reshape(*grouped.shape[:3], -1, size), _token_blocks(segment_ids, 0)
    out = _attend(grouped_q, k, v, q_tokens, k_tokens, spec.softcap)
    out = out.reshape(grouped.shape).transpose(1, 0, 4, 2, 3, 5)
    return out.reshape(batch, -1, heads, size)[:, :length]


def _blocks(x: Array) -> Array:
    """Splits `[B, T, ...]` into blocks `[n, B, b, ...]` of at most BLOCK_SIZE tokens; the last is padded with zeros."""
    count = -(-x.shape[1] // BLOCK_SIZE)
    size = -(-x.shape[1] // count)
    x = jnp.pad(x, ((0, 0), (0, count * size - x.shape[1]), *((0, 0) for _ in x.shape[2:])))
    return x.reshape(len(x), count, size, *x.shape[2:]).swapaxes(0, 1)


def _token_blocks(segment_ids: Int[Array, "B T"], start: int | Array) -> TokenBlocks:
    """Returns the blocks of tokens. Padding of the last block has the last positions, so that no token sees it."""
    ids = _blocks(segment_ids)
    return TokenBlocks(ids, start + jnp.arange(ids.shape[0] * ids.shape[2]).reshape(ids.shape[0], -1))


def _bias(q_tokens: TokenBlocks, k_tokens: TokenBlocks, i: Array, j: Array, groups: int) -> Float[Array, "B Q S"]:
    visible = (q_tokens.segment_ids[i][:, :, None] == k_tokens.segment_ids[j][:, None, :]) & (
        q_tokens.positions[i][:, None] >= k_tokens.positions[j][None, :]
    )
    if q_tokens.window is not None:
        visible &= q_tokens.positions[i][:, None] - k_tokens.positions[j][None, :] < q_tokens.window
    return jnp.tile(jnp.where(visible, 0.0, MASK_VALUE), (1, groups, 1))


def _visible_blocks(q_tokens: TokenBlocks, k_tokens: TokenBlocks) -> Bool[Array, "I J"]:
    """Returns which blocks of queries may see which blocks of keys; exact where segment ids ascend."""

    def ends(ids: Array) -> tuple[Array, Array]:
        ordered = jnp.where(ids == 0, jnp.iinfo(ids.dtype).max, ids)  # padding comes last
        return jnp.min(ordered, axis=-1), jnp.max(ordered, axis=-1)

    (q_low, q_high), (k_low, k_high) = ends(q_tokens.segment_ids), ends(k_tokens.segment_ids)
    overlap = (q_low[:, None] <= k_high[None]) & (k_low[None] <= q_high[:, None])
    visible = jnp.any(overlap, axis=-1) & (q_tokens.positions[:, None, -1] >= k_tokens.positions[None, :, 0])
    if q_tokens.window is not None:
        visible &= q_tokens.positions[:, None, 0] - k_tokens.positions[None, :, -1] < q_tokens.window
    return visible


def _visible_spans(visible: Bool[Array, "I J"]) -> tuple[Int[Array, " I"], Int[Array, " I"]]:
    """Returns the first visible J of each I and the end of the span (exclusive); both 0 where there is none."""
    if visible.size == 1:  # plain attention; constants, so that XLA removes the loop
        return jnp.zeros(1, jnp.int32), jnp.ones(1, jnp.int32)
    return jnp.argmax(visible, axis=1), jnp.max(jnp.where(visible, jnp.arange(visible.shape[1]) + 1, 0), axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(q: Array, k: Array, v: Array, q_tokens: TokenBlocks, k_tokens: TokenBlocks, cap: float) -> Array:
    """Blockwise attention: q `[I,B,K,Q,H]` (scaled), k and v `[J,B,K,S,H]` -> `[I,B,K,Q,H]`."""
    return _attend_forward(q, k, v, q_tokens, k_tokens, cap)[0]


def _attend_forward(
    q: Array, k: Array, v: Array, q_tokens: TokenBlocks, k_tokens: TokenBlocks, cap: float
) -> tuple[Array, tuple]:
    groups = q.shape[3] // q_tokens.segment_ids.shape[2]
    start, stop = _visible_spans(_visible_blocks(q_tokens, k_tokens))

    def query_block(i: Array) -> tuple[Array, Array]:
        def part(j: Array) -> PartialSoftmax:
            return _unnormalized(q[i], k[j], v[j], _bias(q_tokens, k_tokens, i, j, groups), cap)

        last = stop[i] - 1
        whole = jax.lax.fori_loop(start[i], last, lambda j, total: _merge(total, part(j)), part(last))
        return (whole.out / whole.total).astype(q.dtype), whole.largest + jnp.log(whole.total)

    out, logsumexp = jax.lax.map(query_block, jnp.arange(len(q)))
    out, logsumexp = checkpoint_name((out, logsumexp), RESIDUALS)
    return out, (q, k, v, q_tokens, k_tokens, out, logsumexp)


def _attend_backward(cap: float, residuals: tuple, d_out: Array) -> tuple[Array, Array, Array, None, None]:
    q, k, v, q_tokens, k_tokens, out, logsumexp = residuals
    groups, accum_dtype = q.shape[3] // q_tokens.segment_ids.shape[2], logsumexp.dtype
    start, stop = _visible_spans(_visible_blocks(q_tokens, k_tokens).T)
    delta = jnp.sum(d_out.astype(accum_dtype) * out.astype(accum_dtype), axis=-1, keepdims=True)

    def key_block(d_q: Array, j: Array) -> tuple[Array, tuple[Array, Array]]:
        def add(i: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            d_q, d_k, d_v = sums
            scores = _scores(q[i], k[j], cap)
            bias = _bias(q_tokens, k_tokens, i, j, groups)[:, None]
            probabilities = jnp.exp(scores + bias - logsumexp[i])
            d_v += _einsum("BKQS,BKQH->BKSH", probabilities.astype(v.dtype), d_out[i])
            d_probabilities = _einsum("BKQH,BKSH->BKQS", d_out[i], v[j])
            d_scores = softcap_gradient(probabilities * (d_probabilities - delta[i]), scores, cap).astype(q.dtype)
            d_k += _einsum("BKQS,BKQH->BKSH", d_scores, q[i])
            return d_q.at[i].add(_einsum("BKQS,BKSH->BKQH", d_scores, k[j])), d_k, d_v

        zeros = jnp.zeros(k.shape[1:], accum_dtype)
        d_q, d_k, d_v = jax.lax.fori_loop(start[j], stop[j], add, (d_q, zeros, zeros))
        return d_q, (d_k.astype(k.dtype), d_v.astype(v.dtype))

    d_q, (d_k, d_v) = jax.lax.scan(key_block, jnp.zeros(q.shape, accum_dtype), jnp.arange(len(k)))
    return d_q.astype(q.dtype), d_k, d_v, None, None


_attend.defvjp(_attend_forward, _attend_backward)


def _einsum(axes: str, x: Array, y: Array) -> Array:
    return jnp.einsum(axes, x, y, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))


def _scores(q: Array, k: Array | Quantized, cap: float) -> Array:
    k, scale = operand(k, q.dtype)
    scores = _einsum("BKQH,BKSH->BKQS", q, k)
    return softcap(scores if scale is None else scores * scale[:, :, None], cap)


def _unnormalized(q: Array, k: Array | Quantized, v: Array | Quantized, bias: Array, cap: float) -> PartialSoftmax:
    scores = _scores(q, k, cap) + bias[:, None]
    largest = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    v, scale = operand(v, q.dtype)
    weights = weights if scale is None else weights * scale[:, :, None]
    return PartialSoftmax(_einsum("BKQS,BKSH->BKQH", weights.astype(v.dtype), v), total, largest)


def softcap(x: Array, cap: float) -> Array:
    """Returns `cap x tanh(x / cap)`, which is x near 0 and stays within +-cap (Gemma 2); x itself for a cap of 0."""
    return cap * jnp.tanh(x / cap) if cap else x


def softcap_gradient(d_capped: Array, capped: Array, cap: float) -> Array:
    """Returns the gradient with respect to `x`, given that with respect to `capped = softcap(x, cap)`."""
    return d_capped * (1 - jnp.square(capped / cap)) if cap else d_capped


def _merge(a: PartialSoftmax, b: PartialSoftmax) -> PartialSoftmax:
    """Combines the softmax over two sets of keys."""
    largest = jnp.maximum(a.largest, b.largest)
    scale_a, scale_b = jnp.exp(a.largest - largest), jnp.exp(b.largest - largest)
    return PartialSoftmax(a.out * scale_a + b.out * scale_b, a.total * scale_a + b.total * scale_b, largest)


def cached_attention(
    q: Float[Array, "R T N H"],
    k: Float[Array, "R K S H"] | Quantized,
    v: Float[Array, "R K S H"] | Quantized,
    mask: Bool[Array, "R T S"],
    prefixes: Sequence[
        tuple[Float[Array, "P K Z H"] | Quantized, Float[Array, "P K Z H"] | Quantized, Bool[Array, "P|R Z"]]
    ],
    spec: AttentionSpec = PLAIN,
) -> Float[Array, "R T N H"]:
    """Computes attention over each row's cache and over prefixes, each stored once for the rows that share it.

    Row r shares prefix r // (R/P) of each P prefixes. The masks say what a row sees, so the window of `spec` is not
    used. The mask of prefixes is that of each prefix, or of each row. Scores are multiplied by the scales of quantized
    keys, probabilities by those of quantized values. Has no backward pass.
    """
    rows, length, heads, size = q.shape
    kv_heads = k.shape[1]
    q = spec.scaled(q).transpose(0, 2, 1, 3).reshape(rows, kv_heads, -1, size)
    bias = jnp.tile(jnp.where(mask, 0.0, MASK_VALUE), (1, heads // kv_heads, 1))
    parts = [_cached_part(q, k, v, bias, spec.softcap)]
    for k, v, visible in prefixes:
        # The queries of all rows that share a prefix are batched against its single copy of keys and values.
        count = k.shape[0]
        batched = q.reshape(count, -1, *q.shape[1:]).swapaxes(1, 2)
        queries = batched.reshape(count, kv_heads, -1, size)
        bias = jnp.where(visible, 0.0, MASK_VALUE).reshape(count, -1, visible.shape[1])
        if bias.shape[1] > 1:
            bias = jnp.repeat(bias, q.shape[2], axis=1)  # of each row's queries
        part = _cached_part(queries, k, v, bias, spec.softcap)
        shape = (*batched.shape[:4], -1)
        parts.append(PartialSoftmax(*(x.reshape(shape).swapaxes(1, 2).reshape(*q.shape[:3], -1) for x in part)))
    whole = functools.reduce(_merge, parts)
    return (whole.out / whole.total).astype(q.dtype).reshape(rows, heads, length, size).transpose(0, 2, 1, 3)


def _cached_part(q: Array, k: Array | Quantized, v: Array | Quantized, bias: Array, cap: float) -> PartialSoftmax:
    """Returns `_unnormalized`; on TPUs a single query is computed twice.

    XLA computes products with a single query elementwise. For TPUs it then copies the whole cache into another layout
    before the loop over decode steps, and back after it. A product with two queries is a matrix product, which reads
    the cache in place. CPUs and GPUs copy nothing, and two queries are slower there.
    """
    attend = functools.partial(_unnormalized, cap=cap)
    if q.shape[2] > 1:
        return attend(q, k, v, bias)

    def attend_twice(q: Array, k: Array | Quantized, v: Array | Quantized, bias: Array) -> PartialSoftmax:
        return jax.tree.map(lambda x: x[:, :, :1], attend(jnp.repeat(q, 2, axis=2), k, v, bias))

    return jax.lax.platform_dependent(q, k, v, bias, tpu=attend_twice, default=attend)
