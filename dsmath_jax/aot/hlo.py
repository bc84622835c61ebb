"""Parses optimized HLO (`compiled.as_text()`): computations of instructions, with their shapes and attributes."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

# An HLO line: `%name = type opcode(operands), attributes`; a type is a tuple in parentheses or contains no space.
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
ARRAY = re.compile(r"([a-z]+\d*\w*)\[([\d,<=]*)\](?:\{[^}]*?S\((\d+)\)[^}]*\})?")


@dataclasses.dataclass(frozen=True)
class ArrayType:
    """An array of an instruction's type."""

    dtype: str
    shape: tuple[int, ...]
    space: int  # where it is: 0 in HBM, 1 in a TPU's on-chip memory, 5 in host memory

    @property
    def bytes(self) -> float:
        return math.prod(self.shape) * _bits(self.dtype) / 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An HLO instruction, one line of a computation."""

    name: str
    arrays: tuple[ArrayType, ...]  # of its type, which may be a tuple
    opcode: str
    operands: tuple[str, ...]
    argument: str  # the text in parentheses: a constant's value, a parameter's number
    text: str  # the attributes, which follow the operands

    @property
    def bytes(self) -> float:
        return sum(array.bytes for array in self.arrays)

    def attribute(self, pattern: str) -> str | None:
        """Returns the first group of `pattern` in the attributes; None if it does not match."""
        match = re.search(rf"(?:^|[ ,]){pattern}", self.text)
        return match[1] if match else None

    def required(self, pattern: str) -> str:
        """Returns the first group of `pattern` in the attributes.

        Raises:
          ValueError: it does not match.
        """
        value = self.attribute(pattern)
        if value is None:
            raise ValueError(f"the HLO instruction {self.name} ({self.opcode}) has no attribute {pattern}")
        return value

    def called(self) -> list[str]:
        """Returns the names of the computations that a fusion, call, loop body or conditional runs."""
        if self.opcode == "conditional":
            return list(_branches(self))
        field = "body" if self.opcode == "while" else "(?:to_apply|calls)"
        return [self.required(rf"{field}=%?([\w.\-]+)")]

    def aliases(self) -> dict[int, int]:
        """Returns, for each result that is in the buffer of an operand, the number of that operand."""
        aliases = self.attribute(r"output_to_operand_aliasing=\{(.*?\))\}") or ""
        return {int(k or 0): int(operand) for k, operand in re.findall(r"\{(\d*)\}: \((\d+), \{\}\)", aliases)}


Computation = dict[str, Instruction]  # by name, in the order of the text; the last is the root


class Program:
    """A parsed HLO module.

    Attributes:
      computations: by name.
      entry: the name of the entry computation.
      devices: the number of devices that run it.

    Raises:
      ValueError: the text is not an HLO module.
    """

    def __init__(self, text: str) -> None:
        self.computations, self.entry = _parse(text)
        counts = [re.search(rf"{field}=(\d+)", text.split("\n", 1)[0]) for field in ("replica_count", "num_partitions")]
        self.devices = math.prod(int(count[1]) for count in counts if count)

    def trip_count(self, i: Instruction, scope: Computation) -> int | None:
        """Returns how often a loop runs: as annotated, else from `i < bound` and `i += step`; None if unknown."""
        if annotated := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', i.text):
            return int(annotated[1])
        condition = self.computations[i.required(r"condition=%?([\w.\-]+)")]
        body = self.computations[i.required(r"body=%?([\w.\-]+)")]
        entering = resolve(i.operands[0], scope)
        *_, test = condition.values()
        *_, after = body.values()
        if test.opcode != "compare" or test.attribute(r"direction=(\w+)") != "LT":
            return None

        def value(name: str, inside: Computation) -> int | None:
            """Returns a constant, or the constant with which a loop variable starts."""
            source = resolve(name, inside)
            index = tuple_index(source)
            if index is not None and entering.opcode == "tuple":
                source = resolve(entering.operands[index], scope)
            return int(source.argument) if source.opcode == "constant" and source.argument.isdigit() else None

        counter, bound = test.operands
        first, last, index = (
            value(counter, condition),
            value(bound, condition),
            tuple_index(resolve(counter, condition)),
        )
        if first is None or last is None or index is None or after.opcode != "tuple":
            return None
        added = resolve(after.operands[index], body)
        if added.opcode == "fusion":  # the addition may be fused
            inner = self.computations[added.required(r"calls=%?([\w.\-]+)")]
            *_, added = inner.values()
            steps = [int(x.argument) for x in (resolve(n, inner) for n in added.operands) if x.argument.isdigit()]
        else:
            steps = [step for step in (value(name, body) for name in added.operands) if step is not None]
        return max(-(-(last - first) // steps[-1]), 0) if added.opcode == "add" and steps and steps[-1] else None


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
        ArrayType(dtype, tuple(int(n.lstrip("<=")) for n in dimensions.split(",") if n), int(space or 0))
        for dtype, dimensions, space in ARRAY.findall(kind)
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


def _branches(i: Instruction) -> Iterator[str]:
    for match in re.finditer(r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%?[\w.\-]+))", i.text):
        yield from re.findall(r"%?([\w.\-]+)", match[1] or match[2])


def resolve(name: str, scope: Computation) -> Instruction:
    """Returns the instruction behind copies, bitcasts and conversions."""
    i = scope[name]
    while i.opcode in ("copy", "bitcast", "convert") and i.operands:
        i = scope[i.operands[0]]
    return i


def tuple_index(i: Instruction) -> int | None:
    """Returns the index of a get-tuple-element, such as a loop variable in the loop's state; None for others."""
    index = i.attribute(r"index=(\d+)")
    return int(index) if i.opcode == "get-tuple-element" and index else None


@functools.cache
def _bits(dtype: str) -> int:
    """Returns the size of a dtype: bf16 -> 16, f8e4m3fn -> 8, pred -> 8, token -> 0."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 8 * (dtype == "pred")
