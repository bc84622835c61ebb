"""Batches at random access: a batch is a pure function of (seed, step), so the data position is the step number."""

from collections.abc import Sequence
from pathlib import Path

import grain
import numpy as np

from dsmath_jax.data.packing import batch_of_rows
from dsmath_jax.workdir import UserError


class Batches:
    """Rows of packed ArrayRecord files, shuffled anew each epoch, mixed by weight.

    `batches(step)` gives this process's share of batch `step`: rows `process_index`, `process_index + process_count`,
    ... of the global batch, so that another number of processes sees the same global batches.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Path, float]],
        length: int,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Opens (file, weight) sources of rows of `length` + 1 tokens.

        Raises:
          UserError: a source is missing or empty, or the batch does not divide by the processes.
        """
        if batch_size % process_count:
            raise UserError(
                f"batch_size {batch_size} does not divide by {process_count} processes; change one of them."
            )
        parts = []
        for path, _ in sources:
            if not path.is_file():
                raise UserError(f"{path} is missing; run the stage that writes it.")
            records = grain.sources.ArrayRecordDataSource(str(path))
            if not len(records):
                raise UserError(f"{path} holds no rows; give the stage that writes it more text.")
            parts.append(grain.MapDataset.source(records).seed(seed).shuffle().repeat())
        weights = [weight for _, weight in sources]
        mixed = grain.MapDataset.mix(parts, weights) if len(parts) > 1 else parts[0]
        self._rows = mixed.map(lambda record: np.frombuffer(record, np.int32).reshape(3, length + 1))
        self._mine = range(process_index, batch_size, process_count)
        self._batch_size = batch_size

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        first = step * self._batch_size
        return batch_of_rows(np.stack([self._rows[first + i] for i in self._mine]))


def read_rows(path: Path, length: int) -> np.ndarray:
    """All rows of a file, `[rows, 3, length + 1]`, in file order (held-out rows)."""
    records = grain.sources.ArrayRecordDataSource(str(path))
    return np.stack([np.frombuffer(records[i], np.int32).reshape(3, length + 1) for i in range(len(records))])
