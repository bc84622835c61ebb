"""Grades completions and returns them as lines of `samples.jsonl`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dsmath_jax.data.datasets import Record
from dsmath_jax.data.thoughts import after_thoughts
from dsmath_jax.evaluation import isabelle
from dsmath_jax.evaluation.answering import Answer, Group, Job
from dsmath_jax.evaluation.summary import GREEDY
from dsmath_jax.grading import code
from dsmath_jax.grading.code import Runner, TestedProgram
from dsmath_jax.grading.grade import Grader, Item


class Sample(NamedTuple):
    """A completion to grade: sample `number` of a record."""

    record: Record
    number: int
    answer: Answer


Lines = list[dict[str, Any]]


def grade_groups(groups: Sequence[Group], job: Job, folder: Path, grader: Grader, runner: Runner | None) -> Lines:
    """Grades groups of completions.

    Args:
      groups: completions of the job's problems.
      job: the job.
      folder: the job's folder; theories go to `theories` below it.
      grader: grades answers.
      runner: runs programs; None where there are none.

    Returns:
      a line for each completion, in order: "id", "sample", "completion", "finish", "answer", "correct",
      "correct_deepseek" (not of programs and theories), "reason"; "ran" and "output" where its program was run;
      "class" for samples: the index of the first sample of the problem with an equal answer.
    """
    flat = [
        Sample(job.records[group.problem], number, answer)
        for group in groups
        for number, answer in zip(group.numbers, group.answers, strict=True)
    ]
    graded = iter(_grade(flat, job, folder, grader, runner))
    by_group = [[next(graded) for _ in group.answers] for group in groups]
    records = [job.records[group.problem] for group in groups]
    votes = grader.classes(
        [([line["answer"] for line in lines], r.kind, r.options) for r, lines in zip(records, by_group, strict=True)]
    )
    return [
        {"id": record.id, "sample": number, "completion": answer.text, "finish": answer.finish}
        | line
        | ({} if number == GREEDY else {"class": vote})
        for record, group, lines, classes in zip(records, groups, by_group, votes, strict=True)
        for number, answer, line, vote in zip(group.numbers, group.answers, lines, classes, strict=True)
    ]


def _grade(flat: Sequence[Sample], job: Job, folder: Path, grader: Grader, runner: Runner | None) -> Lines:
    if job.kind == "program":
        assert runner is not None
        tested = [_tested(job, sample) for sample in flat]
        return [grade._asdict() for grade in code.grade_programs(runner, tested)]
    if job.kind == "theory":
        names = [isabelle.theory_name(sample.record.answer, sample.number) for sample in flat]
        attempts = [
            isabelle.Attempt(name, sample.record.answer, after_thoughts(sample.answer.prose))
            for name, sample in zip(names, flat, strict=True)
        ]
        return [grade._asdict() for grade in isabelle.grade_theories(attempts, folder / "theories")]
    if job.settings.mode == "pot":
        assert runner is not None
        return _grade_thoughts(flat, grader, runner)
    return _grade_texts(flat, [sample.answer.prose for sample in flat], grader)


def _tested(job: Job, sample: Sample) -> TestedProgram | None:
    """Returns a program with its tests."""
    if job.task.source.startswith("humaneval/"):
        return code.humaneval(sample.answer.prose, sample.record.question, sample.record.answer)
    return code.mbpp(sample.answer.prose, sample.record.answer)


def _grade_texts(flat: Sequence[Sample], texts: Sequence[str], grader: Grader) -> Lines:
    """Grades texts by their final answers, also by the paper's lenient grader."""
    records = [sample.record for sample in flat]
    items = [Item(text, r.answer, r.kind, r.options) for r, text in zip(records, texts, strict=True)]
    grades, lenient = grader.grades(items), grader.correct_deepseek(items)
    return [grade._asdict() | {"correct_deepseek": correct} for grade, correct in zip(grades, lenient, strict=True)]


def _grade_thoughts(flat: Sequence[Sample], grader: Grader, runner: Runner) -> Lines:
    """Runs programs of thought and grades their answers."""
    results = code.run_programs_of_thought(runner, [sample.answer.prose for sample in flat])
    lines = _grade_texts(flat, [code.statement(result) if result else "" for result in results], grader)
    for line, result in zip(lines, results, strict=True):
        if result is None:
            line["reason"] = "no program"
        else:
            line |= {"ran": result.status, "output": result.output}
            if not code.succeeded(result):
                line["reason"] = code.last_line(result.error) if result.status == "raised" else result.status
    return lines
