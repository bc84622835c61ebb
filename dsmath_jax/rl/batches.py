"""Prompts with their completions as batches `[B,T]`, and the widths that these have."""

import math
from collections.abc import Sequence

import numpy as np

from dsmath_jax.models.splash import LANES
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sharding import Layout

BUCKETS = 4  # widths that batches are cut to, in equal parts of the longest: so few programs are compiled


def batch_of(prompts: Sequence[Sequence[int]], completions: Sequence[Completion], length: int) -> dict[str, np.ndarray]:
    """One row per completion: its prompt, then its tokens, then padding.

    Args:
      prompts: token ids, indexed by `Completion.prompt`.
      completions: the rows.
      length: T; prompt and completion together have at most T + 1 tokens.

    Returns:
      the fields of a language-model batch `[B,T]`; `loss_weights` is 1 on completion tokens, EOS among them, and
      `sampler_logprobs` what the sampler said of them, 0 elsewhere.
    """
    rows = token_rows([[*prompts[c.prompt], *c.tokens] for c in completions], length + 1)
    return {name: values[:, :-1] for name, values in rows.items()} | {
        "targets": rows["tokens"][:, 1:],
        "loss_weights": scatter_to_batch([[1.0] * len(c.tokens) for c in completions], prompts, completions, length),
        "sampler_logprobs": scatter_to_batch([c.logprobs for c in completions], prompts, completions, length),
    }


def token_rows(sequences: Sequence[Sequence[int]], width: int) -> dict[str, np.ndarray]:
    """Token ids as rows `[B,T] int32` of T = `width`: `tokens`, `segment_ids` (1, 0 = padding) and `positions`."""
    tokens, segments = (np.zeros((len(sequences), width), np.int32) for _ in range(2))
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)], segments[row, : len(sequence)] = sequence, 1
    positions = np.broadcast_to(np.arange(width, dtype=np.int32), tokens.shape)
    return {"tokens": tokens, "segment_ids": segments, "positions": positions}


def scatter_to_batch(
    values: Sequence[Sequence[float] | np.ndarray],
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Completion],
    length: int,
) -> np.ndarray:
    """One value per completion token where `batch_of` has that token as its target: `[B,T] float32`, else 0."""
    out = np.zeros((len(completions), length + 1), np.float32)
    for row, (completion, theirs) in enumerate(zip(completions, values, strict=True)):
        start = len(prompts[completion.prompt])
        out[row, start : start + len(completion.tokens)] = theirs
    return out[:, 1:]


def gather_per_completion(
    field: np.ndarray, prompts: Sequence[Sequence[int]], completions: Sequence[Completion]
) -> list[np.ndarray]:
    """The inverse of `scatter_to_batch`: of a field `[B,T]`, the values of each completion's tokens."""
    starts = [len(prompts[c.prompt]) - 1 for c in completions]
    return [field[row, s : s + len(c.tokens)] for row, (s, c) in enumerate(zip(starts, completions, strict=True))]


def row_multiple(length: int, layout: Layout) -> int:
    """What the width of rows that hold up to `length` tokens must divide by.

    The mesh asks for it and, for long rows, the attention kernels.
    """
    return math.lcm(layout.size_of("context"), LANES if length > 4 * LANES else 8)


def padded_length(length: int, layout: Layout) -> int:
    """The width of rows that hold up to `length` tokens."""
    multiple = row_multiple(length, layout)
    return -(-length // multiple) * multiple


def width_of(longest: int, limit: int, multiple: int = 1) -> int:
    """The width T of a batch whose longest row has `longest` tokens: one of few up to `limit`, of whole `multiple`s."""
    part = -(-limit // (BUCKETS * multiple)) * multiple
    return -(-longest // part) * part
