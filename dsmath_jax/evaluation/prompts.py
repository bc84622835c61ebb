"""What a model is given: worked examples and the question, as a base model or a chat model is asked.

Worked examples and ideal completions come from the same code, so that what extraction reads in the one it reads in the
other.
"""

import dataclasses
import re
from collections.abc import Sequence

from dsmath_jax.data import questions
from dsmath_jax.data.benchmarks import Record
from dsmath_jax.evaluation.exemplars import Exemplar
from dsmath_jax.evaluation.registry import Benchmark, Format, Mode, Style, lettered

BOXED = {"en": r"The answer is $\boxed{{{}}}$.", "zh": r"答案是 $\boxed{{{}}}$。"}
DOLLAR = re.compile(r"(?<!\\)\$")


def prompt(
    benchmark: Benchmark,
    record: Record,
    mode: Mode,
    style: Style,
    exemplars: Sequence[Exemplar] = (),
    shots: int | None = None,
) -> str:
    """The text after BOS, up to where the model goes on.

    Args:
      benchmark: the entry that the record belongs to.
      record: the problem to ask.
      mode: one of the benchmark's.
      style: as a base model is asked ("few_shot"), or in the chat template with the paper's instruction ("chat").
      exemplars: worked examples that stand before the question: `Exemplars.of(record)`.
      shots: so many of them alone; the heading stays, even above none.
    """
    form = format_of(benchmark, mode, style)
    published = exemplars[0].record.heading if exemplars else ""
    heading = form.heading.format(category=record.category.replace("_", " "), heading=published)
    solved = [
        form.problem.format(asked(form, example.record)) + form.lead + worked(benchmark, example, mode, style)
        for example in exemplars[:shots]
    ]
    parts = [*solved, form.problem.format(asked(form, record))]
    return (f"{heading}\n\n" if heading else "") + form.separator.join(parts)


def stops(benchmark: Benchmark, mode: Mode, style: Style) -> tuple[str, ...]:
    """Texts at which a completion ends; neither they nor what follows is part of it."""
    return format_of(benchmark, mode, style).stops


def ideal(benchmark: Benchmark, record: Record, mode: Mode, style: Style = "few_shot") -> str:
    """The gold answer as a perfect model would say it: what a grader must take for right.

    Raises:
      ValueError: the benchmark has no gold answers (miniF2F, whose proofs only Isabelle can judge).
    """
    if record.kind == "theory":
        raise ValueError(f"{benchmark.name} has no gold answers")
    solution = record.solution if record.kind == "program" else ""
    program = f"def solution():\n    return {record.answer!r}"
    bare = dataclasses.replace(record, solution=solution)
    return worked(benchmark, Exemplar(bare, program, record.answer), mode, style)


def format_of(benchmark: Benchmark, mode: Mode, style: Style) -> Format:
    """How a problem is written in a mode and style.

    In the chat template the answer is boxed, as the paper's instruction wants it, unless the benchmark has its own.
    """
    form = benchmark.formats[mode]
    if style == "few_shot":
        return form
    own = benchmark.instructions.get(mode)
    return dataclasses.replace(
        form,
        problem="User: {}\n\nAssistant:",
        answer=form.answer if own else BOXED[benchmark.language],
        stops=("\nUser:",),
        letters=form.letters if own else "{}",
        lead=" ",
        separator="\n\n",
        heading="",
        instruction=own or questions.INSTRUCTIONS[mode, benchmark.language],
    )


def asked(form: Format, record: Record) -> str:
    """A record's question with its options and what is asked of the model."""
    fields = {"question": record.question, "solution": record.solution, "answer": record.answer}
    text = form.question.format(**fields)
    if record.options:
        each = form.choices.each if lettered(record) or not form.choices.dashed else form.choices.dashed
        lines = (each.format(letter=chr(ord("A") + place), text=each_) for place, each_ in enumerate(record.options))
        text += form.choices.before + form.choices.between.join(lines)
    return f"{text.strip()}\n{form.instruction}" if form.instruction else text


def worked(benchmark: Benchmark, example: Exemplar, mode: Mode, style: Style) -> str:
    """A solution in full, as it follows a problem and `Format.lead`."""
    form, record = format_of(benchmark, mode, style), example.record
    if benchmark.kind == "program":
        return record.solution
    if mode == "pot" or benchmark.kind == "theory":
        return example.program
    answer = form.letters.format(record.answer) if record.kind in ("choice", "choices") else record.answer
    sentence = form.answer.format(DOLLAR.sub("", answer) if "$" in form.answer else answer)
    if mode == "tir":
        return f"```python\n{example.program}\nprint(solution())\n```\n```output\n{example.output}\n```\n{sentence}"
    return record.solution if record.solution.endswith(sentence) else f"{record.solution}\n{sentence}".lstrip("\n")
