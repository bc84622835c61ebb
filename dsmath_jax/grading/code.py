"""Extracts programs from completions, and turns their results into answers and grades (PoT, HumanEval, MBPP).

Programs run in the sandbox only.
"""

import re
import secrets
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dsmath_jax.data.thoughts import after_thoughts
from dsmath_jax.grading import python_values
from dsmath_jax.grading.grades import Grade
from dsmath_jax.grading.sandbox import Program, ProgramResult

FENCED = re.compile(r"^[ \t]*```([\w+-]*)[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
LABELS = ("python", "py", "python3")
# The start of a program whose opening fence is in the prompt.
PROGRAM = re.compile(
    r"(?:from [\w.]+ import |import \w|(?:async )?def \w+\s*\(|class \w|@\w|print\(|\w+(?:, ?\w+)* = )"
)
SOLUTION = re.compile(r"^def solution\s*\(", re.MULTILINE)
ENTRY_POINT = re.compile(r"^check\((\w+)\)\s*\Z", re.MULTILINE)
# What a model writes after a function (Chen et al. 2021, section 2), and the closing fence of chat models.
AFTER_FUNCTION = ("\nclass", "\ndef", "\n#", "\n@", "\nif", "\nprint", "\nassert", "\n```")
BODY = re.compile(r"\n*[ \t]+(?!`)\S")  # a completion that continues within a function
EXITED = re.compile(r"^SystemExit(?:: (?:0|None))?\s*\Z", re.MULTILINE)
MAX_REASON_CHARS = 500  # characters of an exception
MBPP_BEGIN, MBPP_DONE = "[BEGIN]", "[DONE]"


class Runner(Protocol):
    """The interface of `grading.sandbox.Sandbox`."""

    def run(self, programs: Sequence[Program]) -> list[ProgramResult]: ...


class TestedProgram(NamedTuple):
    """A solution as a program, and the test to run after it, which raises where the solution is incorrect."""

    solution: str
    test: str


def program_of(completion: str) -> str | None:
    """Returns the Python program in a completion, or None.

    A program at the start of the completion, whose opening fence is in the prompt, ends at the closing fence. Otherwise
    all blocks fenced as Python make one program; without any, the blocks without a language. The last block may lack
    its closing fence, because of the length limit or a stop string. Text around the program is ignored.
    """
    completion = after_thoughts(completion)
    if _begins(bare := FENCE.split(completion, maxsplit=1)[0]):
        return bare.strip("\n")
    blocks = [(label.lower(), text.strip("\n")) for label, text in FENCED.findall(completion)]
    chosen = [text for label, text in blocks if label in LABELS] or [text for label, text in blocks if not label]
    return "\n\n".join(filter(str.strip, chosen)) or None


def _begins(text: str) -> bool:
    """Returns whether a text begins like a program, after comments."""
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return bool(PROGRAM.match(next(lines, "")))


def program_of_thought(program: str) -> Program:
    """Returns a program of thought for the sandbox; it calls `solution()` where that is defined."""
    return Program(program, "solution" if SOLUTION.search(program) else "")


def run_programs_of_thought(runner: Runner, completions: Sequence[str]) -> list[ProgramResult | None]:
    """Runs the programs of thought in completions in parallel; None where a completion has none."""
    programs = [program_of(completion) for completion in completions]
    results = iter(runner.run([program_of_thought(program) for program in programs if program]))
    return [next(results) if program else None for program in programs]


def value_of(ran: ProgramResult) -> str | None:
    """Returns the answer of a program of thought: the value of `solution()`, else the last printed line, or None.

    A value in Python's notation is converted to LaTeX without float noise (`python_values`); prose stays as it is.
    A program that failed has no answer, whatever it printed.
    """
    text = _returned(ran) or _printed(ran)
    return python_values.latex(text) or text or None


def statement(ran: ProgramResult) -> str:
    r"""Returns a completion that states the answer of a program, for grading; "" where it has none.

    Returned and printed values are boxed; a printed sentence stays as it is.
    """
    value = value_of(ran)
    if value is None:
        return ""
    is_value = _returned(ran) or python_values.latex(_printed(ran))
    return rf"The answer is $\boxed{{{value}}}$." if is_value else value


def succeeded(ran: ProgramResult) -> bool:
    """Returns whether a program reached its end, or called `exit()` without an error code."""
    return ran.status == "ok" or (ran.status == "raised" and bool(EXITED.search(ran.error)))


def _returned(ran: ProgramResult) -> str:
    text = (ran.value or "").strip()
    return text if succeeded(ran) and text != "None" else ""


def _printed(ran: ProgramResult) -> str:
    lines = [line.strip() for line in ran.output.splitlines() if line.strip()]
    return lines[-1] if succeeded(ran) and lines and lines[-1] != "None" else ""


def humaneval(completion: str, prompt: str, test: str) -> TestedProgram:
    """Builds a program from a HumanEval completion, with its test, which ends in `check(ENTRY_POINT)`.

    A completion that defines the entry point is a whole program; it follows the prompt, whose imports and helpers it
    may use. Any other completion continues the prompt up to the end of the function; its first line is indented where a
    tokenizer dropped the white space.
    """
    completion, entry = after_thoughts(completion), ENTRY_POINT.search(test)
    whole = re.compile(rf"^(?:async )?def {entry[1] if entry else ''}\s*\(", re.MULTILINE)
    program = program_of(completion)
    if entry and program and whole.search(program):
        return TestedProgram(f"{prompt}\n\n{program}\n", test)
    blocks = FENCED.findall(completion)
    if blocks and not BODY.match(completion):
        completion = blocks[0][1]
    return TestedProgram(prompt + _indented(cut_at_stop(completion, AFTER_FUNCTION)) + "\n", test)


def mbpp(completion: str, test: str) -> TestedProgram | None:
    """Returns the program of an MBPP completion, fenced or up to "[DONE]", with its asserts; None without a program."""
    completion = after_thoughts(completion)
    text = cut_at_stop(completion.partition(MBPP_BEGIN)[2] or completion, (MBPP_DONE,))
    program = program_of(text) or FENCE.split(text, maxsplit=1)[0]
    return TestedProgram(program.strip("\n") + "\n", test) if program.strip() else None


def grade_programs(runner: Runner, tested: Sequence[TestedProgram | None]) -> list[Grade]:
    """Runs solutions with their tests in parallel; None stands for a completion without a program.

    A program passes if it returns its own secret after the tests, so one that exits early does not pass. Not prevented:
    a solution that reads the secret from its own source (by frames, `linecache`, `gc`), replaces the test's helpers, or
    returns an object that equals everything. No test in the same process can detect that.

    Returns:
      grades in order; the answer is the solution, the reason "passed" or the error.
    """
    secret = [(f"finished_{secrets.token_hex(8)}", secrets.token_hex(16)) for _ in tested]
    programs = [
        Program(f"{each.solution}\n{each.test}\n\ndef {name}():\n    return {word!r}\n", name)
        for each, (name, word) in zip(tested, secret, strict=True)
        if each
    ]
    results = iter(runner.run(programs))
    return [
        _grade(each, next(results), word) if each else Grade(None, False, "no program")
        for each, (_, word) in zip(tested, secret, strict=True)
    ]


def _grade(tested: TestedProgram, ran: ProgramResult, word: str) -> Grade:
    if ran.status == "ok":
        passed = ran.value == word
        return Grade(tested.solution, passed, "passed" if passed else "ended before its tests did")
    return Grade(tested.solution, False, last_line(ran.error) if ran.status == "raised" else ran.status)


def last_line(error: str) -> str:
    """Returns the last line of a traceback, the exception."""
    return (error.strip().splitlines() or ["raised"])[-1][:MAX_REASON_CHARS]


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """Cuts a text at the first of the stop strings."""
    return text[: min([index for stop in stops if (index := text.find(stop)) >= 0], default=len(text))]


def _indented(body: str) -> str:
    """Indents the first line of a function's body where it is not."""
    return body if body[:1] in ("", " ", "\t", "\n") else f"    {body}"
