"""Token sequences packed into rows of fixed length, and rows made batches.

A row is `[3, T+1] int32`: tokens, segment ids (1, 2, ... within the row; 0 is padding) and a mask of the tokens that
are to be learned. One token more than a training sequence is long, since inputs and targets are the row shifted by one.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

Row = Int[np.ndarray, "3 T+1"]


@dataclasses.dataclass(frozen=True)
class Example:
    """Tokens of one document or one problem, which of them are to be learned, and its id."""

    tokens: Sequence[int] | np.ndarray
    learn: Sequence[bool] | np.ndarray
    id: str = ""


class Packed(NamedTuple):
    """A row, and the ids of the examples in its segments 1, 2, ..."""

    row: Row
    ids: list[str]


def concatenate(examples: Iterable[Example], length: int) -> Iterator[Packed]:
    """Fills every row to its end; a document that does not fit goes on in the next row (pre-training).

    The last, partly filled row is kept with padding: it is one of all the rows of a file, and a file that lends its end
    to the next could not be made by itself.
    """
    packed, used = _empty(length), 0
    for example in examples:
        start = 0
        while start < len(example.tokens):
            take = min(length + 1 - used, len(example.tokens) - start)
            _place(packed, used, example, start, start + take)
            used, start = used + take, start + take
            if used == length + 1:
                yield packed
                packed, used = _empty(length), 0
    if used:
        yield packed


def fit_whole(examples: Iterable[Example], length: int) -> Iterator[Packed]:
    """Puts whole examples one after another, in their order; one that does not fit opens a new row (SFT).

    Raises:
      ValueError: an example is longer than a row.
    """
    packed, used = _empty(length), 0
    for example in examples:
        size = len(example.tokens)
        if size > length + 1:
            raise ValueError(f"an example of {size} tokens does not fit a row of {length + 1}")
        if used + size > length + 1:
            yield packed
            packed, used = _empty(length), 0
        _place(packed, used, example, 0, size)
        used += size
    if used:
        yield packed


def _empty(length: int) -> Packed:
    return Packed(np.zeros((3, length + 1), np.int32), [])


def _place(packed: Packed, at: int, example: Example, start: int, end: int) -> None:
    """Puts the tokens from `start` to `end` into the row as its next segment."""
    packed.ids.append(example.id)
    to = at + end - start
    packed.row[:, at:to] = example.tokens[start:end], [len(packed.ids)] * (end - start), example.learn[start:end]


def batch_of_rows(rows: Int[np.ndarray, "B 3 T+1"], masked: bool = True) -> dict[str, np.ndarray]:
    """Rows to a language-model batch: tokens, targets, segment_ids, positions `[B,T] int32`, loss_weights `[B,T]
    float32`.

    A target counts where it is to be learned and belongs to the segment of its input token. With `masked` False all of
    a row is one segment: attention and the loss go across the ends of documents.
    """
    tokens, segments, learn = rows[:, 0], rows[:, 1], rows[:, 2]
    if not masked:
        segments = (segments > 0).astype(np.int32)
    inputs = segments[:, :-1]
    same = (inputs == segments[:, 1:]) & (inputs > 0)
    index = np.arange(inputs.shape[1])
    begins = np.concatenate([np.ones_like(inputs[:, :1]), inputs[:, 1:] != inputs[:, :-1]], axis=1) > 0
    start = np.maximum.accumulate(np.where(begins, index, 0), axis=1)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segment_ids": inputs,
        "positions": (index - start).astype(np.int32),
        "loss_weights": (same & (learn[:, 1:] > 0)).astype(np.float32),
    }
