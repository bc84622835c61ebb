"""The fork server: a process with SymPy and NumPy imported and no secrets, which forks a process for each program.

With namespaces it is the first process of its PID namespace. It receives file descriptors but does not read them: the
process that is locked in reads the program, whose output goes directly to the run's process. So the memory that a
program inherits holds neither other programs nor results.
"""

import contextlib
import gc
import importlib
import json
import os
import random
import selectors
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from dsmath_jax.grading.process_groups import kill_group
from dsmath_jax.grading.sandbox import kernel, namespaces, probe, program
from dsmath_jax.grading.sandbox.jail import MECHANISMS, Jail, Prepared
from dsmath_jax.grading.sandbox.limits import Limits

DESCRIPTORS = 4  # of a program: its source, standard output, standard error, report
MESSAGE_BYTES = 1 << 16
_LOOK_SECONDS = 0.05  # between checks of scratch folders, where the kernel does not limit them
_WARM = (
    "bisect cmath collections copy datetime decimal fractions functools hashlib heapq itertools json linecache math "
    "numpy numpy.random operator random re statistics string sympy time traceback types typing"
).split()
# SymPy imports and computes much at its first use; this does it once for all programs.
_FIRST_USE = """
import sympy
x, y = sympy.symbols("x y")
sympy.solve(x**2 - 7 * x + 5, x)
sympy.solve([x + y - 3, x - y - 1], [x, y])
sympy.solveset(sympy.sin(x) - 1, x)
sympy.nsolve(sympy.cos(x) - x, 1)
sympy.integrate(x * sympy.sin(x), x)
sympy.simplify(sympy.sin(x) ** 2 + sympy.cos(x) ** 2)
sympy.latex(sympy.summation(x, (x, 1, y)))
"""
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
_HOMES = ("HOME", "TMPDIR", "MPLCONFIGDIR")


def main() -> NoReturn:
    """Serves the socket named by the settings in the arguments until its other end is closed."""
    settings = json.loads(sys.argv[1])
    connection = socket.socket(fileno=settings["connection"])
    folder = settings["folder"]
    _inherit_nothing()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # signals to the whole job are for the run to handle
    packages = tuple(settings["packages"])
    missing = probe.missing(folder, packages, settings["withheld"])
    mechanisms = frozenset(MECHANISMS).difference(missing)
    if not (probe.contain(mechanisms) or settings["allow_unsandboxed"]):
        _say_hello(connection, mechanisms, missing)
        os._exit(0)
    jail = Jail(mechanisms, folder, packages, Limits(**settings["limits"]), settings["slots"])
    if "namespaces" in mechanisms:
        namespaces.enter_processes()
    process = os.fork()
    if process == 0:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        _serve(connection, jail, missing)
    connection.close()
    os.waitpid(process, 0)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _inherit_nothing() -> None:
    """Resets inherited signal masks, the umask and the OOM score."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.umask(0o022)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")  # out of memory, the kernel kills a program, not the run


def _serve(connection: socket.socket, jail: Jail, missing: dict[str, str]) -> NoReturn:
    error = ""
    try:
        prepared = jail.prepare()
        _warm_up(jail.packages)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"[:2000]
    _say_hello(connection, jail.mechanisms, missing, error)
    if not error:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the run has ended
            _Server(connection, prepared).work()
    os._exit(0)  # all programs end too, by their parent-death signal


def _say_hello(
    connection: socket.socket, mechanisms: Collection[str], missing: dict[str, str], error: str = ""
) -> None:
    connection.send(json.dumps({"mechanisms": sorted(mechanisms), "missing": missing, "error": error}).encode())


def _warm_up(packages: Sequence[str]) -> None:
    """Imports what programs import, and removes traces of this package."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("dsmath_jax", "pyseccomp")]:
        del sys.modules[name]
    sys.path[:] = packages
    sys.path_importer_cache.clear()
    # Drops the finders of other packages, such as those of editable installs.
    sys.meta_path[:] = [finder for finder in sys.meta_path if _own(finder)]
    sys.argv[:] = [program.NAME]
    sys.orig_argv[:] = [program.NAME]
    for name in _WARM:
        importlib.import_module(name)
    exec(_FIRST_USE, {})
    sys.modules["numpy.random"].seed(0)
    sys.set_int_max_str_digits(0)  # many programs print large numbers; their time is limited
    gc.collect()
    gc.freeze()  # a garbage collection in a program would copy shared pages


def _own(finder: object) -> bool:
    """Returns whether a finder belongs to the interpreter."""
    return str(getattr(finder, "__module__", "")).startswith("_frozen_importlib")


class _Server:
    """Starts, kills and reaps programs as the connection asks for."""

    def __init__(self, connection: socket.socket, prepared: Prepared):
        self.connection, self.prepared = connection, prepared
        self.allowed = prepared.jail.limits.file_bytes
        self.running: dict[int, int] = {}  # program number by pid
        self.reasons: dict[int, str] = {}  # why the server killed a program, by number
        self.woken, self.wake = os.pipe()
        for end in (self.woken, self.wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def work(self) -> None:
        """Serves until the connection closes."""
        with selectors.DefaultSelector() as events:
            events.register(self.connection, selectors.EVENT_READ)
            events.register(self.woken, selectors.EVENT_READ)
            while True:
                watched = self.running and self.prepared.own < 0
                ready = {key.fileobj for key, _ in events.select(_LOOK_SECONDS if watched else None)}
                for process, number in self.running.items():
                    if self.prepared.overfull(number):
                        self.reasons[number] = f"killed since its files took more than {self.allowed:,} bytes"
                        kill_group(process)
                if self.woken in ready:
                    os.read(self.woken, 4096)
                    self.reap()
                if self.connection in ready and not self.handle_request():
                    return

    def handle_request(self) -> bool:
        """Starts a program whose number comes with descriptors, or kills one whose number comes alone."""
        message, descriptors, *_ = socket.recv_fds(self.connection, MESSAGE_BYTES, DESCRIPTORS)
        if not message:
            return False
        number = int(message)
        if descriptors:
            try:
                self.start(number, descriptors)
            except OSError as error:  # no processes or memory left
                self.send({"number": number, "status": 0, "cpu": 0.0, "error": f"it could not be started: {error}"})
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        else:
            for process in [process for process, running in self.running.items() if running == number]:
                kill_group(process)
        return True

    def start(self, number: int, descriptors: Sequence[int]) -> None:
        """Forks the process of a program."""
        server, process = os.getpid(), self.prepared.fork()
        if process == 0:
            _run_program(self.prepared, number, descriptors, server)
        self.running[process] = number

    def reap(self) -> None:
        """Reports the programs that have ended."""
        with contextlib.suppress(ChildProcessError):  # there are no children
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                kill_group(ended.si_pid)  # before it is reaped, so that its pid is still its own
                process, status, usage = os.wait4(ended.si_pid, 0)
                if process not in self.running:
                    continue  # an orphan
                number = self.running.pop(process)
                self.prepared.clean(number)
                cpu, reason = usage.ru_utime + usage.ru_stime, self.reasons.pop(number, "")
                self.send({"number": number, "status": status, "cpu": cpu, "error": reason})

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message to the run."""
        self.connection.send(json.dumps(message).encode())


def _run_program(prepared: Prepared, number: int, descriptors: Sequence[int], server: int) -> NoReturn:
    """Locks this forked process in and runs its program."""
    try:
        signal.set_wakeup_fd(-1)
        for kind in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(kind, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        scratch = prepared.lock_in(number)
        if os.getppid() not in (server, 0):  # 0: outside of this PID namespace, which ends with it
            raise ChildProcessError("the server has ended before it could be asked to signal that")
        with open(descriptors[0], "rb", closefd=False) as file:
            job = file.read()
        nothing = os.open(os.devnull, os.O_RDONLY)
        # Two steps, since a descriptor may have the target number of another.
        high = [os.dup(descriptor) for descriptor in (nothing, *descriptors[1:])]
    except BaseException as error:
        os.write(descriptors[2], f"the program could not be locked in: {error}".encode())
        os._exit(1)
    for target, descriptor in zip(range(DESCRIPTORS), high, strict=True):
        os.dup2(descriptor, target)
    os.closerange(DESCRIPTORS, max(1024, *high) + 1)
    os.environ.clear()
    os.environ.update(_ENVIRONMENT | dict.fromkeys(_HOMES, scratch))
    random.seed(0)  # so that programs are deterministic; the fork has changed the seed
    tempfile.tempdir = scratch  # which is set already, since NumPy has imported it
    program.run(job, DESCRIPTORS - 1)
