"""95 % intervals: how much of a measured number a small sample leaves open.

Plain NumPy; the evaluation and the corpus both tell their numbers with them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def wilson_interval(correct: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval for `correct` successes in `n` trials: within [0, 1], sensible at 0 and at n too.

    Its ends are the roots p of (correct/n - p)^2 = z^2 p (1-p) / n. The lower one is taken from the product of the
    roots, where nothing cancels; the upper one is its mirror image.

    Raises:
      ValueError: not 0 <= correct <= n, or n is 0.
    """
    if not (0 <= correct <= n and n > 0):
        raise ValueError(f"An interval wants 0 <= correct <= n and n > 0, but correct = {correct}, n = {n}.")

    def lower(successes: int) -> float:
        spread = z * math.sqrt(successes * (n - successes) / n + z * z / 4)
        return successes * successes / n / (successes + z * z / 2 + spread)

    return lower(correct), 1.0 - lower(n - correct)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    seed: int,
    resamples: int = 2000,
    statistic: Callable[[np.ndarray], Any] = np.mean,
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of `values`, [n] or [n, ...], with its rows drawn anew.

    The same for the same seed. Draws for which the statistic is not defined (NaN) are left out.

    Raises:
      ValueError: there are no values.
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.size == 0:
        raise ValueError("A bootstrap interval wants at least one value.")
    random = np.random.default_rng(seed)
    drawn = [float(statistic(rows[random.integers(len(rows), size=len(rows))])) for _ in range(resamples)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)
