"""Batches `[B,T]` of prompts with completions, and their lengths T."""

import math
from collections.abc import Sequence

import numpy as np

from dsmath_jax.models.splash import LANES
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sharding import Layout

BUCKETS = 4  # lengths of batches, in equal steps up to the longest: few programs are compiled


def batch_of(prompts: Sequence[Sequence[int]], completions: Sequence[Completion], length: int) -> dict[str, np.ndarray]:
    """Returns a batch with one row per completion: its prompt, then its tokens, then padding.

    Args:
      prompts: token ids, indexed by `Completion.prompt`.
      completions: the rows.
      length: T; prompt and completion together have at most T + 1 tokens.

    Returns:
      the fields of a language-model batch `[B,T]`; `loss_weights` is 1 on the sampled tokens of completions, including
      EOS, and `sampler_logprobs` is the sampler's log-probability of these; both are 0 elsewhere.
    """
    rows = token_rows([[*prompts[c.prompt], *c.tokens] for c in completions], length + 1)
    return {name: values[:, :-1] for name, values in rows.items()} | {
        "targets": rows["tokens"][:, 1:],
        "loss_weights": scatter_to_batch([_loss_weights(c) for c in completions], prompts, completions, length),
        "sampler_logprobs": scatter_to_batch([c.logprobs for c in completions], prompts, completions, length),
    }


def _loss_weights(completion: Completion) -> list[float]:
    """Returns 1 for each token of a completion that was sampled, 0 for an inserted one."""
    return [float(index not in completion.inserted) for index in range(len(completion.tokens))]


def token_rows(sequences: Sequence[Sequence[int]], width: int) -> dict[str, np.ndarray]:
    """Pads token ids to rows `[B,T] int32` of T = `width`: `tokens`, `segment_ids` (1, 0 = padding), `positions`."""
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
    """Scatters one value per completion token to where it is the target in `batch_of`: `[B,T] float32`, 0 elsewhere."""
    out = np.zeros((len(completions), length + 1), np.float32)
    for row, (completion, completion_values) in enumerate(zip(completions, values, strict=True)):
        start = len(prompts[completion.prompt])
        out[row, start : start + len(completion.tokens)] = completion_values
    return out[:, 1:]


def gather_per_completion(
    field: np.ndarray, prompts: Sequence[Sequence[int]], completions: Sequence[Completion]
) -> list[np.ndarray]:
    """Returns the values of each completion's tokens from a field `[B,T]`: the inverse of `scatter_to_batch`."""
    starts = [len(prompts[c.prompt]) - 1 for c in completions]
    return [field[row, s : s + len(c.tokens)] for row, (s, c) in enumerate(zip(starts, completions, strict=True))]


def length_multiple(length: int, layout: Layout) -> int:
    """Returns the multiple that mesh and attention kernels need for the length of rows of up to `length` tokens."""
    return math.lcm(layout.size_of("context"), LANES if length > 4 * LANES else 8)


def padded_length(length: int, layout: Layout) -> int:
    """Returns the padded length of rows of up to `length` tokens."""
    multiple = length_multiple(length, layout)
    return -(-length // multiple) * multiple


def bucketed_length(longest: int, limit: int, multiple: int = 1) -> int:
    """Returns the length T of a batch whose longest row has `longest` tokens: one of few, divisible by `multiple`."""
    part = -(-limit // (BUCKETS * multiple)) * multiple
    return -(-longest // part) * part
