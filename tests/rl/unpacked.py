"""The batch without packing, by a loop: each prompt with its completion is a row, padded to the longest."""

from collections.abc import Sequence

import numpy as np

from dsmath_jax.rl.batches import Sequences, TokenFields, sequences_of, split, token_fields
from dsmath_jax.sampling.completions import Completion


def unpacked_batch(sequences: Sequences, fields: TokenFields, length: int) -> dict[str, np.ndarray]:
    """Returns a row of `length` tokens for each of the sequences."""
    rows = split(sequences.tokens, sequences.lengths)
    shape = len(rows), length
    batch = {name: np.zeros(shape, np.int32) for name in ("tokens", "targets", "segment_ids")}
    batch["positions"] = np.tile(np.arange(length, dtype=np.int32), (len(rows), 1))
    batch |= {name: np.zeros(shape, values.dtype) for name, values in fields.items()}
    per_completion = {name: split(values, sequences.completion_lengths) for name, values in fields.items()}
    for i, tokens in enumerate(rows):
        batch["tokens"][i, : len(tokens)], batch["segment_ids"][i, : len(tokens)] = tokens, 1
        batch["targets"][i, : len(tokens) - 1] = tokens[1:]
        start = len(tokens) - sequences.completion_lengths[i] - 1
        for name, values in per_completion.items():
            batch[name][i, start : len(tokens) - 1] = values[i]
    return batch


def batch_of(prompts: Sequence[Sequence[int]], completions: Sequence[Completion], length: int) -> dict[str, np.ndarray]:
    """Returns a row for each of the sampler's completions."""
    return unpacked_batch(sequences_of(prompts, completions), token_fields(completions), length)
