"""Prompts with completions as training data: numbers per token, packed into the rows of batches `[B,T]`.

A row has as many prompts with their completions as fit, each a segment: attention and losses stay within segments, so
that packing changes neither a loss nor a gradient. C counts the completions, N their tokens together.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float, Int

from dsmath_jax.data.packing import batch_of_rows, first_fit_decreasing
from dsmath_jax.models.splash import LANES
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sharding import Layout
from dsmath_jax.training.prefetch import HostBatch

ROW_BITS = 4  # significant bits of the number of rows: few programs are compiled, for at most an eighth more rows

TokenFields = dict[str, Float[np.ndarray, " N"]]  # by name, a number for each token of the completions


class Sequences(NamedTuple):
    """Prompts with their completions, one after the other.

    Attributes:
      tokens: token ids of all.
      lengths: tokens of each prompt with its completion.
      completion_lengths: how many of these, at the end, are the completion's.
    """

    tokens: Int[np.ndarray, " M"]
    lengths: Int[np.ndarray, " C"]
    completion_lengths: Int[np.ndarray, " C"]

    @classmethod
    def of(cls, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Self:
        """Returns the sequences of (prompt, completion) pairs."""
        tokens = [token for prompt, completion in pairs for token in (*prompt, *completion)]
        lengths = [(len(prompt) + len(completion), len(completion)) for prompt, completion in pairs]
        return cls(np.array(tokens, np.int32), *np.array(lengths, np.int32).reshape(-1, 2).T)

    def take(self, chosen: Sequence[int] | np.ndarray) -> Self:
        """Returns the chosen sequences, in this order."""
        tokens = take(self.tokens, self.lengths, chosen)
        return self._replace(
            tokens=tokens, lengths=self.lengths[chosen], completion_lengths=self.completion_lengths[chosen]
        )


def sequences_of(prompts: Sequence[Sequence[int]], completions: Sequence[Completion]) -> Sequences:
    """Returns the completions with their prompts, which `Completion.prompt` counts."""
    return Sequences.of([(prompts[c.prompt], c.tokens) for c in completions])


def token_fields(completions: Sequence[Completion]) -> TokenFields:
    """Returns what the sampler knows of each token.

    `loss_weights` is 1 for sampled tokens, including EOS, and 0 for inserted ones; `sampler_logprobs` is the sampler's
    log-probability.
    """
    weights = [1.0 - np.isin(np.arange(len(c.tokens)), c.inserted) for c in completions]
    logprobs = [logprob for c in completions for logprob in c.logprobs]
    return {
        "loss_weights": np.concatenate(weights).astype(np.float32),
        "sampler_logprobs": np.array(logprobs, np.float32),
    }


def split(values: np.ndarray, lengths: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """Returns the values of each sequence, given all of them one after the other."""
    return np.split(values, np.cumsum(lengths)[:-1]) if len(lengths) else []


def take(values: np.ndarray, lengths: np.ndarray, chosen: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns the values of the chosen sequences, one after the other."""
    parts = split(values, lengths)
    return np.concatenate([values[:0], *(parts[i] for i in chosen)])


class RowShapes(NamedTuple):
    """The shapes of a run's packed batches: rows of one length, and one of few numbers of them.

    Attributes:
      longest: maximum number of tokens of a prompt with its completion, or of those that share a row.
      rows: the maximum number of rows, with one such in each.
      grad_accum_steps: micro-batches of a batch of `rows` rows; fewer rows make fewer micro-batches, not smaller ones.
      layout: its mesh and attention kernels need multiples of rows and tokens.
    """

    longest: int
    rows: int
    grad_accum_steps: int
    layout: Layout

    @property
    def row_length(self) -> int:
        """The length T of rows."""
        return padded_length(self.longest, self.layout)

    @property
    def micro_rows(self) -> int:
        """The maximum number of rows of a micro-batch."""
        return self._sharded(-(-self.rows // self.grad_accum_steps))

    def num_rows(self, needed: int) -> int:
        """Returns the number of rows of a batch that needs this number, rounded up to equal micro-batches."""
        step = 1 << max(0, needed.bit_length() - ROW_BITS)
        rows = max(1, min(-(-needed // step) * step, max(needed, self.rows)))
        parts = self.num_micro_batches(rows)
        return parts * self._sharded(-(-rows // parts))

    def num_micro_batches(self, rows: int) -> int:
        """Returns the number of micro-batches of a batch with `num_rows` rows."""
        return -(-rows // self.micro_rows)

    def micro_batches(self, batch: HostBatch) -> Iterator[HostBatch]:
        """Yields the micro-batches, consecutive rows."""
        parts = self.num_micro_batches(len(batch["tokens"]))
        for part in range(parts):
            yield {name: np.split(values, parts)[part] for name, values in batch.items()}

    def _sharded(self, rows: int) -> int:
        shards = self.layout.batch_shards
        return -(-rows // shards) * shards


class Packing(NamedTuple):
    """Where sequences are in a batch: the cell of each one's first token, counted row by row, and its segment id."""

    starts: Int[np.ndarray, " C"]
    segments: Int[np.ndarray, " C"]
    shape: tuple[int, int]  # B, T

    def batch(self, sequences: Sequences, fields: TokenFields) -> HostBatch:
        """Returns the language-model batch of the sequences, with the fields where their tokens are the targets.

        `loss_weights` is 0 outside completions, and where that of `fields` is, or there is none.
        """
        rows = np.zeros((3, math.prod(self.shape)), np.int32)
        cells, targets = _cells(self.starts, sequences.lengths), self.targets(sequences)
        rows[0, cells] = sequences.tokens
        rows[1, cells] = np.repeat(self.segments, sequences.lengths)
        rows[2, targets + 1] = fields.get("loss_weights", 0)
        columns = rows.reshape(3, *self.shape).swapaxes(0, 1)
        batch = batch_of_rows(np.pad(columns, ((0, 0), (0, 0), (0, 1))))
        for name, values in fields.items():
            if name not in batch:
                field = np.zeros(math.prod(self.shape), np.float32)
                field[targets] = values
                batch[name] = field.reshape(self.shape)
        return batch

    def targets(self, sequences: Sequences) -> Int[np.ndarray, " N"]:
        """Returns the cells at which the tokens of the completions are the targets."""
        before = sequences.lengths - sequences.completion_lengths - 1
        return _cells(self.starts + before, sequences.completion_lengths)


def pack(lengths: Int[np.ndarray, " C"], shapes: RowShapes, together: int = 1) -> Packing:
    """Packs sequences into rows by first-fit decreasing.

    The result depends on the arguments alone, so that a resumed run packs as before.

    Args:
      lengths: tokens of each sequence.
      shapes: of the batch.
      together: as many consecutive sequences share a row, with consecutive segment ids; 2 for pairs.
    """
    sizes = lengths.reshape(-1, together).sum(axis=1)
    rows, length = first_fit_decreasing(sizes, shapes.row_length), shapes.row_length
    starts, segments = np.zeros_like(lengths), np.zeros_like(lengths)
    for row, units in enumerate(rows):
        members = np.concatenate([np.arange(together) + together * unit for unit in units])
        starts[members] = row * length + np.cumsum(lengths[members]) - lengths[members]
        segments[members] = np.arange(len(members)) + 1
    return Packing(starts, segments, (shapes.num_rows(len(rows)), length))


def pack_batch(sequences: Sequences, fields: TokenFields, shapes: RowShapes, together: int = 1) -> HostBatch:
    """Returns a batch `[B,T]` of packed rows: that of a language model, and the fields at the targets, else 0."""
    return pack(sequences.lengths, shapes, together).batch(sequences, fields)


def _cells(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the consecutive cells of all sequences that start there."""
    return np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)


def padded_length(length: int, layout: Layout) -> int:
    """Returns the length of rows of up to `length` tokens: a multiple that mesh and attention kernels need."""
    multiple = math.lcm(layout.size_of("context"), LANES if length > 4 * LANES else 8)
    return -(-length // multiple) * multiple
