"""Misbehaving graders for the tests of the workers."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def square(value: int) -> int:
    return value * value


def square_after(value: int, seconds: float) -> int:
    time.sleep(seconds)
    return value * value


def work(seconds: float | None) -> float:
    """Takes the given processor time, or sleeps forever; returns the elapsed time."""
    began = time.monotonic()
    if seconds is None:
        time.sleep(1000)
    until = time.process_time() + (seconds or 0.0)
    while time.process_time() < until:
        pass
    return time.monotonic() - began


def hang() -> None:
    time.sleep(1000)


def hang_in_c() -> int:
    """Holds the GIL, so that no thread of the worker can end it."""
    return len(str(pow(3, 10**9)))


def alarm() -> int:
    """Uses the alarm signal, as symbolic graders do."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    time.sleep(0.05)
    return 1


def killed(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.05)


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1) + 1


def fill_memory() -> None:
    kept = []
    while True:
        kept.append(bytearray(1 << 26))


def fork_and_come_back() -> int:
    return os.fork()


def speak(text: str) -> str:
    print(text)
    os.write(1, b"and more\n")
    return text + sys.stdin.read()


def start_child(path: str) -> None:
    """Starts a process that would survive a kill of the worker alone, and hangs."""
    child = subprocess.Popen(["sleep", "1000"])
    Path(path).write_text(f"{os.getpid()} {child.pid}", encoding="ascii")
    time.sleep(1000)


async def square_later(value: int, seconds: float = 0.0) -> int:
    """Waits as for another machine."""
    await asyncio.sleep(seconds)
    return value * value


async def misbehave(value: int, how: str) -> int:
    """Waits a little; then does what is asked."""
    await asyncio.sleep(0.01)
    match how:
        case "block":
            time.sleep(1000)
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "memory":
            raise MemoryError
        case "raise":
            raise KeyError(value)
        case "leave":
            sys.exit(1)
        case "cancel":
            raise asyncio.CancelledError
        case "wait":
            await asyncio.sleep(1000)
        case "ignore":
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(1000)
        case "thread":
            await asyncio.to_thread(time.sleep, 1000)
        case "busy":
            time.sleep(0.15)
    return value * value


class SquareLater:
    """A client that belongs to the event loop in which it was used first."""

    loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, value: int) -> int:
        loop = asyncio.get_running_loop()
        SquareLater.loop = SquareLater.loop or loop
        assert SquareLater.loop is loop
        return value * value


square_with_client = SquareLater()
_running = 0


async def calls_at_a_time(seconds: float) -> int:
    """Returns the number of calls that run in this worker at the end of this one's wait."""
    global _running
    _running += 1
    await asyncio.sleep(seconds)
    found = _running
    await asyncio.sleep(seconds)
    _running -= 1
    return found


def two_numbers() -> Any:
    import numpy as np

    return np.array([0.5, 2.0])
