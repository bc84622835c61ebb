"""Lines of `samples.jsonl`: completions with their grades."""

from collections.abc import Callable, Sequence
from typing import Any

from dsmath_jax.data.benchmarks import Record
from dsmath_jax.evaluation.answering import Answer, Group, Job
from dsmath_jax.evaluation.summary import GREEDY
from dsmath_jax.grading import code
from dsmath_jax.grading.code import Runner, Tested
from dsmath_jax.grading.grade import Grader, Item

Facts = list[dict[str, Any]]  # what is known of each completion
# The program that tests a completion, by the benchmark that it answers.
TESTED: dict[str, Callable[[str, Record], Tested | None]] = {
    "humaneval": lambda text, record: code.humaneval(text, record.question, record.answer),
    "mbpp": lambda text, record: code.mbpp(text, record.answer),
}


def lines(groups: Sequence[Group], job: Job, grader: Grader, runner: Runner | None) -> Facts:
    """Grades groups of completions.

    Args:
      groups: of the job's problems.
      job: what they answer.
      grader: of answers.
      runner: of programs; None where there are none.

    Returns:
      a line for each completion, in order: "id", "sample", "completion", "finish", "answer", "correct",
      "correct_deepseek" (but for programs and theories), "reason"; "ran" and "output" where its program was run;
      "class" for samples: the index of the first sample of the problem with an equal answer.
    """
    flat = [(job.records[group.problem], answer) for group in groups for answer in group.answers]
    facts = iter(_judged(flat, job, grader, runner))
    found = [[next(facts) for _ in group.answers] for group in groups]
    votes = grader.classes(
        [
            ([one["answer"] for one in known], job.records[group.problem].kind, job.records[group.problem].options)
            for group, known in zip(groups, found, strict=True)
        ]
    )
    return [
        {"id": job.records[group.problem].id, "sample": number, "completion": answer.text, "finish": answer.finish}
        | one
        | ({} if number == GREEDY else {"class": vote})
        for group, known, classes in zip(groups, found, votes, strict=True)
        for number, answer, one, vote in zip(group.numbers, group.answers, known, classes, strict=True)
    ]


def _judged(flat: Sequence[tuple[Record, Answer]], job: Job, grader: Grader, runner: Runner | None) -> Facts:
    if job.benchmark in TESTED:
        assert runner is not None
        tested = [TESTED[job.benchmark](answer.text, record) for record, answer in flat]
        return [grade._asdict() for grade in code.grade_programs(runner, tested)]
    if job.settings.mode == "pot":
        return _thoughts(flat, grader, runner)
    return _stated([(record, answer.said) for record, answer in flat], grader)


def _stated(texts: Sequence[tuple[Record, str]], grader: Grader) -> Facts:
    """Grades of the answers that texts state, with those of the paper's lenient grader."""
    items = [Item(text, record.answer, record.kind, record.options) for record, text in texts]
    grades, lenient = grader.grades(items), grader.lenient(items)
    return [grade._asdict() | {"correct_deepseek": right} for grade, right in zip(grades, lenient, strict=True)]


def _thoughts(flat: Sequence[tuple[Record, Answer]], grader: Grader, runner: Runner | None) -> Facts:
    """Runs the programs of thought; grades what they answer."""
    assert runner is not None
    programs = [code.program_of(answer.said) for _, answer in flat]
    ran = iter(runner.run([code.thought(program) for program in programs if program]))
    results = [next(ran) if program else None for program in programs]
    stated = [(record, code.statement(one) if one else "") for (record, _), one in zip(flat, results, strict=True)]
    known = [{"ran": one.how, "output": one.output, "error": one.error} if one else {} for one in results]
    return [grade | more for grade, more in zip(_stated(stated, grader), known, strict=True)]
