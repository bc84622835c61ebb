"""The mesh, the shardings of parameters, batches and activations, and collectives of host values."""

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

# replica: copies of the model (the only axis that may cross slices); fsdp: rows, and shards of every parameter;
# context: a row's tokens; tensor: heads, feed-forward and vocabulary.
AXES = ("replica", "fsdp", "context", "tensor")
BATCH_AXES = ("replica", "fsdp")

# Patterns of parameter paths (joined by "/") and the mesh axes of their dimensions; every path must match exactly one.
# Leaves below `layers` begin with the layer axis L.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"embedding$", ("tensor", "fsdp")),
    (r"^head$|/head$", ("fsdp", "tensor")),
    (r"layers/(q|k|v)$", (None, "fsdp", "tensor", None)),
    (r"layers/o$", (None, "tensor", None, "fsdp")),
    (r"layers/(gate|up)$", (None, "fsdp", "tensor")),
    (r"layers/down$", (None, "tensor", "fsdp")),
    (r"layers/(q|k|v|gate|up)_lora_a$", (None, "fsdp", None)),
    (r"layers/o_lora_a$", (None, "tensor", None, None)),
    (r"layers/down_lora_a$", (None, "tensor", None)),
    (r"layers/[qkv]_lora_b$", (None, None, "tensor", None)),
    (r"layers/(gate|up)_lora_b$", (None, None, "tensor")),
    (r"layers/(o|down)_lora_b$", (None, None, "fsdp")),
    (r"layers/[qkv]_scale$", (None, "tensor", None)),
    (r"layers/(gate|up)_scale$", (None, "tensor")),
    (r"layers/(o|down)_scale$", (None, None)),
    (r"layers/[qkv]_bias$", (None, "tensor")),
    (r"layers/o_bias$", (None, None)),
    (r"layers/\w+_norm/scale$", (None, None)),
    (r"final_norm/scale$", (None,)),
    (r"reward/(kernel|bias)$", ()),
)
# Axis letters of activations, and of weights as they are used (gathered over fsdp, split over tensor); `d` is the D of
# weights as they are stored.
LETTERS: dict[str, str | tuple[str, ...]] = {
    "B": BATCH_AXES, "T": "context", "N": "tensor", "K": "tensor", "F": "tensor", "V": "tensor", "d": "fsdp"
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSettings(Settings):
    """The sizes of the mesh axes, whose product is the number of devices."""

    replica: int = setting(1, "copies of the model; the axis that may cross TPU slices", ge=1, changes_result=False)
    fsdp: int = setting(-1, "shards of rows and parameters; -1: the remaining devices", ge=-1, changes_result=False)
    context: int = setting(1, "parts of a row's tokens", ge=1, changes_result=False)
    tensor: int = setting(1, "parts of heads, feed-forward and vocabulary", ge=1, changes_result=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fsdp:
            raise UserError("fsdp is 0; give -1 for the remaining devices, or at least 1.")


def make_mesh(settings: MeshSettings = MeshSettings(), devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh of all devices, or of `devices`, which may be those of a topology description.

    With several TPU slices, `replica` is the axis that crosses the network between them, so that only gradients do.
    Within a slice, an axis takes whole dimensions of the topology if possible. The axes with the most communication,
    tensor and then context, are assigned first, to neighbors.

    Raises:
      UserError: the product of the sizes is not the number of devices, replica is not divisible by the number of
        slices, or the devices are not whole slices.
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
        raise UserError(f"mesh replica={replica} is not divisible by the {slices} TPU slices; change config.mesh.")
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
            f"The {len(devices)} devices make no mesh: they must be whole TPU slices of one size, one device per chip."
        ) from error
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@dataclasses.dataclass(frozen=True)
class Layout:
    """The shardings of parameters, batches and activations on a mesh."""

    mesh: Mesh

    # --- parameters ---

    def param_shardings(self, tree: Any) -> Any:
        """Returns the sharding of each leaf of parameters, or of optimizer state with the parameters' paths."""

        def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
            spec = self.param_spec(path_name(path), leaf.shape) if leaf.ndim else PartitionSpec()
            return NamedSharding(self.mesh, spec)

        return jax.tree_util.tree_map_with_path(sharding, tree)

    def param_spec(self, path: str, shape: Sequence[int]) -> PartitionSpec:
        """Returns the partition of a parameter; a dimension that is not divisible is not split.

        Raises:
          ValueError: no rule matches the path.
        """
        for pattern, axes in RULES:
            if re.search(pattern, path):
                return self._fitting(shape[: len(axes)], axes)
        raise ValueError(f"no sharding rule matches the parameter {path}")

    def abstract(self, shapes: Any) -> Any:
        """Returns abstract parameters or optimizer state with shardings; nothing is allocated."""
        return abstract(shapes, self.param_shardings(shapes))

    # --- batches ---

    @property
    def batch_shards(self) -> int:
        """The number of shards of a batch's rows: replica x fsdp."""
        return self.size_of(BATCH_AXES)

    def batch_sharding(self, ndim: int = 2) -> NamedSharding:
        """Returns the sharding of a batch's arrays: rows over replica and fsdp, tokens over context."""
        spec = PartitionSpec(BATCH_AXES, "context") if ndim > 1 else PartitionSpec(BATCH_AXES)
        return NamedSharding(self.mesh, spec)

    def my_rows(self, n: int) -> list[int]:
        """Returns the indices of the rows of a batch of `n` that are on this process's devices.

        Raises:
          UserError: `n` is not divisible by the number of shards.
        """
        shards = self.batch_shards
        if n % shards:
            raise UserError(
                f"A batch of {n} rows is not divisible by the mesh's replica x fsdp = {shards}; change batch_size or "
                "config.mesh."
            )
        each = n // shards
        return [shard * each + i for shard in self._my_shards() for i in range(each)]

    def take_my_rows(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns this process's rows of a batch that every process holds completely."""
        return {name: rows[self.my_rows(len(rows))] for name, rows in batch.items()}

    def put_batch(self, rows: dict[str, np.ndarray]) -> dict[str, Array]:
        """Puts each process's rows (`my_rows`) on its devices as one global batch.

        Raises:
          UserError: the number of tokens is not divisible by the mesh's context axis.
        """
        shards = self._my_shards()
        positions = {shard: position for position, shard in enumerate(shards)}

        def put(local: np.ndarray) -> Array:
            if local.ndim > 1:
                self.check_context(local.shape[1])
            each = len(local) // len(shards)
            shape = (each * self.batch_shards, *local.shape[1:])

            def part(index: Any) -> np.ndarray:
                first = positions[(index[0].start or 0) // each] * each
                return local[(slice(first, first + each), *index[1:])]

            return jax.make_array_from_callback(shape, self.batch_sharding(local.ndim), part)

        return {name: put(values) for name, values in rows.items()}

    def abstract_batch(self, example: dict[str, np.ndarray], rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns abstract fields `[rows,T]` like the fields `[1,T]` of an example."""
        sharding = self.batch_sharding()
        return {
            name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=sharding) for name, x in example.items()
        }

    def check_context(self, tokens: int) -> None:
        """Raises a `UserError` if `tokens`, the length of a row, is not divisible by the mesh's context axis."""
        if tokens % self.size_of("context"):
            raise UserError(
                f"Rows of {tokens} tokens are not divisible by the mesh's context={self.size_of('context')}; change "
                "sequence_length or config.mesh."
            )

    def _my_shards(self) -> list[int]:
        """Returns the indices of the batch shards on this process's devices."""
        mine = np.vectorize(lambda device: device.process_index == jax.process_index())(self.mesh.devices)
        return np.flatnonzero(mine.any(axis=(2, 3)).reshape(-1)).tolist()

    # --- activations: passed to the model ---

    def constrain(self, x: Array, axes: str) -> Array:
        """Constrains an array's sharding by its axis letters: `constrain(x, "BTD")`."""
        return jax.lax.with_sharding_constraint(x, self.sharding(x.shape, axes))

    def map_row_shards(self, f: Callable[..., Any], rows: Sequence[Array], matrix: Array) -> Any:
        """Computes `f(*rows, matrix)`, each device on its own rows.

        `rows` and the results are arrays `[B, T, ...]`; `matrix` is a weight `[D, ...]`. It is gathered once before
        `f`, and its gradient is reduced once after, however often `f` uses it (XLA would reduce in every iteration of
        a loop). XLA partitions the tensor axis.
        """
        if self.size_of((*BATCH_AXES, "context")) == 1:
            return f(*rows, matrix)
        spec = self.spec(rows[0].shape[:2], "BT")
        stored = self.spec(matrix.shape[:1], "d")
        dtype = matrix.dtype
        if self.mesh.devices.flat[0].platform == "cpu":
            # XLA for CPUs reduces bfloat16 as float32, but fails to rewrite a reduction of this function and aborts
            # the process ("Invalid binary instruction opcode copy"). So the matrix is float32 outside of `f`.
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
        """Returns the partition of an array with these axis letters; a dimension that is not divisible is not split."""
        return self._fitting(shape, [LETTERS.get(axis) for axis in axes])

    def sharding(self, shape: Sequence[int], axes: str) -> NamedSharding:
        """Returns `spec` as a sharding."""
        return NamedSharding(self.mesh, self.spec(shape, axes))

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of an array that is replicated on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def replicate(self, tree: Any) -> Any:
        """Puts host arrays, equal on all processes, on every device."""
        return jax.device_put(tree, self.replicated)

    def size_of(self, axes: str | tuple[str, ...]) -> int:
        """Returns the size of a mesh axis, or the product of several."""
        return math.prod(self.mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))

    def _fitting(self, shape: Sequence[int], wanted: Sequence[str | tuple[str, ...] | None]) -> PartitionSpec:
        """Returns the partition with the wanted mesh axes of each dimension that is divisible by them."""
        return PartitionSpec(
            *(axes if axes and n % self.size_of(axes) == 0 else None for n, axes in zip(shape, wanted, strict=True))
        )


def abstract(shapes: Any, shardings: Any) -> Any:
    """Returns a pytree of abstract arrays with shardings; nothing is allocated."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def path_name(path: tuple[Any, ...]) -> str:
    """Formats a key path of a pytree as `layers/q`."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def to_host(tree: Any) -> Any:
    """Returns global arrays as NumPy arrays on every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def broadcast_json(value: Any) -> Any:
    """Returns process 0's JSON value on all processes; the values of the others are ignored."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    data = np.frombuffer(json.dumps(value if jax.process_index() == 0 else None).encode(), np.uint8)
    received = np.zeros(int(multihost_utils.broadcast_one_to_all(np.int32(len(data)))), np.uint8)
    if jax.process_index() == 0:
        received[:] = data
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(received)).tobytes())


def barrier(name: str) -> None:
    """Waits until every process has reached this barrier."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
