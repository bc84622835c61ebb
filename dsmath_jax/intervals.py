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


def bootstrap_means(values: Sequence[float] | np.ndarray, seed: int, resamples: int = 2000) -> np.ndarray:
    """Means over the first axis of `values`, [n, ...], with its rows drawn anew: [resamples, ...].

    All that stands beside each other in a row is drawn together.

    Raises:
      ValueError: there are no values.
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.size == 0:
        raise ValueError("A bootstrap interval wants at least one value.")
    n, flat = len(rows), rows.reshape(len(rows), -1)
    random = np.random.default_rng(seed)
    means = np.empty((resamples, flat.shape[1]))
    for drawn in means:
        drawn[:] = np.bincount(random.integers(n, size=n), minlength=n) @ flat / n
    return means.reshape(resamples, *rows.shape[1:])


def mean_intervals(
    values: Sequence[float] | np.ndarray, seed: int, ends: tuple[float, float] = (0.0, 1.0), resamples: int = 2000
) -> np.ndarray:
    """95 % bootstrap intervals of the means over the first axis of `values`, [n, ...]: [..., 2].

    Where all n values are the same, resampling shows no width, though nothing is certain. Unseen values may still make
    up as much as Wilson's interval leaves to what was seen in 0 of n: that share of them may lie at either of `ends`.

    Args:
      values: what is averaged, between `ends`.
      seed: of the draws, which are those of `bootstrap_interval`.
      ends: the lowest and the highest value that could be: 0 and 1 for chances, -1 and 1 for their differences.
      resamples: how often to draw.

    Raises:
      ValueError: there are no values.
    """
    rows = np.asarray(values, dtype=np.float64)
    low, high = np.percentile(bootstrap_means(rows, seed, resamples), [2.5, 97.5], axis=0)
    same, first, unseen = np.all(rows == rows[0], axis=0), rows[0], wilson_interval(0, len(rows))[1]
    low = np.where(same, first - unseen * (first - ends[0]), low)
    high = np.where(same, first + unseen * (ends[1] - first), high)
    return np.stack([low, high], axis=-1)


def mean_share_interval(counts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """95 % interval of the plain mean of shares, each of (correct, n): a mean over subjects or tasks.

    The distances to the ends of the shares' Wilson intervals add up as squares. So a subject of few problems tells how
    little it shows, which problems drawn anew within it would not.

    Raises:
      ValueError: there are no shares, or counts are impossible.
    """
    if not counts:
        raise ValueError("A mean of shares wants at least one of them.")
    shares = [correct / n for correct, n in counts]
    spans = [wilson_interval(correct, n) for correct, n in counts]
    below = math.hypot(*(share - low for share, (low, _) in zip(shares, spans, strict=True))) / len(shares)
    above = math.hypot(*(high - share for share, (_, high) in zip(shares, spans, strict=True))) / len(shares)
    mean = math.fsum(shares) / len(shares)
    return max(0.0, mean - below), min(1.0, mean + above)


def paired_interval(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """95 % interval of how much greater the first of two shares is, both measured on the same things.

    Newcombe 1998, method 10: the distances to the ends of both Wilson intervals add up as squares, less what the
    correlation of the pairs (corrected for continuity) takes away. Sensible where no pair differs, too.

    Args:
      both: pairs in which both succeeded.
      first: pairs in which only the first did.
      second: pairs in which only the second did.
      neither: the other pairs.

    Raises:
      ValueError: a count is negative, or all are 0.
    """
    n = both + first + second + neither
    if min(both, first, second, neither) < 0 or n == 0:
        raise ValueError(f"Pairs want counts of 0 or more, not all 0, but they are {both, first, second, neither}.")
    ones = both + first, both + second
    shares = [one / n for one in ones]
    (low, high), (other_low, other_high) = (wilson_interval(one, n) for one in ones)
    product = math.prod(one * (n - one) for one in ones)
    excess = both * neither - first * second
    corrected = max(excess - n / 2, 0.0) if excess > 0 else float(excess)
    correlation = corrected / math.sqrt(product) if product else 0.0

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(one * one + other * other - 2 * correlation * one * other, 0.0))

    difference = (first - second) / n
    below = reach(shares[0] - low, other_high - shares[1])
    above = reach(high - shares[0], shares[1] - other_low)
    return difference - below, difference + above
