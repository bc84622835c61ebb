"""Attention backends, sharded over a mesh."""

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array

from dsmath_jax.models.attention import PLAIN, AttentionSpec, packed_attention
from dsmath_jax.models.cudnn import cudnn_attention
from dsmath_jax.models.decoder import Attention
from dsmath_jax.models.splash import splash_attention
from dsmath_jax.sharding import Layout
from dsmath_jax.workdir import UserError

# (q, k, v, segment_ids, query_offset, spec): the queries are those of the tokens from the offset on.
Backend = Callable[..., Array]

# Backends by their name in config.model.attention, with the platform that they need ("" for any).
BACKENDS: dict[str, tuple[Backend, str]] = {
    "xla": (packed_attention, ""), "splash": (splash_attention, "tpu"), "cudnn": (cudnn_attention, "gpu")
}  # fmt: skip


def attention_on(layout: Layout, backend: str = "auto") -> Attention:
    """Returns `attention(q, k, v, segment_ids, spec)` for the model: causal within segments, sharded over the mesh.

    Args:
      layout: its mesh may be of a topology description (no real devices).
      backend: "xla", "splash" (TPU), "cudnn" (GPU), or "auto": the platform's own, else "xla".

    Raises:
      UserError: the backend is unknown, or the mesh's platform lacks it.
    """
    platform = layout.mesh.devices.flat[0].platform
    own = next((name for name, (_, needed) in BACKENDS.items() if needed == platform), "xla")
    name = own if backend == "auto" else backend
    if name not in BACKENDS:
        raise UserError(f"There is no attention '{name}'; set config.model.attention to auto, {', '.join(BACKENDS)}.")
    attend, needed = BACKENDS[name]
    if needed not in ("", platform):
        raise UserError(
            f"The attention '{name}' needs a {needed.upper()} and the mesh is on {platform.upper()}; set "
            "config.model.attention to auto."
        )
    return sharded(attend, layout)


def sharded(attend: Backend, layout: Layout) -> Attention:
    """Returns attention in which each device computes its rows, its heads and its part of the queries.

    Rows are split over replica and fsdp, heads over tensor, where they divide. Along context each device gathers the
    keys, values and segment ids of whole rows (2 x T x K x H numbers a row and layer, little next to the parameters
    that fsdp gathers) and attends with its own contiguous part of T / context queries. Under the causal mask the last
    device has 2 - 1/context times the mean work, and all wait for it, for up to T / 12 D of the time of a layer's
    other products (a twelfth for 7B at 4 K). Interleaving the queries would balance this, but complicate the order of
    data, positions and losses.
    """

    def attention(q: Array, k: Array, v: Array, segment_ids: Array, spec: AttentionSpec = PLAIN) -> Array:
        parts = layout.size_of("context")
        layout.check_context(q.shape[1])
        queries, keys = layout.spec(q.shape, "BTNH"), layout.spec(k.shape, "BTKH")
        rows, tokens, heads = queries[0], queries[1], queries[2] and keys[2]

        def attend_shard(q: Array, k: Array, v: Array, segment_ids: Array, sliding: Array | None) -> Array:
            mine = spec._replace(sliding=sliding)
            if parts == 1:
                return attend(q, k, v, segment_ids, 0, mine)
            k, v, segment_ids = (jax.lax.all_gather(x, "context", axis=1, tiled=True) for x in (k, v, segment_ids))
            return attend(q, k, v, segment_ids, jax.lax.axis_index("context") * q.shape[1], mine)

        by_head = PartitionSpec(rows, tokens, heads)
        return jax.shard_map(
            attend_shard, mesh=layout.mesh,
            in_specs=(by_head, by_head, by_head, PartitionSpec(rows, tokens), PartitionSpec()), out_specs=by_head,
            check_vma=False,
        )(q, k, v, segment_ids, spec.sliding)  # fmt: skip

    return attention
