"""Selects the best-scored pages up to a number of tokens (paper section 2.1)."""

import dataclasses
from typing import Any

import daft
import numpy as np
from daft import DataFrame, DataType, Expression, col

from dsmath_jax.corpus.pages import ROW_BITS

LAST = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Cut:
    """A position in the ranking (score descending, then page number ascending); the pages before it are collected."""

    score: float
    number: int

    def collected(self) -> Expression:
        """Returns, over the columns score and number, whether a page is collected."""
        return (col("score") > self.score) | ((col("score") == self.score) & (col("number") < self.number))

    def is_collected(self, scores: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Returns bool [pages]: the same over arrays."""
        return (scores > self.score) | ((scores == self.score) & (numbers < self.number))


@daft.func.batch(return_dtype=DataType.int64())
def _bits(scores: Any) -> Any:
    """Returns the bits of float32 scores, which have the order of the scores if none is negative."""
    return scores.to_arrow().to_numpy(zero_copy_only=False).astype(np.float32).view(np.int32).astype(np.int64)


def top_tokens(scored: DataFrame, limit: int, floor: float = 0.0) -> Cut:
    """Cuts the ranking after its longest prefix that has at most `limit` tokens.

    Exact, and no table grows with the number of pages: the search narrows groups of scores, then groups of pages with
    equal scores.

    Args:
      scored: number, score (float32, 0 or more), tokens.
      limit: the largest number of tokens.
      floor: the lowest score in the ranking.
    """
    rest = scored.where(col("score") >= floor)
    rest, room = rest.select("number", "score", "tokens", _bits(col("score")).alias("bits")), limit
    keys = [
        (col("bits") // (1 << 16), True),
        (col("bits"), True),
        (col("number") // (1 << ROW_BITS), False),
        (col("number"), False),
    ]
    for key, falling in keys:
        groups = (
            rest.groupby(key.alias("key"))
            .agg(
                col("tokens").sum(),
                col("score").max().alias("score"),
                col("number").min().alias("number"),
            )
            .sort("key", desc=falling)
            .to_pydict()
        )
        total = np.cumsum(groups["tokens"])
        over = int(np.searchsorted(total, room, side="right"))
        if over == len(total):
            return Cut(float(np.float32(floor)), LAST)
        room -= int(total[over - 1]) if over else 0
        rest = rest.where(key == groups["key"][over])
    return Cut(float(groups["score"][over]), int(groups["number"][over]))
