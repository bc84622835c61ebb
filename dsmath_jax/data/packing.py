"""Packs token sequences into rows of fixed length, and builds batches of rows.

A row is `[3, T+1] int32`: tokens, segment ids (1, 2, ... within the row; 0 is padding) and the loss mask. It has one
token more than a training sequence, since the targets are the inputs shifted by one.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

Row = Int[np.ndarray, "3 T+1"]


@dataclasses.dataclass(frozen=True)
class Example:
    """Tokens of one document or one problem, the loss mask, and its id."""

    tokens: Sequence[int] | np.ndarray
    loss_mask: Sequence[bool] | np.ndarray
    id: str = ""


class PackedRow(NamedTuple):
    """A row, and the ids of the examples in its segments 1, 2, ..."""

    row: Row
    ids: list[str]


def concat_and_chunk(examples: Iterable[Example], length: int) -> Iterator[PackedRow]:
    """Packs examples into full rows; one that does not fit continues in the next row (pre-training).

    The last row is padded, so that files can be packed independently.
    """
    packed, used = _empty(length), 0
    for example in examples:
        start = 0
        while start < len(example.tokens):
            take = min(length + 1 - used, len(example.tokens) - start)
            _write(packed, used, example, start, start + take)
            used, start = used + take, start + take
            if used == length + 1:
                yield packed
                packed, used = _empty(length), 0
    if used:
        yield packed


def pack_whole(examples: Iterable[Example], length: int) -> Iterator[PackedRow]:
    """Packs whole examples in their order; one that does not fit starts a new row (SFT).

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
        _write(packed, used, example, 0, size)
        used += size
    if used:
        yield packed


def first_fit_decreasing(sizes: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Packs items into rows: the largest first, each into the first row with enough room.

    It needs at most 11/9 of the fewest possible rows, and one more (Yue 1991).

    Args:
      sizes: of the items.
      capacity: of a row.

    Returns:
      the indices of the items of each row.

    Raises:
      ValueError: an item is larger than a row.
    """
    if len(sizes) and max(sizes) > capacity:
        raise ValueError(f"an item of {max(sizes)} does not fit a row of {capacity}")
    room = np.full(len(sizes), capacity)
    rows: list[list[int]] = []
    for item in np.argsort(-np.asarray(sizes), kind="stable").tolist():
        first = int(np.argmax(room >= sizes[item]))
        if first == len(rows):
            rows.append([])
        rows[first].append(item)
        room[first] -= sizes[item]
    return rows


def _empty(length: int) -> PackedRow:
    return PackedRow(np.zeros((3, length + 1), np.int32), [])


def _write(packed: PackedRow, at: int, example: Example, start: int, end: int) -> None:
    """Writes the tokens from `start` to `end` into the row as its next segment."""
    packed.ids.append(example.id)
    to = at + end - start
    packed.row[:, at:to] = example.tokens[start:end], [len(packed.ids)] * (end - start), example.loss_mask[start:end]


def batch_of_rows(rows: Int[np.ndarray, "B 3 T+1"], mask_documents: bool = True) -> dict[str, np.ndarray]:
    """Returns a language-model batch: tokens, targets, segment_ids, positions `[B,T] int32`, loss_weights `[B,T]
    float32`.

    A target has weight 1 if it is in the loss mask and in its input token's segment. Without `mask_documents` a row is
    one segment: attention and loss cross the ends of documents.
    """
    tokens, segments, loss_mask = rows[:, 0], rows[:, 1], rows[:, 2]
    if not mask_documents:
        segments = (segments > 0).astype(np.int32)
    inputs = segments[:, :-1]
    same = (inputs == segments[:, 1:]) & (inputs > 0)
    index = np.arange(inputs.shape[1])
    starts_segment = np.concatenate([np.ones_like(inputs[:, :1]), inputs[:, 1:] != inputs[:, :-1]], axis=1) > 0
    start = np.maximum.accumulate(np.where(starts_segment, index, 0), axis=1)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segment_ids": inputs,
        "positions": (index - start).astype(np.int32),
        "loss_weights": (same & (loss_mask[:, 1:] > 0)).astype(np.float32),
    }
