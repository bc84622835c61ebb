"""Prefetches batches in a thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

HostBatch = dict[str, np.ndarray]
DEPTH = 2  # batches that are ready while a step runs


class Prefetch:
    """Returns batches by step; while a step runs, a thread prepares the next ones."""

    def __init__(self, make: Callable[[int], HostBatch], steps: int):
        """`make` returns this process's rows of a step's batch; it is not called for step `steps` or later."""
        self._make, self._steps = make, steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._futures: dict[int, Future[HostBatch]] = {}

    def __call__(self, step: int) -> HostBatch:
        """Returns the batch of `step`; errors of `make` are raised here."""
        wanted = range(step, min(step + DEPTH + 1, self._steps))
        self._futures = {n: self._futures.get(n) or self._thread.submit(self._make, n) for n in wanted}
        return self._futures.pop(step).result()
