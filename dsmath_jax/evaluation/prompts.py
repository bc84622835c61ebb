"""Builds prompts: the question, with few-shot examples before it.

Few-shot examples and ideal completions come from the same code, so that extraction reads both alike.
"""

import dataclasses
import re
from collections.abc import Sequence

from dsmath_jax.data import questions
from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.questions import Mode
from dsmath_jax.evaluation.exemplars import Exemplar
from dsmath_jax.evaluation.registry import DIALOGUE, Format, Style, Task

BOXED = {"en": r"The answer is $\boxed{{{}}}$.", "zh": r"答案是 $\boxed{{{}}}$。"}
DOLLAR = re.compile(r"(?<!\\)\$")


def prompt(
    chat: Chat,
    task: Task,
    record: Record,
    mode: Mode,
    style: Style,
    exemplars: Sequence[Exemplar] = (),
    shots: int | None = None,
) -> str:
    """Returns the rendered prompt of a problem.

    Args:
      chat: the model's chat template and instruction; "few_shot" uses only its BOS.
      task: the task of the record.
      record: the problem.
      mode: one of the task's modes.
      style: "few_shot" or "chat".
      exemplars: few-shot examples, `Exemplars.for_record(record)`; in a chat they are earlier turns.
      shots: maximum number of examples.
    """
    if style == "few_shot":
        return chat.plain(few_shot(task, record, mode, exemplars, shots))
    solved = [(example.record, worked_solution(task, example, mode, style)) for example in exemplars[:shots]]
    return chat.prompt(record, mode, solved)


def few_shot(
    task: Task, record: Record, mode: Mode, exemplars: Sequence[Exemplar] = (), shots: int | None = None
) -> str:
    """Returns the text after BOS that a base model continues; the heading stays even without examples."""
    form = task.formats[mode]
    published = exemplars[0].record.heading if exemplars else ""
    heading = form.heading.format(category=record.category.replace("_", " "), heading=published)
    solved = [
        form.problem.format(format_question(form, example.record))
        + form.lead
        + worked_solution(task, example, mode, "few_shot")
        for example in exemplars[:shots]
    ]
    parts = [*solved, form.problem.format(format_question(form, record))]
    return (f"{heading}\n\n" if heading else "") + form.separator.join(parts)


def stops(task: Task, mode: Mode, style: Style) -> tuple[str, ...]:
    """Returns the strings that end a completion and are not part of it."""
    return (DIALOGUE if style == "chat" else task.formats[mode]).stops


def ideal_completion(task: Task, record: Record, mode: Mode, style: Style = "few_shot") -> str:
    """Returns a completion with the gold answer, which a grader must count as correct.

    Raises:
      ValueError: the task has no gold answers (miniF2F, whose proofs only Isabelle can check).
    """
    if record.kind == "theory":
        raise ValueError(f"{task.name} has no gold answers")
    solution = record.solution if record.kind == "program" else ""
    program = f"def solution():\n    return {record.answer!r}"
    bare = dataclasses.replace(record, solution=solution)
    return worked_solution(task, Exemplar(bare, program, record.answer), mode, style)


def format_question(form: Format, record: Record) -> str:
    """Returns a record's question with its options in the format of a base model."""
    text = record.prompt or record.question
    if record.options:
        lettered = questions.has_lettered_options(record) or not form.choices.unlettered
        option_format = form.choices.option if lettered else form.choices.unlettered
        lines = (option_format.format(letter=chr(ord("A") + i), text=text) for i, text in enumerate(record.options))
        text += form.choices.prefix + form.choices.separator.join(lines)
    return text


def worked_solution(task: Task, example: Exemplar, mode: Mode, style: Style) -> str:
    """Returns the whole solution of a few-shot example.

    In a chat the answer is boxed, as the paper's instruction asks, unless the record has its own instruction.
    """
    form, record = task.formats[mode], example.record
    if record.kind == "program":
        return f"```python\n{record.solution}\n```" if style == "chat" else record.solution
    if mode == "pot" or record.kind == "theory":
        return example.program
    sentence, letters = form.answer, form.letters
    if style == "chat" and not record.instruction:
        sentence, letters = BOXED[questions.language(record.question)], "{}"
    answer = letters.format(record.answer) if record.kind in ("choice", "choices") else record.answer
    sentence = sentence.format(DOLLAR.sub("", answer) if "$" in sentence else answer)
    if mode == "tir":
        return f"```python\n{example.program}\nprint(solution())\n```\n```output\n{example.output}\n```\n{sentence}"
    return record.solution if record.solution.endswith(sentence) else f"{record.solution}\n{sentence}".lstrip("\n")
