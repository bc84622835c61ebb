"""CPU seconds and peak memory of a command with all the processes that it starts, and CPU seconds step by step.

Linux only: it reads /proc. CPU seconds are those of user and system, which a crowded machine changes little. This
module needs nothing but the standard library, so that a peer's environment can import it.
"""

import contextlib
import ctypes
import dataclasses
import os
import resource
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

SET_CHILD_SUBREAPER = 36  # prctl: orphans below this process become its children, so that they can be waited for
POLL_SECONDS = 0.05
TOLD = 2_000  # characters of its output that are shown of a command that failed
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a command took: CPU seconds of all its processes, and the most memory that they held at one time.

    Attributes:
      peak_bytes: resident memory summed over the processes; what they share counts once for each of them.
    """

    cpu_seconds: float
    peak_bytes: int


def run(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Usage:
    """Runs a command to its end, with the orphans that it leaves.

    Args:
      log: takes what it writes to standard output and error.
      environment: variables to set beside those of this process.

    Raises:
      RuntimeError: it failed, with the end of what it wrote.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "this process cannot take over the orphans of its children")
    spent, others = children_seconds(), {*descendants(os.getpid())}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | dict(environment or {})
        )
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(resident_bytes, {*descendants(os.getpid())} - others)))
        time.sleep(POLL_SECONDS)
    while orphans := {*children(os.getpid())} - others:
        for orphan in orphans:
            os.waitpid(orphan, 0)
    if process.returncode:
        message = log.read_text("utf-8", "replace")[-TOLD:]
        raise RuntimeError(f"{' '.join(command)} ended with code {process.returncode}: {message}")
    return Usage(children_seconds() - spent, peak)


def children_seconds() -> float:
    """CPU seconds of the processes that this one started and waited for, and of those that they waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def descendants(pid: int) -> Iterator[int]:
    """The processes below one; those that end meanwhile may be missing."""
    for child in children(pid):
        yield child
        yield from descendants(child)


def children(pid: int) -> Iterator[int]:
    """The processes that one has started, or taken over, and that have not been waited for."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread or process has just ended
            yield from map(int, task.read_text().split())


def resident_bytes(pid: int) -> int:
    """Resident memory of a process, 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


class Meter:
    """Sums this process's CPU seconds by step. What a step takes that another one calls is not also the caller's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def call(self, step: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a function as part of a step."""
        start = time.process_time()
        self._inner.append(0.0)
        try:
            return function(*args, **kwargs)
        finally:
            spent = time.process_time() - start
            self.seconds[step] += spent - self._inner.pop()
            self._inner[-1] += spent

    def function(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted as part of a step each time it is called."""

        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            return self.call(step, function, *args, **kwargs)

        return counted

    def items(self, step: str, items: Iterator[Any]) -> Iterator[Any]:
        """The items, the making of each counted as part of a step."""
        end = object()
        while (item := self.call(step, next, items, end)) is not end:
            yield item
