"""Meshes on TPU slices: every factorization is valid; axes with the most communication join neighbors."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from dsmath_jax.aot.__main__ import ENVIRONMENT
from dsmath_jax.sharding import AXES, MeshSettings, make_mesh
from dsmath_jax.workdir import UserError
from tests.aot.compilers import needs_libtpu

ROOT = Path(__file__).parents[1]

KINDS = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5p", "v6e": "TPU v6 lite"}


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh is made from: as much of a TPU device as JAX looks at."""

    id: int
    device_kind: str
    coords: tuple[int, int, int]
    slice_index: int = 0
    core_on_chip: int = 0
    process_index: int = 0
    platform: str = "tpu"


def chips(kind: str, sides: Sequence[int], slices: int = 1, cores: int = 1) -> list[Chip]:
    """The devices of slices, in the order of `jax.devices()`."""
    z, y, x = reversed([*sides, *[1] * (3 - len(sides))])
    places = itertools.product(range(slices), range(z), range(y), range(x), range(cores))
    return [Chip(i, KINDS[kind], (x, y, z), part, core) for i, (part, z, y, x, core) in enumerate(places)]


def shapes(devices: int) -> Iterator[dict[str, int]]:
    """The sizes of every mesh of this number of devices."""
    divisors = [n for n in range(1, devices + 1) if devices % n == 0]
    for replica, context, tensor in itertools.product(divisors, divisors, divisors):
        fsdp, rest = divmod(devices, replica * context * tensor)
        if fsdp and not rest:
            yield dict(zip(AXES, (replica, fsdp, context, tensor), strict=True))


@pytest.mark.parametrize(
    ("kind", "sides", "slices"),
    [
        ("v4", (2, 2, 4), 1), ("v5e", (2, 4), 1), ("v5e", (4, 4), 1), ("v5e", (16, 16), 1), ("v6e", (4, 8), 1),
        ("v5p", (2, 2, 2), 1), ("v5p", (4, 4, 4), 1), ("v5p", (4, 4, 12), 1), ("v5e", (2, 4), 4), ("v5p", (4, 4, 4), 2),
    ],
)  # fmt: skip
def test_tensor_and_context_join_neighbors_in_every_mesh_of_a_slice(
    kind: str, sides: Sequence[int], slices: int
) -> None:
    """The devices of a tensor group, and of a context x tensor group, fill a box of chips, so that they are linked."""
    devices = chips(kind, sides, slices)
    for sizes in shapes(len(devices)):
        if sizes["replica"] % slices:
            with pytest.raises(UserError, match=f"replica={sizes['replica']} is not divisible by the {slices} TPU"):
                make_mesh(MeshSettings(**sizes), devices)
            continue
        mesh = make_mesh(MeshSettings(**sizes), devices)
        assert dict(mesh.shape) == sizes
        assert sorted(chip.id for chip in mesh.devices.flat) == list(range(len(devices)))
        for size in (sizes["tensor"], sizes["context"] * sizes["tensor"]):
            for group in mesh.devices.reshape(-1, size):
                coords = np.array([chip.coords for chip in group])
                assert np.prod(np.ptp(coords, axis=0) + 1) == size, (sizes, group)
                assert len({chip.slice_index for chip in group}) == 1


def test_a_mesh_that_splits_no_side_takes_whole_ones() -> None:
    """Splitting the sides of a slice is for the shapes that need it: an axis as large as some sides has all of them."""
    mesh = make_mesh(MeshSettings(fsdp=8, tensor=16), chips("v5p", (4, 4, 8)))
    for z, group in enumerate(mesh.devices.reshape(8, 16)):
        assert [chip.coords for chip in group] == [(x, y, z) for x in range(4) for y in range(4)]


@pytest.mark.parametrize(
    "devices",
    [chips("v5p", (4, 4, 4))[1:33], chips("v4", (2, 2, 1), cores=2), chips("v5e", (4, 4), slices=2)[:-8]],
    ids=["with a hole", "two devices a chip", "slices of two sizes"],
)
def test_devices_that_make_no_mesh_are_one_sentence(devices: list[Chip]) -> None:
    with pytest.raises(UserError, match=rf"^The {len(devices)} devices make no mesh: they must be whole TPU slices of"):
        make_mesh(MeshSettings(replica=2), devices)


SLICES = ("v4:2x2x2", "v5e:4x4", "v5e:16x16", "v5p:4x4x8", "2xv5p:4x4x4", "tpu7x:2x2x2")
# Tries every shape that multiplies to the slice; prints [topology, sizes, outcome]. A separate process: libtpu reads
# its environment when it is loaded.
TRY_SHAPES = """
import itertools, json, sys
from dsmath_jax.aot.topology import topology
from dsmath_jax.sharding import MeshSettings, make_mesh
from dsmath_jax.workdir import UserError

def mesh_of(devices, sizes):
    return dict(make_mesh(MeshSettings(**sizes), devices).shape)

outcomes = []
for name in sys.argv[1:]:
    devices = topology(name).devices
    for replica, context, tensor in itertools.product((1, 2, 4, 8), (1, 2), (1, 2, 4, 8)):
        fsdp, rest = divmod(len(devices), replica * context * tensor)
        if rest or not fsdp:
            continue
        sizes = {"replica": replica, "fsdp": fsdp, "context": context, "tensor": tensor}
        try:
            outcome = "mesh" if mesh_of(devices, sizes) == sizes else "another mesh"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        outcomes.append([name, sizes, outcome])
print(json.dumps(outcomes))
"""


@needs_libtpu
def test_every_shape_that_multiplies_to_a_described_slice_is_a_mesh() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRY_SHAPES, *SLICES],
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if done.returncode:
        pytest.fail(done.stderr)
    outcomes = json.loads(done.stdout)
    assert len(outcomes) > 120
    for topology, sizes, outcome in outcomes:
        if topology.startswith("2x") and sizes["replica"] % 2:
            assert outcome.startswith("UserError: mesh replica="), (topology, sizes, outcome)
        else:
            assert outcome == "mesh", (topology, sizes, outcome)
