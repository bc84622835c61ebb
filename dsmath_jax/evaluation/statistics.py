"""Statistics of an evaluation: pass@k, maj@k and McNemar's test, in NumPy."""

import functools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

MAX_SAMPLES = 1000  # of a problem; the binomials of more overflow float64


def pass_at_k(n: int, c: int, k: int) -> float:
    """Returns the chance that one of k samples is correct when c of n are: 1 - C(n-c, k) / C(n, k).

    The mean over problems is an unbiased estimate of pass@k (Chen et al. 2021). The quotient of the binomials is the
    product of 1 - k/i for i from n-c+1 to n; as a sum of logarithms it neither overflows nor loses small results.

    Raises:
      ValueError: not 0 <= c <= n, or not 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n; got n = {n}, c = {c}, k = {k}.")
    if n - c < k:
        return 1.0
    return float(0.0 - np.expm1(np.log1p(-k / np.arange(n - c + 1, n + 1)).sum()))


def doublings(count: int) -> list[int]:
    """Returns 1, 2, 4, ... up to `count`, and `count` itself; nothing for 0."""
    return sorted({*(1 << power for power in range(count.bit_length())), count} - {0})


def maj_at_k(votes: Sequence[int | None], correct: Sequence[bool], ks: Sequence[int]) -> list[float]:
    """Returns the chance that the majority of k of n samples is correct, for each k of `ks` (maj@k, paper §5.2.2).

    This is the exact mean over all ordered choices of k samples, an unbiased estimate of the result of k new samples.
    In a choice the class with most votes wins; of tied classes the one seen first. A sample without an answer has no
    vote, and a choice without any vote is incorrect.

    Args:
      votes: `[n]` index of the first sample with an equal answer; None without an answer.
      correct: `[n]` whether each sample is correct; a class is correct if its first sample is.
      ks: sizes of choices.

    Raises:
      ValueError: a size is not between 1 and n, or n is above `MAX_SAMPLES`.
    """
    n = len(votes)
    if min(ks) < 1 or max(ks) > n or n > MAX_SAMPLES:
        raise ValueError(f"maj@k needs 1 <= k <= n <= {MAX_SAMPLES}; got n = {n}, k = {list(ks)}.")
    sizes = Counter(vote for vote in votes if vote is not None)
    chances = np.zeros(n + 1)
    for first, size in sizes.items():
        if correct[first]:
            chances = chances + _wins(size, tuple(sorted((sizes - Counter({first: size})).values())), n)
    return [float(chances[k]) for k in ks]


@functools.lru_cache(maxsize=1 << 14)
def _wins(size: int, others: tuple[int, ...], n: int) -> np.ndarray:
    """Returns `[n + 1]`, for every k the chance that a class of `size` samples wins among k of the n samples.

    The class wins with v votes if t others have v votes too, none has more, and it is seen first of the t + 1, which is
    equally likely for each. For each v the choices are counted by t, one other class after the other.
    """
    won = np.zeros(n + 1)
    for v in range(1, size + 1):
        rivals = [other for other in others if other >= v]
        ways = np.zeros((len(rivals) + 1, n + 1))  # [t, samples chosen from other classes]
        free = n - size - sum(rivals)  # samples of classes with fewer than v, or without a vote
        ways[0, : free + 1] = _binomials(free)
        for rival in rivals:
            chosen = _binomials(rival)
            fewer = chosen[0] * ways
            for count in range(1, v):
                fewer[:, count:] += chosen[count] * ways[:, :-count]
            fewer[1:, v:] += chosen[v] * ways[:-1, :-v]
            ways = fewer
        first = 1 / np.arange(1, len(rivals) + 2)
        won[v:] += _binomials(size)[v] * (first @ ways)[:-v]
    return won / _binomials(n)


@functools.lru_cache(maxsize=MAX_SAMPLES + 1)
def _binomials(n: int) -> np.ndarray:
    return np.array([float(math.comb(n, k)) for k in range(n + 1)])


def mcnemar(first: int, second: int) -> float:
    """Returns the two-sided p-value of McNemar's exact test.

    Under the null hypothesis, a problem that only one run solves is equally likely to be of either run, so the smaller
    count is binomial. The test keeps its level; it is conservative with few problems.

    Args:
      first: problems that only the first run solves.
      second: problems that only the second run solves.

    Raises:
      ValueError: a count is negative.
    """
    if min(first, second) < 0:
        raise ValueError(f"McNemar's test needs counts of 0 or more; got {first} and {second}.")
    n, smaller = first + second, min(first, second)
    term = tail = 1
    for k in range(smaller):
        term = term * (n - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << n))
