"""The mesh, where parameters and batches lie on it, and the start of a run on several hosts."""

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from dsmath_jax.workdir import UserError

AXES = ("fsdp", "tensor")

# Parameter paths (joined by "/") to the mesh axes of their dimensions; the first match counts, every path must match.
# Leaves below `layers` have the layer axis L in front.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"embedding$", ("tensor", "fsdp")),
    (r"^head$|/head$", ("fsdp", "tensor")),
    (r"layers/(q|k|v)$", (None, "fsdp", "tensor", None)),
    (r"layers/o$", (None, "tensor", None, "fsdp")),
    (r"layers/(gate|up)$", (None, "fsdp", "tensor")),
    (r"layers/down$", (None, "tensor", "fsdp")),
    (r"layers/\w+_norm/scale$", (None, None)),
    (r"final_norm/scale$", (None,)),
    (r"reward/(kernel|bias)$", ()),
)
ACTIVATION_AXES: dict[str, str | None] = {"B": "fsdp", "N": "tensor", "K": "tensor", "F": "tensor", "V": "tensor"}


def make_mesh(fsdp: int = -1, tensor: int = 1) -> Mesh:
    """A mesh of all devices; -1 takes what the other axis leaves.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    fsdp = devices // tensor if fsdp == -1 else fsdp
    if fsdp * tensor != devices:
        raise UserError(
            f"mesh fsdp={fsdp} x tensor={tensor} does not multiply to the {devices} devices; change config.mesh."
        )
    return jax.make_mesh((fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 2)


def path_name(path: tuple[Any, ...]) -> str:
    """A key path of a pytree as `layers/q`."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def spec_of(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The partition of one parameter; an axis whose dimension does not divide is left whole.

    Raises:
      ValueError: no rule matches the path.
    """
    for pattern, axes in RULES:
        if re.search(pattern, path):
            sizes = [mesh.shape[axis] if axis else 1 for axis in axes]
            fits = [axis if n % size == 0 else None for n, axis, size in zip(shape, axes, sizes, strict=False)]
            return PartitionSpec(*fits)
    raise ValueError(f"no sharding rule matches the parameter {path}")


def shardings_like(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for each leaf of parameters, or of optimizer state, whose paths end as the parameters'."""

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        spec = spec_of(path_name(path), leaf.shape, mesh) if leaf.ndim else PartitionSpec()
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, tree)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def constrain_on(mesh: Mesh) -> Any:
    """The `constrain(x, "BTD")` that the model calls: pins an activation's layout by its axis letters."""

    def constrain(x: Array, axes: str) -> Array:
        spec = PartitionSpec(*(ACTIVATION_AXES.get(axis) for axis in axes))
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return constrain


def global_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """Puts each process's rows on the devices as one global batch, its first axis over `fsdp`."""
    sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def process_share(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """This process's rows of a batch that every process has made whole."""
    return {name: rows[jax.process_index() :: jax.process_count()] for name, rows in batch.items()}


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Host arrays, the same on every process, put whole on every device."""
    return jax.device_put(tree, replicated(mesh))


def to_host(tree: Any) -> Any:
    """Whole arrays as NumPy on every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
