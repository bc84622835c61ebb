"""The text of a question in a prompt: the question, its options, and the instruction."""

import re
from typing import Literal

from dsmath_jax.data.dataset_formats import Record

Mode = Literal["cot", "pot", "tir"]  # chain of thought, program of thought, tool-integrated reasoning
Language = Literal["en", "zh"]
CHINESE = re.compile(r"[\u4e00-\u9fff]")
PAPER = "paper"  # as an instruction: the paper's, from `INSTRUCTIONS`

# Instructions of the paper's chat models (§3.1, and its evaluation code), by mode and language. In the paper only base
# models write bare programs.
INSTRUCTIONS: dict[tuple[Mode, Language], str] = {
    ("cot", "en"): r"Please reason step by step, and put your final answer within \boxed{}.",
    ("cot", "zh"): r"请通过逐步推理来解答问题，并把最终答案放置于\boxed{}中。",
    ("pot", "en"): "Write a Python program with a function `solution()` that returns the answer.",
    ("pot", "zh"): "请编写一个Python程序，其中的函数`solution()`返回答案。",
    ("tir", "en"): "Please integrate natural language reasoning with programs to solve the problem above, "
    r"and put your final answer within \boxed{}.",
    ("tir", "zh"): r"请结合自然语言和Python程序语言来解答问题，并把最终答案放置于\boxed{}中。",
}


def user_message(record: Record, instruction: str = "", mode: Mode = "cot") -> str:
    """Returns the user's message: the question, its options on a line each, and the instruction on the last line.

    Args:
      record: its own `prompt` and `instruction` take precedence.
      instruction: of the run: a text, `PAPER` for `INSTRUCTIONS` in the question's language, or "" for none.
      mode: how the model should answer.
    """
    text = "\n".join([record.prompt or record.question, *options(record)])
    return with_instruction(text, record.instruction or instruction, mode)


def with_instruction(text: str, instruction: str, mode: Mode) -> str:
    """Appends the instruction to a question, `PAPER` in the question's language."""
    instruction = INSTRUCTIONS[mode, language(text)] if instruction == PAPER else instruction
    return f"{text.rstrip()}\n{instruction}" if instruction else text


def options(record: Record) -> list[str]:
    """Returns the lines of a record's options: "(A) 12", or "- Yes" for options without letters."""
    if not has_lettered_options(record):
        return [f"- {text}" for text in record.options]
    return [f"({chr(ord('A') + i)}) {text}" for i, text in enumerate(record.options)]


def has_lettered_options(record: Record) -> bool:
    """Whether a record's options have letters, rather than being the answers themselves ("Yes", "No")."""
    return bool(record.options) and record.answer not in record.options


def language(text: str) -> Language:
    """Returns "zh" if the text has a Chinese character, else "en"."""
    return "zh" if CHINESE.search(text) else "en"
