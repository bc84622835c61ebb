"""Step times, memory, and goodput: the share of a run's wall time spent in useful steps."""

import resource
import sys
import time
from pathlib import Path

import jax

from dsmath_jax.training.flops import mfu
from dsmath_jax.workdir import read_json, write_json


def first_start(folder: Path) -> float:
    """Returns the time of the first start of training in this folder (Unix time), stored in `first_start.json`."""
    path = folder / "first_start.json"
    if not path.is_file():
        write_json(path, {"time": time.time()})
    return float(read_json(path)["time"])


def memory() -> dict[str, float]:
    """Returns bytes in use and at peak on the first local device or, if it has no statistics, the process's peak."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_in_use" in stats:
        return {"memory": stats["bytes_in_use"], "memory_peak": stats.get("peak_bytes_in_use", stats["bytes_in_use"])}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"memory_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


class Stopwatch:
    """Measures the metrics of a step that depend on the clock.

    `useful_seconds` is the time of all steps except the first after each start, which compiles, and those that were
    repeated after a kill. Evaluation, restoring and waiting for checkpoints are not part of a step. `goodput` is its
    share of the wall time since the run's first start, including pauses.
    """

    def __init__(self, began: float, useful_seconds: float, flops_per_token: float | None):
        """`useful_seconds` is that of the steps before this start, from the last row of the log that still counts."""
        self._began, self._useful, self._flops = began, useful_seconds, flops_per_token
        self._last: float | None = None

    def row(self, began: float, tokens: int) -> dict[str, float]:
        """Returns the metrics of the step that ends now.

        Args:
          began: when its batch was requested, by `time.monotonic`; the step counts from there or, if that is later,
            from the end of the previous step, which overlaps with it.
          tokens: of its global batch, including padding; 0 if it has none.
        """
        now = time.monotonic()
        seconds = now - (began if self._last is None else max(began, self._last))
        if self._last is not None:
            self._useful += seconds
        self._last = now
        row = {"seconds": seconds}
        if tokens:
            row["tokens_per_second"] = tokens / seconds
            used = mfu(self._flops, tokens / seconds) if self._flops is not None else None
            row |= {} if used is None else {"mfu": used}
        goodput = self._useful / max(time.time() - self._began, 1e-9)
        return row | memory() | {"useful_seconds": self._useful, "goodput": goodput}
