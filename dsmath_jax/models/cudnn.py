"""Attention over packed sequences by cuDNN's fused kernel, for NVIDIA GPUs. Axis letters: see `attention.py`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dsmath_jax.models.attention import packed_attention

HALF = (jnp.bfloat16, jnp.float16)
LARGEST_HEAD = 128  # on every GPU that has the kernel
HEAD_MULTIPLE = 8


def cudnn_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    segment_ids: Int[Array, "B S"],
    first: int | Int[Array, ""] = 0,
) -> Float[Array, "B T N H"]:
    """What `packed_attention` computes, in one kernel.

    The kernel takes half precision only, heads of up to 128 numbers in eights, and an even number of tokens; everything
    else goes to `packed_attention`. It knows no segments, so it gets the whole mask, as T x S numbers in half precision
    (32 MB a row of 4,096 tokens). Told besides that the mask is causal, which it can only be where queries and keys
    begin together, it skips what lies above the diagonal.
    """
    length, size = q.shape[1], q.shape[3]
    odd = length % 2 or k.shape[1] % 2 or size % HEAD_MULTIPLE or size > LARGEST_HEAD
    if q.dtype not in HALF or odd:
        return packed_attention(q, k, v, segment_ids, first)
    from_the_start = isinstance(first, int) and first == 0
    mask = segment_mask(segment_ids, length, first)
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=from_the_start, implementation="cudnn")


def segment_mask(
    segment_ids: Int[Array, "B S"], length: int, first: int | Int[Array, ""] = 0
) -> Bool[Array, "B 1 T S"]:
    """Which keys the `length` tokens from `first` on see: themselves and the earlier tokens of their own segment.

    Padding sees padding: no row of the mask is empty, so that no softmax divides by zero.
    """
    ids = jax.lax.dynamic_slice_in_dim(segment_ids, first, length, axis=1)
    earlier = first + jnp.arange(length)[:, None] >= jnp.arange(segment_ids.shape[1])
    return ((ids[:, :, None] == segment_ids[:, None, :]) & earlier)[:, None]
