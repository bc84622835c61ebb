"""The sandbox as the run sees it."""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import site
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any, Self

from dsmath_jax.grading.sandbox import probe, server
from dsmath_jax.grading.sandbox.batch import Batch
from dsmath_jax.grading.sandbox.limits import MIB, Limits, Program, Ran
from dsmath_jax.workdir import UserError

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1])['path']; "
    "from dsmath_jax.grading.sandbox import server; server.main()"
)
_ENVIRONMENT = {  # nothing of the run's own
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",  # what a program prints of a set is the same in every run
    "PYTHONIOENCODING": "utf-8:backslashreplace",
    "PYTHONUNBUFFERED": "1",  # what a program has printed is there though it is killed
}
_LIMITS = Limits()
_STARTING = 60.0  # seconds that the first program may take
_log = logging.getLogger(__name__)


class Sandbox:
    """Runs programs, several at once. Any thread may ask; one `run` goes on at a time."""

    def __init__(
        self,
        workers: int = 0,
        limits: Limits = _LIMITS,
        allow_unsandboxed: bool = False,
        _withhold: Collection[str] = (),
    ):
        """
        Args:
          workers: programs that run at once; 0 for one per processor.
          limits: of each program.
          allow_unsandboxed: where the system has too little to contain programs, run them with what there is.

        Raises:
          UserError: the system has nothing that contains programs, or they cannot import SymPy.
        """
        self._count = workers or len(os.sched_getaffinity(0))
        self._limits = limits
        self._allow_unsandboxed = allow_unsandboxed
        self._withhold = list(_withhold)
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self.level = ""  # what protects; begins with "unsandboxed" where that is not enough
        self.missing: dict[str, str] = {}  # mechanisms that do not work here, and why
        try:
            self._started()
        except BaseException:
            self._stop()
            raise
        _log.info("model-written programs run with this protection: %s", self.level)

    def run(self, programs: Sequence[Program]) -> list[Ran]:
        """Runs programs, each of which is lost alone, and returns what became of them in their order."""
        with self._lock:
            try:
                done: dict[int, Ran] = {}
                while left := [each for each in enumerate(programs) if each[0] not in done]:  # again where one is lost
                    done |= self._run(self._started(), left, self._limits)
                return [done[place] for place in range(len(programs))]
            except BaseException:
                self._stop()  # programs are under way that nobody waits for
                raise

    def close(self) -> None:
        with self._lock:
            self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, found: "_Server", programs: Sequence[tuple[int, Program]], limits: Limits) -> dict[int, Ran]:
        batch = Batch(found.connection, limits, self._count)
        ran = batch.run(programs)
        if batch.lost:
            self._stop()
        return ran

    def _started(self) -> "_Server":
        """The server, started where there is none, and seen to contain what it runs."""
        if self._server is None:
            folder = tempfile.mkdtemp(prefix="dsmath-sandbox-")
            settings = {
                "folder": folder, "slots": self._count, "limits": dataclasses.asdict(self._limits),
                "withheld": self._withhold, "allow_unsandboxed": self._allow_unsandboxed,
                "packages": _packages(), "path": [os.path.abspath(path) for path in sys.path],
            }  # fmt: skip
            self._server = _Server.start(folder, settings)
            self._prove(self._server)
        return self._server

    def _prove(self, found: "_Server") -> None:
        """Has a program attempt what must be refused, and raises UserError where it is not, or nothing runs."""
        hello = found.hello()
        mechanisms, missing = hello["mechanisms"], hello["missing"]
        if hello["error"]:
            raise UserError(f"the sandbox for model-written programs does not start: {hello['error']}")
        contained = probe.contain(mechanisms)
        if not (contained or self._allow_unsandboxed):
            reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
            raise UserError(
                f"model-written programs cannot be contained here ({reasons}); run where Linux has namespaces, or "
                "Landlock and seccomp, or accept the risk with --allow-unsandboxed"
            )
        ample = dataclasses.replace(self._limits, seconds=_STARTING, output_bytes=MIB)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            canary, port = os.path.join(found.folder, probe.CANARY), listener.getsockname()[1]
            proof = Program(probe.PROOF.format(canary=canary, port=port))
            [ran] = self._run(found, [(0, proof)], ample).values()
        if ran.how != "ok" or (contained and ran.output):
            told = ran.error or f"a program {', '.join(ran.output.splitlines())}"
            raise UserError(f"the sandbox for model-written programs does not hold or work here: {told}")
        self.level, self.missing = probe.level(mechanisms), missing

    def _stop(self) -> None:
        if self._server is not None:
            stopped, self._server = self._server, None
            stopped.stop()


@dataclasses.dataclass
class _Server:
    process: subprocess.Popen[bytes]
    connection: socket.socket
    folder: str

    @classmethod
    def start(cls, folder: str, settings: dict[str, Any]) -> Self:
        with open(os.path.join(folder, probe.CANARY), "wb"):
            pass
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-c", _START, json.dumps(settings | {"connection": theirs.fileno()})],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/", env=_ENVIRONMENT,
                pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip
        return cls(process, ours, folder)

    def hello(self) -> dict[str, Any]:
        """What it says when it is ready."""
        message = self.connection.recv(server.MESSAGE_BYTES)
        if not message:
            raise UserError("the sandbox for model-written programs does not start: its process was killed")
        return dict(json.loads(message))

    def stop(self) -> None:
        with contextlib.suppress(OSError):  # it is gone already
            self.connection.shutdown(socket.SHUT_RDWR)  # a process that the run has forked may hold it as well
        self.connection.close()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _packages() -> list[str]:
    """The folders of the run's path that are Python's own or hold installed packages: no folder of the user's work."""
    own = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    installed = {*site.getsitepackages(), site.getusersitepackages()}
    return [
        path
        for path in map(os.path.abspath, filter(None, sys.path))
        if path in installed
        or os.path.basename(path) in ("site-packages", "dist-packages")
        or any(path == folder or path.startswith(f"{folder}/") for folder in own)
    ]
