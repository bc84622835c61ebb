"""Functions in worker processes that may hang, crash or eat memory: the item is lost, the run is not.

Three kinds of processes. The run's own talks to one nursery, a small Python process in a session of its own that never
calls a grader; the nursery forks the workers, hands them items, watches their clocks and kills what hangs. So no
process is forked that has threads or devices, no time limit needs a signal, and any thread may ask. Where the run is
killed, the nursery sees the end of its pipe and takes the workers with it.
"""

import collections
import contextlib
import dataclasses
import importlib
import json
import os
import pickle
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import IO, Any, Literal, NoReturn, Self

from dsmath_jax.grading.process_groups import reap

GIB = 1 << 30
STARTING = 60.0  # seconds that a worker may take to import a function, before the clock of its first item starts
LARGEST_SHARE = 64  # items that a worker is handed at once
OUT_OF_MEMORY = 97  # exit code of a worker
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # a grader that imports JAX must not take the run's accelerators
    "OMP_NUM_THREADS": "1",  # threads of BLAS reserve address space on each of many processors
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",  # the order of a set is the same in every worker and run
    "PYTHONUNBUFFERED": "1",  # what a grader prints is seen though its worker is killed
}
START_NURSERY = "import sys; sys.path[:] = sys.argv[5:]; from dsmath_jax.grading import workers; workers.nursery()"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one item: the function's value where `how` is "ok", else what is known of the reason."""

    how: Literal["ok", "raised", "timed out", "died"]
    value: Any = None
    reason: str = ""


class Workers:
    """Worker processes that are started when first needed, and replaced when they are lost."""

    def __init__(self, count: int = 0, seconds: float = 10.0, memory_bytes: int = 4 * GIB, preload: Sequence[str] = ()):
        """
        Args:
          count: workers at most; 0 for one per processor.
          seconds: wall time that an item may take; where others keep the processors busy, processor time.
          memory_bytes: address space that a worker may use.
          preload: modules that all workers have from their start; they must start no threads when imported.
        """
        count = count or len(os.sched_getaffinity(0))
        self._arguments = [str(count), str(seconds), str(memory_bytes), ",".join(preload)]
        self._lock = threading.Lock()
        self._nursery: subprocess.Popen[bytes] | None = None

    def map(self, function: str, items: Iterable[Sequence[Any]]) -> list[Outcome]:
        """Calls `function(*item)` for every item.

        An item whose worker hangs, is killed or dies is lost alone. What the function prints goes to stderr.

        Args:
          function: "package.module:function"; it returns what JSON can hold, or a scalar of NumPy.
          items: arguments, which are pickled.

        Returns:
          the outcomes in the order of the items.
        """
        pickled = [pickle.dumps(tuple(item)) for item in items]
        with self._lock:
            try:
                lines = list(self._ask(function, pickled))
            except BaseException:
                self._stop()  # its remaining lines would be taken for the next answer
                raise
        found = {place: Outcome(how, *told) for place, how, *told in map(json.loads, lines)}
        lost = Outcome("died", reason="the process that keeps the workers was killed")
        return [found.get(place, lost) for place in range(len(pickled))]

    def close(self) -> None:
        with self._lock:
            self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, function: str, pickled: list[bytes]) -> Iterator[bytes]:
        if self._nursery is None or self._nursery.poll() is not None:
            self._nursery = subprocess.Popen(
                [sys.executable, "-c", START_NURSERY, *self._arguments, *sys.path],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | ENVIRONMENT, start_new_session=True,
            )  # fmt: skip
        asked, answers = self._nursery.stdin, self._nursery.stdout
        assert asked is not None
        assert answers is not None
        with contextlib.suppress(BrokenPipeError):  # the nursery was killed: no line comes
            pickle.dump((function, pickled), asked)
            asked.flush()
        for _ in pickled:
            line = answers.readline()
            if not line.endswith(b"\n"):
                self._stop()
                return
            yield line

    def _stop(self) -> None:
        if self._nursery is None:
            return
        nursery, self._nursery = self._nursery, None
        for pipe in (nursery.stdin, nursery.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        nursery.wait()


@dataclasses.dataclass(eq=False)
class _Worker:
    """A forked worker as the nursery sees it; it answers with a line when it is ready, and a line for every item."""

    process: int
    asked: IO[bytes]
    answers: int
    todo: collections.deque[int] = dataclasses.field(default_factory=collections.deque)
    unread: bytes = b""
    allowed: float = 0.0
    deadline: float = 0.0
    used: float = 0.0  # processor time before its clock was started

    def allow(self, seconds: float) -> None:
        """Starts its clock anew."""
        self.allowed, self.deadline, self.used = seconds, time.monotonic() + seconds, _processor_time(self.process)

    def starved(self) -> bool:
        """Whether it is late because the machine is busy; it is given the processor time that it has not had."""
        left = self.allowed - (_processor_time(self.process) - self.used)
        with open(f"/proc/{self.process}/stat", encoding="ascii", errors="replace") as file:
            runnable = file.read().rpartition(")")[2].split()[0] == "R"
        if runnable and left > 0:
            self.deadline = time.monotonic() + left
        return self.deadline > time.monotonic()


def nursery() -> None:
    """Serves jobs from stdin until it ends, and answers on stdout a line an item: [place, how, value, reason]."""
    count, seconds, memory_bytes, preload = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    # Graders find nothing to read, and what they print does not get among the answers.
    jobs, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    # What tells a whole job to end is the run's to decide on; it may want the rewards of the step that it is in.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
    for module in filter(None, preload.split(",")):
        importlib.import_module(module)
    kept = _Kept(count, seconds, memory_bytes, jobs, answers)
    try:
        while True:
            kept.work(*pickle.load(jobs))
    except (EOFError, pickle.UnpicklingError, BrokenPipeError):
        pass  # the run has ended, or wants no more
    finally:
        for worker in kept.workers:
            reap(worker.process)


class _Kept:
    """The workers of a nursery."""

    def __init__(self, count: int, seconds: float, memory_bytes: int, jobs: IO[bytes], answers: IO[bytes]):
        self.count, self.seconds, self.memory_bytes = count, seconds, memory_bytes
        self.jobs, self.answers = jobs, answers
        self.workers: list[_Worker] = []
        self.events = selectors.DefaultSelector()
        self.events.register(jobs, selectors.EVENT_READ)

    def work(self, function: str, pickled: list[bytes]) -> None:
        """Has all items done, and tells what became of them."""
        waiting = collections.deque(range(len(pickled)))
        while waiting or any(worker.todo for worker in self.workers):
            self._hand_out(function, pickled, waiting)
            # The time is taken first: whoever has not answered by then, and is not heard below, is too late.
            now = time.monotonic()
            first = min(worker.deadline for worker in self.workers if worker.todo)
            for key, _ in self.events.select(max(0.0, first - now)):
                if key.fileobj is self.jobs:  # nobody asks twice at once: this is its end
                    raise EOFError
                if not self._listen(key.data):
                    self._give_up(key.data, "died", waiting)
            for worker in [w for w in self.workers if w.todo and w.deadline <= now and not w.starved()]:
                self._give_up(worker, "timed out", waiting)
            self.answers.flush()

    def _hand_out(self, function: str, pickled: list[bytes], waiting: collections.deque[int]) -> None:
        """Gives idle workers items, fewer as they become rare, so that all end at about the same time."""
        while waiting:
            idle = [worker for worker in self.workers if not worker.todo]
            if not idle and len(self.workers) == self.count:
                return
            worker = idle[0] if idle else self._fork()
            share = max(1, min(LARGEST_SHARE, len(waiting) // (4 * self.count)))
            worker.todo.extend(waiting.popleft() for _ in range(share))
            worker.allow(STARTING)
            with contextlib.suppress(BrokenPipeError):  # it died while it was idle, which is heard soon
                pickle.dump((function, [pickled[place] for place in worker.todo]), worker.asked)
                worker.asked.flush()

    def _fork(self) -> _Worker:
        asked, to_worker = os.pipe()
        from_worker, answers = os.pipe()
        process = os.fork()
        if process == 0:
            others = [w.answers for w in self.workers] + [w.asked.fileno() for w in self.workers]
            for descriptor in (to_worker, from_worker, self.jobs.fileno(), self.answers.fileno(), *others):
                os.close(descriptor)  # else their other ends would not see this process's peers end
            _serve(asked, answers, self.memory_bytes)
        os.close(asked)
        os.close(answers)
        with contextlib.suppress(OSError):  # both sides do it, whoever comes first
            os.setpgid(process, process)
        worker = _Worker(process, os.fdopen(to_worker, "wb"), from_worker)
        self.workers.append(worker)
        self.events.register(from_worker, selectors.EVENT_READ, worker)
        return worker

    def _listen(self, worker: _Worker) -> bool:
        """Passes on what a worker has answered; False where that has ended."""
        heard = os.read(worker.answers, 1 << 16)
        *lines, worker.unread = (worker.unread + heard).split(b"\n")
        for line in lines:
            worker.allow(self.seconds)
            if line:  # an empty one says that it is ready
                self.answers.write(b"[%d, %s]\n" % (worker.todo.popleft(), line))
        return bool(heard)

    def _give_up(self, worker: _Worker, how: str, waiting: collections.deque[int]) -> None:
        """Ends a worker; the item that it was at is lost, the others wait again in their places."""
        self.workers.remove(worker)
        self.events.unregister(worker.answers)
        os.close(worker.answers)
        with contextlib.suppress(BrokenPipeError):
            worker.asked.close()
        status = reap(worker.process, grace=1.0 if how == "died" else 0.0)  # what closed its pipe is about to end
        if worker.todo:
            reason = f"after {worker.allowed:g} s" if how == "timed out" else _cause(status)
            line = json.dumps([worker.todo.popleft(), how, None, reason]).encode()
            self.answers.write(line + b"\n")
            waiting.extendleft(reversed(worker.todo))


def _serve(asked: int, answers: int, memory_bytes: int) -> NoReturn:
    """A worker's life: reads shares of items, answers each at once."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = memory_bytes if most == resource.RLIM_INFINITY else min(memory_bytes, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reader = os.fdopen(asked, "rb")
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            name, pickled = pickle.load(reader)
            _share(name, pickled, answers)
    os._exit(0)


def _share(name: str, pickled: list[bytes], answers: int) -> None:
    process = os.getpid()
    try:
        function, items = resolve(name), [pickle.loads(item) for item in pickled]
    except BaseException as error:
        os.write(answers, b"\n" + len(pickled) * _line("raised", None, _told(error)))
        return
    os.write(answers, b"\n")
    for item in items:
        try:
            line = _line("ok", function(*item))
        except MemoryError:
            os._exit(OUT_OF_MEMORY)  # what fills the memory may still be there for the items to come
        except BaseException as error:
            line = _line("raised", None, _told(error))
        if os.getpid() != process:
            os._exit(0)  # a process that the function forked came back from it as well
        _write(answers, line)


def resolve(name: str) -> Callable[..., Any]:
    """The function of a "package.module:function"; raises what its import raises, or ValueError, AttributeError."""
    module, separator, function = name.partition(":")
    if not (module and separator and function):
        raise ValueError(f"'{name}' is not of the form package.module:function")
    found = getattr(importlib.import_module(module), function)
    if not callable(found):
        raise ValueError(f"'{name}' is no function")
    return found


def _line(*answer: Any) -> bytes:
    return json.dumps(answer, default=_scalar)[1:-1].encode() + b"\n"


def _scalar(value: Any) -> Any:
    """The number in a scalar of NumPy or of what looks like it."""
    if not hasattr(value, "item"):
        raise TypeError(f"the function returned a value of type {type(value).__name__}, which JSON cannot hold")
    return value.item()


def _told(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {str(error)[:500]}"
    except Exception:  # an error whose own text raises
        return type(error).__name__


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _processor_time(process: int) -> float:
    """Seconds of processor time of a process, by the clock that Linux has for each."""
    return time.clock_gettime((~process << 3) | 2)


def _cause(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == OUT_OF_MEMORY:
        return "out of memory"
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
