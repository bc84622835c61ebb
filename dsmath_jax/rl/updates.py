"""Optimizer steps on packed batches."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optax

from dsmath_jax.models.decoder import Decoder
from dsmath_jax.models.lora import Frozen
from dsmath_jax.rl.batches import RowShapes
from dsmath_jax.training.loop import TrainLoop
from dsmath_jax.training.objectives import Objective
from dsmath_jax.training.prefetch import HostBatch
from dsmath_jax.training.step import make_train_step


class PackedUpdate(NamedTuple):
    """The optimizer step of a stage on packed batches, whose number of rows and of micro-batches varies.

    Attributes:
      objective, model, optimizer, frozen: see `make_train_step`.
      shapes: of the batches.
    """

    objective: Objective
    model: Decoder
    optimizer: optax.GradientTransformation
    frozen: Frozen
    shapes: RowShapes

    def __call__(
        self, loop: TrainLoop, batch: HostBatch, metrics: Mapping[str, float],
        samples: Sequence[Mapping[str, Any]] = (),
    ) -> None:  # fmt: skip
        """Takes a step of the loop.

        Args:
          loop: has the state.
          batch: of all processes.
          metrics: of the batch, logged with the step's own and `frac_padding`.
          samples: of the batch, logged as a table.
        """
        layout, parts = self.shapes.layout, self.shapes.num_micro_batches(len(batch["tokens"]))
        step = make_train_step(self.objective, self.model, self.optimizer, layout, loop.state, parts, self.frozen)
        padding = {"frac_padding": float(np.mean(batch["segment_ids"] == 0))}
        loop.update(step, layout.take_my_rows(batch), {**metrics, **padding}, samples)
