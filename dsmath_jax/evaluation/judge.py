"""Lines of `samples.jsonl`: completions with their grades."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dsmath_jax.data.datasets import Record
from dsmath_jax.evaluation import isabelle
from dsmath_jax.evaluation.answering import Answer, Group, Job
from dsmath_jax.evaluation.summary import GREEDY
from dsmath_jax.grading import code
from dsmath_jax.grading.code import Runner, Tested
from dsmath_jax.grading.grade import Grader, Item


class Graded(NamedTuple):
    """A completion that is to be graded: sample `number` of the record's."""

    record: Record
    number: int
    answer: Answer


Facts = list[dict[str, Any]]  # what is known of each completion


def lines(groups: Sequence[Group], job: Job, folder: Path, grader: Grader, runner: Runner | None) -> Facts:
    """Grades groups of completions.

    Args:
      groups: of the job's problems.
      job: what they answer.
      folder: of the job's files; theories go to `theories` below it.
      grader: of answers.
      runner: of programs; None where there are none.

    Returns:
      a line for each completion, in order: "id", "sample", "completion", "finish", "answer", "correct",
      "correct_deepseek" (but for programs and theories), "reason"; "ran" and "output" where its program was run;
      "class" for samples: the index of the first sample of the problem with an equal answer.
    """
    flat = [
        Graded(job.records[group.problem], number, answer)
        for group in groups
        for number, answer in zip(group.numbers, group.answers, strict=True)
    ]
    facts = iter(_judged(flat, job, folder, grader, runner))
    found = [[next(facts) for _ in group.answers] for group in groups]
    records = [job.records[group.problem] for group in groups]
    votes = grader.classes(
        [([one["answer"] for one in known], r.kind, r.options) for r, known in zip(records, found, strict=True)]
    )
    return [
        {"id": record.id, "sample": number, "completion": answer.text, "finish": answer.finish}
        | one
        | ({} if number == GREEDY else {"class": vote})
        for record, group, known, classes in zip(records, groups, found, votes, strict=True)
        for number, answer, one, vote in zip(group.numbers, group.answers, known, classes, strict=True)
    ]


def _judged(flat: Sequence[Graded], job: Job, folder: Path, grader: Grader, runner: Runner | None) -> Facts:
    if job.kind == "program":
        assert runner is not None
        tested = [_tested(job, one) for one in flat]
        return [grade._asdict() for grade in code.grade_programs(runner, tested)]
    if job.kind == "theory":
        names = [isabelle.theory_name(one.record.answer, one.number) for one in flat]
        attempts = [
            isabelle.Attempt(name, one.record.answer, one.answer.text) for name, one in zip(names, flat, strict=True)
        ]
        return [grade._asdict() for grade in isabelle.grade_theories(attempts, folder / "theories")]
    if job.settings.mode == "pot":
        assert runner is not None
        return _thoughts(flat, grader, runner)
    return _stated(flat, [one.answer.said for one in flat], grader)


def _tested(job: Job, one: Graded) -> Tested | None:
    """A program with its tests; a completion of HumanEval's continues its question."""
    if job.task.source.startswith("humaneval/"):
        return code.humaneval(one.answer.text, one.record.question, one.record.answer)
    return code.mbpp(one.answer.text, one.record.answer)


def _stated(flat: Sequence[Graded], texts: Sequence[str], grader: Grader) -> Facts:
    """Grades of the answers that texts state, with those of the paper's lenient grader."""
    records = [one.record for one in flat]
    items = [Item(text, r.answer, r.kind, r.options) for r, text in zip(records, texts, strict=True)]
    grades, lenient = grader.grades(items), grader.lenient(items)
    return [grade._asdict() | {"correct_deepseek": right} for grade, right in zip(grades, lenient, strict=True)]


def _thoughts(flat: Sequence[Graded], grader: Grader, runner: Runner) -> Facts:
    """Runs the programs of thought; grades what they answer."""
    ran = code.run_thoughts(runner, [one.answer.said for one in flat])
    facts = _stated(flat, [code.statement(one) if one else "" for one in ran], grader)
    for fact, one in zip(facts, ran, strict=True):
        if one is None:
            fact["reason"] = "no program"
        else:
            fact |= {"ran": one.status, "output": one.output}
            if not code.ended_well(one):
                fact["reason"] = code.last_line(one.error) if one.status == "raised" else one.status
    return facts
