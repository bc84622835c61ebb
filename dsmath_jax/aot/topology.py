"""Topologies by name: TPU slices and hosts of GPUs, whose hardware need not exist.

`v5p:2x2x4` is a TPU slice of 16 chips and `2xv5p:2x2x4` two of them, joined by a network. Google's accelerator types
are understood too: `v5p-32` counts TensorCores, `v5litepod-16` chips. `h100:8` is one host of eight GPUs and `h100:4x8`
four hosts; `my_card.txtpb:8` describes another GPU by a file with the text of XLA's `GpuTargetConfigProto`.
"""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from dsmath_jax.aot.gpu_targets import ARCHITECTURES, target_config
from dsmath_jax.extras import required_by
from dsmath_jax.hardware import CHIPS, Chip, chip_of
from dsmath_jax.workdir import UserError

_PLANE = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBE = {
    4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8",
    1024: "8x8x16", 2048: "8x16x16", 4096: "16x16x16", 6144: "16x16x24",
}  # fmt: skip


class Family(NamedTuple):
    """The slices of a TPU generation."""

    chip: str  # key of CHIPS
    shapes: dict[int, str]  # the topologies that Google sells, by the number of chips
    counted: int  # what the number in an accelerator type counts: TensorCores per chip, or 1 for chips


FAMILIES: dict[str, Family] = {
    "v4": Family("v4", _CUBE, 2),
    "v5e": Family("v5e", _PLANE, 1),
    "v5litepod": Family("v5e", _PLANE, 1),
    "v5p": Family("v5p", _CUBE, 2),
    "v6e": Family("v6e", _PLANE, 1),
    "tpu7x": Family("tpu7x", _CUBE, 2),
}
TPU = re.compile(r"(?:([1-9]\d*)x)?([a-z]+\d\w*)(?::(\d+(?:x\d+){1,2})|-(\d+))")
GPU = re.compile(rf"({'|'.join(ARCHITECTURES)}|.*\.(?:txtpb|pbtxt))(?:[:-]([1-9]\d*)(?:x([1-9]\d*))?)?")
MEMORY_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # JAX reads it too: the part of a GPU's memory that XLA takes


class Topology(NamedTuple):
    """Devices that programs are compiled for."""

    name: str  # as `v5p:2x2x4` or `h100:4x8`, however it was written
    devices: Sequence[Any]
    chip: Chip

    @property
    def usable_bytes(self) -> int:
        """Bytes of a device that programs may use: a GPU's pool is 75 % of its memory unless the environment says."""
        if self.devices[0].platform == "tpu":
            return self.chip.memory
        fraction = os.environ.get(MEMORY_FRACTION, "0.75")
        if not re.fullmatch(r"0?\.\d+|1(\.0*)?", fraction):
            raise UserError(f"{MEMORY_FRACTION} is '{fraction}'; it must be a number from 0 to 1.")
        return int(self.chip.memory * float(fraction))


@functools.cache
def topology(name: str) -> Topology:
    """Returns the topology of a name.

    Raises:
      UserError: the name is not understood, the compiler does not know the topology, or its package is not installed.
    """
    tpu = TPU.fullmatch(name)
    if tpu and tpu[2] in FAMILIES:
        return _tpu(name, *tpu.groups())
    gpu = GPU.fullmatch(name)
    if gpu:
        return _gpu(gpu[1], int(gpu[2]) if gpu[3] else 1, int(gpu[3] or gpu[2] or 1))
    raise UserError(
        f"--topology={name} is not understood; give TPUs as v5e:4x4, v5p-32 or 2xv5p:4x4x4 ({', '.join(FAMILIES)}), or "
        f"GPUs as h100:8 or h100:4x8, hosts x GPUs of a host ({', '.join(ARCHITECTURES)}, or a file my_card.txtpb)."
    )


def _tpu(name: str, slices: str | None, family: str, shape: str | None, count: str | None) -> Topology:
    chip, shapes, counted = FAMILIES[family]
    if shape is None:
        shape = shapes.get(int(count or 0) // counted) if int(count or 0) % counted == 0 else None
        if shape is None:
            known = ", ".join(f"{family}-{n * counted}" for n in shapes)
            raise UserError(f"--topology={name}: there is no such slice; give one of {known}, or a shape: {chip}:2x2.")
    options: dict[str, Any] = {"num_slices": int(slices)} if slices else {}
    if math.prod(int(n) for n in shape.split("x")) == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]  # the default is a host of four chips
    if chip == "v4":
        options["chip_config_name"] = "megacore"  # one device per chip, as in JAX on v4; the default is two
    with required_by("Compiling for TPUs"):
        import libtpu  # noqa: F401
    full = f"{slices}x{chip}:{shape}" if slices else f"{chip}:{shape}"
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=f"{chip}:{shape}", **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        if "INVALID_ARGUMENT" in reason:
            raise UserError(f"libtpu knows no topology '{full}' ({reason}); give an existing one.") from None
        raise UserError(f"libtpu cannot be used ({reason}); fix that and run the same command again.") from None
    return Topology(full, devices, CHIPS[chip])


def _gpu(card: str, hosts: int, gpus: int) -> Topology:
    if card in ARCHITECTURES:
        chip = CHIPS[card]
        target = target_config(chip, ARCHITECTURES[card])
    else:
        chip, target = _own_target(Path(card))
    with required_by("Compiling for GPUs"):
        import jax_cuda13_plugin  # noqa: F401
    try:
        devices = topologies.get_topology_desc(
            platform="cuda", target_config=target, topology=f"1x{hosts}x{gpus}"
        ).devices
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"XLA cannot compile for {card} ({reason}); correct the topology.") from None
    return Topology(f"{card}:{hosts}x{gpus}" if hosts > 1 else f"{card}:{gpus}", devices, chip)


def _own_target(path: Path) -> tuple[Chip, str]:
    """Returns the chip of a target file and its text. Rates that it does not give are infinite: a bound stays one."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a file with a GpuTargetConfigProto.") from None

    def field(name: str) -> str:
        match = re.search(rf'\b{name}: *(?:"([^"]+)"|(\d+))', text)
        if match is None:
            raise UserError(f"{path}: the field {name} is missing or ill-typed; correct it.")
        return match[1] or match[2]

    kind = field("device_description_str")
    known = chip_of(kind) or Chip(
        device_kinds=(kind,), peak_flops=math.inf, memory=0, memory_bandwidth=0, link_bandwidth=math.inf,
        network_bandwidth=math.inf, source=str(path),
    )  # fmt: skip
    return dataclasses.replace(
        known,
        memory=int(field("device_memory_size")),
        memory_bandwidth=float(field("memory_bandwidth")),
        cache=int(field("l2_cache_size")),
    ), text
