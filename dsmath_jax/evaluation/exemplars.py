"""Worked examples that stand before a question: from training and dev splits by fixed ids, or from a user's file.

Their texts come from the data folder and are in no code. Programs (program of thought, tool-integrated reasoning) are
made from the calculator marks of GSM8K's solutions: `<<48/2=24>>` is a step of arithmetic.
"""

import ast
import dataclasses
import hashlib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsmath_jax.data import benchmark_files, benchmark_formats, benchmarks
from dsmath_jax.data.benchmark_formats import BadField, Record
from dsmath_jax.evaluation.registry import Benchmark, Mode, Shots
from dsmath_jax.workdir import UserError

LONGEST = 600  # characters of a worked solution that is chosen by its text
MARK = re.compile(r"<<([^<>=]+)=[^<>]*>>")
RESULT = re.compile(r"\s*=\s*\$?<<[^<>]*>>\s*\$?[\d.,]*\d")  # "= <<48/2=24>>24", which a comment does not tell ahead
REMARKS = re.compile(r"\s*(?:Alternate approach:|Choices? (?:\$?[A-D]|\$?\\math)).*", re.DOTALL)
OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclasses.dataclass(frozen=True)
class Exemplar:
    """A worked example.

    Attributes:
      record: the problem with its solution and answer.
      program: one that solves it: a function `solution()`; for miniF2F the formal proof; "" where none is wanted.
      output: what the program prints.
    """

    record: Record
    program: str = ""
    output: str = ""


@dataclasses.dataclass(frozen=True)
class Exemplars:
    """The worked examples of a benchmark and mode."""

    found: tuple[Exemplar, ...]
    count: int
    same_category: bool = False

    def of(self, record: Record) -> tuple[Exemplar, ...]:
        """Those that stand before a record; never the record itself, should a data set have it in two splits."""
        chosen = [
            example
            for example in self.found
            if (example.record.question, example.record.options) != (record.question, record.options)
            and (not self.same_category or example.record.category == record.category)
        ]
        return tuple(chosen[: self.count])


def load(benchmark: Benchmark, mode: Mode, data_dir: str | Path, file: str | Path = "") -> Exemplars:
    """The worked examples of a benchmark in a mode: all of a user's `file`, or the benchmark's own.

    Raises:
      UserError: their split or the file is missing or damaged, or a row of the file is one of the test problems.
    """
    if file:
        found = _given(Path(file), benchmark, mode, Path(data_dir))
        return Exemplars(found, len(found))
    shots = benchmark.shots.get(mode)
    if shots is None:
        return Exemplars((), 0)
    chosen = (_answered(benchmark, record) for record in _chosen(shots, data_dir))
    make = Exemplar if mode == "cot" else with_program
    return Exemplars(tuple(make(record) for record in chosen), shots.count, shots.same_category)


def _chosen(shots: Shots, data_dir: str | Path) -> Sequence[Record]:
    records = benchmarks.load(shots.source, data_dir)
    if shots.same_category:
        return records
    if not shots.ids:
        return by_text(records, shots.count)
    known = {record.id.removeprefix(f"{shots.source}/"): record for record in records}
    if missing := [identity for identity in shots.ids if identity not in known]:
        raise UserError(
            f"Benchmark split '{shots.source}' has no record {missing[0]}, a worked example of prompts; take the split "
            "whole as it is published, or give --exemplars."
        )
    return [known[identity] for identity in shots.ids]


def by_text(records: Sequence[Record], count: int) -> list[Record]:
    """Records in an order that their questions alone decide, whatever their ids and places: of each category one first.

    Long solutions come last, and so do those with drawings, which a model cannot see.
    """
    ordered = sorted(records, key=lambda record: hashlib.sha256(_words(record.question).encode()).digest())
    ordered.sort(key=lambda record: len(record.solution) > LONGEST or "[asy]" in record.question + record.solution)
    firsts = {record.category: record.id for record in reversed(ordered)}
    return sorted(ordered, key=lambda record: record.id != firsts[record.category])[:count]


def _answered(benchmark: Benchmark, record: Record) -> Record:
    """A record as an example of a benchmark: without remarks on wrong options, answered by no letter where none is."""
    record = dataclasses.replace(record, solution=REMARKS.sub("", record.solution))
    if benchmark.kind != "math" or not record.options:
        return record
    return dataclasses.replace(record, answer=record.options[ord(record.answer) - ord("A")], kind="math")


def with_program(record: Record) -> Exemplar:
    """An example with the program that the calculator marks of its solution make, a line of the solution above each.

    Raises:
      UserError: the marks are no plain arithmetic that ends in the answer.
    """
    lines = ["def solution():"]
    values: dict[str, float] = {}
    try:
        for line in record.solution.splitlines():
            marks = MARK.findall(line)
            lines += [f"    # {RESULT.sub('', line)}"] if marks else []
            for mark in marks:
                step = _Named(values).visit(ast.parse(mark.strip(), mode="eval").body)
                name = f"step_{len(values) + 1}"
                lines.append(f"    {name} = {ast.unparse(step)}")
                values[name] = arithmetic(step, values)
        right = bool(values) and values[name] == float(record.answer)
    except (SyntaxError, ValueError, ZeroDivisionError):
        right = False
    if not right:
        raise UserError(
            f"The calculator marks of {record.id} are no arithmetic that ends in {record.answer}; take the split whole "
            "as it is published, or give --exemplars."
        )
    return Exemplar(record, "\n".join([*lines, f"    return {name}"]), str(values[name]))


def arithmetic(node: ast.expr, values: Mapping[str, float]) -> float:
    """The value of numbers and names and their sums, differences, products and quotients.

    Raises:
      ValueError: the expression has something else.
      ZeroDivisionError: as in Python.
    """
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name) if name in values:
            return values[name]
        case ast.BinOp(op=op) if type(op) in OPERATORS:
            return OPERATORS[type(op)](arithmetic(node.left, values), arithmetic(node.right, values))
    raise ValueError(ast.unparse(node))


class _Named(ast.NodeTransformer):
    """Numbers that earlier steps found become the names of those."""

    def __init__(self, values: Mapping[str, float]):
        self.names = {value: name for name, value in values.items()}

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        name = self.names.get(node.value) if isinstance(node.value, int | float) else None
        return ast.Name(name) if name else node


def _given(path: Path, benchmark: Benchmark, mode: Mode, data_dir: Path) -> tuple[Exemplar, ...]:
    """A user's rows: "question", perhaps "options", "solution", "answer" and, where one is wanted, "program"."""
    wanted = "program" if mode != "cot" or benchmark.kind == "theory" else "answer"
    wanted = "solution" if benchmark.kind == "program" else wanted
    tested = {_words(record.question): record.id for record in benchmarks.load(benchmark.source, data_dir)}
    found = []
    for row in benchmark_files.json_lines(path):
        try:
            record = benchmark_formats.given(f"{path.stem}/{row.key}", row.fields)
            program = row.fields.get("program") or ""
            if not isinstance(program, str):
                raise BadField("the field 'program' is not text")
            if not {"program": program, "solution": record.solution, "answer": record.answer}[wanted]:
                raise BadField(f"the field '{wanted}' is missing, which examples of {benchmark.name} ({mode}) have")
            record = dataclasses.replace(record, kind=benchmark.kind, options=_options(row.fields))
            letters = {chr(ord("A") + place) for place in range(len(record.options))}
            if letters and record.kind in ("choice", "choices") and not {*record.answer} <= letters:
                raise BadField(f"the field 'answer' is no letter of the {len(letters)} options")
            if _words(record.question) in tested:
                raise BadField(f"its question is the test problem {tested[_words(record.question)]}")
        except BadField as error:
            raise UserError(f"{path}, {row.place}: {error}; fix or remove it.") from None
        found.append(Exemplar(record, program.rstrip(), record.answer))
    if not found:
        raise UserError(f"The file of worked examples {path} holds no records.")
    return tuple(found)


def _options(fields: Mapping[str, Any]) -> tuple[str, ...]:
    options = fields.get("options") or []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise BadField("the field 'options' is not a list of texts")
    return tuple(options)


def _words(question: str) -> str:
    return " ".join(question.split())
