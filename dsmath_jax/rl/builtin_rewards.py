"""The built-in reward functions, but for `correct`, which is the grader's (`grading.grade.is_correct`)."""

from collections.abc import Sequence
from typing import NamedTuple

from dsmath_jax.data.thoughts import CLOSE, OPEN, after_thoughts
from dsmath_jax.grading import extraction

OVERLONG_SHARE = 5  # of `max_new_tokens`: DAPO's interval has 4,096 of 20,480 tokens
ENVIRONMENT = "environment"  # the reward that the environment of a dialogue gave
BUILT_IN = ("correct", "format", "think_format", "soft_overlong", "length", ENVIRONMENT)


class Overlong(NamedTuple):
    """The parameters of `soft_overlong`, in tokens: L_max and L_cache of DAPO's Eq. 13."""

    max_new_tokens: int
    cache_tokens: int


def well_formed(completion: str, finished: bool) -> float:
    """Returns 1 if a completion ended by itself and its last nonempty line states the final answer, else 0.

    Thoughts are left out.
    """
    lines = after_thoughts(completion).rstrip().splitlines()
    return float(finished and bool(lines) and extraction.extract_stated(lines[-1], "math") is not None)


def think_format(completion: str, finished: bool) -> float:
    """Returns 1 if a completion ended by itself and is "<think>thought</think>answer", else 0.

    DeepSeek-R1's format reward (arXiv 2501.12948, §2.2.2). Neither part may be blank, and the marks must not repeat.
    """
    before, opened, rest = completion.partition(OPEN)
    thought, closed, answer = rest.partition(CLOSE)
    has_parts = bool(opened and thought.strip() and closed and answer.strip())
    repeats = any(mark in part for mark in (OPEN, CLOSE) for part in (thought, answer))
    return float(finished and has_parts and not repeats and not before.strip())


def soft_overlong(num_tokens: int, overlong: Overlong) -> float:
    """Returns DAPO's soft overlong penalty (arXiv 2503.14476, Eq. 13).

    It is 0 up to L_max - L_cache tokens and falls linearly to -1 at L_max, the length limit.
    """
    return max(-1.0, min(0.0, (overlong.max_new_tokens - overlong.cache_tokens - num_tokens) / overlong.cache_tokens))


def length(num_tokens: Sequence[int], is_correct: Sequence[bool]) -> list[float]:
    """Returns the length rewards of a group's completions (Kimi k1.5, arXiv 2501.12599, §2.3.3).

    They fall linearly from 0.5 for the shortest to -0.5 for the longest; incorrect completions have at most 0. They are
    0 where all are equally long.
    """
    shortest, longest = min(num_tokens), max(num_tokens)
    if shortest == longest:
        return [0.0] * len(num_tokens)
    rewards = [0.5 - (tokens - shortest) / (longest - shortest) for tokens in num_tokens]
    return [reward if correct else min(0.0, reward) for reward, correct in zip(rewards, is_correct, strict=True)]
