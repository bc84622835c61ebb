"""Grades files of completions: JSON lines in, the same lines with grades out.

A line that cannot be graded stays in its place with an error and stops no other. Lines are read, graded and written in
chunks, so that files of any length fit in memory.
"""

import collections
import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from dsmath_jax.data.dataset_formats import OPTION_LABEL, OPTION_STARTS
from dsmath_jax.grading import code
from dsmath_jax.grading.extraction import gold_of
from dsmath_jax.grading.grade import Grader, Item
from dsmath_jax.grading.grades import Grade, Kind
from dsmath_jax.grading.sandbox import Limits, Sandbox
from dsmath_jax.workdir import UserError

CHUNK_LINES = 4096  # read before they are graded
CHUNK_BYTES = 32 << 20
LETTER = re.compile(r"\(?([A-Z])\)?")
CHECK = re.compile(r"^check\(\w+\)\s*\Z", re.MULTILINE)


@dataclasses.dataclass
class Tally:
    """Counts of a task: graded lines, correct ones, and correct ones by the paper's evaluation."""

    graded: int = 0
    correct: int = 0
    deepseek: int = 0


@dataclasses.dataclass
class _Line:
    """A line: its JSON object, and the item to grade or the error."""

    number: int
    fields: dict[str, Any]
    task: str = ""
    item: Item | code.TestedProgram | None = None
    error: str = ""


class FileGrader:
    """Grades lines and counts the results.

    Attributes:
      tallies: counts by task, in the order of their first lines.
      bad: number of lines that could not be graded.
      level: the protection of the sandbox; "" where no program ran.
    """

    def __init__(
        self,
        kind_of: Callable[[str], Kind],
        workers: int = 0,
        seconds: float = 5.0,
        allow_unsandboxed: bool = False,
    ):
        """
        Args:
          kind_of: returns the kind of a task's answers; raises `UserError` for an unknown task.
          workers: number of processes; 0 for one per processor.
          seconds: time limit of a completion; of a program processor time, with three times as much wall time.
          allow_unsandboxed: run programs even if nothing contains them.
        """
        self.tallies: dict[str, Tally] = collections.defaultdict(Tally)
        self.bad = 0
        self.level = ""
        self._kind_of = kind_of
        self._stack = contextlib.ExitStack()
        self._grader = self._stack.enter_context(Grader(workers, seconds))
        self._sandbox: Sandbox | None = None
        self._start_sandbox = lambda: Sandbox(workers, Limits(3 * seconds, seconds), allow_unsandboxed)

    def graded(self, lines: Iterable[bytes], report: Callable[[str], None]) -> Iterator[bytes]:
        """Yields the lines with their grades in order; blank lines stay, and errors go to `report`.

        Raises:
          UserError: there are programs to run, but nothing contains them.
        """
        for chunk in _chunks(lines):
            read = [self._read(number, text) for number, text in chunk]
            self._grade_answers(read)
            self._grade_programs(read)
            for line in read:
                if line.error:
                    self.bad += 1
                    report(f"line {line.number}: {line.error}.")
                yield _encoded(line.fields) if line.fields else b"\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def _read(self, number: int, text: bytes) -> _Line:
        line = _Line(number, {})
        if not text.strip():
            return line
        try:
            line.fields = _object(text)
            # Published files of labeled outputs call the task "benchmark".
            line.task = _text(line.fields, "benchmark" if "benchmark" in line.fields else "task")
            line.item = _item(line.fields, self._kind_of(line.task))
        except UserError as error:
            line.error = str(error).rstrip(".")
            nothing = dict.fromkeys(("answer", "correct", "correct_deepseek", "reason"))
            line.fields |= nothing | {"line": number, "error": line.error}
        return line

    def _grade_answers(self, read: list[_Line]) -> None:
        chosen = [(line, line.item) for line in read if isinstance(line.item, Item)]
        items = [item for _, item in chosen]
        grades, lenient = self._grader.grades(items), self._grader.correct_deepseek(items)
        for (line, _), grade, deepseek in zip(chosen, grades, lenient, strict=True):
            self._add(line, grade, deepseek)

    def _grade_programs(self, read: list[_Line]) -> None:
        chosen = [(line, line.item) for line in read if isinstance(line.item, code.TestedProgram)]
        if chosen and self._sandbox is None:
            self._sandbox = self._stack.enter_context(self._start_sandbox())
            self.level = self._sandbox.level
        if self._sandbox is not None:
            grades = code.grade_programs(self._sandbox, [tested for _, tested in chosen])
            for (line, _), grade in zip(chosen, grades, strict=True):
                self._add(line, grade, grade.correct)  # a test cannot be lenient
                line.fields["sandbox"] = self.level

    def _add(self, line: _Line, grade: Grade, deepseek: bool) -> None:
        line.fields |= {
            "answer": grade.answer,
            "correct": grade.correct,
            "correct_deepseek": deepseek,
            "reason": grade.reason,
        }
        tally = self.tallies[line.task]
        tally.graded += 1
        tally.correct += grade.correct
        tally.deepseek += deepseek


def _chunks(lines: Iterable[bytes]) -> Iterator[list[tuple[int, bytes]]]:
    """Yields numbered lines in chunks that fit in memory."""
    chunk, size = [], 0
    for number, line in enumerate(lines, 1):
        chunk.append((number, line))
        size += len(line)
        if len(chunk) == CHUNK_LINES or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _item(fields: dict[str, Any], kind: Kind) -> Item | code.TestedProgram:
    """Returns the item to grade in a line.

    Raises:
      UserError: a field is missing or has a wrong type, or the task's answers are not graded here.
    """
    gold, completion = _gold(fields), _text(fields, "completion")
    if kind == "theory":
        raise UserError("proofs are not checked here, but by dsmath_jax.evaluation")
    if kind == "program":
        return _program(fields, gold, completion)
    gold = gold_of(gold, kind)
    if kind == "text" and (letter := LETTER.fullmatch(gold)):  # the task has lettered options
        kind, gold = "choice", letter[1]
    return Item(completion, gold, kind, _options(fields.get("options")))


def _program(fields: dict[str, Any], test: str, completion: str) -> code.TestedProgram:
    """Returns a program of HumanEval where the line has a prompt or entry point, else of MBPP."""
    if "prompt" in fields or "entry_point" in fields:
        test = test if CHECK.search(test) else f"{test}\n\ncheck({_text(fields, 'entry_point')})"
        prompt = _text(fields, "prompt") if "prompt" in fields else ""
        return code.humaneval(completion, prompt, test)
    return code.mbpp(completion, test) or code.TestedProgram("", test)


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # not JSON, or nested too deeply
        value = None
    if not isinstance(value, dict):
        raise UserError("not a JSON object")
    return value


def _text(fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        raise UserError(f"the field '{name}' is missing")
    if not isinstance(fields[name], str):
        raise UserError(f"the field '{name}' is not text")
    return fields[name]


def _gold(fields: dict[str, Any]) -> str:
    """Returns the gold answer from a text, a number, or a list of texts (asserts, letters)."""
    value = fields.get("gold")
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = "\n".join(value)
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        value = str(value)
    gold = _text(fields | {"gold": value} if "gold" in fields else fields, "gold")
    if not gold.strip():
        raise UserError("the field 'gold' is empty")
    return gold


def _options(value: Any) -> tuple[str, ...]:
    """Returns options without letters, from a list or from a text "A) 2 B) 4"; () where there are none.

    Raises:
      UserError: the value is something else.
    """
    options = OPTION_STARTS.split(value.strip()) if isinstance(value, str) else value or []
    if not isinstance(options, list):
        raise UserError("the field 'options' is not a list of texts")
    texts = [str(option).strip() for option in options]
    labels = [OPTION_LABEL.match(text) for text in texts]
    if all(label and label[1] == chr(ord("A") + i) for i, label in enumerate(labels)):
        return tuple(text[label.end() :] for text, label in zip(texts, labels, strict=True) if label)
    return tuple(texts)


def _encoded(fields: dict[str, Any]) -> bytes:
    try:
        return json.dumps(fields, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair, which must be escaped
        return json.dumps(fields).encode() + b"\n"
