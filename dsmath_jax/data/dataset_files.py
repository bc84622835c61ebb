"""Readers of published data files: JSON lines, tables, one JSON per task or problem, prompts.

A reader yields the rows of one file with their keys; `dataset_formats.py` makes records from their fields. Errors are
`UserError`s that name the file and the row.
"""

import ast
import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dsmath_jax.data import documents
from dsmath_jax.workdir import UserError, json_object

PROMPT_EXAMPLE = re.compile(r"^Q: (.*?)\nA: (.*?)(?=\n\nQ: |\Z)", re.DOTALL | re.MULTILINE)
ESCAPED = re.compile(r"(?<!\\)\\\\[a-zA-Z]")  # a command after two backslashes
ESCAPED_BREAK = re.compile(r"(?<!\\)\\n(?![a-z])")
LOOSE_END = re.compile(r"[\s,]+\.?\s*\Z")


class Row(NamedTuple):
    """One row: `key` is its id within the data set, `place` its position in the file for errors ("line 3")."""

    key: str
    place: str
    fields: dict[str, Any]


Reader = Callable[[Path], Iterator[Row]]


def json_lines(path: Path) -> Iterator[Row]:
    """Reads one JSON object per line, optionally compressed; keys count the rows from 0, blank lines are skipped."""
    for key, (place, fields) in enumerate(documents.records(path)):
        yield Row(str(key), place, fields)


def json_lines_between(field: str, first: int, last: int) -> Reader:
    """Returns a reader of JSON lines whose number `field` is from `first` to `last`: a split of a file of all splits.

    Keys are those numbers.
    """

    def read(path: Path) -> Iterator[Row]:
        for row in json_lines(path):
            number = row.fields.get(field)
            if type(number) is not int:
                raise UserError(f"{path}, {row.place}: the field '{field}' is not a number; fix or remove it.")
            if first <= number <= last:
                yield row._replace(key=str(number))

    return read


def math_json(path: Path) -> Iterator[Row]:
    """Reads MATH as published, a folder per subject and a file per problem, or as JSON lines of mirrors."""
    if path.suffix == ".jsonl":
        yield from json_lines(path)
    else:
        row = json_object(_read(path), str(path), "that file")
        yield Row(f"{path.parent.name}/{path.stem}", "its problem", row)


def bbh_json(path: Path) -> Iterator[Row]:
    """Reads BIG-Bench Hard: a file per task, whose rows are the list `examples`; adds the field `task`."""
    examples = json_object(_read(path), str(path), "that file").get("examples")
    if not isinstance(examples, list) or not all(isinstance(example, dict) for example in examples):
        raise UserError(f"{path}: the field 'examples' is not a list of objects; fix or remove that file.")
    for number, example in enumerate(examples):
        yield Row(f"{path.stem}/{number}", f"example {number + 1}", {**example, "task": path.stem})


def bbh_prompts(path: Path) -> Iterator[Row]:
    """Reads BIG-Bench Hard's prompts, a file per task: a heading and examples "Q: ... A: ... So the answer is X."."""
    text = _text(path)
    heading = text.partition("\n\nQ: ")[0].rpartition("-----\n")[2].strip()
    for number, (question, solution) in enumerate(PROMPT_EXAMPLE.findall(text)):
        answer = solution.rpartition("answer is")[2].strip().removesuffix(".")
        fields = {"input": question, "solution": solution, "target": answer, "task": path.stem, "heading": heading}
        yield Row(f"{path.stem}/{number}", f"example {number + 1}", fields)


def mmlu_csv(path: Path) -> Iterator[Row]:
    """Reads MMLU: a table without header per subject, with columns for the question, its options and the answer."""
    topic = path.stem.rpartition("_")[0]
    for number, cells in enumerate(_table(path)):
        if len(cells) < 4:
            raise UserError(
                f"{path}, row {number + 1}: {len(cells)} columns where a question, its options and the answer belong; "
                "fix or remove that row."
            )
        fields = {"question": cells[0], "options": cells[1:-1], "answer": cells[-1], "topic": topic}
        yield Row(f"{topic}/{number}", f"row {number + 1}", fields)


def agieval_prompts(column: str) -> Reader:
    """Returns a reader of AGIEval's table of prompts: a column per test, with each sample's explanation below it.

    Rows are the samples (Python literals), with the field `explanation`.
    """

    def read(path: Path) -> Iterator[Row]:
        header, *rows = _table(path)
        if column not in header:
            raise UserError(f"{path} has no column '{column}'; take the table as AGIEval publishes it.")
        cells = [(row[0], row[header.index(column)]) for row in rows if len(row) == len(header)]
        for (place, sample), (_, explanation) in zip(cells[::2], cells[1::2], strict=False):
            if sample:
                row = _literal(sample, f"{path}, {place}, column '{column}'")
                yield Row(place.split()[-1], place, {**row, "explanation": _explanation(explanation)})

    return read


def _explanation(cell: str) -> str:
    """Returns the text of a cell; some were published with escaped line breaks and backslashes."""
    if ESCAPED.search(cell):
        cell = ESCAPED_BREAK.sub("\n", cell).replace("\\\\", "\\")
    return LOOSE_END.sub("", cell)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); check the path and that the file is complete."
        ) from None


def _text(path: Path) -> str:
    try:
        return _read(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); fix or remove it.") from None


def _table(path: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(_text(path), newline="")))


def _literal(text: str, where: str) -> dict[str, Any]:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{where}: not a Python dictionary; fix or remove that cell.")
    return value
