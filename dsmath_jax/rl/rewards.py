"""Reward functions: the reward of a completion by fixed rules, run where a bad function can do no harm."""

import collections
import difflib
import inspect
import logging
import math
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float

from dsmath_jax.data.datasets import Record
from dsmath_jax.grading import extraction
from dsmath_jax.grading.grade import PRELOAD
from dsmath_jax.grading.workers import STARTING, Outcome, Workers, resolve
from dsmath_jax.workdir import UserError

ERRORS = ("raised", "timed_out", "died", "not_finite")
SHOWN = 3  # errors of each kind that are logged; the others are only counted


class RewardFunction(NamedTuple):
    """A function of grading workers, and its arguments for a completion: (text, record, finished) -> arguments."""

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
    """The weighted sum of reward functions, for use as a context manager.

    A reward function is "correct" (1 where the stated final answer is the record's), "format" (1 where the completion
    is `well_formed`) or "package.module:function", the user's own, which takes `(completion: str, record: Record)` and
    returns a number, or None to abstain. It may raise, hang or crash: that completion has no reward then, and the run
    continues.
    """

    def __init__(self, reward_fns: Sequence[tuple[str, float]], seconds: float, workers: int):
        """
        Args:
          reward_fns: (name, weight) pairs.
          seconds: wall time that a function may take for a completion.
          workers: processes that grade; 0 for one per processor.

        Raises:
          UserError: there is none, a name is unknown, a function cannot be imported or does not take two arguments, or
            a number is invalid.
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
        """Grades completions.

        Args:
          texts: the completions without their EOS.
          records: the problem of each.
          finished: whether each ended by itself, not at the length limit.

        Returns:
          their rewards in float64: the weighted sum over the functions that did not abstain, NaN where all did or one
          failed; and how many a function failed on, by `ERRORS` (the first that the completion met).
        """
        if self._workers is None:
            # Computer algebra takes seconds to import, which must not count as grading, and numbers do without it.
            preload = PRELOAD if any(record.kind == "math" for record in records) else ()
            self._workers = Workers(self._count, self._seconds, preload=preload)
        rewards, abstained = np.zeros(len(texts)), np.ones(len(texts), bool)
        errors: dict[int, tuple[str, str]] = {}
        for function, weight in self._functions:
            items = [function.arguments(*one) for one in zip(texts, records, finished, strict=True)]
            outcomes = list(self._workers.map(function.name, items))
            if outcomes and all(outcome.status == "ok" and outcome.value is None for outcome in outcomes):
                self._log_abstention(function.name, len(outcomes))
            for place, outcome in enumerate(outcomes):
                error = _error(outcome)
                if error is not None:
                    errors.setdefault(place, (error, f"{function.name} {_message(outcome)}"))
                elif outcome.value is not None:
                    rewards[place] += weight * outcome.value
                    abstained[place] = False
        for place, reward in enumerate(rewards):
            if not math.isfinite(reward):
                errors.setdefault(place, ("not_finite", f"the weighted sum is {reward}"))
        for place, (error, message) in sorted(errors.items()):
            rewards[place] = np.nan
            self._log(records[place], error, message)
        rewards[abstained] = np.nan
        counts = collections.Counter(error for error, _ in errors.values())
        return rewards, {error: counts[error] for error in ERRORS}

    def _log(self, record: Record, error: str, message: str) -> None:
        self._logged[error] += 1
        if self._logged[error] <= SHOWN:
            more = "; further errors of this kind are only counted" if self._logged[error] == SHOWN else ""
            logging.warning("rl: a completion of %s has no reward: %s%s.", record.id, message, more)

    def _log_abstention(self, function: str, count: int) -> None:
        """Says once of a function that it had nothing to say of a whole rollout: it may lack a return."""
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
    """The built-in function of that name, or the user's function, tried in a worker.

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
    with Workers(1, STARTING) as workers:
        (outcome,) = workers.map("dsmath_jax.rl.rewards:check", [(name,)])
    if outcome.status != "ok":
        raise UserError(
            f"rl.reward_fns: '{name}' cannot be used ({outcome.status} {outcome.reason}); name a function that can be "
            "imported from where the run starts and takes (completion, record)."
        )
    return RewardFunction(name, lambda text, record, finished: (text, record))


def source_files(reward_fns: Sequence[tuple[str, float]]) -> list[Path]:
    """The files that the user's own functions are in, found without importing anything; those below here relative."""
    modules = [name.partition(":")[0] for name, _ in reward_fns if name not in BUILT_IN]
    found = [file.resolve() for file in map(_source_file, modules) if file]
    here = Path.cwd()
    return [file.relative_to(here) if file.is_relative_to(here) else file for file in found]


def _source_file(module: str) -> Path | None:
    """The file of a module as it would be imported here; None where there is none."""
    path: Sequence[str] | None = None
    *packages, last = module.split(".")
    for package in packages:
        spec = PathFinder.find_spec(package, path)
        path = spec.submodule_search_locations if spec else None
        if path is None:
            return None
    spec = PathFinder.find_spec(last, path)
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def check(name: str) -> None:
    """Raises where "package.module:function" is no function that can be called with two arguments."""
    function = resolve(name)
    try:
        signature = inspect.signature(function)
    except ValueError:  # some that are written in C have none
        return
    signature.bind("", None)


def well_formed(completion: str, finished: bool) -> float:
    """1 where a completion ended by itself, and its last line that is not empty states the final answer; else 0."""
    lines = completion.rstrip().splitlines()
    return float(finished and bool(lines) and extraction.stated(lines[-1], "math") is not None)


def _error(outcome: Outcome) -> str | None:
    if outcome.status != "ok":
        return outcome.status.replace(" ", "_")
    # Compared, not converted: an integer of any size is fine with that, and NaN is not between.
    most, value = sys.float_info.max, outcome.value
    fine = value is None or (isinstance(value, int | float) and -most <= value <= most)
    return None if fine else "not_finite"


def _message(outcome: Outcome) -> str:
    return f"returned {outcome.value!r}"[:200] if outcome.status == "ok" else f"{outcome.status} ({outcome.reason})"
