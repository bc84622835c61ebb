"""Attention over packed sequences by cuDNN's fused kernel, for NVIDIA GPUs. Axis letters: see `attention.py`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dsmath_jax.models.attention import PLAIN, AttentionSpec, packed_attention

HALF = (jnp.bfloat16, jnp.float16)
MAX_HEAD_SIZE = 128  # on every GPU that has the kernel
HEAD_MULTIPLE = 8


def cudnn_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    segment_ids: Int[Array, "B S"],
    query_offset: int | Int[Array, ""] = 0,
    spec: AttentionSpec = PLAIN,
) -> Float[Array, "B T N H"]:
    """Computes `packed_attention` in one kernel.

    The kernel takes half precision, head sizes up to 128 in multiples of 8, an even number of tokens, and no soft cap;
    everything else goes to `packed_attention`. It has no segment ids, so it gets the whole mask, T x S numbers in half
    precision (32 MB a row of 4,096 tokens). With `is_causal`, which needs queries and keys that start together, it also
    skips the blocks above the diagonal.
    """
    length, size = q.shape[1], q.shape[3]
    unsupported = length % 2 or k.shape[1] % 2 or size % HEAD_MULTIPLE or size > MAX_HEAD_SIZE or spec.softcap
    if q.dtype not in HALF or unsupported:
        return packed_attention(q, k, v, segment_ids, query_offset, spec)
    is_causal = isinstance(query_offset, int) and query_offset == 0
    mask = visible_mask(segment_ids, length, query_offset, spec)
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask, scale=spec.scale, is_causal=is_causal, implementation="cudnn"
    )


def visible_mask(
    segment_ids: Int[Array, "B S"], length: int, query_offset: int | Int[Array, ""] = 0, spec: AttentionSpec = PLAIN
) -> Bool[Array, "B 1 T S"]:
    """Returns which keys the `length` queries from `query_offset` on see.

    These are their own and earlier ones of their segment, within the sliding window of `spec`. Padding sees padding: no
    row of the mask is empty, so that no softmax divides by zero.
    """
    ids = jax.lax.dynamic_slice_in_dim(segment_ids, query_offset, length, axis=1)
    distance = query_offset + jnp.arange(length)[:, None] - jnp.arange(segment_ids.shape[1])
    visible, window = distance >= 0, spec.traced_window()
    if window is not None:
        visible &= distance < window
    return ((ids[:, :, None] == segment_ids[:, None, :]) & visible)[:, None]
