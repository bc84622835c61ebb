"""From completions to programs, and from programs that ran to answers and grades (program of thought, HumanEval, MBPP).

Everything here handles text; a program runs in the sandbox and nowhere else.
"""

import re
import secrets
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dsmath_jax.grading import python_values
from dsmath_jax.grading.grades import Grade
from dsmath_jax.grading.sandbox import Program, Ran

FENCED = re.compile(r"^[ \t]*```([\w+-]*)[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
LABELS = ("python", "py", "python3")
# How a program begins that stands without an opening fence, which was the prompt's.
PROGRAM = re.compile(
    r"(?:from [\w.]+ import |import \w|(?:async )?def \w+\s*\(|class \w|@\w|print\(|\w+(?:, ?\w+)* = )"
)
SOLUTION = re.compile(r"^def solution\s*\(", re.MULTILINE)
ENTRY_POINT = re.compile(r"^check\((\w+)\)\s*\Z", re.MULTILINE)
# What follows a function when a model goes on after it (Chen et al. 2021, section 2), and how chat models close code.
AFTER_FUNCTION = ("\nclass", "\ndef", "\n#", "\n@", "\nif", "\nprint", "\nassert", "\n```")
BODY = re.compile(r"\n*[ \t]+(?!`)\S")  # a completion that goes on within a function
LEFT = re.compile(r"^SystemExit(?:: (?:0|None))?\s*\Z", re.MULTILINE)
LONGEST_REASON = 500  # characters of what was raised
MBPP_BEGIN, MBPP_DONE = "[BEGIN]", "[DONE]"


class Runner(Protocol):
    """What runs programs: `grading.sandbox.Sandbox`."""

    def run(self, programs: Sequence[Program]) -> list[Ran]: ...


class Tested(NamedTuple):
    """A solution as a program, and the program to run after it, which raises where the solution is wrong."""

    solution: str
    test: str


def program_of(completion: str) -> str | None:
    """The Python program in a completion, or None where there is none.

    A program that the completion begins with, since the prompt ended in an opening fence, goes up to the closing one.
    Else all blocks that are fenced as Python make the program together, as a reader would run them one after the
    other; where no block says its language, those that say nothing. The last block may lack its closing fence: the
    length limit or a stop string took it. Text around the program is ignored.
    """
    if _begins(bare := FENCE.split(completion, maxsplit=1)[0]):
        return bare.strip("\n")
    blocks = [(label.lower(), text.strip("\n")) for label, text in FENCED.findall(completion)]
    chosen = [text for label, text in blocks if label in LABELS] or [text for label, text in blocks if not label]
    return "\n\n".join(filter(str.strip, chosen)) or None


def _begins(text: str) -> bool:
    """Whether a text begins as a program does, after its comments."""
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return bool(PROGRAM.match(next(lines, "")))


def thought(program: str) -> Program:
    """A program of thought as the sandbox runs it: the answer is what `solution()` returns, where it defines that."""
    return Program(program, "solution" if SOLUTION.search(program) else "")


def run_thoughts(runner: Runner, completions: Sequence[str]) -> list[Ran | None]:
    """Runs the programs of thought in completions, all in parallel; None where a completion has none."""
    programs = [program_of(completion) for completion in completions]
    results = iter(runner.run([thought(program) for program in programs if program]))
    return [next(results) if program else None for program in programs]


def value_of(ran: Ran) -> str | None:
    """What a program of thought answers, or None: what `solution()` returned, else the last line that was printed.

    A value in Python's notation comes in LaTeX's, without the noise of floats (`python_values`); prose stays as it is.
    A program that did not end well answers nothing, whatever it printed.
    """
    text = _returned(ran) or _printed(ran)
    return python_values.latex(text) or text or None


def statement(ran: Ran) -> str:
    r"""A completion that states what a program answers, for those who grade completions; "" where it answers nothing.

    What was returned and values that were printed are boxed; a printed sentence stands for itself.
    """
    value = value_of(ran)
    if value is None:
        return ""
    is_value = _returned(ran) or python_values.latex(_printed(ran))
    return rf"The answer is $\boxed{{{value}}}$." if is_value else value


def ended_well(ran: Ran) -> bool:
    """Whether a program came to its end, or left by `exit()` as one that has no more to do."""
    return ran.how == "ok" or (ran.how == "raised" and bool(LEFT.search(ran.error)))


def _returned(ran: Ran) -> str:
    text = (ran.value or "").strip()
    return text if ended_well(ran) and text != "None" else ""


def _printed(ran: Ran) -> str:
    lines = [line.strip() for line in ran.output.splitlines() if line.strip()]
    return lines[-1] if ended_well(ran) and lines and lines[-1] != "None" else ""


def humaneval(completion: str, prompt: str, test: str) -> Tested:
    """A completion of HumanEval's prompt with its test, which ends in `check(ENTRY_POINT)`.

    A block or text that defines the entry point is a whole program; it follows the prompt, whose imports and helpers it
    may use. Anything else goes on where the prompt ends, up to what follows a function; its first line is indented
    where a tokenizer dropped its white space.
    """
    entry = ENTRY_POINT.search(test)
    whole = re.compile(rf"^(?:async )?def {entry[1] if entry else ''}\s*\(", re.MULTILINE)
    program = program_of(completion)
    if entry and program and whole.search(program):
        return Tested(f"{prompt}\n\n{program}\n", test)
    blocks = FENCED.findall(completion)
    if blocks and not BODY.match(completion):
        completion = blocks[0][1]
    return Tested(prompt + _indented(until(completion, AFTER_FUNCTION)) + "\n", test)


def mbpp(completion: str, test: str) -> Tested | None:
    """A completion of an MBPP prompt with its asserts; None where it has no program.

    The program is fenced, or all up to "[DONE]".
    """
    text = until(completion.partition(MBPP_BEGIN)[2] or completion, (MBPP_DONE,))
    program = program_of(text) or FENCE.split(text, maxsplit=1)[0]
    return Tested(program.strip("\n") + "\n", test) if program.strip() else None


def grade_programs(runner: Runner, tested: Sequence[Tested | None]) -> list[Grade]:
    """Runs solutions with their tests, all in parallel; those that are None have no program.

    That a program passes is known by its end: after the tests it returns a secret that differs from program to program.
    So one that exits early, with whatever code, has not passed. What is not held: a solution that reads the secret in
    its own text (by frames, `linecache`, `gc`), replaces the test's helpers, or returns what is equal to everything.
    No test in the same process can tell; handing over the test later would only move the place to look at.

    Returns:
      grades in order; the answer is the solution, the reason "passed" or the error that told.
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


def _grade(tested: Tested, ran: Ran, word: str) -> Grade:
    if ran.how == "ok":
        passed = ran.value == word
        return Grade(tested.solution, passed, "passed" if passed else "ended before its tests did")
    return Grade(tested.solution, False, last_line(ran.error) if ran.how == "raised" else ran.how)


def last_line(error: str) -> str:
    """What was raised, of a traceback."""
    return (error.strip().splitlines() or ["raised"])[-1][:LONGEST_REASON]


def until(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stop strings."""
    return text[: min([place for stop in stops if (place := text.find(stop)) >= 0], default=len(text))]


def _indented(body: str) -> str:
    """A function's body whose first line has the white space of its block."""
    return body if body[:1] in ("", " ", "\t", "\n") else f"    {body}"
