"""Collectives of HLO: which devices take part, and the bytes that each of them sends."""

import dataclasses
import math
import re

import numpy as np
from jaxtyping import Int

from dsmath_jax.aot.hlo import Computation, Instruction

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True, eq=False)
class Collective:
    """A collective.

    Attributes:
      kind: one of KINDS.
      runs: how often it runs.
      operand_bytes: bytes of each device's operand.
      groups: positions of the devices in the mesh, a row for each group; pairs of sender and receiver for a permute.
    """

    kind: str
    runs: int
    operand_bytes: float
    groups: Int[np.ndarray, "n g"]

    @property
    def sent(self) -> float:
        """Bytes that a device sends in one run."""
        return sum(self.sent_over(np.zeros(self.groups.max() + 1, int)))

    def sent_over(self, islands: Int[np.ndarray, " devices"]) -> tuple[float, float]:
        """Returns the bytes that a device sends in one run over links and over the network.

        `islands[i]` is the slice or host of device `i`: devices of one island are joined by links, islands by a
        network. With b bytes of operand in a group of g devices on h islands, m = g / h on each, a device sends

            all-gather          links b (g - h),              network b (h - 1)
            all-reduce          links 2 b (m - 1) / m,        network 2 b / m (h - 1) / h
            reduce-scatter      links b (m - 1) / m,          network b / m (h - 1) / h
            all-to-all          links b (m - 1) / g,          network b (g - m) / g
            collective-permute  b, over the network if a pair crosses it

        which a ring within each island and one across them reach. Where groups are on different numbers of islands, h
        is the least.
        """
        g = self.groups.shape[1]
        h = min(len(set(islands[group])) for group in self.groups)
        if self.kind == "collective-permute":
            crosses = any(len(set(islands[pair])) > 1 for pair in self.groups)
            return (0.0, self.operand_bytes) if crosses else (self.operand_bytes, 0.0)
        m = g / h
        links, network = {
            "all-gather": (g - h, h - 1),
            "all-reduce": (2 * (m - 1) / m, 2 / m * (h - 1) / h),
            "reduce-scatter": ((m - 1) / m, (h - 1) / h / m),
            "all-to-all": ((m - 1) / g, (g - m) / g),
        }[self.kind]
        return links * self.operand_bytes, network * self.operand_bytes

    def axes(self, mesh: dict[str, int]) -> tuple[str, ...]:
        """Returns the axes of the mesh along which it communicates."""
        coordinates = np.stack(np.unravel_index(self.groups, tuple(mesh.values())))  # [axis, n, g]
        return tuple(name for name, along in zip(mesh, coordinates, strict=True) if (along != along[:, :1]).any())


def collective(i: Instruction, kind: str, scope: Computation, devices: int) -> Collective:
    """Returns the collective of an instruction in a program of `devices` devices."""
    return Collective(kind, 1, sum(scope[name].bytes for name in i.operands), _groups(i, kind, devices))


def is_later_step(i: Instruction, scope: Computation) -> bool:
    """Returns whether this is a further step of a collective that another computation starts.

    TPU compilers split a collective into steps that overlap with other work. Each step repeats the instruction.
    """
    if not i.attribute(r"frontend_attributes=\{[^}]*(chain_id=)"):
        return False
    return not any(other.opcode == "custom-call" and "AsyncCollectiveStart" in other.text for other in scope.values())


def _groups(i: Instruction, kind: str, devices: int) -> Int[np.ndarray, "n g"]:
    """Returns the groups, from any notation of HLO; by default all devices are one."""
    field = "source_target_pairs" if kind == "collective-permute" else "replica_groups"
    if listed := i.attribute(field + r"=\{(\{[\d,{} ]*\})\}"):
        return np.array([[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d, ]+)\}", listed)])
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", i.text):
        return _iota(iota[3], iota[4]).reshape(int(iota[1]), int(iota[2]))
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\]([^{]*) \{([^}]*)\}", i.text):
        return _mesh_groups(mesh[1], mesh[2], mesh[3])
    if i.attribute(r"(replica_groups=)(?!\{\})"):
        raise ValueError(f"the HLO instruction {i.name} has replica_groups in an unknown notation: {i.text[:200]}")
    return np.arange(devices)[None]


def _iota(shape: str, order: str | None) -> Int[np.ndarray, "..."]:
    """Returns 0, 1, 2, ... in a shape, transposed: HLO's `[2,4]T(1,0)`."""
    sizes = [int(n) for n in shape.split(",")]
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose([int(n) for n in order.split(",")]) if order else ids


def _mesh_groups(mesh: str, devices: str, axes: str) -> Int[np.ndarray, "n g"]:
    """Returns the groups along some axes of a named mesh: `mesh['a'=4,'b'=2], device_ids=([8]) {'a':(2)2,'b'}`.

    `'a':(2)2` is the part of size 2 of an axis that is split into 2 x 2 x the rest.
    """
    sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", mesh)}
    order = re.search(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", devices)
    ids = _iota(order[1], order[2]).reshape(-1) if order else np.arange(math.prod(sizes.values()))
    shape, grouped = [], []
    parts = {name: (before, size) for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", axes)}
    for name, size in sizes.items():
        before, part = (int(n or 0) for n in parts.get(name, ("1", "1")))
        before, part = (before, part) if part else (1, size)  # the whole axis
        shape += [before, part, size // before // part]
        grouped.append(len(shape) - 2)
    others = [axis for axis in range(len(shape)) if axis not in grouped]
    return ids.reshape(shape).transpose(others + grouped).reshape(-1, math.prod(shape[axis] for axis in grouped))
