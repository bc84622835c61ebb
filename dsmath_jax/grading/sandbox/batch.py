"""The programs of one call: hands them to the server, watches their clocks, and collects what they print."""

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
from dsmath_jax.grading.sandbox.limits import MIB, VALUE_CHARS, How, Limits, Program, Ran
from dsmath_jax.grading.sandbox.program import OUT_OF_MEMORY

_ERROR_CHARS = 2000  # of standard error, where there is no traceback
_REPORT_BYTES = 4 * VALUE_CHARS + 64  # of characters of four bytes, and the line before them
_CHUNK = 1 << 16
_HOW: dict[bytes, How] = {b"ok": "ok", b"none": "ok", b"raised": "raised"}


@dataclasses.dataclass(eq=False)
class _Running:
    """A program under way: the ends of its pipes, what has come through them, and why it was killed if it was."""

    place: int
    started: float
    deadline: float
    out: int
    err: int
    report: int
    heard: dict[int, bytearray]
    killed: How | None = None


class Batch:
    """Runs programs once."""

    def __init__(self, connection: socket.socket, limits: Limits, count: int):
        """
        Args:
          connection: to the server.
          limits: of each program.
          count: programs at once.
        """
        self.connection, self.limits, self.count = connection, limits, count
        self.lost = False  # the server, and with it all that was under way
        self.running: dict[int, _Running] = {}
        self.done: dict[int, Ran] = {}
        self.events = selectors.DefaultSelector()

    def run(self, programs: Iterable[tuple[int, Program]]) -> dict[int, Ran]:
        """What became of numbered programs; where the server is lost, of those that had started: they with it."""
        waiting = collections.deque(programs)
        self.events.register(self.connection, selectors.EVENT_READ)
        try:
            while (waiting or self.running) and not self.lost:
                while waiting and len(self.running) < self.count:
                    self._start(*waiting.popleft())
                self._listen()
        except (BrokenPipeError, ConnectionResetError):
            self.lost = True
        finally:
            for running in self.running.values():
                _close(running)
            self.events.close()
        gone = Ran("killed", error="the process that keeps the programs was killed")
        return dict.fromkeys(self.running, gone) | self.done

    def _start(self, place: int, program: Program) -> None:
        ends = [os.pipe() for _ in range(server.DESCRIPTORS - 1)]
        job = os.memfd_create("program")
        try:
            with open(job, "wb", closefd=False) as file:
                file.write(json.dumps([program.code, program.call]).encode())
            os.lseek(job, 0, os.SEEK_SET)
            now = time.monotonic()
            out, err, report = (reader for reader, _ in ends)
            heard = {reader: bytearray() for reader in (out, err, report)}
            running = _Running(place, now, now + self.limits.seconds, out, err, report, heard)
            self.running[place] = running
            for reader in heard:
                os.set_blocking(reader, False)
                self.events.register(reader, selectors.EVENT_READ, running)
            socket.send_fds(self.connection, [b"%d" % place], [job, *(writer for _, writer in ends)])
        finally:
            for descriptor in (job, *(writer for _, writer in ends)):
                os.close(descriptor)

    def _listen(self) -> None:
        """Waits until something is heard, or a clock has run out."""
        # The time is taken first: whoever has not ended by then, and is not heard below, is too late.
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
        """Takes what has come; False where there is nothing more for now."""
        try:
            data = os.read(pipe, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self.events.unregister(pipe)
            return False
        heard = running.heard
        heard[pipe] += data
        printed = len(heard[running.out]) + len(heard[running.err])
        if printed > self.limits.output_bytes or len(heard[running.report]) > _REPORT_BYTES:
            self._kill(running, "too much output")
            return False
        return True

    def _kill(self, running: _Running, why: How) -> None:
        running.killed = running.killed or why
        running.deadline = math.inf
        for pipe in running.heard:  # of what comes now nothing is wanted
            if pipe in self.events.get_map():
                self.events.unregister(pipe)
        self.connection.send(b"%d" % running.place)

    def _end(self, number: int, status: int, cpu: float, error: str) -> None:
        """A program has ended, with all of its processes."""
        running = self.running[number]
        for pipe in running.heard:
            while pipe in self.events.get_map() and self._read(running, pipe):
                pass
            if pipe in self.events.get_map():
                self.events.unregister(pipe)
        del self.running[number]
        _close(running)
        how, value, error = self._told(running, status, cpu, error)
        room = self.limits.output_bytes
        output = bytes(running.heard[running.out][:room]).decode("utf-8", "replace")
        self.done[number] = Ran(how, output, value, error, time.monotonic() - running.started)

    def _told(self, running: _Running, status: int, cpu: float, error: str) -> tuple[How, str | None, str]:
        """How it ended, its value, and the error to tell of."""
        limits = self.limits
        if running.killed == "timed out":
            return "timed out", None, f"timed out after {limits.seconds:g} s"
        if running.killed:
            return running.killed, None, f"more than {limits.output_bytes:,} bytes of output"
        if error:
            return "killed", None, error
        head, _, payload = bytes(running.heard[running.report]).partition(b"\n")
        kind, _, length = head.partition(b" ")
        if kind in _HOW and length == b"%d" % len(payload):
            text = payload.decode("utf-8", "replace")
            how = _HOW[kind]
            return how, text if kind == b"ok" else None, "" if how == "ok" else text
        code = os.waitstatus_to_exitcode(status)
        if code == OUT_OF_MEMORY:
            return "out of memory", None, f"MemoryError: more than {limits.memory_bytes // MIB:,} MiB of memory"
        most = math.ceil(limits.cpu_seconds)
        if code in (-signal.SIGKILL, -signal.SIGXCPU) and cpu > most / 2:  # the limit counts ticks, which is not exact
            return "timed out", None, f"timed out after {most} s of processor time"
        cause = f"ended early with exit code {code}" if code >= 0 else f"killed by {_name(-code)}"
        said = bytes(running.heard[running.err]).decode("utf-8", "replace")[-_ERROR_CHARS:].strip()
        return "killed", None, f"{said}\n{cause}".strip()


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _close(running: _Running) -> None:
    for pipe in running.heard:
        os.close(pipe)
