"""95 % confidence intervals of proportions, means and paired differences, in plain NumPy."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def wilson_interval(correct: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Returns Wilson's score interval for `correct` successes in `n` trials.

    It is within [0, 1] and valid for 0 and n successes. Its ends are the roots p of
    (correct/n - p)^2 = z^2 p (1-p) / n. The lower one is computed from the product of the roots, to avoid cancellation;
    the upper one by symmetry.

    Raises:
      ValueError: not 0 <= correct <= n, or n is 0.
    """
    if not (0 <= correct <= n and n > 0):
        raise ValueError(f"0 <= correct <= n and n > 0 must hold; got correct = {correct}, n = {n}.")

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
    """Returns the 95 % bootstrap percentile interval of a statistic of `values`, [n] or [n, ...].

    Rows are resampled. Resamples for which the statistic is undefined (NaN) are left out.

    Raises:
      ValueError: there are no values.
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.size == 0:
        raise ValueError("A bootstrap interval needs at least one value.")
    random = np.random.default_rng(seed)
    drawn = [float(statistic(rows[random.integers(len(rows), size=len(rows))])) for _ in range(resamples)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def bootstrap_means(values: Sequence[float] | np.ndarray, seed: int, resamples: int = 2000) -> np.ndarray:
    """Returns means over the first axis of resampled `values`, [n, ...]: [resamples, ...].

    Whole rows are resampled.

    Raises:
      ValueError: there are no values.
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.size == 0:
        raise ValueError("A bootstrap interval needs at least one value.")
    n, flat = len(rows), rows.reshape(len(rows), -1)
    random = np.random.default_rng(seed)
    means = np.empty((resamples, flat.shape[1]))
    for drawn in means:
        drawn[:] = np.bincount(random.integers(n, size=n), minlength=n) @ flat / n
    return means.reshape(resamples, *rows.shape[1:])


def mean_intervals(
    values: Sequence[float] | np.ndarray, seed: int, ends: tuple[float, float] = (0.0, 1.0), resamples: int = 2000
) -> np.ndarray:
    """Returns 95 % bootstrap intervals of the means over the first axis of `values`, [n, ...]: [..., 2].

    Where all n values are equal, resampling would give a width of 0. There, as large a fraction of unseen values as the
    upper end of Wilson's interval for 0 of n is assumed to be at either of `ends`.

    Args:
      values: the values to average, between `ends`.
      seed: seed of the resamples, which are those of `bootstrap_interval`.
      ends: the lowest and the highest possible value: 0 and 1 for probabilities, -1 and 1 for their differences.
      resamples: number of resamples.

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
    """Returns the 95 % interval of the unweighted mean of proportions, such as accuracies by subject.

    The distances to the ends of the proportions' Wilson intervals are added in quadrature. Unlike resampling within
    each subject, this is valid for subjects with few problems.

    Args:
      counts: (correct, n) for each proportion.

    Raises:
      ValueError: there are no proportions, or counts are impossible.
    """
    if not counts:
        raise ValueError("A mean of proportions needs at least one of them.")
    shares = [correct / n for correct, n in counts]
    spans = [wilson_interval(correct, n) for correct, n in counts]
    below = math.hypot(*(share - low for share, (low, _) in zip(shares, spans, strict=True))) / len(shares)
    above = math.hypot(*(high - share for share, (_, high) in zip(shares, spans, strict=True))) / len(shares)
    mean = math.fsum(shares) / len(shares)
    return max(0.0, mean - below), min(1.0, mean + above)


def paired_interval(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """Returns the 95 % interval of the difference of two paired proportions, first minus second.

    Newcombe 1998, method 10: the distances to the ends of both Wilson intervals are added in quadrature, minus a term
    for the correlation of the pairs (with continuity correction). It is valid even if no pair differs.

    Args:
      both: number of pairs in which both succeeded.
      first: number of pairs in which only the first succeeded.
      second: number of pairs in which only the second succeeded.
      neither: number of pairs in which neither succeeded.

    Raises:
      ValueError: a count is negative, or all are 0.
    """
    n = both + first + second + neither
    if min(both, first, second, neither) < 0 or n == 0:
        raise ValueError(f"Counts of pairs must be at least 0, and not all 0; got {both, first, second, neither}.")
    correct = both + first, both + second
    shares = [count / n for count in correct]
    (low, high), (other_low, other_high) = (wilson_interval(count, n) for count in correct)
    product = math.prod(count * (n - count) for count in correct)
    excess = both * neither - first * second
    corrected = max(excess - n / 2, 0.0) if excess > 0 else float(excess)
    correlation = corrected / math.sqrt(product) if product else 0.0

    def distance(a: float, b: float) -> float:
        return math.sqrt(max(a * a + b * b - 2 * correlation * a * b, 0.0))

    difference = (first - second) / n
    below = distance(shares[0] - low, other_high - shares[1])
    above = distance(high - shares[0], shares[1] - other_low)
    return difference - below, difference + above
