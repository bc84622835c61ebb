"""Which pages an iteration collects: the best-scored ones, up to a number of tokens."""

import numpy as np


def top_tokens(scores: np.ndarray, tokens: np.ndarray, limit: int, floor: float = 0.0) -> np.ndarray:
    """bool [pages]: the longest prefix of the ranking (score falling, ties by page number) of at most `limit` tokens.

    Args:
      scores: float [pages]; NaN takes a page out of the ranking, and so does a score below `floor`.
      tokens: int64 [pages].
    """
    ranked = np.flatnonzero(scores >= floor)
    ranking = ranked[np.argsort(-scores[ranked], kind="stable")]
    collected = np.zeros(len(scores), bool)
    collected[ranking[np.cumsum(tokens[ranking]) <= limit]] = True
    return collected
