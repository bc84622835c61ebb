"""Grades completions in worker processes."""

from collections.abc import Sequence
from typing import NamedTuple, Self

from dsmath_jax.grading import equivalence, extraction
from dsmath_jax.grading.grades import Grade, Kind
from dsmath_jax.grading.workers import Outcome, Workers

NO_ANSWER = "no answer"
MODULE = "dsmath_jax.grading.grade"
DEEPSEEK = "dsmath_jax.grading.deepseek:correct"
# Slow imports, done once for all workers.
PRELOAD = ("dsmath_jax.grading.equivalence.symbolic", "dsmath_jax.grading.equivalence.forms")


class Item(NamedTuple):
    """A completion to grade.

    Attributes:
      completion: what the model wrote.
      gold: the correct answer, as in `Record.answer` or from `extraction.gold_of`.
      kind: how both are read.
      options: the choices of a multiple-choice question, without letters.
    """

    completion: str
    gold: str
    kind: Kind
    options: Sequence[str] = ()


def grade(completion: str, gold: str, kind: Kind, options: Sequence[str] = ()) -> list:
    """Grades one completion; runs in a worker.

    Returns:
      the fields of a `Grade`, as JSON values.
    """
    answer = extraction.extract(completion, kind, options)
    if answer is None:
        return [None, False, NO_ANSWER]
    verdict = equivalence.equal(gold, answer, kind, options)
    return [answer, verdict.equal, verdict.rule]


def is_correct(completion: str, gold: str, kind: Kind, options: Sequence[str] = ()) -> bool:
    """Returns whether a completion states the correct answer, the reward in training; runs in a worker.

    An answer that is only implied counts in evaluations, but is not rewarded.
    """
    answer = extraction.extract_stated(completion, kind, options)
    return answer is not None and equivalence.equal(gold, answer, kind, options).equal


def classes(answers: Sequence[str | None], kind: Kind, options: Sequence[str] = ()) -> list[int | None]:
    """Calls `equivalence.classes`; runs in a worker."""
    return equivalence.classes(answers, kind, options)


class Grader:
    """Grades completions in worker processes, which start when first needed and serve all calls.

    A completion that makes its worker hang, crash or run out of memory is graded as incorrect, with the reason.
    """

    def __init__(self, workers: int = 0, seconds: float = 5.0):
        """
        Args:
          workers: number of processes; 0 for one per processor.
          seconds: time limit of one completion, or of one group of answers.
        """
        self._workers = Workers(workers, seconds, preload=PRELOAD)

    def grades(self, items: Sequence[Item]) -> list[Grade]:
        """Returns the grades of completions in order."""
        outcomes = self._workers.map(f"{MODULE}:grade", items)
        lost = [index for index, outcome in enumerate(outcomes) if outcome.status != "ok"]
        arguments = [(items[index].completion, items[index].kind, items[index].options) for index in lost]
        answers = dict(zip(lost, self._workers.map("dsmath_jax.grading.extraction:extract", arguments), strict=True))
        return [
            Grade(*outcome.value) if outcome.status == "ok" else Grade(answers[index].value, False, _message(outcome))
            for index, outcome in enumerate(outcomes)
        ]

    def correct_deepseek(self, items: Sequence[Item]) -> list[bool]:
        """Returns whether the paper's evaluation counts each completion as correct; a lost one is incorrect."""
        return [outcome.value is True for outcome in self._workers.map(DEEPSEEK, items)]

    def classes(self, groups: Sequence[tuple[Sequence[str | None], Kind, Sequence[str]]]) -> list[list[int | None]]:
        """Returns `equivalence.classes` of each group of answers to one question; by text where its worker was lost."""
        outcomes = self._workers.map(f"{MODULE}:classes", groups)
        return [
            outcome.value if outcome.status == "ok" else _classes_by_text(answers)
            for outcome, (answers, *_) in zip(outcomes, groups, strict=True)
        ]

    def close(self) -> None:
        """Ends the workers."""
        self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _message(outcome: Outcome) -> str:
    return f"{outcome.status}{'' if outcome.status == 'timed out' else ':'} {outcome.reason}"


def _classes_by_text(answers: Sequence[str | None]) -> list[int | None]:
    first: dict[str, int] = {}
    return [None if answer is None else first.setdefault(answer, index) for index, answer in enumerate(answers)]
