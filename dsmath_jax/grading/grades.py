"""What graders say: of two answers, and of a completion."""

from typing import NamedTuple

from dsmath_jax.data.dataset_formats import Kind as Kind


class Verdict(NamedTuple):
    """Whether two answers are the same, and the rule that decided, in a few words."""

    equal: bool
    rule: str


class Grade(NamedTuple):
    """What became of a completion.

    Attributes:
      answer: the final answer as the completion has it; None where it has none.
      correct: whether that is the gold answer.
      reason: the rule that decided, or why nothing could be.
    """

    answer: str | None
    correct: bool
    reason: str
