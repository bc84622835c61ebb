"""CPU seconds and peak memory of a command with all the processes that it starts, and CPU seconds step by step.

Linux only (/proc). CPU seconds are those of user and system, which a crowded machine changes little. This module needs
only the standard library, so that a peer's environment can import it.
"""

import contextlib
import ctypes
import dataclasses
import os
import resource
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

SET_CHILD_SUBREAPER = 36  # prctl: orphans below this process become its children, so that they can be waited for
POLL_SECONDS = 0.05
PAGE = os.sysconf("SC_PAGE_SIZE")
# Lets a command import this project, whatever its interpreter and folder are.
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONSAFEPATH": "1"}


@dataclasses.dataclass(frozen=True)
class Usage:
    """CPU seconds of all processes of a command, and their peak memory.

    Attributes:
      peak_bytes: resident memory summed over the processes; shared memory counts once for each of them.
    """

    cpu_seconds: float
    peak_bytes: int


def run(command: Sequence[str], log: Path) -> Usage:
    """Runs a command to its end, with the orphans that it leaves.

    Args:
      log: receives its standard output and error.

    Raises:
      RuntimeError: it failed, with the end of what it wrote.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "this process cannot take over the orphans of its children")
    before, others = children_seconds(), {*descendants(os.getpid())}
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | ENVIRONMENT)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(resident_bytes, {*descendants(os.getpid())} - others)))
        time.sleep(POLL_SECONDS)
    while orphans := {*children(os.getpid())} - others:
        for orphan in orphans:
            os.waitpid(orphan, 0)
    if process.returncode:
        raise failure(command, process.returncode, log)
    return Usage(children_seconds() - before, peak)


def failure(command: Sequence[str], code: int, log: Path) -> RuntimeError:
    """Returns the error of a command that failed, with the end of its log."""
    return RuntimeError(f"{' '.join(command)} ended with code {code}: {log.read_text('utf-8', 'replace')[-2000:]}")


def children_seconds() -> float:
    """Returns the CPU seconds of the processes that this one started and waited for, and that those waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def descendants(pid: int) -> Iterator[int]:
    """Yields the processes below a process; those that end meanwhile may be missing."""
    for child in children(pid):
        yield child
        yield from descendants(child)


def children(pid: int) -> Iterator[int]:
    """Yields the processes that a process has started or adopted and not waited for."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread or process has just ended
            yield from map(int, task.read_text().split())


def resident_bytes(pid: int) -> int:
    """Returns the resident memory of a process, 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


class Meter:
    """Sums this process's CPU seconds by step. A step that another one calls is not counted as the caller's too."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def call(self, step: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a function and counts it as part of a step."""
        start = time.process_time()
        self._inner.append(0.0)
        try:
            return function(*args, **kwargs)
        finally:
            seconds = time.process_time() - start
            self.seconds[step] += seconds - self._inner.pop()
            self._inner[-1] += seconds

    def function(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a function so that each of its calls counts as part of a step."""

        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            return self.call(step, function, *args, **kwargs)

        return counted

    def items(self, step: str, items: Iterator[Any]) -> Iterator[Any]:
        """Yields the items and counts the production of each as part of a step."""
        end = object()
        while (item := self.call(step, next, items, end)) is not end:
            yield item
