"""Next-token training on packed rows with a held-out loss, for pre-training and SFT."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dsmath_jax.data.batches import Batches
from dsmath_jax.data.packing import batch_of_rows
from dsmath_jax.data.rows import read_rows
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.models.lora import Frozen, frozen_dtypes, initial_adapters
from dsmath_jax.sharding import Layout
from dsmath_jax.training import checkpoint
from dsmath_jax.training.flops import model_flops_per_token
from dsmath_jax.training.loop import TrainLoop
from dsmath_jax.training.model_files import abstract_params
from dsmath_jax.training.objectives import next_token
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.prefetch import Prefetch
from dsmath_jax.training.settings import PackedSettings, SFTSettings
from dsmath_jax.training.step import ALL_TRAINED, TrainState, TrainStep, abstract_state, make_train_step

_next_token = jax.jit(next_token, static_argnums=0)


def train_next_token(  # noqa: PLR0913
    folder: Path,
    settings: PackedSettings,
    layout: Layout,
    model: Decoder,
    state: TrainState,
    batches: Batches,
    held_out: Sequence[Path],
    frozen: Frozen = ALL_TRAINED,
) -> None:
    """Trains `model` on packed rows, and writes `folder/params`.

    Args:
      folder: of the stage.
      settings: of the stage.
      layout: of the state and the batches.
      model: the decoder.
      state: the state at step 0; donated.
      batches: returns this process's rows of a step.
      held_out: folders of held-out rows.
      frozen: the parameters that are not in the state.
    """
    train_step = next_token_step(settings, model, layout, state, frozen)
    evaluate = held_out_loss(settings, model, layout, held_out)
    batch_at = Prefetch(batches, settings.steps)
    num_adapters = 0 if frozen.params is None else sum(leaf.size for leaf in jax.tree.leaves(state.params))
    loop = TrainLoop(
        folder, settings, layout, state, records_at=batches.records,
        flops_per_token=model_flops_per_token(model.config, settings.sequence_length, num_adapters), perplexity=True,
    )  # fmt: skip
    with loop:
        for step in loop.steps():
            if evaluate and loop.eval_due(step):
                loop.log(step, evaluate(frozen.combine(loop.state.params)))
            loop.update(train_step, batch_at(step))
        if evaluate:
            loop.log(settings.steps, evaluate(frozen.combine(loop.state.params)))
    checkpoint.save(folder / "params", loop.state.params)


def next_token_step(
    settings: PackedSettings, model: Decoder, layout: Layout, state: TrainState, frozen: Frozen = ALL_TRAINED
) -> TrainStep:
    """Returns the train step of pre-training and SFT; `state` and `frozen` may be abstract."""
    optimizer = make_optimizer(settings)
    return make_train_step(next_token, model, optimizer, layout, state, settings.grad_accum_steps, frozen)


def held_out_loss(
    settings: PackedSettings, model: Decoder, layout: Layout, folders: Sequence[Path]
) -> Callable[[Any], dict[str, float]] | None:
    """Returns a function from parameters to the held-out loss (nats per token), None without held-out rows.

    It evaluates up to `eval_rows` rows, evenly spaced over those of all sources.
    """
    if not folders or not settings.eval_rows:
        return None
    rows = np.concatenate([read_rows(folder, settings.sequence_length) for folder in folders])
    count = min(settings.eval_rows, len(rows))
    rows = rows[np.arange(count) * len(rows) // count]
    rows = np.concatenate([rows, np.zeros((-count % settings.batch_size, *rows.shape[1:]), np.int32)])
    my_rows = layout.my_rows(settings.batch_size)
    parts = np.split(rows, len(rows) // settings.batch_size)
    batches = [batch_of_rows(part[my_rows], settings.mask_documents) for part in parts]

    def loss(params: Any) -> dict[str, float]:
        parts = [_next_token(model, params, layout.put_batch(batch))[0] for batch in batches]
        return {"eval_loss": float(sum(part[0] for part in parts)) / float(sum(part[1] for part in parts))}

    return loss


def abstract_inputs(
    settings: PackedSettings, model: Decoder, layout: Layout
) -> tuple[TrainState, dict[str, jax.ShapeDtypeStruct]]:
    """Returns shapes, dtypes and shardings of the inputs of `next_token_step`; nothing is allocated."""
    make = lambda: initial_params(model, jax.random.key(0))  # noqa: E731
    if isinstance(settings, SFTSettings) and (lora := settings.lora):
        shapes = abstract_params(model.config, layout)
        make = lambda: initial_adapters(shapes, lora.targets, lora.rank, jax.random.key(0))  # noqa: E731
    state = abstract_state(make, make_optimizer(settings), layout)
    example = batch_of_rows(np.zeros((1, 3, settings.sequence_length + 1), np.int32))
    return state, layout.abstract_batch(example, settings.batch_size)


def abstract_frozen(settings: PackedSettings, model: Decoder, layout: Layout) -> Frozen:
    """Returns the abstract parameters that are not in the state: with LoRA those of the whole decoder."""
    if not isinstance(settings, SFTSettings) or settings.lora is None:
        return ALL_TRAINED
    params = frozen_dtypes(abstract_params(model.config, layout), model.config.compute_dtype)
    return Frozen(params, settings.lora.scale)
