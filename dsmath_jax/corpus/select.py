"""Which pages an iteration collects: the best-scored ones, up to a number of tokens."""

import numpy as np


def top_tokens(scores: np.ndarray, tokens: np.ndarray, limit: int) -> np.ndarray:
    """bool [pages]: the longest prefix of the ranking (score falling, ties by page number) of at most `limit` tokens.

    Args:
      scores: float [pages]; NaN takes a page out of the ranking.
      tokens: int64 [pages].
    """
    ranking = np.lexsort((np.arange(len(scores)), -scores))[: np.count_nonzero(~np.isnan(scores))]
    collected = np.zeros(len(scores), bool)
    collected[ranking[np.cumsum(tokens[ranking]) <= limit]] = True
    return collected
