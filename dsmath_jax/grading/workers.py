"""Calls functions that may hang, crash or fill the memory in worker processes: one item is lost, the run continues.

The run's process talks to a fork server, a small Python process in its own session that never calls a grader. The fork
server forks the workers, sends them items, watches their time limits and kills those that hang. So no process with
threads or devices is forked, no time limit needs a signal, and any thread may call `map`. When the run is killed, the
fork server sees the end of its pipe and kills the workers.

A worker runs one call of a function at a time, or several of an `async def`, which mostly wait. Where a worker with
several calls dies or its event loop is blocked, it is not known which of them does that: they are repeated in halves,
until it is alone.
"""

import collections
import contextlib
import dataclasses
import importlib
import itertools
import json
import os
import pickle
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, Literal, Self

from dsmath_jax.grading.process_groups import reap
from dsmath_jax.grading.worker_process import OUT_OF_MEMORY, after, run_worker

GIB = 1 << 30
START_SECONDS = 60.0  # seconds for the import of a function, before the time limit of the first item starts
MAX_CHUNK = 64  # items that are sent to a worker at once
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # a grader that imports JAX must not take the run's accelerators
    "OMP_NUM_THREADS": "1",  # threads of BLAS reserve address space on each of many processors
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",  # sets have the same order in every worker and run
    "PYTHONUNBUFFERED": "1",  # what a grader prints is visible even if its worker is killed
}
START_FORK_SERVER = (
    "import sys; sys.path[:] = sys.argv[5:]; from dsmath_jax.grading import workers; workers.serve_forks()"
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of one item: the function's value where `status` is "ok", else the reason."""

    status: Literal["ok", "raised", "timed out", "died"]
    value: Any = None
    reason: str = ""


class Workers:
    """A pool of worker processes that start when first needed and are replaced when they die."""

    def __init__(self, count: int = 0, seconds: float = 10.0, memory_bytes: int = 4 * GIB, preload: Sequence[str] = ()):
        """
        Args:
          count: maximum number of workers; 0 for one per processor.
          seconds: time limit of an item: wall time, or processor time where other processes keep the processors busy.
          memory_bytes: address space of a worker.
          preload: modules that the fork server imports; the import must start no threads.
        """
        count = count or len(os.sched_getaffinity(0))
        self._arguments = [str(count), str(seconds), str(memory_bytes), ",".join(preload)]
        self._lock = threading.Lock()
        self._closed = False
        self._fork_server: subprocess.Popen[bytes] | None = None

    def map(self, function: str, items: Iterable[Sequence[Any]], in_flight: int = 1) -> list[Outcome]:
        """Calls `function(*item)` for every item.

        A worker that hangs or dies loses its current item only. What the function prints goes to stderr.

        Args:
          function: "package.module:function", may be asynchronous; it must return a JSON value or an array.
          items: tuples of arguments, which are pickled.
          in_flight: maximum number of calls of an asynchronous function at a time in a worker.

        Returns:
          the outcomes in the order of the items.
        """
        pickled = [pickle.dumps(tuple(item)) for item in items]
        with self._lock:
            try:
                lines = list(self._request(function, pickled, in_flight))
            except BaseException:
                self._stop()  # its remaining lines would be read as results of the next call
                raise
        outcomes = {index: Outcome(*fields) for index, *fields in map(json.loads, lines)}
        lost = Outcome("died", reason="the fork server was killed")
        return [outcomes.get(index, lost) for index in range(len(pickled))]

    def close(self) -> None:
        """Ends the fork server and its workers, for good: a `map` in another thread loses its remaining items."""
        self._closed = True
        if (server := self._fork_server) is not None:
            assert server.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                server.stdin.close()
        with self._lock:
            self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _request(self, function: str, pickled: list[bytes], in_flight: int) -> Iterator[bytes]:
        if self._closed:
            return
        if self._fork_server is None or self._fork_server.poll() is not None:
            self._fork_server = subprocess.Popen(
                [sys.executable, "-c", START_FORK_SERVER, *self._arguments, *sys.path],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | ENVIRONMENT, start_new_session=True,
            )  # fmt: skip
        jobs, results = self._fork_server.stdin, self._fork_server.stdout
        assert jobs is not None
        assert results is not None
        with contextlib.suppress(BrokenPipeError):  # the fork server was killed: no line comes
            pickle.dump((function, pickled, in_flight), jobs)
            jobs.flush()
        for _ in pickled:
            line = results.readline()
            if not line.endswith(b"\n"):
                self._stop()
                return
            yield line

    def _stop(self) -> None:
        if self._fork_server is None:
            return
        server, self._fork_server = self._fork_server, None
        for pipe in (server.stdin, server.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        server.wait()


class _Job:
    """The items of a call of `map`.

    Attributes:
      function, pickled, in_flight: of the call.
      waiting: indices of the items that no worker has.
      max_chunk: the number of items that may be sent together with an item; set where a worker died with several calls.
    """

    def __init__(self, function: str, pickled: list[bytes], in_flight: int):
        self.function, self.pickled, self.in_flight = function, pickled, in_flight
        self.waiting = collections.deque(range(len(pickled)))
        self.max_chunk: dict[int, int] = {}

    def chunk_size(self, count: int, free: int) -> int:
        """Returns the number of items for one of `free` workers, out of `count`.

        One call at a time: fewer towards the end, so that all finish at about the same time. Else an equal share.
        """
        size = len(self.waiting) // (4 * count) if self.in_flight == 1 else -(-len(self.waiting) // free)
        most = MAX_CHUNK if self.in_flight == 1 else len(self.waiting)
        return max(1, min(size, most, self.max_chunk.get(self.waiting[0], most)))


@dataclasses.dataclass(eq=False)
class _Worker:
    """A forked worker (`worker_process`), as the fork server sees it."""

    process: int
    items: IO[bytes]
    results: int
    todo: collections.deque[int] = dataclasses.field(default_factory=collections.deque)
    unread: bytes = b""
    has_late_call: bool = False  # an asynchronous one, which may still run
    allowed: float = 0.0
    deadline: float = 0.0
    used: float = 0.0  # processor time before its time limit was started

    def allow(self, seconds: float) -> None:
        """Starts its time limit again."""
        self.allowed, self.deadline, self.used = seconds, time.monotonic() + seconds, _processor_time(self.process)

    def starved(self) -> bool:
        """Returns whether it is late because the machine is busy; moves the deadline by the processor time it lacks."""
        left = self.allowed - (_processor_time(self.process) - self.used)
        with open(f"/proc/{self.process}/stat", encoding="ascii", errors="replace") as file:
            runnable = file.read().rpartition(")")[2].split()[0] == "R"
        if runnable and left > 0:
            self.deadline = time.monotonic() + left
        return self.deadline > time.monotonic()


def serve_forks() -> None:
    """Runs the fork server: jobs come on stdin, and [index, status, value, reason] lines go to stdout."""
    count, seconds, memory_bytes, preload = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    # Graders have an empty stdin, and what they print does not mix with the results.
    jobs, results = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    # Signals to the whole job are for the run to handle; it may still need the rewards of its step.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
    for module in filter(None, preload.split(",")):
        importlib.import_module(module)
    server = _ForkServer(count, seconds, memory_bytes, jobs, results)
    try:
        while True:
            server.work(_Job(*pickle.load(jobs)))
    except (EOFError, pickle.UnpicklingError, BrokenPipeError):
        pass  # the run has ended or closed the pool
    finally:
        for worker in server.workers:
            reap(worker.process)


class _ForkServer:
    """The fork server's workers and their queue."""

    def __init__(self, count: int, seconds: float, memory_bytes: int, jobs: IO[bytes], results: IO[bytes]):
        self.count, self.seconds, self.memory_bytes = count, seconds, memory_bytes
        self.jobs, self.results = jobs, results
        self.workers: list[_Worker] = []
        self.events = selectors.DefaultSelector()
        self.events.register(jobs, selectors.EVENT_READ)

    def work(self, job: _Job) -> None:
        """Processes all items and writes their results."""
        while job.waiting or any(worker.todo for worker in self.workers):
            self._send_items(job)
            # The time is taken first: a worker whose deadline passed before it, and that has written nothing, is late.
            now = time.monotonic()
            first = min(worker.deadline for worker in self.workers if worker.todo)
            for key, _ in self.events.select(max(0.0, first - now)):
                if key.fileobj is self.jobs:  # one job runs at a time, so this is the end of the pipe
                    raise EOFError
                worker = key.data
                if not self._read_results(worker):
                    self._end_worker(worker, "died", job)
                elif worker.has_late_call and not worker.todo:
                    self._end_worker(worker, "timed out", job)
            for worker in [w for w in self.workers if w.todo and w.deadline <= now and not w.starved()]:
                self._end_worker(worker, "timed out", job)
            self.results.flush()

    def _send_items(self, job: _Job) -> None:
        """Sends items to idle workers."""
        while job.waiting:
            idle = [worker for worker in self.workers if not worker.todo]
            free = len(idle) + self.count - len(self.workers)
            if not free:
                return
            worker = idle[0] if idle else self._fork()
            worker.todo.extend(job.waiting.popleft() for _ in range(job.chunk_size(self.count, free)))
            worker.allow(START_SECONDS)
            with contextlib.suppress(BrokenPipeError):  # it died while idle, which `select` reports soon
                pickled = [(index, job.pickled[index]) for index in worker.todo]
                pickle.dump((job.function, pickled, job.in_flight), worker.items)
                worker.items.flush()

    def _fork(self) -> _Worker:
        items, to_worker = os.pipe()
        from_worker, results = os.pipe()
        process = os.fork()
        if process == 0:
            others = [w.results for w in self.workers] + [w.items.fileno() for w in self.workers]
            for descriptor in (to_worker, from_worker, self.jobs.fileno(), self.results.fileno(), *others):
                os.close(descriptor)  # else the ends of other workers would go unnoticed
            run_worker(items, results, self.memory_bytes, self.seconds)
        os.close(items)
        os.close(results)
        with contextlib.suppress(OSError):  # the worker does it too; either may come first
            os.setpgid(process, process)
        worker = _Worker(process, os.fdopen(to_worker, "wb"), from_worker)
        self.workers.append(worker)
        self.events.register(from_worker, selectors.EVENT_READ, worker)
        return worker

    def _read_results(self, worker: _Worker) -> bool:
        """Forwards the results of a worker; False at the end of its pipe."""
        data = os.read(worker.results, 1 << 16)
        *lines, worker.unread = (worker.unread + data).split(b"\n")
        for line in lines:
            worker.allow(self.seconds)
            if line:  # else it is alive
                index, status, _ = line.split(b", ", 2)
                worker.todo.remove(int(index))
                worker.has_late_call |= status == b'"timed out"'
                self.results.write(b"[%s]\n" % line)
        return bool(data)

    def _end_worker(self, worker: _Worker, status: str, job: _Job) -> None:
        """Ends a worker; its current item is lost, the others return to the front of the queue.

        Several items in flight return too, for chunks of half as many.
        """
        self.workers.remove(worker)
        self.events.unregister(worker.results)
        os.close(worker.results)
        with contextlib.suppress(BrokenPipeError):
            worker.items.close()
        wait_status = reap(worker.process, grace=1.0 if status == "died" else 0.0)  # it may be about to end by itself
        current = list(itertools.islice(worker.todo, job.in_flight))
        if len(current) > 1:
            job.max_chunk |= dict.fromkeys(current, len(current) // 2)
        elif current:
            reason = after(worker.allowed) if status == "timed out" else _cause(wait_status)
            line = json.dumps([worker.todo.popleft(), status, None, reason]).encode()
            self.results.write(line + b"\n")
        job.waiting.extendleft(reversed(worker.todo))


def _processor_time(process: int) -> float:
    """Returns the processor time of a process in seconds, by its clock in Linux."""
    return time.clock_gettime((~process << 3) | 2)


def _cause(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == OUT_OF_MEMORY:
        return "out of memory"
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
