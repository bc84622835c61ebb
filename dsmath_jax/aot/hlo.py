"""Computes the FLOPs and collective bytes of a compiled program on one device, from the text of its optimized HLO.

XLA's own `cost_analysis` counts the body of a loop once, whatever its trip count, and omits the bytes of collectives.
Here a loop's body is counted as often as it runs, fusions and calls are counted where they are called, and a
conditional counts as its branch with the most FLOPs.

FLOPs are those of matrix products (dots, and convolutions, to which TPU compilers convert dots), of kernels with a cost
estimate, and of splash attention, from the shapes of queries and keys and for half of the pairs, as in a causal mask.
Elementwise work is left out. Rematerialized work is counted again.

Bytes of a collective are those that a device sends in the ring algorithm, from its operand of `b` bytes in a group of
`g` devices: all-gather b (g - 1), reduce-scatter and all-to-all b (g - 1) / g, all-reduce 2 b (g - 1) / g,
collective-permute b. A `-start` and its `-done` are one collective. TPU compilers split an all-gather into steps that
overlap with other work, even with iterations of another loop; each step repeats the instruction, and only the first
counts.
"""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterator

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
# An HLO line: `%name = type opcode(operands), attributes`; a type is a tuple in parentheses or contains no space.
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
ARRAY = re.compile(r"([a-z]+\d*\w*)\[([\d,<=]*)\]")

# Splash attention's kernels: number of products like that of a query and a key vector for each pair of tokens.
SPLASH = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An HLO instruction, one line of a computation."""

    name: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]  # (dtype, dimensions) of each array in its type
    opcode: str
    operands: tuple[str, ...]
    argument: str  # the text in parentheses: a constant's value, a parameter's number
    text: str  # the attributes, which follow the operands

    def attribute(self, pattern: str) -> str | None:
        """Returns the first group of `pattern` in the attributes; None if it does not match."""
        match = re.search(rf"(?:^|[ ,]){pattern}", self.text)
        return match[1] if match else None


Computation = dict[str, Instruction]  # by name, in the order of the text; the last is the root


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective: its kind (one of KINDS), how often it runs, and the bytes that a device sends in one run."""

    kind: str
    runs: int
    sent: float


@dataclasses.dataclass(frozen=True)
class Costs:
    """The costs of one run on one device.

    Attributes:
      flops: FLOPs of matrix products and of kernels with a known cost.
      collectives: collectives by the path of the instructions that they are in.
      unknown: loops with an unknown trip count (counted once) and kernels with unknown FLOPs.
      kernels: names of the custom kernels.
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
        """Returns the costs of `runs` runs, called by the instruction `where` of another computation."""
        moved = {
            (where, *key): dataclasses.replace(value, runs=value.runs * runs)
            for key, value in self.collectives.items()
        }  # fmt: skip
        return dataclasses.replace(self, flops=self.flops * runs, collectives=moved)

    def by_kind(self) -> dict[str, dict[str, float]]:
        """Returns `kind -> {"count": runs, "bytes": bytes sent}` for the kinds that occur."""
        totals: dict[str, dict[str, float]] = {}
        for value in self.collectives.values():
            total = totals.setdefault(value.kind, {"count": 0, "bytes": 0.0})
            total["count"] += value.runs
            total["bytes"] += value.runs * value.sent
        return {kind: totals[kind] for kind in KINDS if kind in totals}


def costs(text: str) -> Costs:
    """Returns the costs of one run of a program on one device, from its optimized HLO (`compiled.as_text()`)."""
    program = _Program(text)
    return program.costs(program.entry)


class _Program:
    def __init__(self, text: str) -> None:
        self.computations, self.entry = _parse(text)
        counts = [re.search(rf"{field}=(\d+)", text.split("\n", 1)[0]) for field in ("replica_count", "num_partitions")]
        self.devices = math.prod(int(count[1]) for count in counts if count)

    @functools.cache  # noqa: B019 - a program lives for one call of `costs`
    def costs(self, name: str) -> Costs:
        """Returns the costs of a computation."""
        computation = self.computations[name]
        return functools.reduce(
            Costs.__add__,
            (self._instruction_costs(instruction, computation) for instruction in computation.values()),
            Costs(),
        )

    def _instruction_costs(self, i: Instruction, scope: Computation) -> Costs:
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
                return self.costs(_required(i, r"(?:to_apply|calls)=%?([\w.\-]+)")).times(1, i.name)
            case "while":
                runs = self._trip_count(i, scope)
                body = self.costs(_required(i, r"body=%?([\w.\-]+)")).times(1 if runs is None else runs, i.name)
                return body if runs is not None else body + Costs(unknown=frozenset({f"trip count of {i.name}"}))
            case "conditional":
                branches = [self.costs(name).times(1, i.name) for name in _branches(i)]
                return max(branches, key=lambda branch: branch.flops)
        return Costs()

    def _fusion(self, i: Instruction) -> Costs:
        name = _required(i, r"calls=%?([\w.\-]+)")
        inner = self.costs(name).times(1, i.name)
        if not name.startswith("all-reduce-scatter"):
            return inner
        # TPU compilers write a reduce-scatter as an all-reduce fused with a slice of its result.
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
        """Returns the number of devices in a group, from any notation of `replica_groups`; by default all devices."""
        if listed := i.attribute(r"replica_groups=\{\{([\d,]*)\}"):
            return len(listed.split(","))
        if iota := i.attribute(r"replica_groups=\[\d+,(\d+)\]<="):
            return int(iota)
        if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]* \{([^}]*)\}", i.text):
            sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
            axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])  # 'axis', or a part of it as 'axis':(before)size
            return math.prod(int(part) if part else sizes[name] for name, part in axes)
        if i.attribute(r"(replica_groups=)(?!\{\})"):
            raise ValueError(f"the HLO instruction {i.name} has replica_groups in an unknown notation: {i.text[:200]}")
        return self.devices

    def _trip_count(self, i: Instruction, scope: Computation) -> int | None:
        """Returns how often a loop runs: as annotated, else from `i < bound` and `i += step`; None if unknown."""
        if annotated := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', i.text):
            return int(annotated[1])
        condition = self.computations[_required(i, r"condition=%?([\w.\-]+)")]
        body = self.computations[_required(i, r"body=%?([\w.\-]+)")]
        entering = _resolve(i.operands[0], scope)
        *_, test = condition.values()
        *_, after = body.values()
        if test.opcode != "compare" or test.attribute(r"direction=(\w+)") != "LT":
            return None

        def value(name: str, inside: Computation) -> int | None:
            """Returns a constant, or the constant with which a loop variable starts."""
            source = _resolve(name, inside)
            index = _tuple_index(source)
            if index is not None and entering.opcode == "tuple":
                source = _resolve(entering.operands[index], scope)
            return int(source.argument) if source.opcode == "constant" and source.argument.isdigit() else None

        counter, bound = test.operands
        first, last, index = (
            value(counter, condition),
            value(bound, condition),
            _tuple_index(_resolve(counter, condition)),
        )
        if first is None or last is None or index is None or after.opcode != "tuple":
            return None
        added = _resolve(after.operands[index], body)
        if added.opcode == "fusion":  # the addition may be fused
            inner = self.computations[_required(added, r"calls=%?([\w.\-]+)")]
            *_, added = inner.values()
            steps = [int(x.argument) for x in (_resolve(n, inner) for n in added.operands) if x.argument.isdigit()]
        else:
            steps = [step for step in (value(name, body) for name in added.operands) if step is not None]
        return max(-(-(last - first) // steps[-1]), 0) if added.opcode == "add" and steps and steps[-1] else None


def _later_step(i: Instruction, scope: Computation) -> bool:
    """Returns whether this is a further step of a collective that another computation starts."""
    if not i.attribute(r"frontend_attributes=\{[^}]*(chain_id=)"):
        return False
    return not any(other.opcode == "custom-call" and "AsyncCollectiveStart" in other.text for other in scope.values())


def _parse(text: str) -> tuple[dict[str, Computation], str]:
    computations: dict[str, list[list[str]]] = {}
    entry, lines = "", None
    for line in text.splitlines():
        if lines is not None and (match := INSTRUCTION.match(line)):
            lines.append([match[1], match[2]])
        elif match := COMPUTATION.match(line):
            lines = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif lines:
            lines[-1].append(line)  # an attribute may span lines
    if not entry:
        raise ValueError("the text is not an HLO module: it has no ENTRY computation")
    return {
        name: {first: _instruction(first, " ".join(rest)) for first, *rest in lines}
        for name, lines in computations.items()
    }, entry  # fmt: skip


def _instruction(name: str, rest: str) -> Instruction:
    kind, rest = _cut(rest) if rest.startswith("(") else tuple(rest.split(" ", 1))
    opcode, rest = rest.strip().split("(", 1)
    arguments, text = _cut("(" + rest)
    arrays = tuple(
        (dtype, tuple(int(n.lstrip("<=")) for n in dimensions.split(",") if n))
        for dtype, dimensions in ARRAY.findall(kind)
    )
    return Instruction(name, arrays, opcode, tuple(re.findall(r"%([\w.\-]+)", arguments)), arguments[1:-1], text)


def _cut(text: str) -> tuple[str, str]:
    """Splits the text after the parenthesis that closes its first one."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return text[: match.end()], text[match.end() :]
    raise ValueError(f"an HLO line has unbalanced parentheses: {text[:80]}")


def _required(i: Instruction, pattern: str) -> str:
    value = i.attribute(pattern)
    if value is None:
        raise ValueError(f"the HLO instruction {i.name} ({i.opcode}) has no attribute {pattern}")
    return value


def _branches(i: Instruction) -> Iterator[str]:
    for match in re.finditer(r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%?[\w.\-]+))", i.text):
        yield from re.findall(r"%?([\w.\-]+)", match[1] or match[2])


def _resolve(name: str, scope: Computation) -> Instruction:
    """Returns the instruction behind copies, bitcasts and conversions."""
    i = scope[name]
    while i.opcode in ("copy", "bitcast", "convert") and i.operands:
        i = scope[i.operands[0]]
    return i


def _tuple_index(i: Instruction) -> int | None:
    """Returns the index of a get-tuple-element, such as a loop variable in the loop's state; None for others."""
    index = i.attribute(r"index=(\d+)")
    return int(index) if i.opcode == "get-tuple-element" and index else None


def _bytes(i: Instruction) -> float:
    return sum(math.prod(dimensions) * _bits(dtype) / 8 for dtype, dimensions in i.arrays)


def _bits(dtype: str) -> int:
    """Returns the size of a dtype: bf16 -> 16, f8e4m3fn -> 8, pred -> 8, token -> 0."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 8 * (dtype == "pred")


def _dot_flops(i: Instruction, scope: Computation) -> float:
    contracted = [int(n) for n in (i.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or "").split(",") if n]
    ((_, left),) = scope[i.operands[0]].arrays
    return 2.0 * math.prod(i.arrays[0][1]) * math.prod(left[n] for n in contracted)


def _convolution_flops(i: Instruction, scope: Computation) -> float:
    """Counts two FLOPs for each product; window positions in the padding or between dilated elements have none."""
    left, kernel, out = _required(i, r"dim_labels=(\w+_\w+->\w+)").replace("->", "_").split("_")
    (_, inputs), (_, weights) = (scope[name].arrays[0] for name in i.operands)
    result = i.arrays[0][1]
    stated = re.findall(r"(\w+)=([\dx_\-]+)", i.attribute(r"window=\{([^}]*)\}") or "")
    window = {name: value.split("x") for name, value in stated}
    products = result[out.index("b")] * result[out.index("f")] * weights[kernel.index("i")]
    for d in range(len(left) - 2):

        def setting(name: str, default: str, d: int = d) -> str:
            return window[name][d] if name in window else default

        products *= _num_products(
            inputs[left.index(str(d))], weights[kernel.index(str(d))], result[out.index(str(d))],
            stride=int(setting("stride", "1")), low=int(setting("pad", "0_0").split("_")[0]),
            base_dilation=int(setting("lhs_dilate", "1")), window_dilation=int(setting("rhs_dilate", "1")),
        )  # fmt: skip
    return 2.0 * products / int(i.attribute(r"batch_group_count=(\d+)") or 1)


@functools.cache
def _num_products(
    size: int, window: int, out: int, *, stride: int, low: int, base_dilation: int, window_dilation: int
) -> int:
    """Counts, in one dimension, the pairs of an output and a window position that meet an element of the input."""
    pairs = 0
    for w in range(window):
        # Output o meets the dilated input at o * stride + w * window_dilation - low.
        offset = w * window_dilation - low
        pairs += sum(
            1 for o in range(out)
            if (o * stride + offset) % base_dilation == 0 and 0 <= (o * stride + offset) // base_dilation < size
        )  # fmt: skip
    return pairs


def _custom_call(i: Instruction, scope: Computation) -> Costs:
    """Returns a kernel's costs, from its cost estimate or its formula; other custom calls compute nothing."""
    if i.attribute(r'custom_call_target="(tpu_custom_call)"') is None:
        return Costs()
    name = re.sub(r"\.\d+$", "", i.name)
    kernels = frozenset({name})
    if estimate := re.search(r'"cost_estimate":(\{[^}]*\})', i.text):
        return Costs(float(json.loads(estimate[1])["flops"]), kernels=kernels)
    if products := next((n for kernel, n in SPLASH.items() if name.startswith(kernel)), 0):
        q, k, *_ = (a for name in i.operands for a in scope[name].arrays if a[0] in ("bf16", "f32") and len(a[1]) > 2)
        return Costs(products * math.prod(q[1]) * k[1][-2], kernels=kernels)  # 2 FLOPs, half of the pairs
    return Costs(unknown=frozenset({f"FLOPs of the kernel {name}"}), kernels=kernels)
