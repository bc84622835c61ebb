"""Training data of the offline methods SFT, RFT and DPO (paper Table 10)."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import Record
from dsmath_jax.rl.batches import RowShapes, Sequences, TokenFields, pack_batch
from dsmath_jax.rl.rollouts import step_indices
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sharding import Layout
from dsmath_jax.training.prefetch import HostBatch
from dsmath_jax.workdir import UserError, read_jsonl

Row = tuple[list[int], list[int]]  # token ids of a prompt and of its completion


def solution_rows(records: Sequence[Record], chat: Chat, limit: int) -> list[Row]:
    """Returns the rows of SFT: the solutions of the records, those of at most `limit` tokens.

    Raises:
      UserError: none is short enough.
    """
    rows = []
    for ids, loss_mask in map(chat.solution, records):
        start, end = loss_mask.index(True), len(loss_mask) - loss_mask[::-1].index(True)
        if end - start <= limit:
            rows.append((ids[:start], ids[start:end]))
    if not rows:
        raise UserError(f"rl: no solution of rl.data has at most {limit} tokens; raise rl.max_new_tokens.")
    return rows


def correct_rows(path: Path) -> tuple[list[Row], float]:
    """Returns the rows of RFT: the distinct correct samples, and their share of all samples (the mean in Eq. 8).

    Raises:
      UserError: none is correct.
    """
    correct: dict[tuple, Row] = {}
    count = 0
    for row in read_jsonl(path):
        count += 1
        if row["labels"][-1] == 1:
            correct.setdefault((row["problem"], *row["completion"]), (row["prompt"], row["completion"]))
    if not correct:
        raise UserError(
            f"rl: none of the {count} samples in {path} is correct; train sft further, or use easier questions."
        )
    return list(correct.values()), len(correct) / count


def pair_rows(path: Path) -> list[tuple[Row, Row]]:
    """Returns the pairs of DPO: each question's correct samples, each with a different incorrect one.

    Raises:
      UserError: no question has both.
    """
    sides: dict[int, tuple[dict, dict]] = defaultdict(lambda: ({}, {}))
    for row in read_jsonl(path):
        side = sides[row["problem"]][0 if row["labels"][-1] == 1 else 1]
        side.setdefault(tuple(row["completion"]), (row["prompt"], row["completion"]))
    pairs = [
        pair for chosen, rejected in sides.values() for pair in zip(chosen.values(), rejected.values(), strict=False)
    ]
    if not pairs:
        raise UserError(f"rl: no question in {path} has both correct and incorrect samples; raise rl.group_size.")
    return pairs


def row_shapes(settings: RLSettings, examples: Sequence[Sequence[Row]], layout: Layout) -> RowShapes:
    """Returns the shapes of the batches of examples, each one completion or a pair, which shares a row."""
    longest = max(sum(len(prompt) + len(tokens) for prompt, tokens in example) for example in examples)
    return RowShapes(longest, settings.samples_per_step // len(examples[0]), settings.grad_accum_steps, layout)


def batches(
    settings: RLSettings,
    examples: Sequence[Sequence[Row]],
    seed: int,
    shapes: RowShapes,
    fields_of: Callable[[Sequences], TokenFields],
) -> Callable[[int], HostBatch]:
    """Returns `batch_at(step)`: P x G completions of the examples, which come in epochs.

    Args:
      settings: of the stage.
      examples: each of as many completions.
      seed: of their order.
      shapes: of the batches.
      fields_of: returns what the objective reads of the tokens of completions, other than `loss_weights`.
    """
    together = len(examples[0])
    count = settings.samples_per_step // together

    def batch_at(step: int) -> HostBatch:
        sequences = Sequences.of([row for i in step_indices(seed, step, count, len(examples)) for row in examples[i]])
        weights = np.ones(sequences.completion_lengths.sum(), np.float32)
        return pack_batch(sequences, {"loss_weights": weights} | fields_of(sequences), shapes, together)

    return batch_at
