"""Measures processes in turns: each keeps what it has built and compiled while the others work.

    python -m benchmarks.turns MODULE FOLDER [ARGUMENT ...]

runs one side. It calls `MODULE.prepare(FOLDER, ...)` and writes a line of JSON when that is ready; after each line that
it reads, it does its work once and writes the time and memory. So a machine's slower minutes affect all sides alike.
Linux only (/proc). This module needs only the standard library, so that a peer's environment can import it.
"""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.resources import ENVIRONMENT, failure

Work = Callable[[], dict]  # does one turn; returns what to report of it
Results = Mapping[str, tuple[dict, list[dict]]]  # by side: its report when it was ready, and that of each turn


def command(python: str, module: str, *arguments: str | Path) -> list[str]:
    """Returns the command of a side: `module` is below `benchmarks`, the first argument its folder."""
    return [python, "-m", "benchmarks.turns", f"benchmarks.{module}", *map(str, arguments)]


def serve(prepare: Callable[[], tuple[dict, Work]]) -> None:
    """Runs a side in this process.

    Args:
      prepare: builds and warms up; returns what to report of that, and the work of one turn.
    """
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get between the reports

    def report(values: dict) -> None:
        reports.write(json.dumps(values | {"peak_bytes": peak_bytes()}) + "\n")
        reports.flush()

    ready, work = prepare()
    report(ready)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        values = work()
        report({"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - wall} | values)


def peak_bytes() -> int:
    """Returns the peak memory of this process so far: on a GPU its allocator's, else resident.

    (`getrusage` would count what the parent had at the fork.)
    """
    return _device_peak_bytes() or _status("VmHWM")


def baseline_bytes(arrays: Iterable[Any]) -> int:
    """Returns the memory to subtract from the peak: on a GPU that of the arrays placed there, else what is resident."""
    return sum(array.nbytes for array in arrays) if _device_peak_bytes() else _status("VmRSS")


def _device_peak_bytes() -> int:
    """Peak of torch's or JAX's allocator, 0 where the process works on CPUs."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    if jax and jax.default_backend() != "cpu":
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return 0


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


class Side:
    """The process of a side, seen from the measuring process; `ready` is its first report."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._command, self._log = command, log
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env=os.environ | ENVIRONMENT | dict(environment),
            )  # fmt: skip
        try:
            self.ready = self._read()
        except BaseException:
            self.close()
            raise

    def turn(self) -> dict:
        """Makes the process do its work once, and returns its report.

        Raises:
          RuntimeError: it failed, with the end of what it wrote.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: the log says why
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise failure(self._command, self._process.wait(), self._log)
        return json.loads(line)

    def close(self) -> None:
        """Kills the process."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def threads(count: int) -> Iterator[dict[str, str]]:
    """Limits processes started in the block to `count` CPUs; yields the environment that limits OpenMP's pools.

    OpenMP's threads sleep while they wait. With other work on the machine they would spin for a thread that has no CPU,
    and that would be measured.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield {"OMP_NUM_THREADS": str(count), "OMP_WAIT_POLICY": "PASSIVE"}
    finally:
        os.sched_setaffinity(0, allowed)


def alternate(commands: Mapping[str, Sequence[str]], scratch: Path, repetitions: int, count: int) -> Results:
    """Starts all sides on the same `count` CPUs, in order, and measures them in turns.

    Raises:
      RuntimeError: a side failed.
    """
    with contextlib.ExitStack() as stack:
        environment = stack.enter_context(threads(count))
        sides = {}
        for name, command in commands.items():
            sides[name] = Side(command, scratch / f"{name}.log", environment)
            stack.callback(sides[name].close)
        rounds = [{name: side.turn() for name, side in sides.items()} for _ in range(repetitions)]
        return {name: (side.ready, [turns[name] for turns in rounds]) for name, side in sides.items()}


if __name__ == "__main__":
    module, folder, *arguments = sys.argv[1:]
    serve(lambda: importlib.import_module(module).prepare(Path(folder), *arguments))
