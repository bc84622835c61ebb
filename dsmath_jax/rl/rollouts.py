"""Prompts with their completions as batches, and which prompts a step explores."""

from collections.abc import Sequence

import numpy as np

from dsmath_jax.sampling.sampler import Completion


def prompts_of_step(seed: int, step: int, prompts: int, count: int) -> list[int]:
    """The `prompts` indices below `count` of a step: every epoch goes through all in an order of its own."""
    places = range(step * prompts, (step + 1) * prompts)
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in {p // count for p in places}}
    return [int(orders[place // count][place % count]) for place in places]


def batch_of(prompts: Sequence[Sequence[int]], completions: Sequence[Completion], length: int) -> dict[str, np.ndarray]:
    """One row per completion: its prompt, then its tokens, then padding.

    Args:
      prompts: token ids, indexed by `Completion.prompt`.
      completions: the rows.
      length: T; prompt and completion together have at most T + 1 tokens.

    Returns:
      the fields of a language-model batch `[B,T]`; `loss_weights` is 1 on completion tokens, EOS among them, and
      `old_logprobs` what the sampler said of them, 0 elsewhere.
    """
    rows = len(completions)
    tokens, weights = np.zeros((rows, length + 1), np.int32), np.zeros((rows, length + 1), np.float32)
    segments, old = np.zeros((rows, length + 1), np.int32), np.zeros((rows, length + 1), np.float32)
    for row, completion in enumerate(completions):
        prompt = prompts[completion.prompt]
        start, end = len(prompt), len(prompt) + len(completion.tokens)
        tokens[row, :end] = [*prompt, *completion.tokens]
        segments[row, :end], weights[row, start:end] = 1, 1.0
        old[row, start:end] = completion.logprobs
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segment_ids": segments[:, :-1],
        "positions": np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length)),
        "loss_weights": weights[:, 1:],
        "old_logprobs": old[:, 1:],
    }
