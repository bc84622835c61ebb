"""Which pages an iteration collects: the best-scored ones, up to a number of tokens (paper section 2.1)."""

import dataclasses
from typing import Any

import daft
import numpy as np
from daft import DataFrame, DataType, Expression, col

from dsmath_jax.corpus.pages import ROW_BITS

LAST = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where the ranking (score falling, then page number rising) is cut: pages before this place are collected."""

    score: float
    number: int

    def before(self) -> Expression:
        """Over the columns score and number: is the page ranked before the cut?"""
        return (col("score") > self.score) | ((col("score") == self.score) & (col("number") < self.number))

    def is_before(self, scores: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The same over arrays: bool [pages]."""
        return (scores > self.score) | ((scores == self.score) & (numbers < self.number))


@daft.func.batch(return_dtype=DataType.int64())
def _bits(scores: Any) -> Any:
    """The bits of float32 scores: for numbers of zero and more these are ordered as the scores are."""
    return scores.to_arrow().to_numpy(zero_copy_only=False).astype(np.float32).view(np.int32).astype(np.int64)


def top_tokens(scored: DataFrame, limit: int, floor: float = 0.0) -> Cut:
    """Cuts after the longest prefix of the ranking that has at most `limit` tokens.

    Exact, and no table grows with the number of pages: the place is looked for in groups of ever closer scores, at last
    among equal scores in groups of pages.

    Args:
      scored: number, score (float32, 0 or more), tokens.
      floor: pages that score less are not in the ranking.
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
