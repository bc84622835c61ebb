"""Maps a pure function over tasks in worker processes, with ordered results."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import TypeVar

from dsmath_jax.progress import track

Task = TypeVar("Task")
Result = TypeVar("Result")


def run(function: Callable[[Task], Result], tasks: Sequence[Task], what: str, workers: int = 0) -> Iterator[Result]:
    """Yields `function(task)` for the tasks, in their order, and shows progress as `what`.

    Args:
      function: module-level, as are the types of tasks and results, since they are pickled.
      workers: processes; 0 for one per processor. With one worker or task, this process does the work.
    """
    workers = min(len(tasks), workers or len(os.sched_getaffinity(0)))
    if workers <= 1:
        yield from track(map(function, tasks), what, len(tasks))
        return
    # Not fork: this process may have threads, of JAX and others.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        try:
            yield from track(pool.map(function, tasks), what, len(tasks))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed; it would wait for its next task forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
