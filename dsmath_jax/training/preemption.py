"""Preemption signals: SIGTERM of a preempted machine, SIGUSR1 that SLURM may send before its time limit."""

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from dsmath_jax.sharding import Layout
from dsmath_jax.workdir import UserError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(UserError):
    """The run received SIGTERM or SIGUSR1 and saved its state; the same command resumes it."""

    code = 128 + signal.SIGTERM  # the exit code of a process killed by SIGTERM
    on_all_processes = True


class PreemptionListener:
    """Context manager that listens for `SIGNALS` on all processes of the run.

    The processes agree through a tiny reduction on the devices, queued behind each step and read with the scalars of
    that step: no process waits for it, and all read the same value at the same step.
    """

    def __init__(self, layout: Layout):
        self._sharding = NamedSharding(layout.mesh, PartitionSpec(layout.mesh.axis_names))
        self._any = jax.jit(jnp.any, out_shardings=layout.replicated)
        self._received: int | None = None
        self._old_handlers: dict[int, Any] = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    def received(self) -> Array | bool:
        """Returns whether a signal was received; with several processes, a device array of whether any of them did."""
        received = self._received is not None
        if jax.process_count() == 1:
            return received
        devices = self._sharding.mesh.devices.size
        flags = jax.make_array_from_callback((devices,), self._sharding, lambda index: np.full(1, received))
        return self._any(flags)

    def __enter__(self) -> Self:
        self._old_handlers = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if error is None and self._received is not None:
            os.kill(os.getpid(), self._received)  # after the last step: delivered now
