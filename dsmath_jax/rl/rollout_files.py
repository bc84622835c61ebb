"""The files of rollouts: their training data, written before it is used, and read for each update."""

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jaxtyping import Bool, Int

from dsmath_jax.rl.batches import Sequences, TokenFields, split, take
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sharding import barrier
from dsmath_jax.training.metrics import StepLog
from dsmath_jax.workdir import UserError, atomic_write, remove

REPLY_SUFFIX = ".replies.jsonl"  # of the files of an environment's replies, until their rollout is written


class TrainingData(NamedTuple):
    """The completions of a rollout or of a minibatch, and what the objective reads of each of their tokens."""

    sequences: Sequences
    fields: TokenFields

    @property
    def has_loss(self) -> Bool[np.ndarray, " C"]:
        """Whether any token of a completion has loss."""
        weights = split(self.fields["loss_weights"], self.sequences.completion_lengths)
        return np.array([each.any() for each in weights], bool)

    def take(self, chosen: Sequence[int] | np.ndarray) -> Self:
        """Returns the chosen completions, in this order."""
        lengths = self.sequences.completion_lengths
        fields = {name: take(values, lengths, chosen) for name, values in self.fields.items()}
        return self._replace(sequences=self.sequences.take(chosen), fields=fields)

    def with_loss(self) -> Self:
        """Returns the completions that have loss; the others change neither the loss nor its gradient."""
        return self.take(np.flatnonzero(self.has_loss))


def minibatch_completions(
    key: Sequence[int], update: int, num_prompts: int, group_size: int, minibatches: int
) -> Int[np.ndarray, " C"]:
    """Returns the completions of an update on a rollout, in order: whole groups, each once in a pass.

    `key` seeds the split: the run's seed and the rollout's number.
    """
    pass_number, part = divmod(update, minibatches)
    order = np.random.default_rng([*key, pass_number]).permutation(num_prompts)
    groups = np.sort(np.split(order, minibatches)[part])
    return (groups[:, None] * group_size + np.arange(group_size)).ravel()


def rollouts_folder(folder: Path) -> Path:
    """Returns the folder of the rollouts of a stage."""
    return folder / "rollouts"


def reply_log(folder: Path, number: int) -> Path:
    """Returns the file of an environment's replies to a batch of prompts, below the stage's folder."""
    return rollouts_folder(folder) / f"{number:08d}{REPLY_SUFFIX}"


class RolloutFiles:
    """The rollouts of a run on disk, as training data, written before they are used.

    A resumed run reads them and grades nothing again, since rewards with time limits are not deterministic. Files that
    no checkpoint needs are removed. Process 0 writes, all processes read.
    """

    def __init__(self, folder: Path, settings: RLSettings, seed: int, first_step: int):
        """`folder` is of the stage; it gets `rollouts/` and, from `first_step` on, `samples.jsonl`."""
        self._folder, self._settings, self._seed = rollouts_folder(folder), settings, seed
        self._samples = StepLog(folder / "samples.jsonl", first_step)
        self._number = self._written = -1  # of the rollouts that were read and written last
        self._data: TrainingData | None = None
        self._log: dict[str, Any] = {}

    def missing(self, number: int, step: int) -> bool:
        """Whether the policy before this step has yet to generate a rollout of the run.

        All processes call it before any writes the file, since all take part in generating.

        Raises:
          UserError: the file is missing, and the policy that generated it is too.
        """
        settings = self._settings
        sampled_at, in_run = settings.sampled_at(number), number * settings.steps_per_rollout < settings.steps
        if not in_run or sampled_at > step or number in (self._number, self._written) or self._path(number).is_file():
            return False
        if sampled_at < step:
            raise UserError(
                f"{self._path(number)} is missing, and so is the policy that generated it; remove "
                f"{self._folder.parent} to redo the stage."
            )
        return True

    def write(
        self, number: int, data: TrainingData, metrics: Mapping[str, float], samples: Sequence[Any],
        asked: Sequence[Any],
    ) -> None:  # fmt: skip
        """Writes a rollout; called by all processes."""
        if jax.process_index() == 0:
            write_rollout(self._path(number), data, {"metrics": metrics, "samples": samples, "asked": asked})
            for path in self._folder.glob(f"*{REPLY_SUFFIX}"):
                remove(path)
        self._written = number
        barrier(f"rollout {number}")

    def read(self, step: int) -> tuple[TrainingData, dict[str, float]]:
        """Returns the data of this step and the metrics of its rollout; the same on every process.

        The data are of the whole rollout, or of a minibatch: as many groups in each, those of a pass in a random order.
        """
        settings = self._settings
        number, update = divmod(step, settings.steps_per_rollout)
        if number != self._number:
            self._data, self._log = read_rollout(self._path(number))
            self._number = number
            self._remove_old(step)
        assert self._data is not None
        for row in self.samples(step):
            self._samples.write({"step": step} | row)
        key = self._seed, number
        chosen = minibatch_completions(
            key, update, settings.prompts_per_step, settings.group_size, settings.minibatches
        )  # fmt: skip
        return self._data.take(chosen), self._log["metrics"]

    def samples(self, step: int) -> list[dict[str, Any]]:
        """Returns the logged samples of the rollout that was read for this step; none after its first update."""
        return [] if step % self._settings.steps_per_rollout else self._log["samples"]

    def asked(self, step: int) -> list[Any]:
        """Returns the questions and pass rates of each batch of prompts (`curriculum.Asked`), as `samples`."""
        return [] if step % self._settings.steps_per_rollout else self._log["asked"]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.npz"

    def _remove_old(self, step: int) -> None:
        """Removes the rollouts before the oldest checkpoint from which the run may resume."""
        settings = self._settings
        oldest = (step - (settings.keep_checkpoints + 1) * settings.checkpoint_every) // settings.steps_per_rollout
        if jax.process_index() == 0:
            for path in self._folder.glob("*.npz"):
                if int(path.stem) < oldest:
                    remove(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._samples.close()


def write_rollout(path: Path, data: TrainingData, log: Mapping[str, Any]) -> None:
    """Writes the training data, and metrics and samples, atomically."""
    with atomic_write(path, "wb") as file:
        arrays: dict[str, Any] = {"facts": np.array(json.dumps(log)), **data.sequences._asdict(), **data.fields}
        np.savez(file, **arrays)  # compressing takes 40 times as long, while the devices wait, and saves half


def read_rollout(path: Path) -> tuple[TrainingData, dict[str, Any]]:
    """Reads the training data, and the metrics and samples, of `write_rollout`.

    Raises:
      UserError: the file is damaged.
    """
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        sequences = Sequences(*(arrays.pop(name) for name in Sequences._fields))
        return TrainingData(sequences, arrays), json.loads(str(arrays.pop("facts")))
    except (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"The rollout {path} cannot be read ({error}); remove it to generate it again.") from None
