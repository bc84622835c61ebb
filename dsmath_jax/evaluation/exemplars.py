"""Worked examples that stand before a question: from training and dev splits by fixed ids, or those that a user names.

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

from dsmath_jax.data import dataset_files, dataset_formats, datasets
from dsmath_jax.data.dataset_formats import BadField, Record
from dsmath_jax.data.questions import Mode
from dsmath_jax.evaluation.registry import DEFAULT, Shots, Task
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
    """The worked examples of a task and mode."""

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


def load(task: Task, mode: Mode, data_dir: str | Path, names: Sequence[str] = (), shots: int = 0) -> Exemplars:
    """The worked examples of a task in a mode: its own, or those that the user names.

    Args:
      task: what they stand before the questions of.
      mode: how they are worked.
      data_dir: the data folder.
      names: the user's own files below it (.jsonl), and data sets; () for the task's own examples.
      shots: how many stand before a question, the first that are found; 0 for all of a file, or the task's number.

    Raises:
      UserError: a split or a file is missing or damaged, a row of a file is one of the test problems, or nothing says
        how many records of a data set are meant.
    """
    if not names:
        own = task.shots.get(mode)
        if own is None:
            return Exemplars((), 0)
        chosen = tuple(_worked(task, mode, record) for record in _chosen(own, data_dir))
        return Exemplars(chosen, shots or own.count, own.same_category)
    found: list[Exemplar] = []
    for name in names:
        if name.endswith(".jsonl"):
            found += _given(Path(data_dir) / name, task, mode, Path(data_dir))
        elif not shots:
            raise UserError(f"The worked examples are the data set '{name}'; say how many of it by shots, such as 4.")
        else:  # one more than that, since a question that is among them does not stand before itself
            records = datasets.load(name, data_dir)[: shots + 1]
            found += [_worked(task, mode, record) for record in records]
    return Exemplars(tuple(found), shots or len(found))


def _worked(task: Task, mode: Mode, record: Record) -> Exemplar:
    record = _answered(task, record)
    return Exemplar(record) if mode == "cot" else with_program(record)


def _chosen(shots: Shots, data_dir: str | Path) -> Sequence[Record]:
    records = datasets.load(shots.source, data_dir)
    if shots.same_category:
        return records
    if not shots.ids:
        return by_text(records, shots.count)
    known = {record.id.removeprefix(f"{shots.source}/"): record for record in records}
    if missing := [identity for identity in shots.ids if identity not in known]:
        raise UserError(
            f"The data set '{shots.source}' has no record {missing[0]}, a worked example of prompts; take the split "
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


def _answered(task: Task, record: Record) -> Record:
    """A record as an example of a task: without remarks on wrong options, answered by no letter where none is."""
    if task.formats is DEFAULT:
        return record
    record = dataclasses.replace(record, solution=REMARKS.sub("", record.solution))
    if task.kind != "math" or not record.options:
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


def _given(path: Path, task: Task, mode: Mode, data_dir: Path) -> tuple[Exemplar, ...]:
    """A user's rows: "question", perhaps "options", "solution", "answer" and, where one is wanted, "program"."""
    wanted = "program" if mode != "cot" or task.kind == "theory" else "answer"
    wanted = "solution" if task.kind == "program" else wanted
    tested = {_words(record.question): record.id for record in datasets.load(task.source, data_dir)}
    found = []
    for row in dataset_files.json_lines(path):
        try:
            record = dataset_formats.user(f"{path.stem}/{row.key}", row.fields)
            program = row.fields.get("program") or ""
            if not isinstance(program, str):
                raise BadField("the field 'program' is not text")
            if not {"program": program, "solution": record.solution, "answer": record.answer}[wanted]:
                raise BadField(f"the field '{wanted}' is missing, which examples of {task.name} ({mode}) have")
            record = dataclasses.replace(record, kind=task.kind) if record.kind == "math" else record
            if _words(record.question) in tested:
                raise BadField(f"its question is the test problem {tested[_words(record.question)]}")
        except BadField as error:
            raise UserError(f"{path}, {row.place}: {error}; fix or remove it.") from None
        found.append(Exemplar(record, program.rstrip(), record.answer))
    if not found:
        raise UserError(f"The file of worked examples {path} holds no records.")
    return tuple(found)


def _words(question: str) -> str:
    return " ".join(question.split())
