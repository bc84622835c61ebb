"""Topologies by name."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dsmath_jax.aot.__main__ import ENVIRONMENT
from dsmath_jax.aot.topology import ARCHITECTURES, Topology, topology
from dsmath_jax.hardware import CHIPS
from dsmath_jax.workdir import UserError
from tests.aot.compilers import needs_cuda, needs_libtpu

ROOT = Path(__file__).parents[2]


DESCRIBED = """
import json, jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from dsmath_jax.aot import program
from dsmath_jax.aot.topology import ARCHITECTURES, topology
from dsmath_jax.sharding import MeshSettings, make_mesh
from dsmath_jax.workdir import UserError

def message(f):
    try:
        return f()
    except UserError as error:
        return str(error)

with program.capture_stderr() as captured:
    two = topology("2xv5e:2x2").devices
    mesh = make_mesh(MeshSettings(replica=2), two)
    one_replica = message(lambda: make_mesh(devices=two))
    odd = message(lambda: topology("v5e:3x5"))
    square = make_mesh(MeshSettings(fsdp=2, tensor=2), topology("v5e:2x2").devices)
    crossed, rows = (NamedSharding(square, P(*axes)) for axes in ((None, "tensor", "fsdp"), (("fsdp", "tensor"),)))
    x = jax.ShapeDtypeStruct((8, 8, 16), "float32")
    jax.jit(lambda x: jax.numpy.sin(x), in_shardings=crossed, out_shardings=rows).lower(x).compile()
    names = [
        "v4-8", "v5litepod-16", "v5e-1", "v5p-32", "v6e:1x1", "tpu7x:2x2x1", "2xv5p-8", "v5p:1x1x1", "v5e:16x16",
    ]
    found = [(t.name, len(t.devices), t.chip.device_kinds[0], t.usable_bytes) for t in map(topology, names)]
    kinds = [topology(name).devices[0].device_kind in topology(name).chip.device_kinds for name in names]
slices = [sorted({device.slice_index for device in replica.flat}) for replica in mesh.devices]
relaid = captured[0].count(program.FULL_REMAT)
print(json.dumps([mesh.shape, slices, one_replica, odd, relaid, found, kinds]))
"""


@needs_libtpu
def test_described_tpus() -> None:
    run = subprocess.run(
        [sys.executable, "-c", DESCRIBED],
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    mesh, slices, one_replica, odd, relaid, found, kinds = json.loads(run.stdout)
    assert mesh == {"replica": 2, "fsdp": 4, "context": 1, "tensor": 1}
    assert slices == [[0], [1]]  # each replica is within one slice
    assert "is not divisible by the 2 TPU slices" in one_replica
    assert "libtpu knows no topology 'v5e:3x5'" in odd
    assert relaid > 0  # resharding that needs a gather of the whole array is counted
    assert [(name, count, kind) for name, count, kind, _ in found] == [
        ("v4:2x2x1", 4, "TPU v4"),
        ("v5e:4x4", 16, "TPU v5 lite"),
        ("v5e:1x1", 1, "TPU v5 lite"),
        ("v5p:2x2x4", 16, "TPU v5"),  # 32 TensorCores
        ("v6e:1x1", 1, "TPU v6 lite"),
        ("tpu7x:2x2x1", 8, "TPU7x"),  # two devices per chip
        ("2xv5p:2x2x1", 8, "TPU v5"),
        ("v5p:1x1x1", 1, "TPU v5"),
        ("v5e:16x16", 256, "TPU v5 lite"),
    ]
    assert found[0][3] == int(30.5 * 2**30)
    assert all(kinds)


GPUS = """
import json
from dsmath_jax.aot.topology import ARCHITECTURES, topology
found = [topology(name) for name in [*ARCHITECTURES, "h100:8", "h100-8", "h100:4x2", "OWN:2"]]
print(json.dumps([
    (t.name, t.devices[0].device_kind in t.chip.device_kinds, [d.process_index for d in t.devices], t.usable_bytes)
    for t in found
]))
"""
OWN_TARGET = """
gpu_device_info {
  cuda_compute_capability { major: 8 minor: 6 } core_count: 84 fpus_per_core: 128 clock_rate_ghz: 1.8
  device_memory_size: 51041271808 memory_bandwidth: 768096000000 l2_cache_size: 6291456
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 101376 shared_memory_per_core: 102400
  threads_per_core_limit: 1536 threads_per_block_limit: 1024 threads_per_warp: 32
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 } device_description_str: "NVIDIA RTX A6000"
"""


@needs_cuda
def test_described_gpus(tmp_path: Path) -> None:
    own = tmp_path / "a6000.txtpb"
    own.write_text(OWN_TARGET, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-c", GPUS.replace("OWN", str(own))],
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT), "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    *cards, eight, same, hosts, mine = json.loads(run.stdout)
    assert [name for name, *_ in cards] == [f"{card}:1" for card in ARCHITECTURES]
    assert all(known for _, known, *_ in cards)
    assert eight == same == ["h100:8", True, [0] * 8, 84_942_979_072 // 2]
    assert hosts[:3] == ["h100:4x2", True, [0, 0, 1, 1, 2, 2, 3, 3]]
    assert mine == [f"{own}:2", True, [0, 0], 51_041_271_808 // 2]


@pytest.mark.parametrize("name", ["", "v5e", "8", "0xv5e:2x2", "v9e:2x2", "h100:0", "h900:8", "v5e:2x2x2x2"])
def test_a_topology_that_is_not_understood(name: str) -> None:
    with pytest.raises(UserError, match="is not understood; give TPUs as v5e:4x4"):
        topology(name)


def test_a_memory_fraction_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "most")
    here = Topology("h100:1", [SimpleNamespace(platform="gpu")], CHIPS["h100"])
    with pytest.raises(UserError, match="MEM_FRACTION is 'most'; it must be a number from 0 to 1"):
        here.usable_bytes  # noqa: B018


def test_a_slice_that_is_not_sold_names_those_that_are() -> None:
    with pytest.raises(UserError, match="there is no such slice; give one of v5p-8, v5p-16, v5p-32"):
        topology("v5p-24")
    with pytest.raises(UserError, match="there is no such slice; give one of v5p-8"):
        topology("v5p-7")


def test_a_target_file_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine.txtpb cannot be read \(No such file"):
        topology(f"{tmp_path}/mine.txtpb:8")
    (tmp_path / "mine.txtpb").write_text(OWN_TARGET.replace("l2_cache_size", "l2"), encoding="utf-8")
    with pytest.raises(UserError, match="the field l2_cache_size is missing or ill-typed; correct it"):
        topology(f"{tmp_path}/mine.txtpb:8")


@pytest.mark.parametrize(
    ("package", "name", "extra"), [("libtpu", "v5e:2x2", "tpu"), ("jax_cuda13_plugin", "h100:8", "aot-gpu")]
)
def test_the_error_says_what_to_install(package: str, name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    needed = rf"^Compiling for .PUs needs the package {package}: .*'dsmath-jax\[{extra}\]'.$"
    with pytest.raises(UserError, match=needed):
        topology(name)
