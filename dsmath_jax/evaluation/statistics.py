"""What the counts of an evaluation say: pass@k and majority votes.

Plain NumPy: nothing here knows of models or benchmarks, and every result is a function of its arguments alone.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

Answer = TypeVar("Answer")


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


def majority(answers: Sequence[Answer | None], equal: Callable[[Answer, Answer], bool]) -> int:
    """Index of the first answer of the class that most samples voted for (maj@k, self-consistency).

    An answer joins the first class whose founder it equals, as `equal(founder, answer)` tells. Of classes with equally
    many votes the one seen first wins. None means that no answer was extracted: it votes for nothing, and index 0 is
    returned only because something must be when all are None.

    Raises:
      ValueError: there are no answers.
    """
    if not answers:
        raise ValueError("A majority vote wants at least one answer.")
    votes: dict[int, int] = {}
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        for founder in votes:
            if equal(answers[founder], answer):  # type: ignore[arg-type]  # founders are never None
                votes[founder] += 1
                break
        else:
            votes[index] = 1
    return max(votes, key=votes.__getitem__, default=0)
