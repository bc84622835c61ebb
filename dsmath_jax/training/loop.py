"""One training loop for every stage: restore, step, log, checkpoint."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array
from ml_collections import ConfigDict

from dsmath_jax.progress import track
from dsmath_jax.sharding import global_batch
from dsmath_jax.training import checkpoint
from dsmath_jax.training.metrics import Metrics
from dsmath_jax.training.optimizer import make_schedule
from dsmath_jax.training.step import TrainState
from dsmath_jax.workdir import UserError

HostBatch = dict[str, np.ndarray]


def fit(
    what: str,
    folder: Path,
    config: ConfigDict,
    mesh: Mesh,
    state: TrainState,
    train_step: Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Array]]],
    batch_at: Callable[[int, Any], tuple[HostBatch, dict[str, float]]],
    evaluate: Callable[[Any], dict[str, float]] | None = None,
) -> TrainState:
    """Trains for `config.steps` steps, going on from the newest sound checkpoint below `folder`.

    Args:
      what: the name beside the progress bar.
      folder: gets `checkpoints/`, `metrics.jsonl`, `tensorboard/` and at the end `params/`.
      config: `steps`, `checkpoint_every`, `eval_every` (0: only at both ends) and the optimizer's fields.
      mesh: where batches are put.
      state: the state at step 0; donated.
      train_step: from `make_train_step`.
      batch_at: `(step, params) -> this process's rows, metrics of making them`.
      evaluate: `params -> metrics` on held-out data.

    Raises:
      UserError: a loss that is not finite; the newest checkpoint is from before it.
    """
    checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
    state, first = checkpoints.restore_latest(state)
    schedule = make_schedule(config, config.steps)
    with Metrics(folder, first) as metrics:
        for step in track(range(first, config.steps), what, config.steps, first):
            if evaluate and (step == 0 or (config.eval_every and step % config.eval_every == 0)):
                metrics.write(step, evaluate(state.params))
            batch, extra = batch_at(step, state.params)
            state, scalars = train_step(state, global_batch(batch, mesh))
            values = {name: float(value) for name, value in scalars.items()}
            if not math.isfinite(values["loss"]):
                raise UserError(
                    f"{what}: the loss of step {step} is {values['loss']}; the run stops before it is saved: lower "
                    "peak_lr, or look at the batch of that step."
                )
            metrics.write(step, values | extra | {"lr": float(schedule(step))})
            if (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps:
                checkpoints.save(step + 1, state)
        if evaluate:
            metrics.write(config.steps, evaluate(state.params))
    checkpoint.save(folder / "params", state.params)
    return state
