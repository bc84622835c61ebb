"""Misbehaving graders for the tests of the workers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


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
