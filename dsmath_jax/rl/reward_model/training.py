"""Trains a reward model on labeled rows (paper §4.1.2-4.1.4), at first and between rounds (Algorithm 1)."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from dsmath_jax.rl.batches import RowShapes
from dsmath_jax.rl.reward_model.held_out import held_out_metrics
from dsmath_jax.rl.reward_model.model import OBJECTIVES, RewardModel, scorer
from dsmath_jax.rl.reward_model.rows import (
    NEW,
    OLD,
    Rows,
    batch_of,
    check_labels,
    example_positions,
    examples_of,
    index_of,
    longest_example,
    sample_examples,
)
from dsmath_jax.rl.reward_model.settings import RewardTrainingSettings
from dsmath_jax.rl.updates import PackedUpdate
from dsmath_jax.sharding import Layout, barrier
from dsmath_jax.training import checkpoint
from dsmath_jax.training.loop import TrainLoop
from dsmath_jax.training.lora import trainable
from dsmath_jax.training.model_files import write_config
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.prefetch import Prefetch
from dsmath_jax.training.step import state_from_params
from dsmath_jax.workdir import write_json

ROWS, SUMMARY = "samples.jsonl", "summary.json"


def train(
    folder: Path,
    settings: RewardTrainingSettings,
    start: RewardModel,
    layout: Layout,
    seed: int,
    rows: Sequence[Path],
    old_rows: Sequence[Path] = (),
) -> tuple[RewardModel, dict]:
    """Trains a reward model on the rows that are not held out, and evaluates it on the others.

    With `settings.lora`, the adapters and the whole head are trained, and `params/` has these alone; the caller writes
    `lora.json`. The optimizer and its schedule start from scratch. With old rows, a share `settings.replay` of the
    examples is from those of them that are not held out: floor(n x batch_size x replay) of the first n batches
    together, every old example once per epoch, in an order given by the seed.

    Args:
      folder: gets the loop's files, `params/`, `model.json` and, last, `summary.json`; messages use its name.
      settings: of the stage, or of the training between rounds.
      start: the initial model; its parameters are donated or, with `settings.lora`, frozen.
      layout: of the parameters and the batches.
      seed: of the order of the rows.
      rows: JSONL files of `labels.write_rows`.
      old_rows: files of earlier rounds.

    Returns:
      the trained model and the summary.

    Raises:
      NothingToLearn: the labels of the training or the held-out rows are all correct or all incorrect.
    """
    kind, model = settings.kind, start.model
    with Rows(rows) as new, Rows(old_rows) as old:
        index, old_index = index_of(new), index_of(old)
        train_examples = examples_of(kind, index, ~index.held_out)
        held_out = examples_of(kind, index, index.held_out)
        check_labels(folder.name, kind, index, train_examples, "training")
        check_labels(folder.name, kind, index, held_out, "held-out")
        replayed = examples_of(kind, old_index, ~old_index.held_out)
        share = settings.replay if replayed else 0.0
        longest = max(longest_example(index, train_examples), longest_example(old_index, replayed))
        shapes = RowShapes(longest, settings.batch_size, settings.grad_accum_steps, layout)

        def make_batch(step: int) -> dict[str, np.ndarray]:
            new_positions, old_positions = example_positions(step, settings.batch_size, share)
            batch_examples = [
                [source[number] for number in example]
                for source, examples, stream, positions in (
                    (new, train_examples, NEW, new_positions),
                    (old, replayed, OLD, old_positions),
                )
                for example in sample_examples(examples, seed, stream, positions)
            ]
            return batch_of(batch_examples, shapes)

        write_config(folder, model.config)
        optimizer = make_optimizer(settings)
        decoder = trainable(settings.lora, lambda frozen=False: start.params["model"], model, layout, seed)
        frozen = decoder.frozen
        if frozen.params is not None:
            frozen = frozen._replace(params={"model": frozen.params})
        state = state_from_params({"model": decoder.read(), "reward": start.params["reward"]}, optimizer, layout)
        update = PackedUpdate(OBJECTIVES[kind], model, optimizer, frozen, shapes)
        batch_at = Prefetch(make_batch, settings.steps)
        with TrainLoop(folder, settings, layout, state) as loop:
            for step in loop.steps():
                update(loop, batch_at(step), {})
        checkpoint.save(folder / "params", loop.state.params)
        trained = frozen.combine(loop.state.params)
        to_score = RowShapes(int(index.tokens[index.held_out].max()), settings.batch_size, 1, layout)
        score = functools.partial(scorer(model, to_score), trained)
        summary = held_out_metrics(kind, new, held_out, score, settings.batch_size)
    if jax.process_index() == 0:
        write_json(folder / SUMMARY, summary)
    barrier(f"measured {folder}")
    return RewardModel(model, trained), summary
