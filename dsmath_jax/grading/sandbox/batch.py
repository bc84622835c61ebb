"""Runs a batch of programs: sends them to the server, enforces time limits, and collects their output."""

import collections
import dataclasses
import json
import math
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterable

from dsmath_jax.grading.sandbox import server
from dsmath_jax.grading.sandbox.limits import MIB, VALUE_CHARS, Limits, Program, ProgramResult, Status
from dsmath_jax.grading.sandbox.program import OUT_OF_MEMORY

_ERROR_CHARS = 2000  # of standard error, where there is no traceback
_REPORT_BYTES = 4 * VALUE_CHARS + 64  # characters of up to four bytes, and the first line
_CHUNK = 1 << 16
_STATUS: dict[bytes, Status] = {b"ok": "ok", b"none": "ok", b"raised": "raised"}


@dataclasses.dataclass(eq=False)
class _Running:
    """A running program: the ends of its pipes, the data read from them, and why it was killed."""

    number: int
    started: float
    deadline: float
    out: int
    err: int
    report: int
    data: dict[int, bytearray]
    killed: Status | None = None


class Batch:
    """Runs a batch of programs."""

    def __init__(self, connection: socket.socket, limits: Limits, count: int):
        """
        Args:
          connection: to the server.
          limits: of each program.
          count: number of programs that run at once.
        """
        self.connection, self.limits, self.count = connection, limits, count
        self.lost = False  # whether the server died, and with it the running programs
        self.running: dict[int, _Running] = {}
        self.done: dict[int, ProgramResult] = {}
        self.events = selectors.DefaultSelector()

    def run(self, programs: Iterable[tuple[int, Program]]) -> dict[int, ProgramResult]:
        """Returns the results of numbered programs; after the death of the server only of those that had started."""
        waiting = collections.deque(programs)
        self.events.register(self.connection, selectors.EVENT_READ)
        try:
            while (waiting or self.running) and not self.lost:
                while waiting and len(self.running) < self.count:
                    self._start(*waiting.popleft())
                self._handle_events()
        except (BrokenPipeError, ConnectionResetError):
            self.lost = True
        finally:
            for running in self.running.values():
                _close(running)
            self.events.close()
        lost = ProgramResult("killed", error="the fork server was killed")
        return dict.fromkeys(self.running, lost) | self.done

    def _start(self, number: int, program: Program) -> None:
        ends = [os.pipe() for _ in range(server.DESCRIPTORS - 1)]
        job = os.memfd_create("program")
        try:
            with open(job, "wb", closefd=False) as file:
                file.write(json.dumps([program.code, program.call]).encode())
            os.lseek(job, 0, os.SEEK_SET)
            now = time.monotonic()
            out, err, report = (reader for reader, _ in ends)
            data = {reader: bytearray() for reader in (out, err, report)}
            running = _Running(number, now, now + self.limits.seconds, out, err, report, data)
            self.running[number] = running
            for reader in data:
                os.set_blocking(reader, False)
                self.events.register(reader, selectors.EVENT_READ, running)
            socket.send_fds(self.connection, [b"%d" % number], [job, *(writer for _, writer in ends)])
        finally:
            for descriptor in (job, *(writer for _, writer in ends)):
                os.close(descriptor)

    def _handle_events(self) -> None:
        """Waits until there is data, or a time limit is reached."""
        # The time is taken first: a program whose deadline passed before it, and that has not ended below, is late.
        now = time.monotonic()
        first = min(running.deadline for running in self.running.values())
        ended = []
        for key, _ in self.events.select(None if first == math.inf else max(0.0, first - now)):
            if key.fileobj is self.connection:
                ended.append(self.connection.recv(server.MESSAGE_BYTES))
            else:
                self._read(key.data, int(key.fd))
        for message in ended:
            if not message:
                self.lost = True
                return
            self._end(**json.loads(message))
        for running in list(self.running.values()):
            if running.deadline <= now:
                self._kill(running, "timed out")

    def _read(self, running: _Running, pipe: int) -> bool:
        """Reads available data; False where there is none for now."""
        try:
            data = os.read(pipe, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self.events.unregister(pipe)
            return False
        received = running.data
        received[pipe] += data
        printed = len(received[running.out]) + len(received[running.err])
        if printed > self.limits.output_bytes or len(received[running.report]) > _REPORT_BYTES:
            self._kill(running, "too much output")
            return False
        return True

    def _kill(self, running: _Running, why: Status) -> None:
        running.killed = running.killed or why
        running.deadline = math.inf
        for pipe in running.data:  # further output is ignored
            if pipe in self.events.get_map():
                self.events.unregister(pipe)
        self.connection.send(b"%d" % running.number)

    def _end(self, number: int, status: int, cpu: float, error: str) -> None:
        """Takes the result of a program that has ended with all of its processes."""
        running = self.running[number]
        for pipe in running.data:
            while pipe in self.events.get_map() and self._read(running, pipe):
                pass
            if pipe in self.events.get_map():
                self.events.unregister(pipe)
        del self.running[number]
        _close(running)
        outcome, value, error = self._outcome(running, status, cpu, error)
        room = self.limits.output_bytes
        output = bytes(running.data[running.out][:room]).decode("utf-8", "replace")
        self.done[number] = ProgramResult(outcome, output, value, error, time.monotonic() - running.started)

    def _outcome(self, running: _Running, status: int, cpu: float, error: str) -> tuple[Status, str | None, str]:
        """Returns how a program ended, its value and its error."""
        limits = self.limits
        if running.killed == "timed out":
            return "timed out", None, f"timed out after {limits.seconds:g} s"
        if running.killed:
            return running.killed, None, f"more than {limits.output_bytes:,} bytes of output"
        if error:
            return "killed", None, error
        head, _, payload = bytes(running.data[running.report]).partition(b"\n")
        kind, _, length = head.partition(b" ")
        if kind in _STATUS and length == b"%d" % len(payload):
            text = payload.decode("utf-8", "replace")
            outcome = _STATUS[kind]
            return outcome, text if kind == b"ok" else None, "" if outcome == "ok" else text
        code = os.waitstatus_to_exitcode(status)
        if code == OUT_OF_MEMORY:
            return "out of memory", None, f"MemoryError: more than {limits.memory_bytes // MIB:,} MiB of memory"
        most = math.ceil(limits.cpu_seconds)
        if code in (-signal.SIGKILL, -signal.SIGXCPU) and cpu > most / 2:  # the limit counts ticks, which are not exact
            return "timed out", None, f"timed out after {most} s of processor time"
        cause = f"ended early with exit code {code}" if code >= 0 else f"killed by {_name(-code)}"
        stderr = bytes(running.data[running.err]).decode("utf-8", "replace")[-_ERROR_CHARS:].strip()
        return "killed", None, f"{stderr}\n{cause}".strip()


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _close(running: _Running) -> None:
    for pipe in running.data:
        os.close(pipe)
