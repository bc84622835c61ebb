"""Token sequences packed into rows of fixed length, kept as ArrayRecord files.

A row is `[3, T+1] int32`: tokens, segment ids (1, 2, ... within the row; 0 is padding) and a mask of the tokens that
are to be learned. One token more than a training sequence is long, since inputs and targets are the row shifted by one.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from array_record.python import array_record_module
from jaxtyping import Int

from dsmath_jax.workdir import atomic_path

Row = Int[np.ndarray, "3 T+1"]


@dataclasses.dataclass(frozen=True)
class Example:
    """Tokens of one document or one problem, and which of them are to be learned."""

    tokens: list[int]
    learn: list[bool]


def concatenate(examples: Iterable[Example], length: int) -> Iterator[Row]:
    """Fills every row to its end; a document that does not fit goes on in the next row (pre-training). The last, partly
    filled row is kept with padding."""
    row, used, segment = np.zeros((3, length + 1), np.int32), 0, 0
    for example in examples:
        start = 0
        while start < len(example.tokens):
            segment += 1
            take = min(length + 1 - used, len(example.tokens) - start)
            _place(row, used, segment, example.tokens[start : start + take], example.learn[start : start + take])
            used, start = used + take, start + take
            if used == length + 1:
                yield row
                row, used, segment = np.zeros((3, length + 1), np.int32), 0, 0
    if used:
        yield row


def fit_whole(examples: Iterable[Example], length: int) -> Iterator[Row]:
    """Puts whole examples one after another, in their order; one that does not fit opens a new row (SFT).

    Raises:
      ValueError: an example is longer than a row.
    """
    row, used, segment = np.zeros((3, length + 1), np.int32), 0, 0
    for example in examples:
        if len(example.tokens) > length + 1:
            raise ValueError(f"an example of {len(example.tokens)} tokens does not fit a row of {length + 1}")
        if used + len(example.tokens) > length + 1:
            yield row
            row, used, segment = np.zeros((3, length + 1), np.int32), 0, 0
        segment += 1
        _place(row, used, segment, example.tokens, example.learn)
        used += len(example.tokens)
    if used:
        yield row


def _place(row: Row, at: int, segment: int, tokens: list[int], learn: list[bool]) -> None:
    end = at + len(tokens)
    row[0, at:end], row[1, at:end], row[2, at:end] = tokens, segment, learn


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Writes rows to an ArrayRecord file, atomically. Returns how many."""
    count = 0
    with atomic_path(path) as temporary:
        writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
        for row in rows:
            writer.write(row.tobytes())
            count += 1
        writer.close()
    return count


def batch_of_rows(rows: Int[np.ndarray, "B 3 T+1"]) -> dict[str, np.ndarray]:
    """Rows to a language-model batch: tokens, targets, segment_ids, positions `[B,T] int32`, loss_weights `[B,T]
    float32`.

    A target counts where it is to be learned and belongs to the segment of its input token.
    """
    tokens, segments, learn = rows[:, 0], rows[:, 1], rows[:, 2]
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
