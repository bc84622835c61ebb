"""Batches with random access: a batch is a pure function of (seed, step), so the data position is the step number."""

from collections.abc import Sequence
from pathlib import Path

import grain
import numpy as np

from dsmath_jax.data.packing import PackedRow, batch_of_rows
from dsmath_jax.data.rows import Rows
from dsmath_jax.workdir import UserError


class Batches:
    """Packed rows of several sources, mixed by weight and reshuffled every epoch.

    `batches(step)` returns this process's rows of batch `step`; the global batch does not depend on the processes.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Path, float]],
        length: int,
        batch_size: int,
        seed: int,
        my_rows: Sequence[int] | None = None,
        mask_documents: bool = True,
    ):
        """Opens (folder of shards, weight) sources of rows of `length` + 1 tokens.

        Args:
          batch_size: rows of the global batch.
          my_rows: the rows of this process (`sharding.Layout.my_rows`); all by default.
          mask_documents: whether attention and loss stay within documents, see `batch_of_rows`.

        Raises:
          UserError: a source is missing, damaged or empty.
        """
        parts = []
        for folder, _ in sources:
            rows = Rows(folder, length)
            if not len(rows):
                raise UserError(
                    f"{folder} has no rows, since its source has no text; leave it out of the config or add documents, "
                    "and run the stage with --overwrite."
                )
            shuffled = grain.MapDataset.source(rows).seed(seed).shuffle().repeat()
            parts.append(shuffled.map(lambda packed, name=rows.name: _with_source(packed, name)))
        weights = [weight for _, weight in sources]
        self._rows = grain.MapDataset.mix(parts, weights) if len(parts) > 1 else parts[0]
        self._my_rows = range(batch_size) if my_rows is None else my_rows
        self._batch_size, self._mask_documents = batch_size, mask_documents

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        first = step * self._batch_size
        return batch_of_rows(np.stack([self._rows[first + i].row for i in self._my_rows]), self._mask_documents)

    def records(self, step: int) -> list[str]:
        """Returns the ids of all documents or examples in the global batch `step`, "SOURCE/ID", by row."""
        first = step * self._batch_size
        return [record for i in range(self._batch_size) for record in self._rows[first + i].ids]


def _with_source(packed: PackedRow, name: str) -> PackedRow:
    return packed._replace(ids=[f"{name}/{record}" for record in packed.ids])
