"""Kills child processes together with all that they started in their process group."""

import contextlib
import os
import signal
import time


def kill_group(pid: int) -> None:
    """Sends SIGKILL to a child that has not been reaped, so that its pid is still its own, and to its group."""
    for kill in (os.killpg, os.kill):  # a child just forked may lead no group yet
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def reap(pid: int, grace: float = 0.0) -> int:
    """Waits up to `grace` seconds for a child to end by itself, kills its group, and returns its wait status."""
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.001)
    kill_group(pid)
    return os.waitpid(pid, 0)[1]
