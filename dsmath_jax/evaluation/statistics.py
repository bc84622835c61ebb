"""What the counts of an evaluation say: pass@k, majority votes, and whether two runs differ.

Plain NumPy: nothing here knows of models or tasks, and every result is a function of its arguments alone.
"""

import functools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

MOST_SAMPLES = 1000  # of a problem; with more of them, binomials outgrow float64


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of `k` of the `n` samples is right when `c` are: 1 - C(n-c, k) / C(n, k).

    Averaged over problems this estimates pass@k without bias (Chen et al. 2021). The quotient of the binomials is the
    product of 1 - k/i for i from n-c+1 to n; summed as logarithms, it neither overflows nor loses small results.

    Raises:
      ValueError: not 0 <= c <= n, or not 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k wants 0 <= c <= n and 1 <= k <= n, but n = {n}, c = {c}, k = {k}.")
    if n - c < k:
        return 1.0
    return float(0.0 - np.expm1(np.log1p(-k / np.arange(n - c + 1, n + 1)).sum()))


def doublings(count: int) -> list[int]:
    """1, 2, 4, ... up to `count`, and `count` itself; none for 0."""
    return sorted({*(1 << power for power in range(count.bit_length())), count} - {0})


def maj_at_k(votes: Sequence[int | None], right: Sequence[bool], ks: Sequence[int]) -> list[float]:
    """Chance that the majority of k of the n samples is right, for each k of `ks` (maj@k, paper §5.2.2).

    The mean over every choice of k samples in every order, exactly: no subsets are drawn, and averaged over problems
    this estimates without bias what k new samples would give. In a choice the class with most votes wins, of classes
    with equally many the one seen first. A sample without an answer votes for nothing; a choice without any vote is
    wrong.

    Args:
      votes: `[n]` for each sample the index of the first one with an equal answer, None where it has none.
      right: `[n]` whether each sample is right; a class is right where its first sample is.
      ks: sizes of choices.

    Raises:
      ValueError: a size is not between 1 and n, or n is above `MOST_SAMPLES`.
    """
    n = len(votes)
    if min(ks) < 1 or max(ks) > n or n > MOST_SAMPLES:
        raise ValueError(f"maj@k wants 1 <= k <= n <= {MOST_SAMPLES}, but n = {n}, k = {list(ks)}.")
    sizes = Counter(vote for vote in votes if vote is not None)
    chances = np.zeros(n + 1)
    for first, size in sizes.items():
        if right[first]:
            chances = chances + _wins(size, tuple(sorted((sizes - Counter({first: size})).values())), n)
    return [float(chances[k]) for k in ks]


@functools.lru_cache(maxsize=1 << 14)
def _wins(size: int, others: tuple[int, ...], n: int) -> np.ndarray:
    """`[n + 1]` for every k the chance that a class of `size` samples wins over the others in k of the n samples.

    The class wins with v votes where t others have v too, none has more, and of those t + 1 it is seen first: all are
    equally likely to be. So for each v the choices are counted by t, one other class after the other.
    """
    won = np.zeros(n + 1)
    for v in range(1, size + 1):
        rivals = [other for other in others if other >= v]
        ways = np.zeros((len(rivals) + 1, n + 1))  # [t, samples chosen from other classes]
        free = n - size - sum(rivals)  # samples that cannot bring their class to v votes, or have no vote
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


@functools.lru_cache(maxsize=MOST_SAMPLES + 1)
def _binomials(n: int) -> np.ndarray:
    return np.array([float(math.comb(n, k)) for k in range(n + 1)])


def mcnemar(first: int, second: int) -> float:
    """Two-sided p of McNemar's exact test: are the problems that only one of two runs solves split evenly between them?

    Under that the smaller count is binomial with chance 1/2. The test never errs more often than it says; it is a
    little cautious with few problems, where the mid-p variant would be less so but promises nothing.

    Args:
      first: problems that only the first run solves.
      second: problems that only the second run solves.

    Raises:
      ValueError: a count is negative.
    """
    if min(first, second) < 0:
        raise ValueError(f"McNemar's test wants counts of 0 or more, but they are {first} and {second}.")
    n, smaller = first + second, min(first, second)
    term = tail = 1
    for k in range(smaller):
        term = term * (n - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << n))
