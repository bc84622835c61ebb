"""Tool-integrated reasoning (paper section 3.1): the model writes programs, reads their output, and continues.

A turn of the model ends at "```output", or where the model stops right after a program. The last Python block of the
turn is run, its output is appended between fences, and the model continues. Differences from the paper's evaluation
code:

- Names persist as in a notebook: every program is a fresh process, in which the dialogue's earlier programs run again
  without output (the paper's code instead removes their lines with `print(`, which breaks loops and multi-line calls).
  Their exceptions are ignored, as the first time; a program that hung or was killed is not run again. Random numbers
  are seeded, so that every run of a program sees the same ones.
- The output of a program that fails is what it printed and the end of its traceback.
- Fences in an output are replaced, so that it cannot be mistaken for the model's text. The final answer comes from the
  model's prose, not from boxes in outputs. If the prose states no answer, the last line that the last successful
  program printed stands in, as in the paper's code.
"""

import asyncio
import re
from collections.abc import Sequence

from dsmath_jax.data.dataset_formats import Record
from dsmath_jax.data.questions import Mode
from dsmath_jax.data.thoughts import after_thoughts
from dsmath_jax.environments.protocol import Step, TextTurn
from dsmath_jax.grading.code import FENCED, LABELS, Runner, statement, succeeded
from dsmath_jax.grading.extraction import CUE
from dsmath_jax.grading.sandbox import Program, ProgramResult

CALL = "```output"
OUTPUT_CHARS = 1000
ERROR_LINES = 4  # of a traceback
NAME = "<program>"  # in tracebacks
OWN_FRAME = f'File "{NAME}"'  # frames above it are not of the model's program
ENDS_WITH_BLOCK = re.compile(r"^[ \t]*```\s*\Z", re.MULTILINE)
BOX = re.compile(r"\\(?:boxed|fbox)\b")
MISSING = "Error: there is no Python program to run"


class Programs:
    """Runs the programs that dialogues ask for at the same time in one batch."""

    def __init__(self, runner: Runner):
        self._runner = runner
        self._waiting: list[tuple[Program, asyncio.Future[ProgramResult]]] = []
        self._batches: set[asyncio.Task[None]] = set()

    async def run(self, program: Program) -> ProgramResult:
        """Runs a program with the others that are asked for in the same turn of the event loop."""
        loop = asyncio.get_running_loop()
        result = loop.create_future()
        self._waiting.append((program, result))
        if len(self._waiting) == 1:
            loop.call_soon(self._start_batch)
        return await result

    def _start_batch(self) -> None:
        batch = asyncio.get_running_loop().create_task(self._run_waiting())
        self._batches.add(batch)  # the loop itself keeps no reference
        batch.add_done_callback(self._batches.discard)

    async def _run_waiting(self) -> None:
        batch, self._waiting = self._waiting, []
        try:
            results = await asyncio.to_thread(self._runner.run, [program for program, _ in batch])
        except BaseException as error:
            for _, result in batch:
                if not result.done():
                    result.set_exception(error)
            return
        for (_, result), found in zip(batch, results, strict=True):
            if not result.done():  # its dialogue may have run out of time
                result.set_result(found)


class PythonTool:
    """The environment of one dialogue.

    Args:
      programs: run its programs.
      output_chars: maximum characters of an output; the middle of a longer one is omitted.
      stops: strings that end the dialogue, such as the next question of a few-shot prompt.
    """

    mode: Mode = "tir"

    def __init__(self, programs: Programs, output_chars: int = OUTPUT_CHARS, stops: Sequence[str] = ()):
        self.stop_strings: Sequence[str] = (CALL, *stops)
        self._programs, self._output_chars = programs, output_chars
        self._prose = ""
        self._replayed: list[str] = []  # earlier programs whose names the next one uses
        self._printed = ""  # the answer of the last successful program, as a sentence

    def reset(self, record: Record) -> str:
        return record.question

    async def step(self, turn: TextTurn) -> Step:
        ends = {index: stop for stop in self.stop_strings if (index := turn.text.find(stop)) >= 0}
        stop = ends[min(ends)] if ends else ""
        text = turn.text[: min(ends, default=len(turn.text))]
        self._prose += FENCED.sub(lambda match: "" if match[1].lower() in LABELS else match[0], text)
        blocks = [block for label, block in FENCED.findall(text) if label.lower() in LABELS]
        ends_with_block = bool(blocks) and bool(ENDS_WITH_BLOCK.search(text))
        calls = stop == CALL or (turn.finish_reason == "eos" and not stop and ends_with_block)
        if not calls or turn.is_last:
            # An observation after the last turn is not used, but says that the model would have continued.
            return Step(observation=CALL if calls else "", answer_text=self._answer_text())
        output = await self._run(blocks[-1]) if blocks else MISSING
        opening = "" if stop == CALL else CALL
        line_end = "" if (turn.text if stop == CALL else text).endswith("\n") else "\n"
        begin = f"{line_end}{opening}\n" if opening else line_end
        return Step(f"{begin}{output}\n```\n", drops_eos=True, answer_text=self._answer_text())

    async def _run(self, program: str) -> str:
        """Runs a program after the earlier ones; returns what the model sees."""
        result = await self._programs.run(_with_replay(self._replayed, program))
        if result.status in ("ok", "raised"):
            self._replayed.append(program)
        self._printed = statement(result) or self._printed
        return shortened(_output(result), self._output_chars)

    def _answer_text(self) -> str:
        """Returns the model's prose without programs and outputs; where it states no answer, with the last output's."""
        answer = after_thoughts(self._prose)
        stated = BOX.search(answer) or CUE.search(answer)
        return self._prose if stated else f"{self._prose}\n{self._printed}"


def _with_replay(earlier: Sequence[str], program: str) -> Program:
    """Returns a program that first replays earlier ones for their names."""
    lines = [
        "import contextlib as _contextlib, io as _io, random as _random, sys as _sys",
        "_random.seed(0)",
        "if 'numpy' in _sys.modules: _sys.modules['numpy'].random.seed(0)",
        f"for _earlier in {list(earlier)!r}:",
        "    with _contextlib.redirect_stdout(_io.StringIO()), _contextlib.redirect_stderr(_io.StringIO()):",
        "        with _contextlib.suppress(Exception, SystemExit):",
        "            exec(compile(_earlier, '<earlier>', 'exec'), globals())",
        f"exec(compile({program!r}, {NAME!r}, 'exec'), globals())",
    ]
    return Program("\n".join(lines))


def _output(result: ProgramResult) -> str:
    """Returns what a program printed and its error, without fences."""
    if succeeded(result):
        error = ""
    elif result.status == "raised":
        lines = result.error[max(0, result.error.find(OWN_FRAME)) :].strip().splitlines()
        error = "\n".join(lines[-ERROR_LINES:])
    else:
        error = f"Error: {result.status}"
    return "\n".join(filter(None, (result.output.strip("\n"), error))).replace("```", "'''")


def shortened(text: str, length: int) -> str:
    """Cuts a text to `length` characters, with "..." in the middle."""
    if len(text) <= length:
        return text
    tail = max(0, length - 3) // 2
    return text[: max(0, length - 3) - tail] + "..." + text[len(text) - tail :]
