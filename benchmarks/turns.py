"""Processes that take turns at being measured: each keeps what it has built and compiled while the others work.

A side is a process that says in a line of JSON what it has made ready, and after each line that it reads does its work
once and says what that took. So a machine's quicker and slower minutes fall on all sides alike. Linux only: /proc. This
module needs nothing but the standard library, so that a peer's environment can import it.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TOLD = 2_000  # characters of its output that are shown of a side that failed


def serve(prepare: Callable[[], tuple[dict, Callable[[], dict]]]) -> None:
    """The measured side. `prepare` builds and warms up; returns what to say of it, and the work of one turn."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    ready, work = prepare()
    _say(answers, ready | {"peak_bytes": peak_resident_bytes()})
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        found = work()
        spent = {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - wall}
        _say(answers, spent | {"peak_bytes": peak_resident_bytes()} | found)


def _say(answers: Any, value: dict) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def resident_bytes() -> int:
    """Resident memory of this process."""
    return _status("VmRSS")


def peak_resident_bytes() -> int:
    """The most that it was so far. (`getrusage` would count what the parent had at the fork.)"""
    return _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


class Side:
    """A side's process, as the one that measures sees it; `ready` is what it said when it was."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._command, self._log = command, log
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"} | dict(environment),
            )  # fmt: skip
        try:
            self.ready = self._answer()
        except BaseException:
            self.close()
            raise

    def turn(self) -> dict:
        """Has it do its work once.

        Raises:
          RuntimeError: it failed, with the end of what it wrote.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: it has no answer either, and the log says why
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            message = self._log.read_text("utf-8", "replace")[-TOLD:]
            raise RuntimeError(f"{' '.join(self._command)} ended with code {code}: {message}")
        return json.loads(line)

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def threads(count: int) -> Iterator[dict[str, str]]:
    """Has what is started meanwhile run on `count` CPUs; yields the environment that keeps OpenMP's pools to them.

    Its threads are to sleep while they wait: on a machine with other work they would spin for one that has no CPU, and
    what is measured is that.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield {"OMP_NUM_THREADS": str(count), "OMP_WAIT_POLICY": "PASSIVE"}
    finally:
        os.sched_setaffinity(0, allowed)


def alternate(
    commands: Mapping[str, Sequence[str]], scratch: Path, repetitions: int, count: int
) -> dict[str, tuple[dict, list[dict]]]:
    """Starts all sides on the same `count` CPUs and measures them in turns.

    Returns:
      by side, what it said when it was ready and after each of its turns.
    """
    with contextlib.ExitStack() as stack:
        environment = stack.enter_context(threads(count))
        sides = {}
        for name, command in commands.items():
            sides[name] = Side(command, scratch / f"{name}.log", environment)
            stack.callback(sides[name].close)
        rounds = [{name: side.turn() for name, side in sides.items()} for _ in range(repetitions)]
        return {name: (side.ready, [turns[name] for turns in rounds]) for name, side in sides.items()}


def median(turns: Sequence[dict], field: str) -> float:
    return statistics.median(turn[field] for turn in turns)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every comparison has."""
    parser.add_argument("--peer", default="", help="the interpreter of the environment that `make peers` makes")
    parser.add_argument("--threads", type=int, default=2, help="CPUs of every side")
    parser.add_argument("--repetitions", type=int, default=5, help="turns of every side, whose median counts")
    parser.add_argument("--json", type=Path, help="FILE.json takes all numbers")


def backend() -> str:
    """That of jax, asked in a process of its own: this one must not hold a GPU's memory."""
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]


def interpreter(peer: str) -> str:
    """The peer's interpreter, "" with a word on stderr where it is not there. (A link that must not be resolved.)"""
    if peer and not os.access(peer, os.X_OK):
        print(f"There is no interpreter {peer} (`make peers` makes it); ours alone is measured.", file=sys.stderr)
        return ""
    return os.path.abspath(peer) if peer else ""


def machine() -> dict:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.machine()
    return {"processor": processor, "cpus": os.cpu_count(), "python": platform.python_version()}
