"""Tool-integrated reasoning (paper section 3.1): the model writes programs, reads what they print, and goes on.

A turn of the model ends where it writes "```output", or where it stops right after a program. The last block of Python
in that turn is run, what it prints is given back between fences, and the model goes on, up to a number of rounds. How
it differs from the paper's evaluation code, and why:

- Names persist as in a notebook: every round is a fresh process, in which the dialogue's earlier programs run again
  with their output dropped (the paper's code strips lines with `print(` from them, which breaks loops and calls over
  several lines). What they raised is passed over, as it was the first time; a program that hung or was killed is not
  run again. Random numbers are seeded, so that a round sees what the earlier ones saw.
- A program that fails gives back what it printed and the end of its traceback.
- A fence in an output is defused, so that nothing printed can be taken for the model's text; the final answer is read
  from the model's own prose, and what is printed in a box is none. Only where the prose states no answer at all does
  the last line stand for it that the last program to end well printed, as in the paper's code.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from dsmath_jax.grading.code import FENCED, LABELS, Runner, ended_well, statement
from dsmath_jax.grading.extraction import CUE
from dsmath_jax.grading.sandbox import Program, ProgramResult

CALL = "```output"
ROUNDS, OUTPUT_CHARS = 4, 1000
ERROR_LINES = 4  # of a traceback
NAME = "<program>"  # in tracebacks
OWN_FRAME = f'File "{NAME}"'  # what stands above it in a traceback is not of the model's program
ENDS_WITH_BLOCK = re.compile(r"^[ \t]*```\s*\Z", re.MULTILINE)
BOX = re.compile(r"\\(?:boxed|fbox)\b")
MISSING = "Error: there is no Python program to run"
# `generate(prompts, numbers, turn, stop_strings)`: for each prompt a completion's text, which may go on after a stop
# string, and why it ended: "eos", "stop" or "length". `numbers` are the places of the dialogues.
Generate = Callable[[Sequence[str], Sequence[int], int, Sequence[str]], Sequence[tuple[str, str]]]


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """What followed a prompt.

    Attributes:
      text: all of it, tool outputs included.
      said: the model's own prose, without programs and outputs, and below it the answer that its last output stands
        for where the prose states none: what a final answer is extracted from.
      programs: those that were run.
      outputs: what was given back for each.
      turns: of the model.
      finish: why it ended: "eos", "stop", "length" (of a turn, or no room in the context), or "rounds".
    """

    text: str = ""
    said: str = ""
    programs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    turns: int = 0
    finish: str = ""


@dataclasses.dataclass
class _Open:
    """A dialogue in the making."""

    number: int
    text: str = ""
    prose: str = ""
    programs: list[str] = dataclasses.field(default_factory=list)
    outputs: list[str] = dataclasses.field(default_factory=list)
    replayed: list[str] = dataclasses.field(default_factory=list)  # the programs whose names the next one finds
    turns: int = 0
    finish: str = ""
    next: str = ""  # the program to run
    printed: str = ""  # the answer that the last program to end well stands for, as a sentence


def solve(
    prompts: Sequence[str],
    generate: Generate,
    runner: Runner,
    rounds: int = ROUNDS,
    output_chars: int = OUTPUT_CHARS,
    stops: Sequence[str] = (),
) -> list[Dialogue]:
    """Holds a dialogue for each prompt, all of them turn by turn together.

    Args:
      prompts: texts after BOS.
      generate: draws one completion each; it gives ("", "length") where a prompt leaves no room in the context.
      runner: the sandbox; it runs the programs of a turn in parallel.
      rounds: programs that a dialogue may run; the model has one more turn to say what it makes of the last.
      output_chars: characters of an output; the middle of a longer one is left out.
      stops: strings that end a dialogue, such as the next question of a few-shot prompt.

    Returns:
      the dialogues, in the order of the prompts.
    """
    dialogues = [_Open(number) for number in range(len(prompts))]
    active = dialogues
    for turn in range(rounds + 1):
        if not active:
            break
        asked = [prompts[one.number] + one.text for one in active]
        answers = generate(asked, [one.number for one in active], turn, (CALL, *stops))
        for one, (text, finish) in zip(active, answers, strict=True):
            _hear(one, text, "rounds" if turn == rounds else "", finish, stops)
        active = [one for one in active if not one.finish]
        calling = [one for one in active if one.next]
        for one in active:
            if not one.next:
                _give(one, MISSING)
        results = runner.run([_replaying(one.replayed, one.next) for one in calling])
        for one, ran in zip(calling, results, strict=True):
            _tell(one, ran, output_chars)
    return [_closed(one) for one in dialogues]


def _hear(one: _Open, text: str, called: str, finish: str, stops: Sequence[str]) -> None:
    """Takes a turn of the model: what belongs to it, and whether a program is to be run or the dialogue ends there.

    Args:
      called: the finish of a dialogue that calls the tool; "" where it may.
      finish: that of the turn.
    """
    ends = {place: stop for stop in (CALL, *stops) if (place := text.find(stop)) >= 0}
    stop = ends[min(ends)] if ends else ""
    text = text[: min(ends, default=len(text))]
    blocks = [block for label, block in FENCED.findall(text) if label.lower() in LABELS]
    awaits = finish != "length" and not stop and bool(blocks) and bool(ENDS_WITH_BLOCK.search(text))
    one.turns += 1
    one.text += text
    one.prose += FENCED.sub(lambda found: "" if found[1].lower() in LABELS else found[0], text)
    one.next = blocks[-1] if blocks else ""
    one.finish = called if stop == CALL or awaits else "stop" if stop else finish


def _replaying(earlier: Sequence[str], program: str) -> Program:
    """A program in the names that earlier ones left."""
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


def _tell(one: _Open, ran: ProgramResult, most: int) -> None:
    """Gives the model what its program printed."""
    output = shortened(_output(ran), most)
    one.programs.append(one.next)
    one.outputs.append(output)
    if ran.status in ("ok", "raised"):
        one.replayed.append(one.next)
    one.printed = statement(ran) or one.printed
    _give(one, output)


def _give(one: _Open, output: str) -> None:
    if not one.text.endswith("\n"):
        one.text += "\n"
    one.text += f"{CALL}\n{output}\n```\n"


def _output(ran: ProgramResult) -> str:
    """What a program printed, and below it what went wrong, without anything that could be taken for a fence."""
    if ended_well(ran):
        told = ""
    elif ran.status == "raised":
        lines = ran.error[max(0, ran.error.find(OWN_FRAME)) :].strip().splitlines()
        told = "\n".join(lines[-ERROR_LINES:])
    else:
        told = f"Error: {ran.status}"
    return "\n".join(filter(None, (ran.output.strip("\n"), told))).replace("```", "'''")


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters, from whose middle "..." took what is too much."""
    if len(text) <= most:
        return text
    kept = max(0, most - 3)
    return text[: kept - kept // 2] + "..." + text[len(text) - kept // 2 :]


def _closed(one: _Open) -> Dialogue:
    said = one.prose if BOX.search(one.prose) or CUE.search(one.prose) else f"{one.prose}\n{one.printed}"
    return Dialogue(one.text, said, tuple(one.programs), tuple(one.outputs), one.turns, one.finish)
