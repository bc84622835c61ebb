"""Costs of one run of a compiled program on one device, read from the text of its optimised HLO.

XLA's own `cost_analysis` counts the body of a loop once, whatever its trip count, and knows no bytes of collectives.
Here a loop's body counts as often as it runs, fusions and calls count where they are called, and of a conditional the
branch with the most FLOPs counts.

FLOPs are those of matrix products (dots, and convolutions, which is what TPUs make of dots), of kernels that state
theirs, and of splash attention's, by the shapes of queries and keys and for half of the pairs, as causal masks go;
elementwise work is left out. Work that rematerialisation does again counts again.

Bytes of a collective are those that a device sends in the ring algorithm, from its operand of `b` bytes in a group of
`g` devices: all-gather b (g - 1), reduce-scatter and all-to-all b (g - 1) / g, all-reduce 2 b (g - 1) / g,
collective-permute b. A start and its done are one collective. TPU compilers cut an all-gather into steps that run
beside other work, even in the turns of another loop; each step repeats the instruction, and the one that starts counts.
"""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterator

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
# An HLO line: `%name = type opcode(operands), attributes`; a type is a tuple in parentheses or holds no space.
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
ARRAY = re.compile(r"([a-z]+\d*\w*)\[([\d,<=]*)\]")

# Splash attention's kernels: products of a query with a key vector (or a gradient's likes) for each pair of tokens.
SPLASH = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation; `arrays` are the (dtype, dimensions) of its type, `text` is what follows operands."""

    name: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]
    opcode: str
    operands: tuple[str, ...]
    inside: str  # the parentheses' text: a constant's value, a parameter's number
    text: str

    def attribute(self, pattern: str) -> str | None:
        found = re.search(rf"(?:^|[ ,]){pattern}", self.text)
        return found[1] if found else None


Computation = dict[str, Instruction]  # by name, in the order of the text; the last is the root


@dataclasses.dataclass(frozen=True)
class Collective:
    kind: str  # one of KINDS
    runs: int
    sent: float  # bytes of one run


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a device does in one run.

    Attributes:
      flops: of matrix products and of custom calls that state theirs.
      collectives: by an identifier of where they stand.
      unknown: loops whose trip count the text does not tell (counted once) and kernels whose FLOPs it does not tell.
      kernels: names of the hand-written kernels.
    """

    flops: float = 0.0
    collectives: dict[tuple[str, ...], Collective] = dataclasses.field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    kernels: frozenset[str] = frozenset()

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(
            self.flops + other.flops,
            self.collectives | other.collectives,
            self.unknown | other.unknown,
            self.kernels | other.kernels,
        )

    def times(self, runs: int, where: str) -> "Costs":
        """These costs `runs` times over, in another computation at the instruction `where`."""
        moved = {
            (where, *key): dataclasses.replace(value, runs=value.runs * runs)
            for key, value in self.collectives.items()
        }  # fmt: skip
        return dataclasses.replace(self, flops=self.flops * runs, collectives=moved)

    def by_kind(self) -> dict[str, dict[str, float]]:
        """`kind -> {"count": runs, "bytes": bytes sent}` of the kinds that occur."""
        found: dict[str, dict[str, float]] = {}
        for value in self.collectives.values():
            total = found.setdefault(value.kind, {"count": 0, "bytes": 0.0})
            total["count"] += value.runs
            total["bytes"] += value.runs * value.sent
        return {kind: found[kind] for kind in KINDS if kind in found}


def costs(text: str) -> Costs:
    """The costs of one run on one device of the program whose optimised HLO is `text` (`compiled.as_text()`)."""
    return _Program(text).costs_of_entry()


class _Program:
    def __init__(self, text: str) -> None:
        self.computations, self.entry = _parse(text)
        counts = [re.search(rf"{field}=(\d+)", text.split("\n", 1)[0]) for field in ("replica_count", "num_partitions")]
        self.devices = math.prod(int(count[1]) for count in counts if count)

    def costs_of_entry(self) -> Costs:
        return self._of(self.entry)

    @functools.cache  # noqa: B019 - a program lives for one call of `costs`
    def _of(self, name: str) -> Costs:
        computation = self.computations[name]
        return functools.reduce(
            Costs.__add__, (self._one(instruction, computation) for instruction in computation.values()), Costs()
        )

    def _one(self, i: Instruction, scope: Computation) -> Costs:
        opcode = i.opcode.removesuffix("-start")
        if opcode in KINDS:
            return Costs() if _later_step(i, scope) else Costs(collectives=self._collective(i, opcode, scope))
        match opcode:
            case "fusion":
                return self._fusion(i)
            case "dot":
                return Costs(_dot_flops(i, scope))
            case "convolution":
                return Costs(_convolution_flops(i, scope))
            case "custom-call":
                return _custom_call(i, scope)
            case "call" | "async":
                return self._of(_need(i, r"(?:to_apply|calls)=%?([\w.\-]+)")).times(1, i.name)
            case "while":
                runs = self._trip_count(i, scope)
                body = self._of(_need(i, r"body=%?([\w.\-]+)")).times(1 if runs is None else runs, i.name)
                return body if runs is not None else body + Costs(unknown=frozenset({f"trip count of {i.name}"}))
            case "conditional":
                branches = [self._of(name).times(1, i.name) for name in _branches(i)]
                return max(branches, key=lambda branch: branch.flops)
        return Costs()

    def _fusion(self, i: Instruction) -> Costs:
        name = _need(i, r"calls=%?([\w.\-]+)")
        inner = self._of(name).times(1, i.name)
        if not name.startswith("all-reduce-scatter"):
            return inner
        # So TPU compilers write a reduce-scatter: an all-reduce fused with the slice of its result.
        scattered = {
            key: dataclasses.replace(value, kind="reduce-scatter", sent=value.sent / 2)
            for key, value in inner.collectives.items()
        }  # fmt: skip
        return dataclasses.replace(inner, collectives=scattered)

    def _collective(self, i: Instruction, kind: str, scope: Computation) -> dict[tuple[str, ...], Collective]:
        size = sum(_bytes(scope[name]) for name in i.operands)
        group = self._group_size(i)
        factor = {
            "all-gather": group - 1,
            "all-reduce": 2 * (group - 1) / group,
            "collective-permute": 1,
        }.get(kind, (group - 1) / group)
        return {(i.name,): Collective(kind, 1, size * factor)}

    def _group_size(self, i: Instruction) -> int:
        """Devices in a group, from any of the notations of `replica_groups`; without one, all devices."""
        if listed := i.attribute(r"replica_groups=\{\{([\d,]*)\}"):
            return len(listed.split(","))
        if iota := i.attribute(r"replica_groups=\[\d+,(\d+)\]<="):
            return int(iota)
        if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]* \{([^}]*)\}", i.text):
            sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
            axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])  # 'axis', or a part of it as 'axis':(before)size
            return math.prod(int(part) if part else sizes[name] for name, part in axes)
        if i.attribute(r"(replica_groups=)(?!\{\})"):
            raise ValueError(f"the HLO instruction {i.name} states its groups in an unknown way: {i.text[:200]}")
        return self.devices

    def _trip_count(self, i: Instruction, scope: Computation) -> int | None:
        """How often a loop runs: as the compiler noted it, else from `i < bound` and `i += step`; None: not told."""
        if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', i.text):
            return int(noted[1])
        condition = self.computations[_need(i, r"condition=%?([\w.\-]+)")]
        body = self.computations[_need(i, r"body=%?([\w.\-]+)")]
        entering = _through(i.operands[0], scope)
        *_, test = condition.values()
        *_, after = body.values()
        if test.opcode != "compare" or test.attribute(r"direction=(\w+)") != "LT":
            return None

        def value(name: str, inside: Computation) -> int | None:
            """A constant there, or as it enters the loop."""
            found = _through(name, inside)
            place = _place(found)
            if place is not None and entering.opcode == "tuple":
                found = _through(entering.operands[place], scope)
            return int(found.inside) if found.opcode == "constant" and found.inside.isdigit() else None

        counter, bound = test.operands
        first, last, place = value(counter, condition), value(bound, condition), _place(_through(counter, condition))
        if first is None or last is None or place is None or after.opcode != "tuple":
            return None
        added = _through(after.operands[place], body)
        if added.opcode == "fusion":  # the addition may stand in a fusion of its own
            inner = self.computations[_need(added, r"calls=%?([\w.\-]+)")]
            *_, added = inner.values()
            steps = [int(x.inside) for x in (_through(n, inner) for n in added.operands) if x.inside.isdigit()]
        else:
            steps = [step for step in (value(name, body) for name in added.operands) if step is not None]
        return max(-(-(last - first) // steps[-1]), 0) if added.opcode == "add" and steps and steps[-1] else None


def _later_step(i: Instruction, scope: Computation) -> bool:
    """Whether this is a step of a collective that another computation starts."""
    if not i.attribute(r"frontend_attributes=\{[^}]*(chain_id=)"):
        return False
    return not any(other.opcode == "custom-call" and "AsyncCollectiveStart" in other.text for other in scope.values())


def _parse(text: str) -> tuple[dict[str, Computation], str]:
    computations: dict[str, list[list[str]]] = {}
    entry, lines = "", None
    for line in text.splitlines():
        if lines is not None and (found := INSTRUCTION.match(line)):
            lines.append([found[1], found[2]])
        elif found := COMPUTATION.match(line):
            lines = computations.setdefault(found[2], [])
            entry = found[2] if found[1] else entry
        elif lines:
            lines[-1].append(line)  # an attribute may span lines
    if not entry:
        raise ValueError("the text is no HLO module: it has no ENTRY computation")
    return {
        name: {first: _instruction(first, " ".join(rest)) for first, *rest in lines}
        for name, lines in computations.items()
    }, entry  # fmt: skip


def _instruction(name: str, rest: str) -> Instruction:
    kind, rest = _cut(rest) if rest.startswith("(") else tuple(rest.split(" ", 1))
    opcode, rest = rest.strip().split("(", 1)
    inside, text = _cut("(" + rest)
    arrays = tuple(
        (dtype, tuple(int(n.lstrip("<=")) for n in dimensions.split(",") if n))
        for dtype, dimensions in ARRAY.findall(kind)
    )
    return Instruction(name, arrays, opcode, tuple(re.findall(r"%([\w.\-]+)", inside)), inside[1:-1], text)


def _cut(text: str) -> tuple[str, str]:
    """Splits after the parenthesis that closes the first one."""
    depth = 0
    for place in re.finditer(r"[()]", text):
        depth += 1 if place[0] == "(" else -1
        if depth == 0:
            return text[: place.end()], text[place.end() :]
    raise ValueError(f"an HLO line whose parentheses do not close: {text[:80]}")


def _need(i: Instruction, pattern: str) -> str:
    found = i.attribute(pattern)
    if found is None:
        raise ValueError(f"the HLO instruction {i.name} ({i.opcode}) has no attribute {pattern}")
    return found


def _branches(i: Instruction) -> Iterator[str]:
    for found in re.finditer(r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%?[\w.\-]+))", i.text):
        yield from re.findall(r"%?([\w.\-]+)", found[1] or found[2])


def _through(name: str, scope: Computation) -> Instruction:
    """What is passed on unchanged under this name."""
    i = scope[name]
    while i.opcode in ("copy", "bitcast", "convert") and i.operands:
        i = scope[i.operands[0]]
    return i


def _place(i: Instruction) -> int | None:
    """Which part of a loop's state this is."""
    index = i.attribute(r"index=(\d+)")
    return int(index) if i.opcode == "get-tuple-element" and index else None


def _bytes(i: Instruction) -> float:
    return sum(math.prod(dimensions) * _bits(dtype) / 8 for dtype, dimensions in i.arrays)


def _bits(dtype: str) -> int:
    """bf16 -> 16, f8e4m3fn -> 8, pred -> 8; tokens have none."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 8 * (dtype == "pred")


def _dot_flops(i: Instruction, scope: Computation) -> float:
    contracted = [int(n) for n in (i.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or "").split(",") if n]
    ((_, left),) = scope[i.operands[0]].arrays
    return 2.0 * math.prod(i.arrays[0][1]) * math.prod(left[n] for n in contracted)


def _convolution_flops(i: Instruction, scope: Computation) -> float:
    """Two for each product that reaches the output: window places that fall on padding or between dilated do not."""
    left, kernel, out = _need(i, r"dim_labels=(\w+_\w+->\w+)").replace("->", "_").split("_")
    (_, inputs), (_, weights) = (scope[name].arrays[0] for name in i.operands)
    result = i.arrays[0][1]
    stated = re.findall(r"(\w+)=([\dx_\-]+)", i.attribute(r"window=\{([^}]*)\}") or "")
    window = {name: value.split("x") for name, value in stated}
    products = result[out.index("b")] * result[out.index("f")] * weights[kernel.index("i")]
    for d in range(len(left) - 2):

        def setting(name: str, default: str, d: int = d) -> str:
            return window[name][d] if name in window else default

        products *= _places(
            inputs[left.index(str(d))], weights[kernel.index(str(d))], result[out.index(str(d))],
            stride=int(setting("stride", "1")), low=int(setting("pad", "0_0").split("_")[0]),
            base_dilation=int(setting("lhs_dilate", "1")), window_dilation=int(setting("rhs_dilate", "1")),
        )  # fmt: skip
    return 2.0 * products / int(i.attribute(r"batch_group_count=(\d+)") or 1)


@functools.cache
def _places(
    size: int, window: int, out: int, *, stride: int, low: int, base_dilation: int, window_dilation: int
) -> int:
    """In one dimension: pairs of an output place and a window place that meet an element of the input."""
    found = 0
    for w in range(window):
        # Output o meets the dilated input at o * stride + w * window_dilation - low.
        offset = w * window_dilation - low
        found += sum(
            1 for o in range(out)
            if (o * stride + offset) % base_dilation == 0 and 0 <= (o * stride + offset) // base_dilation < size
        )  # fmt: skip
    return found


def _custom_call(i: Instruction, scope: Computation) -> Costs:
    """Kernels: by what they state, or by their formula; buffers, hints and the like compute nothing."""
    if i.attribute(r'custom_call_target="(tpu_custom_call)"') is None:
        return Costs()
    name = re.sub(r"\.\d+$", "", i.name)
    kernels = frozenset({name})
    if stated := re.search(r'"cost_estimate":(\{[^}]*\})', i.text):
        return Costs(float(json.loads(stated[1])["flops"]), kernels=kernels)
    if products := next((n for kernel, n in SPLASH.items() if name.startswith(kernel)), 0):
        q, k, *_ = (a for one in i.operands for a in scope[one].arrays if a[0] in ("bf16", "f32") and len(a[1]) > 2)
        return Costs(products * math.prod(q[1]) * k[1][-2], kernels=kernels)  # 2 FLOPs, half of the pairs
    return Costs(unknown=frozenset({f"FLOPs of the kernel {name}"}), kernels=kernels)
