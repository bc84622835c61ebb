"""Progress of long work: a bar on a terminal, otherwise plain lines with rate and time left."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dsmath_jax.formatting import duration

Item = TypeVar("Item")
LINE_EVERY_SECONDS = 10.0


def track(items: Iterable[Item], description: str, total: int, start: int = 0) -> Iterator[Item]:
    """Yields `items` and shows how many of `total` are done; a resumed run has done `start` of them before."""
    console = Console(stderr=True)
    yield from (_bar if console.is_terminal else _lines)(items, description, total, start, console)


def _bar(items: Iterable[Item], description: str, total: int, start: int, console: Console) -> Iterator[Item]:
    columns = (
        TextColumn("{task.description:>24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total, completed=start)
        for item in items:
            yield item
            progress.advance(task)


def _lines(items: Iterable[Item], description: str, total: int, start: int, console: Console) -> Iterator[Item]:
    del console
    began = last = time.monotonic()
    done = start
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= LINE_EVERY_SECONDS or done == total:
            last = now
            rate = (done - start) / max(now - began, 1e-9)
            left = (total - done) / rate
            print(f"{description}: {done}/{total}  {rate:.1f}/s  {duration(left)} left", file=sys.stderr, flush=True)
