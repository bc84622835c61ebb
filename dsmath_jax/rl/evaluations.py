"""Greedy evaluations during RL: the policy with the best one, in `rl/best/`, and early stopping."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from dsmath_jax.models.decoder import Params
from dsmath_jax.sharding import barrier, broadcast_json
from dsmath_jax.training import checkpoint
from dsmath_jax.training.loop import TrainLoop
from dsmath_jax.workdir import read_json, read_jsonl, remove, write_json

METRIC = "eval_greedy"
BEST, BEST_FILE = "best", "best.json"


class Evaluations:
    """The evaluations of a run: logs them, keeps the best policy, and decides when to stop.

    The best policy is that of the first evaluation with the highest value. All processes decide by the values of
    process 0. A resumed run reads the evaluations before its first step from `metrics.jsonl` and repeats the others.

    Attributes:
      stopped: whether the run ends at the newest evaluation, before its last step.
    """

    def __init__(
        self, folder: Path, measure: Callable[[Params], float], write_config: Callable[[Path], None],
        steps: int, patience: int,
    ):  # fmt: skip
        """
        Args:
          folder: of the stage; it gets `best/`, a folder like that of a stage that trains, and `best/best.json`.
          measure: returns the greedy accuracy by the trained parameters of the policy; called by all processes.
          write_config: writes the policy's config and chat into a folder.
          steps: of the whole run.
          patience: evaluations without a better value after which the run ends; 0 for none.
        """
        self._folder, self._measure, self._write_config, self._patience = folder, measure, write_config, patience
        self._steps, self._step, self._values = steps, 0, list[float]()
        self.stopped = False

    def resume(self, first_step: int) -> None:
        """Reads the evaluations before the step at which the run resumes."""
        values = []
        if jax.process_index() == 0 and first_step:
            rows = read_jsonl(self._folder / "metrics.jsonl")
            values = [row[METRIC] for row in rows if METRIC in row and row["step"] < first_step]
        self._values = broadcast_json(values)

    def add(self, loop: TrainLoop, step: int, policy: Params) -> None:
        """Evaluates the policy before a step, logs the value, and saves the policy if it is the best.

        At the end of the run, `step` is its number of steps.
        """
        value = float(broadcast_json(self._measure(policy)))
        self._values.append(value)
        self._step = step
        self.stopped = step < self._steps and 0 < self._patience <= without_improvement(self._values)
        if self.stopped and jax.process_index() == 0:
            print(
                f"rl: stops before step {step}: none of the last {self._patience} evaluations (rl.patience) is above "
                f"eval_greedy={max(self._values):g}; that policy is in {self._folder / BEST}.", flush=True,
            )  # fmt: skip
        loop.log(step, {METRIC: value} | ({"early_stop": 1.0} if self.stopped else {}))
        best = self._best()
        if not best or value > best[METRIC]:
            self._save(step, value, policy)

    def counts(self) -> dict[str, int]:
        """Returns for the manifest the steps that were taken, and the step of the best policy."""
        best = self._best()
        return {"steps": self._step, "best_step": best["step"]} if best else {}

    def _best(self) -> dict[str, Any]:
        """Returns the contents of `best.json`; the same on all processes."""
        path = self._folder / BEST / BEST_FILE
        best: dict[str, Any] = broadcast_json(read_json(path) if not jax.process_index() and path.is_file() else {})
        return best

    def _save(self, step: int, value: float, policy: Params) -> None:
        """Replaces `best/` as a whole: a kill leaves the earlier one, or temporary folders and the evaluation due."""
        new, old = self._folder / f".{BEST}.new.tmp", self._folder / f".{BEST}.old.tmp"
        checkpoint.save(new / "params", policy)
        self._write_config(new)
        if jax.process_index() == 0:
            write_json(new / BEST_FILE, {"step": step, METRIC: value})
            remove(old)
            if (self._folder / BEST).exists():
                os.replace(self._folder / BEST, old)
            os.replace(new, self._folder / BEST)
            remove(old)
        barrier(f"best policy of step {step}")


def without_improvement(values: list[float]) -> int:
    """Returns how many evaluations came after the first one with the highest value."""
    return len(values) - 1 - values.index(max(values))
