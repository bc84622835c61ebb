"""The mesh, where parameters and batches lie on it, and the start of a run on several hosts."""

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from dsmath_jax.workdir import UserError

# replica: whole copies of the model (the one axis that may cross slices); fsdp: rows, and shards of every parameter;
# context: stretches of a row's tokens; tensor: heads, feed-forward and vocabulary.
AXES = ("replica", "fsdp", "context", "tensor")
BATCH_AXES = ("replica", "fsdp")

# Parameter paths (joined by "/") to the mesh axes of their dimensions; every path must match exactly one.
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
# Axis letters of activations, and of weights as they are used (whole over fsdp, parted over tensor); in the layout in
# which weights are kept, `d` stands for D.
LETTERS: dict[str, str | tuple[str, ...]] = {
    "B": BATCH_AXES, "T": "context", "N": "tensor", "K": "tensor", "F": "tensor", "V": "tensor", "d": "fsdp"
}  # fmt: skip


def make_mesh(
    replica: int = 1, fsdp: int = -1, context: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh of all devices (or of those given, which need not exist); an fsdp of -1 takes what the others leave.

    On TPU slices joined by a data-centre network, `replica` is the axis that crosses it: only gradients do so then.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or replica to that of the slices.
    """
    devices = jax.devices() if devices is None else devices
    others = replica * context * tensor
    fsdp = len(devices) // others if fsdp == -1 and others > 0 else fsdp
    sizes = (replica, fsdp, context, tensor)
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        told = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
        raise UserError(f"mesh {told} does not multiply to the {len(devices)} devices; change config.mesh.")
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if devices[0].platform == "tpu" else 1
    if replica % slices:
        raise UserError(f"mesh replica={replica} does not divide by the {slices} TPU slices; change config.mesh.")
    within = (replica // slices, *sizes[1:])
    if slices > 1:
        grid = mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1, 1), devices)
    else:
        grid = mesh_utils.create_device_mesh(within, devices)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


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
            return _fitting(mesh, shape[: len(axes)], axes)
    raise ValueError(f"no sharding rule matches the parameter {path}")


def shardings_like(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for each leaf of parameters, or of optimizer state, whose paths end as the parameters'."""

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        spec = spec_of(path_name(path), leaf.shape, mesh) if leaf.ndim else PartitionSpec()
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, tree)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def abstract(shapes: Any, shardings: Any) -> Any:
    """Shapes, dtypes and shardings of a pytree of which nothing is allocated."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def size_of(mesh: Mesh, axes: str | tuple[str, ...]) -> int:
    """How many parts one or several mesh axes make."""
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))


def layout(mesh: Mesh, shape: Sequence[int], axes: str) -> PartitionSpec:
    """Where an array with these axis letters lies; an axis that does not divide is left whole."""
    return _fitting(mesh, shape, [LETTERS.get(axis) for axis in axes])


def _fitting(mesh: Mesh, shape: Sequence[int], wanted: Sequence[str | tuple[str, ...] | None]) -> PartitionSpec:
    """The mesh axes wanted of each dimension, where they divide it."""
    return PartitionSpec(
        *(axes if axes and n % size_of(mesh, axes) == 0 else None for n, axes in zip(shape, wanted, strict=True))
    )


def constrain_on(mesh: Mesh) -> Callable[[Array, str], Array]:
    """The `constrain(x, "BTD")` that the model calls: pins an array's layout by its axis letters."""

    def constrain(x: Array, axes: str) -> Array:
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, layout(mesh, x.shape, axes)))

    return constrain


def by_rows_on(mesh: Mesh) -> Callable[..., Any]:
    """The `by_rows(f, rows, matrix)` that the model is handed: `f(*rows, matrix)`, each device on its own rows.

    `rows` are arrays `[B, T, ...]` and so are the results; `matrix` is a weight `[D, ...]`, gathered once before `f`,
    and its gradient is summed into its shards once after, however often `f` uses it (XLA would sum in every turn of a
    loop). The tensor axis stays XLA's to lay out.
    """

    def by_rows(f: Callable[..., Any], rows: Sequence[Array], matrix: Array) -> Any:
        spec = layout(mesh, rows[0].shape[:2], "BT")
        kept = layout(mesh, matrix.shape[:1], "d")

        def local(*arguments: Array) -> Any:
            *mine, part = arguments
            return f(*mine, jax.lax.all_gather(part, "fsdp", tiled=True) if kept[0] else part)

        return jax.shard_map(
            local, mesh=mesh, in_specs=(*[spec] * len(rows), kept), out_specs=spec,
            axis_names={*BATCH_AXES, "context"}, check_vma=False,
        )(*rows, matrix)  # fmt: skip

    return by_rows


def batch_sharding(mesh: Mesh, ndim: int = 2) -> NamedSharding:
    """Of a batch's arrays: rows over replica and fsdp, tokens over context."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, "context") if ndim > 1 else PartitionSpec(BATCH_AXES))


def _local_shards(mesh: Mesh) -> list[int]:
    """The numbers of the batch's shards (of replica x fsdp) that this process's devices hold."""
    mine = np.vectorize(lambda device: device.process_index == jax.process_index())(mesh.devices)
    return np.flatnonzero(mine.any(axis=(2, 3)).reshape(-1)).tolist()


def local_rows(mesh: Mesh, rows: int) -> list[int]:
    """Which rows of a batch this process has to make: those that its devices hold.

    Raises:
      UserError: the rows do not divide by the mesh.
    """
    shards = size_of(mesh, BATCH_AXES)
    if rows % shards:
        raise UserError(
            f"A batch of {rows} rows does not divide by the mesh's replica x fsdp = {shards}; change batch_size or "
            "config.mesh."
        )
    each = rows // shards
    return [shard * each + i for shard in _local_shards(mesh) for i in range(each)]


def check_context(mesh: Mesh, tokens: int) -> None:
    """Raises a `UserError` where rows of so many tokens do not divide by the mesh's context axis."""
    if tokens % mesh.shape["context"]:
        raise UserError(
            f"Rows of {tokens} tokens do not divide by the mesh's context={mesh.shape['context']}; change "
            "sequence_length or config.mesh."
        )


def global_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """Puts each process's rows (`local_rows`) on its devices as one global batch.

    Raises:
      UserError: the rows' tokens do not divide by the mesh's context axis.
    """
    shards = _local_shards(mesh)
    place = {shard: position for position, shard in enumerate(shards)}

    def put(local: np.ndarray) -> Array:
        if local.ndim > 1:
            check_context(mesh, local.shape[1])
        each = len(local) // len(shards)
        shape = (each * size_of(mesh, BATCH_AXES), *local.shape[1:])

        def part(index: Any) -> np.ndarray:
            first = place[(index[0].start or 0) // each] * each
            return local[(slice(first, first + each), *index[1:])]

        return jax.make_array_from_callback(shape, batch_sharding(mesh, local.ndim), part)

    return {name: put(rows) for name, rows in batch.items()}


def process_share(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, np.ndarray]:
    """This process's rows of a batch that every process has made whole."""
    return {name: rows[local_rows(mesh, len(rows))] for name, rows in batch.items()}


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Host arrays, the same on every process, put whole on every device."""
    return jax.device_put(tree, replicated(mesh))


def to_host(tree: Any) -> Any:
    """Whole arrays as NumPy on every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def from_first(value: Any) -> Any:
    """What process 0 gives, on every process: whatever JSON can hold. What the others give is not looked at."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    data = np.frombuffer(json.dumps(value if jax.process_index() == 0 else None).encode(), np.uint8)
    told = np.zeros(int(multihost_utils.broadcast_one_to_all(np.int32(len(data)))), np.uint8)
    if jax.process_index() == 0:
        told[:] = data
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(told)).tobytes())


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def start_processes(coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Joins the processes of a run on several hosts. On Cloud TPU and under SLURM JAX finds all three by itself.

    Args:
      coordinator: address of process 0 as HOST:PORT; "" to detect it.
      processes: how many there are.
      process: the number of this one.

    Raises:
      UserError: only some are given, or the processes do not find each other.
    """
    given = {"coordinator": coordinator != "", "processes": processes > 0, "process": process >= 0}
    if len(set(given.values())) > 1:
        missing = ", ".join(f"--{name}" for name, there in given.items() if not there)
        raise UserError(f"{missing} is missing: give --coordinator, --processes and --process together, or none.")
    if coordinator and process >= processes:
        raise UserError(f"--process={process} must be below --processes={processes}; the first is 0.")
    try:
        if coordinator:
            jax.distributed.initialize(coordinator, processes, process)
        else:
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"The processes of the run did not find each other ({reason}); give --coordinator=HOST:PORT, --processes "
            "and --process."
        ) from None
