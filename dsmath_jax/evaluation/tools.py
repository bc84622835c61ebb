"""Tool-integrated reasoning (paper section 3.1): the model writes programs, reads their output, and continues.

A turn of the model ends at "```output", or where the model stops right after a program. The last Python block of the
turn is run, its output is appended between fences, and the model continues, for a limited number of rounds. Differences
from the paper's evaluation code:

- Names persist as in a notebook: every round is a fresh process, in which the dialogue's earlier programs run again
  without output (the paper's code instead removes their lines with `print(`, which breaks loops and multi-line calls).
  Their exceptions are ignored, as the first time; a program that hung or was killed is not run again. Random numbers
  are seeded, so that every run of a program sees the same ones.
- The output of a program that fails is what it printed and the end of its traceback.
- Fences in an output are replaced, so that it cannot be mistaken for the model's text. The final answer comes from the
  model's prose, not from boxes in outputs. If the prose states no answer, the last line that the last successful
  program printed stands in, as in the paper's code.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from dsmath_jax.data.special_tokens import without_marks
from dsmath_jax.data.thoughts import after_thoughts
from dsmath_jax.grading.code import FENCED, LABELS, Runner, statement, succeeded
from dsmath_jax.grading.extraction import CUE
from dsmath_jax.grading.sandbox import Program, ProgramResult

CALL = "```output"
ROUNDS, OUTPUT_CHARS = 4, 1000
ERROR_LINES = 4  # of a traceback
NAME = "<program>"  # in tracebacks
OWN_FRAME = f'File "{NAME}"'  # frames above it are not of the model's program
ENDS_WITH_BLOCK = re.compile(r"^[ \t]*```\s*\Z", re.MULTILINE)
BOX = re.compile(r"\\(?:boxed|fbox)\b")
MISSING = "Error: there is no Python program to run"
# `generate(prompts, numbers, turn, stop_strings)` returns for each prompt the text of a completion, which may continue
# after a stop string, and its finish reason: "eos", "stop" or "length". `numbers` are the indices of the dialogues.
Generate = Callable[[Sequence[str], Sequence[int], int, Sequence[str]], Sequence[tuple[str, str]]]


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """The text after a prompt.

    Attributes:
      text: the whole text, tool outputs included.
      prose: the text that a final answer is extracted from: the model's prose without programs and outputs, and the
        answer of the last output where the prose states none.
      programs: the programs that were run.
      outputs: the output appended for each.
      turns: number of turns of the model.
      finish: "eos", "stop", "length" (of a turn, or of the context), or "rounds".
    """

    text: str = ""
    prose: str = ""
    programs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    turns: int = 0
    finish: str = ""


@dataclasses.dataclass
class _DialogueState:
    """A dialogue in progress."""

    number: int
    text: str = ""
    prose: str = ""
    programs: list[str] = dataclasses.field(default_factory=list)
    outputs: list[str] = dataclasses.field(default_factory=list)
    replayed: list[str] = dataclasses.field(default_factory=list)  # earlier programs whose names the next one uses
    turns: int = 0
    finish: str = ""
    program: str = ""  # the next program to run
    printed: str = ""  # the answer of the last successful program, as a sentence


def solve(
    prompts: Sequence[str],
    generate: Generate,
    runner: Runner,
    rounds: int = ROUNDS,
    output_chars: int = OUTPUT_CHARS,
    stops: Sequence[str] = (),
) -> list[Dialogue]:
    """Generates a dialogue for each prompt, all of them turn by turn together.

    Args:
      prompts: texts after BOS.
      generate: draws one completion each; it returns ("", "length") where a prompt fills the context.
      runner: the sandbox, which runs the programs of a turn in parallel.
      rounds: maximum number of programs of a dialogue; the model has one more turn after the last.
      output_chars: maximum characters of an output; the middle of a longer one is omitted.
      stops: strings that end a dialogue, such as the next question of a few-shot prompt.

    Returns:
      the dialogues, in the order of the prompts.
    """
    dialogues = [_DialogueState(number) for number in range(len(prompts))]
    active = dialogues
    for turn in range(rounds + 1):
        if not active:
            break
        texts = [prompts[each.number] + without_marks(each.text) for each in active]
        completions = generate(texts, [each.number for each in active], turn, (CALL, *stops))
        for each, (text, finish) in zip(active, completions, strict=True):
            _parse_turn(each, text, "rounds" if turn == rounds else "", finish, stops)
        active = [each for each in active if not each.finish]
        calling = [each for each in active if each.program]
        for each in active:
            if not each.program:
                _append_output(each, MISSING)
        results = runner.run([_with_replay(each.replayed, each.program) for each in calling])
        for each, result in zip(calling, results, strict=True):
            _append_result(each, result, output_chars)
    return [_finish(each) for each in dialogues]


def _parse_turn(dialogue: _DialogueState, text: str, called: str, finish: str, stops: Sequence[str]) -> None:
    """Adds a turn of the model to a dialogue, with the program to run or the finish reason.

    Args:
      called: the finish reason of a dialogue that calls the tool; "" where it may.
      finish: the finish reason of the turn.
    """
    ends = {index: stop for stop in (CALL, *stops) if (index := text.find(stop)) >= 0}
    stop = ends[min(ends)] if ends else ""
    text = text[: min(ends, default=len(text))]
    blocks = [block for label, block in FENCED.findall(text) if label.lower() in LABELS]
    awaits = finish != "length" and not stop and bool(blocks) and bool(ENDS_WITH_BLOCK.search(text))
    dialogue.turns += 1
    dialogue.text += text
    dialogue.prose += FENCED.sub(lambda match: "" if match[1].lower() in LABELS else match[0], text)
    dialogue.program = blocks[-1] if blocks else ""
    dialogue.finish = called if stop == CALL or awaits else "stop" if stop else finish


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


def _append_result(dialogue: _DialogueState, result: ProgramResult, output_chars: int) -> None:
    """Appends the output of a program to its dialogue."""
    output = shortened(_output(result), output_chars)
    dialogue.programs.append(dialogue.program)
    dialogue.outputs.append(output)
    if result.status in ("ok", "raised"):
        dialogue.replayed.append(dialogue.program)
    dialogue.printed = statement(result) or dialogue.printed
    _append_output(dialogue, output)


def _append_output(dialogue: _DialogueState, output: str) -> None:
    if not dialogue.text.endswith("\n"):
        dialogue.text += "\n"
    dialogue.text += f"{CALL}\n{output}\n```\n"


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


def _finish(dialogue: _DialogueState) -> Dialogue:
    prose, answer = dialogue.prose, after_thoughts(dialogue.prose)
    if not (BOX.search(answer) or CUE.search(answer)):
        prose += f"\n{dialogue.printed}"
    programs, outputs = tuple(dialogue.programs), tuple(dialogue.outputs)
    return Dialogue(dialogue.text, prose, programs, outputs, dialogue.turns, dialogue.finish)
