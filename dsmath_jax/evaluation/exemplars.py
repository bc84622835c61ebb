"""Loads few-shot examples: from training and dev splits by fixed ids, or from files and data sets of the user.

Their texts come from the data folder. Programs (program of thought, tool-integrated reasoning) are made from the
calculator marks of GSM8K's solutions: `<<48/2=24>>` is a step of arithmetic.
"""

import ast
import dataclasses
import hashlib
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from dsmath_jax.data import dataset_formats, datasets, own_data
from dsmath_jax.data.dataset_formats import BadField, Fields, Record
from dsmath_jax.data.own_data import NO_COLUMNS, Columns
from dsmath_jax.data.questions import Mode
from dsmath_jax.evaluation.registry import DEFAULT, Shots, Task
from dsmath_jax.workdir import UserError

MAX_CHARS = 600  # characters of a solution that is chosen by its text
MARK = re.compile(r"<<([^<>=]+)=[^<>]*>>")
RESULT = re.compile(r"\s*=\s*\$?<<[^<>]*>>\s*\$?[\d.,]*\d")  # "= <<48/2=24>>24", which comments omit
REMARKS = re.compile(r"\s*(?:Alternate approach:|Choices? (?:\$?[A-D]|\$?\\math)).*", re.DOTALL)
OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclasses.dataclass(frozen=True)
class Exemplar:
    """A few-shot example.

    Attributes:
      record: the problem with its solution and answer.
      program: a function `solution()` that solves it; for miniF2F the formal proof; "" where the mode needs none.
      output: the output of the program.
    """

    record: Record
    program: str = ""
    output: str = ""


@dataclasses.dataclass(frozen=True)
class Exemplars:
    """The few-shot examples of a task and mode."""

    examples: tuple[Exemplar, ...]
    count: int
    same_category: bool = False

    def for_record(self, record: Record) -> tuple[Exemplar, ...]:
        """Returns the examples for a record, without the record itself, which may be in two splits."""
        chosen = [
            example
            for example in self.examples
            if (example.record.question, example.record.options) != (record.question, record.options)
            and (not self.same_category or example.record.category == record.category)
        ]
        return tuple(chosen[: self.count])


def load(
    task: Task, mode: Mode, data_dir: str | Path, names: Sequence[str] = (), shots: int = 0,
    columns: Columns = NO_COLUMNS,
) -> Exemplars:  # fmt: skip
    """Loads the few-shot examples of a task in a mode: its own, or those of the user.

    Args:
      task: the task.
      mode: the mode.
      data_dir: the data folder.
      names: the user's own data, and data sets; () for the task's own examples.
      shots: number of examples before a question; 0 for all of own data, or the task's number.
      columns: of own data, also of the task.

    Raises:
      UserError: a split or a file is missing or damaged, a row of a file is a test problem, or `shots` is 0 for a data
        set.
    """
    if not names:
        own = task.shots.get(mode)
        if own is None:
            return Exemplars((), 0)
        chosen = tuple(_worked(task, mode, record) for record in _chosen(own, data_dir))
        return Exemplars(chosen, shots or own.count, own.same_category)
    examples: list[Exemplar] = []
    for name in names:
        if datasets.is_own(name):
            examples += _from_own_data(name, task, mode, Path(data_dir), columns)
        elif not shots:
            raise UserError(f"The few-shot examples are the data set '{name}'; give their number as shots, such as 4.")
        else:  # one more, since a question is not its own example
            records = datasets.load(name, data_dir)[: shots + 1]
            examples += [_worked(task, mode, record) for record in records]
    return Exemplars(tuple(examples), shots or len(examples))


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
    if missing := [record_id for record_id in shots.ids if record_id not in known]:
        raise UserError(
            f"The data set '{shots.source}' has no record {missing[0]}, a few-shot example; use the whole split as "
            "it is published, or give --exemplars."
        )
    return [known[record_id] for record_id in shots.ids]


def by_text(records: Sequence[Record], count: int) -> list[Record]:
    """Orders records by their questions only, one of each category first, and returns `count` of them.

    Long solutions come last, and so do those with drawings.
    """
    ordered = sorted(records, key=lambda record: hashlib.sha256(_words(record.question).encode()).digest())
    ordered.sort(key=lambda record: len(record.solution) > MAX_CHARS or "[asy]" in record.question + record.solution)
    firsts = {record.category: record.id for record in reversed(ordered)}
    return sorted(ordered, key=lambda record: record.id != firsts[record.category])[:count]


def _answered(task: Task, record: Record) -> Record:
    """Adapts a record to a task: removes remarks on incorrect options, and letters where the task has none."""
    if task.formats is DEFAULT:
        return record
    record = dataclasses.replace(record, solution=REMARKS.sub("", record.solution))
    if task.kind != "math" or not record.options:
        return record
    return dataclasses.replace(record, answer=record.options[ord(record.answer) - ord("A")], kind="math")


def with_program(record: Record) -> Exemplar:
    """Returns an example with a program made from the calculator marks of its solution, with its lines as comments.

    Raises:
      UserError: the marks are not arithmetic that ends in the answer.
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
        valid = bool(values) and values[name] == float(record.answer)
    except (SyntaxError, ValueError, ZeroDivisionError):
        valid = False
    if not valid:
        raise UserError(
            f"The calculator marks of {record.id} are not arithmetic that ends in {record.answer}; use the whole "
            "split as it is published, or give --exemplars."
        )
    return Exemplar(record, "\n".join([*lines, f"    return {name}"]), str(values[name]))


def arithmetic(node: ast.expr, values: Mapping[str, float]) -> float:
    """Evaluates sums, differences, products and quotients of numbers and names.

    Raises:
      ValueError: the expression contains something else.
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
    """Replaces results of earlier steps by their names."""

    def __init__(self, values: Mapping[str, float]):
        self.names = {value: name for name, value in values.items()}

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        name = self.names.get(node.value) if isinstance(node.value, int | float) else None
        return ast.Name(name) if name else node


def _from_own_data(name: str, task: Task, mode: Mode, data_dir: Path, columns: Columns) -> Iterator[Exemplar]:
    """Reads a user's examples: "question", optionally "options", "solution", "answer" and, where needed, "program"."""
    wanted = "program" if mode != "cot" or task.kind == "theory" else "answer"
    wanted = "solution" if task.kind == "program" else wanted
    tested = {_words(record.question): record.id for record in datasets.stream(task.source, data_dir, columns)}

    def parse(record_id: str, fields: Fields) -> Exemplar:
        program = fields.pop("program", None) or ""
        record = dataset_formats.user(record_id, fields)
        if not isinstance(program, str):
            raise BadField("program", "is not text")
        if not {"program": program, "solution": record.solution, "answer": record.answer}[wanted]:
            raise BadField(wanted, f"is missing, which examples of {task.name} ({mode}) need")
        record = dataclasses.replace(record, kind=task.kind) if record.kind == "math" else record
        if _words(record.question) in tested:
            raise BadField("question", f"is that of the test problem {tested[_words(record.question)]}")
        return Exemplar(record, program.rstrip(), record.answer)

    return own_data.load(name, data_dir, columns, parse)


def _words(question: str) -> str:
    return " ".join(question.split())
