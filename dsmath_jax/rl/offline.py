"""Training data of the offline methods SFT, RFT and DPO (paper Table 10)."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import Record
from dsmath_jax.rl.batches import batch_of, padded_length
from dsmath_jax.rl.rollouts import step_indices
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sharding import Layout
from dsmath_jax.training.prefetch import HostBatch, Prefetch
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


def _batch(rows: Sequence[Row], length: int) -> dict[str, np.ndarray]:
    completions = [Completion(i, 0, tokens, [0.0] * len(tokens), [], "eos") for i, (_, tokens) in enumerate(rows)]
    batch = batch_of([prompt for prompt, _ in rows], completions, length)
    del batch["sampler_logprobs"]  # not from the sampler
    return batch


def _padded_length(rows: Sequence[Row], layout: Layout) -> int:
    return padded_length(max(len(prompt) + len(tokens) for prompt, tokens in rows) - 1, layout)


def likelihood_batches(
    settings: RLSettings, rows: Sequence[Row], weight: float, seed: int, layout: Layout
) -> Callable[[int], HostBatch]:
    """Returns `batch_at(step)` for `Likelihood`: this process's part of P x G rows, each with advantage `weight`."""
    size, length = settings.samples_per_step, _padded_length(rows, layout)

    def make(step: int) -> HostBatch:
        batch = _batch([rows[i] for i in step_indices(seed, step, size, len(rows))], length)
        return layout.take_my_rows(batch | {"advantages": weight * batch["loss_weights"]})

    return Prefetch(make, settings.steps)


def pair_batches(
    settings: RLSettings,
    pairs: Sequence[tuple[Row, Row]],
    seed: int,
    layout: Layout,
    ref_logprobs: Callable[[HostBatch], np.ndarray],
) -> Callable[[int], HostBatch]:
    """Returns `batch_at(step)` for `DPO`: this process's part of P x G completions in pairs."""
    size = settings.samples_per_step // 2
    length = _padded_length([row for pair in pairs for row in pair], layout)

    def make(step: int) -> HostBatch:
        batch_pairs = [pairs[i] for i in step_indices(seed, step, size, len(pairs))]
        batch: HostBatch = {}
        for number, side in enumerate(("chosen", "rejected")):
            fields = _batch([pair[number] for pair in batch_pairs], length)
            fields["ref_logprobs"] = ref_logprobs(fields) * fields["loss_weights"]
            batch |= {f"{side}_{name}": values for name, values in fields.items()}
        return layout.take_my_rows(batch)

    return make
