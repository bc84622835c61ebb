"""Batches made in advance of their step, in a thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

HostBatch = dict[str, np.ndarray]
DEPTH = 2  # batches that wait ready while a step runs


class Prefetch:
    """Batches by step from a function of the step alone: while a step runs, the next ones are made."""

    def __init__(self, make: Callable[[int], HostBatch], steps: int):
        """`make` gives this process's rows of a step's batch; none is made for step `steps` or after."""
        self._make, self._steps = make, steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._made: dict[int, Future[HostBatch]] = {}

    def __call__(self, step: int) -> HostBatch:
        """The batch of `step`; an error in making it is raised here."""
        wanted = range(step, min(step + DEPTH + 1, self._steps))
        self._made = {n: self._made.get(n) or self._thread.submit(self._make, n) for n in wanted}
        return self._made.pop(step).result()
