"""Results of graders: the verdict on two answers, and the grade of a completion."""

from typing import NamedTuple, Self

from dsmath_jax.data.dataset_formats import Kind as Kind


class Verdict(NamedTuple):
    """Whether two answers are equal, and the rule that decided, in a few words."""

    equal: bool
    rule: str

    @classmethod
    def of(cls, equal: bool, what: str) -> Self:
        """Returns the verdict "same WHAT" or "not the same WHAT"."""
        return cls(equal, f"same {what}" if equal else f"not the same {what}")


class Grade(NamedTuple):
    """The grade of a completion.

    Attributes:
      answer: the final answer in the completion; None where there is none.
      correct: whether it equals the gold answer.
      reason: the rule that decided, or why the completion could not be graded.
    """

    answer: str | None
    correct: bool
    reason: str
