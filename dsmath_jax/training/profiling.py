"""Profiler traces of training steps."""

from pathlib import Path
from types import TracebackType
from typing import Self

import jax


class Trace:
    """Traces the steps `first` to `last`, inclusive, into a folder for TensorBoard and Perfetto."""

    def __init__(self, folder: Path, steps: tuple[int, ...]):
        """`steps` is (first, last), or () for no trace."""
        self._folder = folder
        self.first, self.last = steps if steps else (-1, -1)
        self._running = False

    def start(self) -> None:
        """Starts the trace."""
        jax.profiler.start_trace(str(self._folder))
        self._running = True

    def stop(self) -> None:
        """Stops and writes the trace, if one is running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
