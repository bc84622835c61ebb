"""Rule-based reward functions, run in worker processes with time limits."""

import collections
import difflib
import logging
import math
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from jaxtyping import Float

from dsmath_jax import user_code
from dsmath_jax.data.datasets import Record
from dsmath_jax.grading.grade import PRELOAD
from dsmath_jax.grading.workers import START_SECONDS, Outcome, Workers
from dsmath_jax.rl import builtin_rewards
from dsmath_jax.rl.builtin_rewards import BUILT_IN, Overlong
from dsmath_jax.workdir import UserError

T = TypeVar("T")
NEED_ANSWERS = frozenset(("correct", "length"))  # of the records
MAX_IN_FLIGHT = 64  # calls of an asynchronous function at a time in a worker
GROUP_PARAMETER = "completions"  # the name of the first parameter of a function that scores a group
ERRORS = ("raised", "timed_out", "died", "not_finite")
MAX_LOGGED = 3  # errors of each kind; the rest is only counted


class RewardInput(NamedTuple):
    """What reward functions may know of a completion.

    Attributes:
      text: the completion, without EOS.
      record: its problem.
      finished: whether it ended by itself, not at the length limit.
      num_tokens: with EOS.
      answer_text: the text that the final answer is extracted from, where it is not the whole completion.
      environment_reward: of the environment, for a completion in turns.
    """

    text: str
    record: Record
    finished: bool = True
    num_tokens: int = 0
    answer_text: str | None = None
    environment_reward: float | None = None


class RuleRewards(NamedTuple):
    """The rewards of completions.

    Attributes:
      total: the weighted sum over the functions that did not abstain; NaN where all did or one failed.
      by_function: the values of each function by name, without its weight; NaN where it abstained or failed.
      errors: the number of failed completions by kind of their first error (`ERRORS`).
    """

    total: Float[np.ndarray, " completions"]
    by_function: dict[str, Float[np.ndarray, " completions"]]
    errors: dict[str, int]

    @property
    def means(self) -> dict[str, float]:
        """The mean of each function over the completions that it rewarded, where it rewarded any."""
        finite = {name: values[np.isfinite(values)] for name, values in self.by_function.items()}
        return {name: float(values.mean()) for name, values in finite.items() if values.size}

    def rows(self, rows: np.ndarray) -> "RuleRewards":
        """Returns the rewards of some of the completions; the errors stay those of all."""
        by_function = {name: values[rows] for name, values in self.by_function.items()}
        return RuleRewards(self.total[rows], by_function, self.errors)

    def to_json(self) -> tuple[list[float], dict[str, list[float]], dict[str, int]]:
        """Returns the fields as JSON values."""
        return self.total.tolist(), {name: x.tolist() for name, x in self.by_function.items()}, self.errors


class UserFunction(NamedTuple):
    """How a function of the user's is called.

    Attributes:
      takes_group: whether it scores all completions of a prompt in one call.
      is_async: whether several calls may be in flight in a worker.
    """

    takes_group: bool
    is_async: bool


def join(parts: Sequence[RuleRewards]) -> RuleRewards:
    """Returns the rewards of the completions of all parts, by the same functions, in their order."""
    names, errors = parts[0].by_function, collections.Counter[str]()
    for part in parts:
        errors.update(part.errors)
    by_function = {name: np.concatenate([part.by_function[name] for part in parts]) for name in names}
    return RuleRewards(np.concatenate([part.total for part in parts]), by_function, dict(errors))


class RewardFunctions:
    """The weighted sum of reward functions, as a context manager.

    A reward function is one of `BUILT_IN` (docs/rl.md) or the user's own "package.module:function". It takes
    `(completion: str, record: Record)` and returns a number, or None to abstain. If its first parameter is named
    `completions`, it takes the list of all completions of a prompt and returns a list. It may be an `async def`. If a
    call raises, hangs or crashes, its completions have no reward, and the run continues.
    """

    def __init__(
        self, reward_fns: Sequence[tuple[str, float]], seconds: float, workers: int, overlong: Overlong | None = None
    ):
        """
        Args:
          reward_fns: (name, weight) pairs.
          seconds: time limit of a call of a function.
          workers: grading processes; 0 for one per processor.
          overlong: the parameters of "soft_overlong", if it is among the functions.

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
        self._weights = dict(reward_fns)
        self._users = user_functions([name for name in self._weights if name not in BUILT_IN])
        self._count, self._seconds, self._overlong = workers, seconds, overlong
        self._workers: Workers | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rewards")
        self._logged: collections.Counter[str] = collections.Counter()

    def score(self, inputs: Sequence[RewardInput], group_size: int = 1) -> RuleRewards:
        """Computes the rewards of completions, each `group_size` of which are of one prompt."""
        self._started([each.record for each in inputs])
        graded = self._grade(inputs) if NEED_ANSWERS & self._weights.keys() else []
        total, by_function = np.zeros(len(inputs)), dict[str, np.ndarray]()
        errors: dict[int, tuple[str, str]] = {}
        for name, weight in self._weights.items():
            outcomes, values = self._outcomes(name, inputs, group_size, graded), np.full(len(inputs), np.nan)
            if outcomes and all(outcome.status == "ok" and outcome.value is None for outcome in outcomes):
                self._log_abstention(name, len(outcomes))
            for i, outcome in enumerate(outcomes):
                error = _error(outcome)
                if error is not None:
                    errors.setdefault(i, (error, f"{name} {_message(outcome)}"))
                elif outcome.value is not None:
                    values[i] = outcome.value
                    total[i] += weight * outcome.value
            by_function[name] = values
        for i, reward in enumerate(total):
            if not math.isfinite(reward):
                errors.setdefault(i, ("not_finite", f"the weighted sum is {reward}"))
        total[np.isnan(list(by_function.values())).all(axis=0)] = np.nan
        total[list(errors)] = np.nan
        # A failed call for a group is an error of several completions, and logged once.
        for record_id, error, message in dict.fromkeys((inputs[i].record.id, *errors[i]) for i in sorted(errors)):
            self._log(record_id, error, message)
        counts = collections.Counter(error for error, _ in errors.values())
        return RuleRewards(total, by_function, {error: counts[error] for error in ERRORS})

    def submit(self, inputs: Sequence[RewardInput], group_size: int) -> Future[RuleRewards]:
        """Begins to compute the rewards of `score`, in a thread that uses no devices."""
        return self._thread.submit(self.score, inputs, group_size)

    def score_steps(
        self, name: str, steps: Sequence[Sequence[str]], records: Sequence[Record]
    ) -> list[Float[np.ndarray, " steps"]]:
        """Computes the rewards of steps by the user's function `(record, steps) -> rewards`.

        Args:
          name: of the function, package.module:function.
          steps: the texts of each completion's steps.
          records: the problem of each completion.

        Returns:
          the rewards of each completion's steps; NaN where the call failed or returned anything but one number each.
        """
        outcomes = self._started(records).map(name, list(zip(records, map(list, steps), strict=True)))
        found = []
        for record, texts, outcome in zip(records, steps, outcomes, strict=True):
            values = outcome.value if outcome.status == "ok" and isinstance(outcome.value, list | tuple) else ()
            valid = all(value is not None and _error(Outcome("ok", value)) is None for value in values)
            if not valid or len(values) != len(texts):
                self._log(record.id, _error(outcome) or "not_finite", f"{name} {_message(outcome)}")
                values = [math.nan] * len(texts)
            found.append(np.array(values, np.float64))
        return found

    def are_correct(self, inputs: Sequence[RewardInput]) -> list[bool]:
        """Returns whether each completion is correct, as "correct" decides; a failure is not."""
        self._started([each.record for each in inputs])
        return [outcome.status == "ok" and outcome.value == 1 for outcome in self._grade(inputs)]

    def _started(self, records: Sequence[Record]) -> Workers:
        if self._workers is None:
            # Computer algebra takes seconds to import, outside the time limit; numbers do not need it.
            preload = PRELOAD if any(record.kind == "math" for record in records) else ()
            self._workers = Workers(self._count, self._seconds, preload=preload)
        return self._workers

    def _outcomes(
        self, name: str, inputs: Sequence[RewardInput], group_size: int, graded: list[Outcome]
    ) -> list[Outcome]:
        """Returns the outcomes of a function for each completion; `graded` are those of "correct"."""
        match name:
            case "correct":
                return graded
            case "format":
                items = [(each.text, each.finished) for each in inputs]
                return self._map("dsmath_jax.rl.builtin_rewards:well_formed", items)
            case "think_format":
                return [Outcome("ok", builtin_rewards.think_format(each.text, each.finished)) for each in inputs]
            case "soft_overlong":
                assert self._overlong is not None
                values = [builtin_rewards.soft_overlong(each.num_tokens, self._overlong) for each in inputs]
                return [Outcome("ok", value) for value in values]
            case builtin_rewards.ENVIRONMENT:
                return [Outcome("ok", each.environment_reward) for each in inputs]
            case "length":
                return [
                    outcome if outcome.status != "ok" else Outcome("ok", value)
                    for group in _groups(list(zip(inputs, graded, strict=True)), group_size)
                    for (_, outcome), value in zip(group, _lengths(group), strict=True)
                ]
            case _:
                return self._user_outcomes(name, inputs, group_size)

    def _grade(self, inputs: Sequence[RewardInput]) -> list[Outcome]:
        items = [
            (
                each.text if each.answer_text is None else each.answer_text,
                each.record.answer, each.record.kind, each.record.options,
            )
            for each in inputs
        ]  # fmt: skip
        return self._map("dsmath_jax.grading.grade:is_correct", items)

    def _user_outcomes(self, name: str, inputs: Sequence[RewardInput], group_size: int) -> list[Outcome]:
        function = self._users[name]
        in_flight = MAX_IN_FLIGHT if function.is_async else 1
        if not function.takes_group:
            return self._map(name, [(each.text, each.record) for each in inputs], in_flight)
        groups = _groups(inputs, group_size)
        outcomes = self._map(name, [([each.text for each in group], group[0].record) for group in groups], in_flight)
        return [each for outcome in outcomes for each in _split(outcome, group_size)]

    def _map(self, name: str, items: Sequence[tuple[Any, ...]], in_flight: int = 1) -> list[Outcome]:
        assert self._workers is not None
        return self._workers.map(name, items, in_flight)

    def _log(self, record_id: str, error: str, message: str) -> None:
        self._logged[error] += 1
        if self._logged[error] <= MAX_LOGGED:
            more = "; further errors of this kind are only counted" if self._logged[error] == MAX_LOGGED else ""
            logging.warning("rl: a completion of %s has no reward: %s%s.", record_id, message, more)

    def _log_abstention(self, function: str, count: int) -> None:
        """Warns once about a function that abstained for a whole rollout: it may lack a return statement."""
        if not self._logged[function]:
            logging.warning("rl: the reward function %s returned None for all %d completions.", function, count)
        self._logged[function] += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._workers is not None:
            self._workers.close()  # ends what the thread waits for, if the run was interrupted
        self._thread.shutdown(cancel_futures=True)


def user_functions(
    names: Sequence[str],
    field: str = "rl.reward_fns",
    takes: str = "(completion, record), or (completions, record) for a group",
) -> dict[str, UserFunction]:
    """Returns how the user's functions are called; they are imported in a worker.

    Args:
      names: of the functions.
      field: the setting that names them, for errors.
      takes: their parameters, for errors.

    Raises:
      UserError: one cannot be used.
    """
    for name in names:
        if ":" not in name:
            near = difflib.get_close_matches(name, BUILT_IN, n=1)
            guess = f", did you mean '{near[0]}'" if near else ""
            raise UserError(
                f"Unknown reward function '{name}' in rl.reward_fns{guess}; known ones are {', '.join(BUILT_IN)}, and "
                "your own as package.module:function."
            )
    if not names:
        return {}
    with Workers(1, START_SECONDS) as workers:
        described = workers.map("dsmath_jax.grading.worker_process:describe_callable", [(name, 2) for name in names])
    found = {}
    for name, outcome in zip(names, described, strict=True):
        if outcome.status != "ok":
            raise UserError(
                f"{field}: '{name}' cannot be used ({outcome.status} {outcome.reason}); name a function that can "
                f"be imported from where the run starts and takes {takes}."
            )
        first_parameter, is_async = outcome.value
        found[name] = UserFunction(first_parameter == GROUP_PARAMETER, is_async)
    return found


def source_files(reward_fns: Sequence[tuple[str, float]]) -> list[Path]:
    """Returns the source files of the user's functions without importing them; relative to the working directory."""
    return user_code.source_files(name for name, _ in reward_fns if name not in BUILT_IN)


def _groups(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _lengths(group: Sequence[tuple[RewardInput, Outcome]]) -> list[float]:
    return builtin_rewards.length(
        [each.num_tokens for each, _ in group], [outcome.value is True for _, outcome in group]
    )


def _split(outcome: Outcome, group_size: int) -> list[Outcome]:
    """Returns the outcome of a call for a group as one for each of its completions."""
    if outcome.status != "ok":
        return [outcome] * group_size
    values = [None] * group_size if outcome.value is None else outcome.value
    if not (isinstance(values, list) and len(values) == group_size):
        got = f"{len(values)} values" if isinstance(values, list) else repr(values)[:100]
        return [Outcome("raised", None, f"returned {got} for a group of {group_size} completions")] * group_size
    return [Outcome("ok", value) for value in values]


def _error(outcome: Outcome) -> str | None:
    if outcome.status != "ok":
        return outcome.status.replace(" ", "_")
    # Compared, not converted to float: works for integers of any size, and is False for NaN.
    most, value = sys.float_info.max, outcome.value
    valid = value is None or (isinstance(value, int | float) and -most <= value <= most)
    return None if valid else "not_finite"


def _message(outcome: Outcome) -> str:
    return f"returned {outcome.value!r}"[:200] if outcome.status == "ok" else f"{outcome.status} ({outcome.reason})"
