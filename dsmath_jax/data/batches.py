"""Batches at random access: a batch is a pure function of (seed, step), so the data position is the step number."""

from collections.abc import Sequence
from pathlib import Path

import grain
import numpy as np

from dsmath_jax.data.packing import Packed, batch_of_rows
from dsmath_jax.data.rows import Rows
from dsmath_jax.workdir import UserError


class Batches:
    """Packed rows of several sources, shuffled anew each epoch, mixed by weight.

    `batches(step)` gives this process's rows of batch `step`; the global batch is the same for any number of processes.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Path, float]],
        length: int,
        batch_size: int,
        seed: int,
        mine: Sequence[int] | None = None,
        masked: bool = True,
    ):
        """Opens (folder of shards, weight) sources of rows of `length` + 1 tokens.

        Args:
          batch_size: rows of the global batch.
          mine: those of them that this process makes (`sharding.Layout.my_rows`); all of them if not given.
          masked: attention and loss stay within documents, see `batch_of_rows`.

        Raises:
          UserError: a source is missing, broken or empty.
        """
        parts = []
        for folder, _ in sources:
            rows = Rows(folder, length)
            if not len(rows):
                raise UserError(
                    f"{folder} holds no rows: its source has no text; leave it out of the config or give it documents, "
                    "and run the stage with --overwrite."
                )
            shuffled = grain.MapDataset.source(rows).seed(seed).shuffle().repeat()
            parts.append(shuffled.map(lambda packed, name=rows.name: _named(packed, name)))
        weights = [weight for _, weight in sources]
        self._rows = grain.MapDataset.mix(parts, weights) if len(parts) > 1 else parts[0]
        self._mine = range(batch_size) if mine is None else mine
        self._batch_size, self._masked = batch_size, masked

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        first = step * self._batch_size
        return batch_of_rows(np.stack([self._rows[first + i].row for i in self._mine]), self._masked)

    def records(self, step: int) -> list[str]:
        """The ids of all documents or examples in the global batch `step`, "SOURCE/ID" in the order of the rows."""
        first = step * self._batch_size
        return [one for i in range(self._batch_size) for one in self._rows[first + i].ids]


def _named(packed: Packed, name: str) -> Packed:
    return packed._replace(ids=[f"{name}/{one}" for one in packed.ids])
