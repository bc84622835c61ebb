"""Grades of completions, in worker processes."""

from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

from dsmath_jax.grading import equivalence, extraction
from dsmath_jax.grading.grades import Grade, Kind
from dsmath_jax.grading.workers import Outcome, Workers

NO_ANSWER = "no answer"
HERE = "dsmath_jax.grading.grade"
LENIENT = "dsmath_jax.grading.deepseek:correct"
# What takes long to import: once for all workers.
PRELOAD = ("dsmath_jax.grading.equivalence.symbolic", "dsmath_jax.grading.equivalence.forms")


class Item(NamedTuple):
    """A completion to grade.

    Attributes:
      completion: what the model wrote.
      gold: the right answer, as in `Record.answer` or `extraction.gold_of`.
      kind: how both are to be read.
      options: the choices, without their letters.
    """

    completion: str
    gold: str
    kind: Kind
    options: Sequence[str] = ()


def grade(completion: str, gold: str, kind: Kind, options: Sequence[str] = ()) -> list:
    """Grades one completion; runs in a worker.

    Returns:
      the fields of a `Grade`, which JSON can hold.
    """
    answer = extraction.extract(completion, kind, options)
    if answer is None:
        return [None, False, NO_ANSWER]
    verdict = equivalence.equal(gold, answer, kind, options)
    return [answer, verdict.equal, verdict.rule]


def right(completion: str, gold: str, kind: Kind, options: Sequence[str] = ()) -> bool:
    """Whether a completion states the right answer: what training rewards; runs in a worker.

    An answer that is only implied counts when a model is measured, but is nothing to be encouraged.
    """
    answer = extraction.stated(completion, kind, options)
    return answer is not None and equivalence.equal(gold, answer, kind, options).equal


def classes(answers: Sequence[str | None], kind: Kind, options: Sequence[str] = ()) -> list[int | None]:
    """`equivalence.classes`; runs in a worker."""
    return equivalence.classes(answers, kind, options)


class Grader:
    """Grades completions in worker processes, which start when first needed and serve all calls.

    Whatever hangs, crashes or eats memory costs its own worker and grade, and the reason is told.
    """

    def __init__(self, workers: int = 0, seconds: float = 5.0):
        """
        Args:
          workers: processes; 0 for one per processor.
          seconds: wall time that one completion, or one group of answers, may take.
        """
        self._workers = Workers(workers, seconds, preload=PRELOAD)

    def grades(self, items: Sequence[Item]) -> list[Grade]:
        """The grades of completions, in their order."""
        outcomes = self._workers.map(f"{HERE}:grade", items)
        lost = [place for place, outcome in enumerate(outcomes) if outcome.how != "ok"]
        asked = [(items[place].completion, items[place].kind, items[place].options) for place in lost]
        answers = dict(zip(lost, self._workers.map("dsmath_jax.grading.extraction:extract", asked), strict=True))
        return [
            Grade(*outcome.value) if outcome.how == "ok" else Grade(answers[place].value, False, _told(outcome))
            for place, outcome in enumerate(outcomes)
        ]

    def lenient(self, items: Sequence[Item]) -> list[bool]:
        """Whether the paper's own evaluation takes the completions for right; what is lost is wrong."""
        return [outcome.value is True for outcome in self._workers.map(LENIENT, items)]

    def classes(self, groups: Sequence[tuple[Sequence[str | None], Kind, Sequence[str]]]) -> list[list[int | None]]:
        """`equivalence.classes` of each group of answers to one question; equal texts where its worker was lost."""
        outcomes = self._workers.map(f"{HERE}:classes", groups)
        return [
            outcome.value if outcome.how == "ok" else _same_texts(answers)
            for outcome, (answers, *_) in zip(outcomes, groups, strict=True)
        ]

    def close(self) -> None:
        self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _told(outcome: Outcome) -> str:
    return f"{outcome.how} {outcome.reason}" if outcome.how == "timed out" else f"{outcome.how}: {outcome.reason}"


def _same_texts(answers: Sequence[str | None]) -> list[int | None]:
    first: dict[str, int] = {}
    return [None if answer is None else first.setdefault(answer, place) for place, answer in enumerate(answers)]
