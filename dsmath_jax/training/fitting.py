"""What pre-training and SFT share: the next-token objective over packed rows, with a held-out loss."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dsmath_jax.data.batches import Batches
from dsmath_jax.data.packing import batch_of_rows
from dsmath_jax.data.rows import read_rows
from dsmath_jax.models.llama import Llama, initial_params
from dsmath_jax.sharding import Layout
from dsmath_jax.training.flops import model_flops_per_token
from dsmath_jax.training.loop import fit
from dsmath_jax.training.objectives import next_token
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.prefetch import Ahead
from dsmath_jax.training.step import TrainState, TrainStep, abstract_state, init_state, make_train_step, state_of


def held_out_loss(
    config: ConfigDict, model: Llama, layout: Layout, folders: Sequence[Path]
) -> Callable[[Any], dict[str, float]] | None:
    """A function from parameters to the loss (nats a token) of `eval_rows` held-out rows, fewer if there are fewer.

    They are taken evenly from those of all sources; None without rows.
    """
    if not folders or not config.eval_rows:
        return None
    rows = np.concatenate([read_rows(folder, config.sequence_length) for folder in folders])
    most = min(config.eval_rows, len(rows))
    rows = rows[np.arange(most) * len(rows) // most]
    rows = np.concatenate([rows, np.zeros((-most % config.batch_size, *rows.shape[1:]), np.int32)])
    mine, masked = layout.my_rows(config.batch_size), config.get("mask_documents", True)
    batches = [batch_of_rows(part[mine], masked) for part in np.split(rows, len(rows) // config.batch_size)]
    sums = jax.jit(lambda params, batch: next_token(model, params, batch)[0])

    def loss(params: Any) -> dict[str, float]:
        parts = [sums(params, layout.batch(batch)) for batch in batches]
        return {"eval_loss": float(sum(part[0] for part in parts)) / float(sum(part[1] for part in parts))}

    return loss


def next_token_step(config: ConfigDict, model: Llama, layout: Layout, state: TrainState) -> TrainStep:
    """The step of pre-training and SFT by their stage's config; `state` may be abstract."""
    return make_train_step(next_token, model, make_optimizer(config, config.steps), layout, state, config.accumulate)


def abstract_inputs(
    config: ConfigDict, model: Llama, layout: Layout
) -> tuple[TrainState, dict[str, jax.ShapeDtypeStruct]]:
    """Shapes, dtypes and shardings of what that step is called with; nothing is allocated."""
    state = abstract_state(
        lambda: initial_params(model, jax.random.key(0)), make_optimizer(config, config.steps), layout
    )
    example = batch_of_rows(np.zeros((1, 3, config.sequence_length + 1), np.int32))
    return state, layout.abstract_batch(example, config.batch_size)


def fit_next_token(
    what: str,
    folder: Path,
    config: ConfigDict,
    layout: Layout,
    model: Llama,
    batches: Batches,
    held_out: Sequence[Path],
    *,
    make_params: Callable[[], Any] | None = None,
    params: Any = None,
) -> TrainState:
    """Trains `model` on packed rows from what `make_params` makes or, without it, from `params`."""
    optimizer = make_optimizer(config, config.steps)
    state = (
        init_state(make_params, optimizer, layout) if make_params is not None else state_of(params, optimizer, layout)
    )
    step = next_token_step(config, model, layout, state)
    return fit(
        what, folder, config, layout, state, step, Ahead(batches, config.steps),
        held_out_loss(config, model, layout, held_out), batches.records,
        model_flops_per_token(model.config, config.sequence_length), perplexity=True,
    )  # fmt: skip
