"""Attention over packed sequences by the splash kernel (Pallas), for TPUs. Axis letters: see `attention.py`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Array, Float, Int

from dsmath_jax.models.attention import PLAIN, RESIDUALS, AttentionSpec, packed_attention

LANES = 128  # of the TPU's vector unit: blocks of tokens are multiples of it
HEAD_MULTIPLE = 64  # other head sizes use the matrix unit badly
BLOCKS = (512, 256, LANES)  # tokens; the largest that divides is used


def splash_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    segment_ids: Int[Array, "B S"],
    query_offset: int | Int[Array, ""] = 0,
    spec: AttentionSpec = PLAIN,
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """Computes `packed_attention` in one kernel for each direction, which skips blocks that are masked completely.

    The kernel takes multiples of 128 tokens and head sizes in multiples of 64; everything else goes to
    `packed_attention`. Grouped queries need no repetition of keys.

    Args:
      query_offset: a multiple of T, since the kernel has lists of blocks for each T of the S tokens; may be traced.
      spec: scale, soft cap and sliding window; where `spec.sliding` is traced, there are two kernels.
      interpret: runs the kernel in Pallas' interpreter on any device, for tests.
    """
    (length, heads, size), tokens = q.shape[1:], k.shape[1]
    if length % LANES or tokens % length or size % HEAD_MULTIPLE:
        return packed_attention(q, k, v, segment_ids, query_offset, spec)
    shards = tokens // length
    ids = kernels.SegmentIds(jax.lax.dynamic_slice_in_dim(segment_ids, query_offset, length, axis=1), segment_ids)
    q, k, v = (x.swapaxes(1, 2) for x in (spec.scaled(q), k, v))

    def attend(window: int) -> Callable[..., Array]:
        kernel = _kernel(tokens, heads, shards, spec.softcap, window, interpret)
        return lambda *given: jax.vmap(_shard_kernel(kernel, shards, query_offset // length))(*given)

    if spec.sliding is None:
        return attend(spec.window)(q, k, v, ids).swapaxes(1, 2)
    return jax.lax.cond(spec.sliding, attend(spec.window), attend(0), q, k, v, ids).swapaxes(1, 2)


@functools.lru_cache(maxsize=32)
def _kernel(tokens: int, heads: int, shards: int, cap: float, window: int, interpret: bool) -> Any:
    """Returns the kernel with its lists of blocks for all shards of the queries, as NumPy arrays outside any trace."""
    block = next(size for size in BLOCKS if tokens // shards % size == 0)
    sizes = kernels.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block,
        block_q_dkv=block, block_kv_dkv=block, block_kv_dkv_compute=block,
        block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip
    shape = (tokens, tokens)
    mask = masks.LocalMask(shape, (window - 1, 0), offset=0) if window else masks.CausalMask(shape)
    with jax.ensure_compile_time_eval():
        kernel = kernels.make_splash_mha(
            masks.MultiHeadMask([mask] * heads), block_sizes=sizes, head_shards=1, q_seq_shards=shards,
            attn_logits_soft_cap=cap or None, residual_checkpoint_name=RESIDUALS, interpret=interpret,
        )  # fmt: skip
        return jax.tree.map(np.asarray, kernel)


def _shard_kernel(kernel: Any, shards: int, shard: int | Array) -> Any:
    """Returns the kernel of one shard of the queries: its part of each list, `[heads, blocks, ...]` or `[tokens]`."""

    def part(x: np.ndarray) -> Array:
        axis = min(x.ndim - 1, 1)
        size = x.shape[axis] // shards
        return jax.lax.dynamic_slice_in_dim(x, shard * size, size, axis)

    return kernel if shards == 1 else jax.tree.map(part, kernel)
