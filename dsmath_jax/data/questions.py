"""How a record is asked: its question with its options, and below it what the model is to do."""

import re
from typing import Literal

from dsmath_jax.data.dataset_formats import Record

Mode = Literal["cot", "pot", "tir"]  # chain of thought, program of thought, tool-integrated reasoning
Language = Literal["en", "zh"]
CHINESE = re.compile(r"[\u4e00-\u9fff]")
PAPER = "paper"  # the instruction that stands for `INSTRUCTIONS`

# What the paper's chat models are asked for (§3.1, and its evaluation code), by mode and language. The paper asks base
# models alone for bare programs.
INSTRUCTIONS: dict[tuple[Mode, Language], str] = {
    ("cot", "en"): r"Please reason step by step, and put your final answer within \boxed{}.",
    ("cot", "zh"): r"请通过逐步推理来解答问题，并把最终答案放置于\boxed{}中。",
    ("pot", "en"): "Write a Python program with a function `solution()` that returns the answer.",
    ("pot", "zh"): "请编写一个Python程序，其中的函数`solution()`返回答案。",
    ("tir", "en"): "Please integrate natural language reasoning with programs to solve the problem above, "
    r"and put your final answer within \boxed{}.",
    ("tir", "zh"): r"请结合自然语言和Python程序语言来解答问题，并把最终答案放置于\boxed{}中。",
}


def ask(record: Record, instruction: str = "", mode: Mode = "cot") -> str:
    """The text that a user asks: the question, its options a line each, and the instruction on the last line.

    Args:
      record: its own `prompt` and `instruction` go first, where it has them.
      instruction: of the run: a text, `PAPER` for `INSTRUCTIONS` in the question's language, or "" for none.
      mode: how the model is to answer.
    """
    text = "\n".join([record.prompt or record.question, *options(record)])
    return instructed(text, record.instruction or instruction, mode)


def instructed(text: str, instruction: str, mode: Mode) -> str:
    """A question, and below it the instruction, `PAPER` in the question's language."""
    instruction = INSTRUCTIONS[mode, language(text)] if instruction == PAPER else instruction
    return f"{text.rstrip()}\n{instruction}" if instruction else text


def options(record: Record) -> list[str]:
    """A record's options, a line each: "(A) 12", or "- Yes" for those that go without letters."""
    if not lettered(record):
        return [f"- {text}" for text in record.options]
    return [f"({chr(ord('A') + place)}) {text}" for place, text in enumerate(record.options)]


def lettered(record: Record) -> bool:
    """Whether a record's options go by letters, rather than being the answers themselves ("Yes", "No")."""
    return bool(record.options) and record.answer not in record.options


def language(text: str) -> Language:
    """Chinese where any character of the text is, else English."""
    return "zh" if CHINESE.search(text) else "en"
