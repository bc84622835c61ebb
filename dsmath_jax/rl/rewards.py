"""Rule-based reward functions, run in worker processes with time limits."""

import collections
import difflib
import logging
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float

from dsmath_jax import user_code
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.thoughts import after_thoughts
from dsmath_jax.grading import extraction
from dsmath_jax.grading.grade import PRELOAD
from dsmath_jax.grading.workers import START_SECONDS, Outcome, Workers
from dsmath_jax.workdir import UserError

ERRORS = ("raised", "timed_out", "died", "not_finite")
MAX_LOGGED = 3  # errors of each kind; the rest is only counted


class RewardFunction(NamedTuple):
    """A function for grading workers, and its arguments for a completion: (text, record, finished) -> arguments."""

    name: str  # package.module:function
    arguments: Callable[[str, Record, bool], tuple[Any, ...]]


BUILT_IN = {
    "correct": RewardFunction(
        "dsmath_jax.grading.grade:is_correct",
        lambda text, record, finished: (text, record.answer, record.kind, record.options),
    ),
    "format": RewardFunction("dsmath_jax.rl.rewards:well_formed", lambda text, record, finished: (text, finished)),
}


class RewardFunctions:
    """The weighted sum of reward functions, as a context manager.

    A reward function is "correct" (1 if the stated final answer is the record's), "format" (1 if the completion is
    `well_formed`) or the user's own "package.module:function", which takes `(completion: str, record: Record)` and
    returns a number, or None to abstain. If it raises, hangs or crashes, the completion has no reward, and the run
    continues.
    """

    def __init__(self, reward_fns: Sequence[tuple[str, float]], seconds: float, workers: int):
        """
        Args:
          reward_fns: (name, weight) pairs.
          seconds: time limit of a function on one completion.
          workers: grading processes; 0 for one per processor.

        Raises:
          UserError: `reward_fns` is empty, a name is unknown, a function cannot be imported or does not take two
            arguments, or a number is invalid.
        """
        if not reward_fns:
            raise UserError("rl.reward_fns is empty; give a name and its weight, such as (('correct', 1.0),).")
        for name, weight in reward_fns:
            if not (isinstance(weight, int | float) and math.isfinite(weight)):
                raise UserError(f"rl.reward_fns: the weight of '{name}' is {weight!r}; give a finite number.")
        if not seconds > 0:
            raise UserError(f"rl.reward_seconds is {seconds}; give a positive number of seconds.")
        if workers < 0:
            raise UserError(f"rl.reward_workers is {workers}; give 0 for one per processor, or their number.")
        self._functions = [(reward_function(name), weight) for name, weight in reward_fns]
        self._count, self._seconds = workers, seconds
        self._workers: Workers | None = None
        self._logged: collections.Counter[str] = collections.Counter()

    def score(
        self, texts: Sequence[str], records: Sequence[Record], finished: Sequence[bool]
    ) -> tuple[Float[np.ndarray, " completions"], dict[str, int]]:
        """Computes the rewards of completions.

        Args:
          texts: the completions without EOS.
          records: the problem of each.
          finished: whether each ended by itself, not at the length limit.

        Returns:
          the rewards in float64: the weighted sum over the functions that did not abstain, NaN where all did or one
          failed; and the number of failed completions by kind of their first error (`ERRORS`).
        """
        if self._workers is None:
            # Computer algebra takes seconds to import, outside the time limit; numbers do not need it.
            preload = PRELOAD if any(record.kind == "math" for record in records) else ()
            self._workers = Workers(self._count, self._seconds, preload=preload)
        rewards, abstained = np.zeros(len(texts)), np.ones(len(texts), bool)
        errors: dict[int, tuple[str, str]] = {}
        for function, weight in self._functions:
            items = [function.arguments(*args) for args in zip(texts, records, finished, strict=True)]
            outcomes = list(self._workers.map(function.name, items))
            if outcomes and all(outcome.status == "ok" and outcome.value is None for outcome in outcomes):
                self._log_abstention(function.name, len(outcomes))
            for i, outcome in enumerate(outcomes):
                error = _error(outcome)
                if error is not None:
                    errors.setdefault(i, (error, f"{function.name} {_message(outcome)}"))
                elif outcome.value is not None:
                    rewards[i] += weight * outcome.value
                    abstained[i] = False
        for i, reward in enumerate(rewards):
            if not math.isfinite(reward):
                errors.setdefault(i, ("not_finite", f"the weighted sum is {reward}"))
        for i, (error, message) in sorted(errors.items()):
            rewards[i] = np.nan
            self._log(records[i], error, message)
        rewards[abstained] = np.nan
        counts = collections.Counter(error for error, _ in errors.values())
        return rewards, {error: counts[error] for error in ERRORS}

    def _log(self, record: Record, error: str, message: str) -> None:
        self._logged[error] += 1
        if self._logged[error] <= MAX_LOGGED:
            more = "; further errors of this kind are only counted" if self._logged[error] == MAX_LOGGED else ""
            logging.warning("rl: a completion of %s has no reward: %s%s.", record.id, message, more)

    def _log_abstention(self, function: str, count: int) -> None:
        """Warns once about a function that abstained for a whole rollout: it may lack a return statement."""
        if not self._logged[function]:
            logging.warning("rl: the reward function %s returned None for all %d completions.", function, count)
        self._logged[function] += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._workers is not None:
            self._workers.close()


def reward_function(name: str) -> RewardFunction:
    """Returns the built-in function of that name, or the user's function, tested in a worker.

    Raises:
      UserError: it is neither.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if ":" not in name:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        guess = f", did you mean '{near[0]}'" if near else ""
        raise UserError(
            f"Unknown reward function '{name}' in rl.reward_fns{guess}; known ones are {', '.join(BUILT_IN)}, and your "
            "own as package.module:function."
        )
    with Workers(1, START_SECONDS) as workers:
        (outcome,) = workers.map("dsmath_jax.grading.workers:check_callable", [(name, 2)])
    if outcome.status != "ok":
        raise UserError(
            f"rl.reward_fns: '{name}' cannot be used ({outcome.status} {outcome.reason}); name a function that can be "
            "imported from where the run starts and takes (completion, record)."
        )
    return RewardFunction(name, lambda text, record, finished: (text, record))


def source_files(reward_fns: Sequence[tuple[str, float]]) -> list[Path]:
    """Returns the source files of the user's functions without importing them; relative to the working directory."""
    return user_code.source_files(name for name, _ in reward_fns if name not in BUILT_IN)


def well_formed(completion: str, finished: bool) -> float:
    """Returns 1 if a completion ended by itself and its last nonempty line states the final answer, else 0.

    Thoughts are left out.
    """
    lines = after_thoughts(completion).rstrip().splitlines()
    return float(finished and bool(lines) and extraction.extract_stated(lines[-1], "math") is not None)


def _error(outcome: Outcome) -> str | None:
    if outcome.status != "ok":
        return outcome.status.replace(" ", "_")
    # Compared, not converted to float: works for integers of any size, and is False for NaN.
    most, value = sys.float_info.max, outcome.value
    valid = value is None or (isinstance(value, int | float) and -most <= value <= most)
    return None if valid else "not_finite"


def _message(outcome: Outcome) -> str:
    return f"returned {outcome.value!r}"[:200] if outcome.status == "ok" else f"{outcome.status} ({outcome.reason})"
