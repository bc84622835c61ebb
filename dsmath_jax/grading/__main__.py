"""Grades a file of completions.

dsmath grade --input=FILE.jsonl --output=FILE.jsonl

Each line is a JSON object with "task" ("gsm8k" or "gsm8k/test"), "gold" (the data set's answer or solution field, for
HumanEval and MBPP the test code) and "completion"; optionally "options", and for HumanEval "prompt" and "entry_point".
The output has the same lines in the same order with "answer", "correct", "correct_deepseek" (by the paper's
evaluation) and "reason". A line that cannot be graded has "error", its number as "line", and null grades. The output
appears when it is complete; a killed run starts again.

The exit code is 0 if all lines were graded, 1 if some could not be, and 2 if nothing was done. Only this file of
`grading` imports the evaluation's registry.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from dsmath_jax.evaluation import registry
from dsmath_jax.formatting import interval, percent
from dsmath_jax.grading.files import FileGrader, Tally
from dsmath_jax.grading.grades import Kind
from dsmath_jax.intervals import wilson_interval
from dsmath_jax.progress import LINE_EVERY_SECONDS
from dsmath_jax.workdir import UserError, atomic_write, exit_code, remove_temporaries


class SomeBad(UserError):
    """Everything was graded except the reported lines."""

    code = 1


def run(argv: Sequence[str]) -> None:
    """Grades a file.

    Raises:
      UserError: the input cannot be read, or programs cannot be contained.
      SomeBad: lines could not be graded; the output is complete.
    """
    arguments = _parser().parse_args(argv)
    with (
        FileGrader(kind_of, arguments.workers, arguments.seconds, arguments.allow_unsandboxed) as grader,
        _reading(arguments.input) as lines,
        _writing(arguments.output) as output,
    ):
        for line in _with_progress(grader.graded(lines, _report), "graded"):
            output.write(line)
    print(*summary(grader), sep="\n", file=sys.stderr if arguments.output == "-" else sys.stdout)
    if grader.bad:
        count = "1 line" if grader.bad == 1 else f"{grader.bad} lines"
        raise SomeBad(f"{count} could not be graded, see above; fix what is wrong and grade again.")


def kind_of(name: str) -> Kind:
    """Returns the kind of a task's answers.

    Raises:
      UserError: the task is unknown.
    """
    return registry.task(name).kind


def summary(grader: FileGrader) -> Iterator[str]:
    """Yields a summary line for each task where there are several, and one for all."""
    if grader.level:
        yield f"programs ran in: {grader.level}"
    if len(grader.tallies) > 1:
        for name, tally in grader.tallies.items():
            yield _line(name, tally)
    everything = Tally(
        *(sum(getattr(tally, name) for tally in grader.tallies.values()) for name in ("graded", "correct", "deepseek"))
    )
    bad = f", {grader.bad} bad lines" if grader.bad else ""
    yield _line(next(iter(grader.tallies)) if len(grader.tallies) == 1 else "all", everything) + bad


def _line(name: str, tally: Tally) -> str:
    if not tally.graded:
        return f"{name}: 0 graded"
    low, high = wilson_interval(tally.correct, tally.graded)
    return (
        f"{name}: {tally.graded} graded, {tally.correct} correct, {percent(tally.correct / tally.graded)} "
        f"({interval((low, high))}), by the paper's evaluation {percent(tally.deepseek / tally.graded)}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "dsmath grade", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True, help="the file with the completions; - for the standard input")
    parser.add_argument("--output", required=True, help="the file to write; - for the standard output")
    parser.add_argument(
        "--workers", type=_positive(int), default=0, help="worker processes; one per processor if not given"
    )
    parser.add_argument("--seconds", type=_positive(float), default=5.0, help="time limit of a completion or a program")
    parser.add_argument("--allow-unsandboxed", action="store_true", help="run programs even if nothing contains them")
    return parser


def _positive(number: Callable[[str], float]) -> Callable[[str], float]:
    def positive(text: str) -> float:
        value = number(text)
        if not value > 0:
            raise ValueError
        return value

    return positive


def _reading(path: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    if path == "-":
        return contextlib.nullcontext(sys.stdin.buffer)
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check --input.") from None


@contextlib.contextmanager
def _writing(path: str) -> Iterator[IO[bytes]]:
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(path).absolute()
    other = target.exists() and not target.is_file()  # a device or folder, which must not be replaced
    if other or not os.access(target.parent, os.W_OK):
        raise UserError(f"{path} cannot be written; give a file in a folder that exists and is writable, or -.")
    remove_temporaries(target)  # leftovers of a killed run
    with atomic_write(target, "wb") as file:
        yield file


def _report(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _with_progress(lines: Iterable[bytes], what: str) -> Iterator[bytes]:
    """Yields the lines, and reports their number from time to time; the total is unknown."""
    began = last = time.monotonic()
    for number, line in enumerate(lines, 1):
        yield line
        now = time.monotonic()
        if now - last >= LINE_EVERY_SECONDS:
            last = now
            _report(f"{what} {number} lines, {number / (now - began):.0f}/s")


if __name__ == "__main__":
    sys.exit(exit_code(lambda: run(sys.argv[1:])))
