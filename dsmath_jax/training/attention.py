"""Attention by backend, split over a mesh."""

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array

from dsmath_jax.models.attention import packed_attention
from dsmath_jax.models.cudnn import cudnn_attention
from dsmath_jax.models.llama import Attention
from dsmath_jax.models.splash import splash_attention
from dsmath_jax.sharding import Layout
from dsmath_jax.workdir import UserError

# (q, k, v, segment_ids, first): the queries are those of the tokens from `first` on, the rest belongs to all tokens.
Backend = Callable[..., Array]

# The backend by its name in config.model.attention, and the platform that it needs ("" for any).
BACKENDS: dict[str, tuple[Backend, str]] = {
    "xla": (packed_attention, ""), "splash": (splash_attention, "tpu"), "cudnn": (cudnn_attention, "gpu")
}  # fmt: skip


def attention_on(layout: Layout, backend: str = "auto") -> Attention:
    """The `attention(q, k, v, segment_ids)` that the model is handed: causal within segments, each device on its part.

    Args:
      layout: the devices of its mesh may be those of a described topology.
      backend: "xla", "splash" (TPU), "cudnn" (GPU), or "auto", the one made for the platform, else "xla".

    Raises:
      UserError: no backend has this name, or the platform of the mesh lacks it.
    """
    platform = layout.mesh.devices.flat[0].platform
    own = next((name for name, (_, needed) in BACKENDS.items() if needed == platform), "xla")
    name = own if backend == "auto" else backend
    if name not in BACKENDS:
        raise UserError(f"There is no attention '{name}'; set config.model.attention to auto, {', '.join(BACKENDS)}.")
    attend, needed = BACKENDS[name]
    if needed not in ("", platform):
        raise UserError(
            f"The attention '{name}' needs a {needed.upper()} and the mesh lies on {platform.upper()}; set "
            "config.model.attention to auto."
        )
    return sharded(attend, layout)


def sharded(attend: Backend, layout: Layout) -> Attention:
    """Attention in which each device works on its rows, its heads and its stretch of the queries.

    Rows lie over replica and fsdp, heads over tensor; where rows or heads do not divide they are left whole. Along
    context each device gathers the keys, values and segments of the whole rows (2 x T x K x H numbers a row and layer,
    little beside what fsdp gathers of the parameters) and attends with its own stretch of T / context queries, which
    is contiguous. So the last device does the most, as causal masks go: 2 - 1/context times the mean, and all wait for
    it, for up to T / 12 D of the time of a layer's other products (a twelfth for 7B at 4 K). Dealing queries out by
    turns would even that out, at the price of a data order, positions and losses that follow it: not done.
    """

    def attention(q: Array, k: Array, v: Array, segment_ids: Array) -> Array:
        parts = layout.size_of("context")
        layout.check_context(q.shape[1])
        queries, keys = layout.spec(q.shape, "BTNH"), layout.spec(k.shape, "BTKH")
        rows, tokens, heads = queries[0], queries[1], queries[2] and keys[2]

        def of_device(q: Array, k: Array, v: Array, segment_ids: Array) -> Array:
            if parts == 1:
                return attend(q, k, v, segment_ids)
            k, v, segment_ids = (jax.lax.all_gather(x, "context", axis=1, tiled=True) for x in (k, v, segment_ids))
            return attend(q, k, v, segment_ids, jax.lax.axis_index("context") * q.shape[1])

        by_head = PartitionSpec(rows, tokens, heads)
        return jax.shard_map(
            of_device, mesh=layout.mesh, in_specs=(by_head, by_head, by_head, PartitionSpec(rows, tokens)),
            out_specs=by_head, check_vma=False,
        )(q, k, v, segment_ids)  # fmt: skip

    return attention
