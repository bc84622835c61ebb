"""The mesh, the layout of parameters, batches and activations on it, and the start of a run on several hosts."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from dsmath_jax.settings import Settings, setting
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
# Axis letters of activations, and of weights as they are used (whole over fsdp, split over tensor); `d` is the D of
# weights as they are stored.
LETTERS: dict[str, str | tuple[str, ...]] = {
    "B": BATCH_AXES, "T": "context", "N": "tensor", "K": "tensor", "F": "tensor", "V": "tensor", "d": "fsdp"
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSettings(Settings):
    """The sizes of the mesh axes; they multiply to the number of devices."""

    replica: int = setting(
        1, "whole copies of the model; the axis that may cross TPU slices", least=1, changes_result=False
    )
    fsdp: int = setting(
        -1, "shards of rows and parameters; -1 takes what the others leave", least=-1, changes_result=False
    )
    context: int = setting(1, "parts of a row's tokens", least=1, changes_result=False)
    tensor: int = setting(1, "parts of heads, feed-forward and vocabulary", least=1, changes_result=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fsdp:
            raise UserError("fsdp is 0; give -1 for what the other axes leave, or at least 1.")


def make_mesh(settings: MeshSettings = MeshSettings(), devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh of all devices, or of those given, which may be described ones.

    On TPU slices joined by a data-centre network, `replica` is the axis that crosses it: only gradients do so then.
    Within a slice an axis takes whole sides of it where it can, and shares a side with others where it cannot; the
    chattiest axes, tensor and then context, choose first and join neighbors.

    Raises:
      UserError: the sizes do not multiply to the number of devices, replica does not divide by the number of slices, or
        the devices are no whole slices.
    """
    devices = jax.devices() if devices is None else devices
    replica, fsdp, context, tensor = dataclasses.astuple(settings)
    others = replica * context * tensor
    fsdp = len(devices) // others if fsdp == -1 else fsdp
    sizes = (replica, fsdp, context, tensor)
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        shape = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
        raise UserError(f"mesh {shape} does not multiply to the {len(devices)} devices; change config.mesh.")
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if devices[0].platform == "tpu" else 1
    if replica % slices:
        raise UserError(f"mesh replica={replica} does not divide by the {slices} TPU slices; change config.mesh.")
    within = (replica // slices, *sizes[1:])
    try:
        if slices > 1:
            grid = mesh_utils.create_hybrid_device_mesh(
                within, (slices, 1, 1, 1), devices, allow_split_physical_axes=True
            )
        else:
            grid = mesh_utils.create_device_mesh(within, devices, allow_split_physical_axes=True)
    except (AssertionError, ValueError) as error:
        raise UserError(
            f"The {len(devices)} devices make no mesh: they must be whole TPU slices of one size, one device a chip."
        ) from error
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where parameters, batches and activations lie on a mesh."""

    mesh: Mesh

    # --- parameters ---

    def params(self, tree: Any) -> Any:
        """A NamedSharding for each leaf of parameters, or of optimizer state, whose paths end as the parameters'."""

        def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
            spec = self.param_spec(path_name(path), leaf.shape) if leaf.ndim else PartitionSpec()
            return NamedSharding(self.mesh, spec)

        return jax.tree_util.tree_map_with_path(one, tree)

    def param_spec(self, path: str, shape: Sequence[int]) -> PartitionSpec:
        """The partition of one parameter; a dimension that does not divide stays whole.

        Raises:
          ValueError: no rule matches the path.
        """
        for pattern, axes in RULES:
            if re.search(pattern, path):
                return self._fitting(shape[: len(axes)], axes)
        raise ValueError(f"no sharding rule matches the parameter {path}")

    def abstract(self, shapes: Any) -> Any:
        """Shapes, dtypes and shardings of parameters or optimizer state; nothing is allocated."""
        return abstract(shapes, self.params(shapes))

    # --- batches ---

    @property
    def batch_shards(self) -> int:
        """Number of parts that the rows of a batch are split into: replica x fsdp."""
        return self.size_of(BATCH_AXES)

    def batch_sharding(self, ndim: int = 2) -> NamedSharding:
        """The sharding of a batch's arrays: rows over replica and fsdp, tokens over context."""
        spec = PartitionSpec(BATCH_AXES, "context") if ndim > 1 else PartitionSpec(BATCH_AXES)
        return NamedSharding(self.mesh, spec)

    def my_rows(self, n: int) -> list[int]:
        """Indices of the rows, of a batch of `n`, that this process makes: those that its devices hold.

        Raises:
          UserError: the rows do not divide by the mesh.
        """
        shards = self.batch_shards
        if n % shards:
            raise UserError(
                f"A batch of {n} rows does not divide by the mesh's replica x fsdp = {shards}; change batch_size or "
                "config.mesh."
            )
        each = n // shards
        return [shard * each + i for shard in self._my_shards() for i in range(each)]

    def share(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """This process's rows of a batch that every process has made whole."""
        return {name: rows[self.my_rows(len(rows))] for name, rows in batch.items()}

    def batch(self, rows: dict[str, np.ndarray]) -> dict[str, Array]:
        """Puts each process's rows (`my_rows`) on its devices as one global batch.

        Raises:
          UserError: the rows' tokens do not divide by the mesh's context axis.
        """
        shards = self._my_shards()
        place = {shard: position for position, shard in enumerate(shards)}

        def put(local: np.ndarray) -> Array:
            if local.ndim > 1:
                self.check_context(local.shape[1])
            each = len(local) // len(shards)
            shape = (each * self.batch_shards, *local.shape[1:])

            def part(index: Any) -> np.ndarray:
                first = place[(index[0].start or 0) // each] * each
                return local[(slice(first, first + each), *index[1:])]

            return jax.make_array_from_callback(shape, self.batch_sharding(local.ndim), part)

        return {name: put(values) for name, values in rows.items()}

    def abstract_batch(self, example: dict[str, np.ndarray], rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Abstract fields `[rows,T]` like those `[1,T]` of an example."""
        sharding = self.batch_sharding()
        return {
            name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=sharding) for name, x in example.items()
        }

    def check_context(self, tokens: int) -> None:
        """Raises a `UserError` where rows of `tokens` tokens do not divide by the mesh's context axis."""
        if tokens % self.size_of("context"):
            raise UserError(
                f"Rows of {tokens} tokens do not divide by the mesh's context={self.size_of('context')}; change "
                "sequence_length or config.mesh."
            )

    def _my_shards(self) -> list[int]:
        """The numbers of the batch's shards that this process's devices hold."""
        mine = np.vectorize(lambda device: device.process_index == jax.process_index())(self.mesh.devices)
        return np.flatnonzero(mine.any(axis=(2, 3)).reshape(-1)).tolist()

    # --- activations: what the model is handed ---

    def constrain(self, x: Array, axes: str) -> Array:
        """Pins an array's sharding by its axis letters: `constrain(x, "BTD")`."""
        return jax.lax.with_sharding_constraint(x, self.sharding(x.shape, axes))

    def by_rows(self, f: Callable[..., Any], rows: Sequence[Array], matrix: Array) -> Any:
        """Computes `f(*rows, matrix)`, each device on its own rows.

        `rows` are arrays `[B, T, ...]` and so are the results; `matrix` is a weight `[D, ...]`, gathered once before
        `f`, and its gradient is summed into its shards once after, however often `f` uses it (XLA would sum in every
        turn of a loop). The tensor axis stays XLA's to lay out.
        """
        if self.size_of((*BATCH_AXES, "context")) == 1:
            return f(*rows, matrix)
        spec = self.spec(rows[0].shape[:2], "BT")
        stored = self.spec(matrix.shape[:1], "d")
        dtype = matrix.dtype
        if self.mesh.devices.flat[0].platform == "cpu":
            # XLA for CPUs sums bfloat16 across devices as float32, but fails to rewrite a sum of this function and
            # aborts the process ("Invalid binary instruction opcode copy"). So the matrix is float32 outside of `f`.
            matrix = matrix.astype(jnp.promote_types(dtype, jnp.float32))

        def local(*arguments: Array) -> Any:
            *mine, part = arguments
            return f(*mine, (jax.lax.all_gather(part, "fsdp", tiled=True) if stored[0] else part).astype(dtype))

        return jax.shard_map(
            local, mesh=self.mesh, in_specs=(*[spec] * len(rows), stored), out_specs=spec,
            axis_names={*BATCH_AXES, "context"}, check_vma=False,
        )(*rows, matrix)  # fmt: skip

    # --- any array ---

    def spec(self, shape: Sequence[int], axes: str) -> PartitionSpec:
        """The partition of an array with these axis letters; a dimension that does not divide stays whole."""
        return self._fitting(shape, [LETTERS.get(axis) for axis in axes])

    def sharding(self, shape: Sequence[int], axes: str) -> NamedSharding:
        """`spec` as a sharding."""
        return NamedSharding(self.mesh, self.spec(shape, axes))

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of an array that is whole on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def replicate(self, tree: Any) -> Any:
        """Host arrays, the same on every process, put whole on every device."""
        return jax.device_put(tree, self.replicated)

    def size_of(self, axes: str | tuple[str, ...]) -> int:
        """The size of a mesh axis, or the product of several."""
        return math.prod(self.mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))

    def _fitting(self, shape: Sequence[int], wanted: Sequence[str | tuple[str, ...] | None]) -> PartitionSpec:
        """The mesh axes wanted of each dimension, where they divide it."""
        return PartitionSpec(
            *(axes if axes and n % self.size_of(axes) == 0 else None for n, axes in zip(shape, wanted, strict=True))
        )


def abstract(shapes: Any, shardings: Any) -> Any:
    """Shapes, dtypes and shardings of a pytree of which nothing is allocated."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def path_name(path: tuple[Any, ...]) -> str:
    """A key path of a pytree as `layers/q`."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


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
