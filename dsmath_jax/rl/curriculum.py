"""The questions of rollouts, in epochs, and the curriculum: which of them by their pass rates (`rl.curriculum`).

A pass rate is the share of a question's completions that are correct. Questions that the policy always or never solves
teach nothing: the rewards of their groups are equal.
"""

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from dsmath_jax.rl.rewards import RuleRewards
from dsmath_jax.rl.rollouts import Prompts, step_indices
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.training.metrics import StepLog
from dsmath_jax.workdir import UserError, read_jsonl

FILE = "pass_rates.jsonl"


class Asked(NamedTuple):
    """A batch of prompts that was sampled: indices of the questions, and their pass rates."""

    questions: list[int]
    pass_rates: list[float | None]


class Questions:
    """The questions of each rollout and of its refills, as a context manager.

    Every epoch asks all questions in a new order. With `rl.curriculum=run`, one whose last pass rate is outside
    [min_pass_rate, max_pass_rate] is left out at its next turn, and asked again at the one after. What a resumed run
    asks follows from `pass_rates.jsonl`, which has the rows of the rollouts that were trained on.
    """

    def __init__(self, folder: Path, settings: RLSettings, seed: int, count: int, first_step: int):
        """
        Args:
          folder: of the stage.
          settings: of the stage.
          seed: of the run.
          count: number of questions.
          first_step: the step that the run starts or resumes at.
        """
        self._settings, self._seed, self._count = settings, seed, count
        self._position, self._left_out = 0, set[int]()
        self._log: StepLog | None = None
        if settings.curriculum == "run":
            self._log = StepLog(folder / FILE, first_step)
            for row in read_jsonl(folder / FILE) if first_step else ():
                if row["step"] < first_step:
                    self._advance(map(Asked._make, row["batches"]))

    def batches(self, number: int) -> Iterator[list[int]]:
        """Yields the questions of rollout `number` and of its refills, as indices."""
        size, batches = self._settings.prompts_per_step, self._settings.algorithm.max_gen_batches
        if self._log is None:
            yield from (step_indices(self._seed, number * batches + k, size, self._count) for k in range(batches))
        else:
            ahead = copy.copy(self)
            ahead._left_out = set(self._left_out)
            yield from (ahead._draw(size) for _ in range(batches))

    def observe(self, step: int, asked: Sequence[Asked]) -> None:
        """Records the pass rates of this step's rollout; `asked` is empty after its first update."""
        if self._log is not None and asked:
            self._log.write({"step": step, "batches": asked})
            self._advance(asked)

    def _advance(self, asked: Iterable[Asked]) -> None:
        for questions, pass_rates in asked:
            self._draw(len(questions))
            for question, rate in zip(questions, pass_rates, strict=True):
                if not in_range(rate, self._settings):
                    self._left_out.add(question)

    def _draw(self, size: int) -> list[int]:
        drawn: list[int] = []
        while len(drawn) < size:
            (question,) = step_indices(self._seed, self._position, 1, self._count)
            self._position += 1
            if question in self._left_out:
                self._left_out.remove(question)
            else:
                drawn.append(question)
        return drawn

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._log is not None:
            self._log.close()


def in_range(rate: float | None, settings: RLSettings) -> bool:
    """Whether a question with this pass rate is asked again; one without a pass rate is."""
    return rate is None or settings.min_pass_rate <= rate <= settings.max_pass_rate


def pass_rates(rewards: RuleRewards, group_size: int) -> list[float | None]:
    """Returns each group's mean of the rewards by `correct` or, without it, of the weighted sum; None for none."""
    groups = rewards.by_function.get("correct", rewards.total).reshape(-1, group_size)
    valid = np.isfinite(groups)
    sums, counts = np.where(valid, groups, 0.0).sum(axis=1), valid.sum(axis=1)
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]


def by_initial_pass_rate(
    prompts: Prompts, sampled: Sequence[Any], rows: Iterable[Mapping[str, Any]], settings: RLSettings
) -> Prompts:
    """Returns the prompts whose questions the initial policy solves as often as `rl.min_pass_rate` and its like say.

    Args:
      prompts: of the run.
      sampled: the records that were sampled; those of the other prompts are left out.
      rows: `samples_of_init.jsonl`, whose field `problem` is an index into `sampled`.
      settings: of the stage.

    Raises:
      UserError: none is left.
    """
    labels: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        labels[row["problem"]].append(row["labels"][-1])
    kept = {id(sampled[i]) for i, each in labels.items() if in_range(float(np.mean(each)), settings)}
    pairs = [pair for pair in zip(prompts.records, prompts.ids, strict=True) if id(pair[0]) in kept]
    low, high = settings.min_pass_rate, settings.max_pass_rate
    if not pairs:
        raise UserError(
            f"rl: no question has a pass rate from {low:g} to {high:g} with the initial policy; change "
            "rl.min_pass_rate and rl.max_pass_rate, or take other questions."
        )
    sets = [[record for record in each if id(record) in kept] for each in prompts.sets]
    return prompts._replace(sets=sets, records=[record for record, _ in pairs], ids=[ids for _, ids in pairs])
