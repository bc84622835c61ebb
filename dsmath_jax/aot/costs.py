"""Computes what a compiled program costs on one device, from its optimized HLO: FLOPs, HBM bytes, bytes sent to others.

XLA's own `cost_analysis` counts the body of a loop once, whatever its trip count, and omits the bytes of collectives.
Here a loop's body is counted as often as it runs, fusions and calls are counted where they are called, and a
conditional counts as its branch with the most FLOPs. Rematerialized work is counted again. `kernels.py` says which
FLOPs are counted, `traffic.py` which bytes.

A `-start` and its `-done` are one collective. TPU compilers split an all-gather into steps that overlap with other
work, even with iterations of another loop; each step repeats the instruction, and only the first counts.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeVar

from dsmath_jax.aot.collectives import KINDS, Collective, collective, is_later_step
from dsmath_jax.aot.hlo import Computation, Instruction, Program
from dsmath_jax.aot.kernels import convolution_flops, dot_flops, kernel_flops
from dsmath_jax.aot.traffic import moved_bytes

K = TypeVar("K")

TRIP_COUNT = "trip count of"  # a loop, in `Costs.unknown`


@dataclasses.dataclass(frozen=True)
class Costs:
    """The costs of one run on one device.

    Attributes:
      flops: FLOPs of matrix products and of kernels with a known cost.
      traffic: bytes read from and written to HBM.
      collectives: collectives by the path of the instructions that they are in.
      unknown: loops with an unknown trip count and kernels with unknown FLOPs.
      kernels: names of the custom kernels.
    """

    flops: float = 0.0
    traffic: float = 0.0
    collectives: dict[tuple[str, ...], Collective] = dataclasses.field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    kernels: frozenset[str] = frozenset()

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(
            self.flops + other.flops,
            self.traffic + other.traffic,
            self.collectives | other.collectives,
            self.unknown | other.unknown,
            self.kernels | other.kernels,
        )

    def times(self, runs: int, where: str) -> "Costs":
        """Returns the costs of `runs` runs, called by the instruction `where` of another computation."""
        moved = {
            (where, *key): dataclasses.replace(value, runs=value.runs * runs)
            for key, value in self.collectives.items()
        }  # fmt: skip
        return dataclasses.replace(self, flops=self.flops * runs, traffic=self.traffic * runs, collectives=moved)

    def totals(self, key: Callable[[Collective], K]) -> dict[K, dict[str, float]]:
        """Returns `{"count": runs, "bytes": bytes sent}` of the collectives by `key`, the most bytes first."""
        totals: dict[K, dict[str, float]] = {}
        for value in self.collectives.values():
            total = totals.setdefault(key(value), {"count": 0, "bytes": 0.0})
            total["count"] += value.runs
            total["bytes"] += value.runs * value.sent
        return dict(sorted(totals.items(), key=lambda item: -item[1]["bytes"]))


def costs(text: str, cache: float = 0.0, trips: int = 1) -> Costs:
    """Returns the costs of one run of a program on one device.

    Args:
      text: optimized HLO (`compiled.as_text()`).
      cache: bytes of the chip's cache, in which smaller arrays stay.
      trips: how often loops run whose trip count depends on data.
    """
    counter = _Counter(Program(text), cache, trips)
    return counter.costs(counter.program.entry)


class _Counter:
    def __init__(self, program: Program, cache: float, trips: int) -> None:
        self.program, self.cache, self.trips = program, cache, trips

    @functools.cache  # noqa: B019 - a counter lives for one call of `costs`
    def costs(self, name: str, fused: bool = False) -> Costs:
        """Returns the costs of a computation; the results of one that is `fused` never reach HBM."""
        computation = self.program.computations[name]
        called = functools.reduce(Costs.__add__, (self._called(i, computation) for i in computation.values()), Costs())
        if fused:
            return called
        moved = (moved_bytes(i, computation, self.program, self.cache) for i in computation.values())
        return called + Costs(traffic=sum(moved))

    def _called(self, i: Instruction, scope: Computation) -> Costs:
        """Returns an instruction's costs without the traffic of its operands and results."""
        opcode = i.opcode.removesuffix("-start")
        if opcode in KINDS:
            if is_later_step(i, scope):
                return Costs()
            return Costs(collectives={(i.name,): collective(i, opcode, scope, self.program.devices)})
        match opcode:
            case "fusion":
                return self._fusion(i)
            case "dot":
                return Costs(dot_flops(i, scope))
            case "convolution":
                return Costs(convolution_flops(i, scope))
            case "custom-call":
                name, flops = kernel_flops(i, scope)
                unknown = {f"FLOPs of the kernel {name}"} if flops is None else ()
                return Costs(flops or 0.0, unknown=frozenset(unknown), kernels=frozenset({name} if name else ()))
            case "call" | "async":
                return self.costs(i.called()[0]).times(1, i.name)
            case "while":
                runs = self.program.trip_count(i, scope)
                body = self.costs(i.called()[0]).times(self.trips if runs is None else runs, i.name)
                return body if runs is not None else body + Costs(unknown=frozenset({f"{TRIP_COUNT} {i.name}"}))
            case "conditional":
                branches = [self.costs(name).times(1, i.name) for name in i.called()]
                return max(branches, key=lambda branch: branch.flops)
        return Costs()

    def _fusion(self, i: Instruction) -> Costs:
        (name,) = i.called()
        inner = self.costs(name, fused=True).times(1, i.name)
        if not name.startswith("all-reduce-scatter"):
            return inner
        # TPU compilers write a reduce-scatter as an all-reduce fused with a slice of its result.
        scattered = {
            key: dataclasses.replace(value, kind="reduce-scatter") for key, value in inner.collectives.items()
        }  # fmt: skip
        return dataclasses.replace(inner, collectives=scattered)
