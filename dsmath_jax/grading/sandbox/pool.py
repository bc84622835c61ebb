"""The sandbox in the run's process: starts the server, proves that it contains programs, and runs batches."""

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
from typing import Any, Self

from dsmath_jax.grading.sandbox import probe, server
from dsmath_jax.grading.sandbox.batch import Batch
from dsmath_jax.grading.sandbox.limits import MIB, Limits, Program, ProgramResult
from dsmath_jax.workdir import UserError

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1])['path']; "
    "from dsmath_jax.grading.sandbox import server; server.main()"
)
_ENVIRONMENT = {  # nothing of the run's environment
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",  # sets print in the same order in every run
    "PYTHONIOENCODING": "utf-8:backslashreplace",
    "PYTHONUNBUFFERED": "1",  # the output of a killed program is kept
}
_LIMITS = Limits()
_STARTING = 60.0  # time limit of the first program in seconds
_Numbered = Sequence[tuple[int, Program]]
_log = logging.getLogger(__name__)


class Sandbox:
    """Runs programs, several at once. Any thread may call `run`; one call runs at a time."""

    def __init__(
        self,
        workers: int = 0,
        limits: Limits = _LIMITS,
        allow_unsandboxed: bool = False,
        _withhold: Collection[str] = (),
    ):
        """
        Args:
          workers: number of programs that run at once; 0 for one per processor.
          limits: of each program.
          allow_unsandboxed: run programs even if the mechanisms of the system cannot contain them.

        Raises:
          UserError: the system cannot contain programs, or they cannot import SymPy.
        """
        self._count = workers or len(os.sched_getaffinity(0))
        self._limits = limits
        self._allow_unsandboxed = allow_unsandboxed
        self._withhold = list(_withhold)
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self.level = ""  # the mechanisms in use; begins with "unsandboxed" where they do not contain programs
        self.missing: dict[str, str] = {}  # mechanisms that do not work here, and why
        try:
            self._started()
        except BaseException:
            self._stop()
            raise
        _log.info("model-written programs run with this protection: %s", self.level)

    def run(self, programs: Sequence[Program]) -> list[ProgramResult]:
        """Runs programs and returns their results in order. One that fails affects no other."""
        with self._lock:
            try:
                done: dict[int, ProgramResult] = {}
                while left := [each for each in enumerate(programs) if each[0] not in done]:  # the server died
                    done |= self._run(self._started(), left, self._limits)
                return [done[number] for number in range(len(programs))]
            except BaseException:
                self._stop()  # nobody waits for the running programs
                raise

    def close(self) -> None:
        """Ends the server and all programs."""
        with self._lock:
            self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _run(self, server: "_Server", programs: _Numbered, limits: Limits) -> dict[int, ProgramResult]:
        batch = Batch(server.connection, limits, self._count)
        results = batch.run(programs)
        if batch.lost:
            self._stop()
        return results

    def _started(self) -> "_Server":
        """Returns the server; starts it, and proves that it contains programs, where there is none."""
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

    def _prove(self, server: "_Server") -> None:
        """Runs a program that attempts what must be refused; raises UserError where an attempt succeeds."""
        hello = server.hello()
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
            canary, port = os.path.join(server.folder, probe.CANARY), listener.getsockname()[1]
            proof = Program(probe.PROOF.format(canary=canary, port=port))
            [result] = self._run(server, [(0, proof)], ample).values()
        if result.status != "ok" or (contained and result.output):
            cause = result.error or f"a program {', '.join(result.output.splitlines())}"
            raise UserError(f"the sandbox for model-written programs does not hold or work here: {cause}")
        self.level, self.missing = probe.level(mechanisms), missing

    def _stop(self) -> None:
        if self._server is not None:
            stopped, self._server = self._server, None
            stopped.stop()


@dataclasses.dataclass
class _Server:
    """The server process, the connection to it, and its folder."""

    process: subprocess.Popen[bytes]
    connection: socket.socket
    folder: str

    @classmethod
    def start(cls, folder: str, settings: dict[str, Any]) -> Self:
        with open(os.path.join(folder, probe.CANARY), "wb"):
            pass
        local, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with remote:
            process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-c", _START, json.dumps(settings | {"connection": remote.fileno()})],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/", env=_ENVIRONMENT,
                pass_fds=[remote.fileno()], start_new_session=True,
            )  # fmt: skip
        return cls(process, local, folder)

    def hello(self) -> dict[str, Any]:
        """Waits until it is ready; returns its mechanisms, the missing ones and its error."""
        message = self.connection.recv(server.MESSAGE_BYTES)
        if not message:
            raise UserError("the sandbox for model-written programs does not start: its process was killed")
        return dict(json.loads(message))

    def stop(self) -> None:
        with contextlib.suppress(OSError):  # it has ended already
            self.connection.shutdown(socket.SHUT_RDWR)  # processes forked by the run may have it open too
        self.connection.close()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _packages() -> list[str]:
    """Returns the folders of `sys.path` with the standard library and installed packages, not with the user's code."""
    own = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    installed = {*site.getsitepackages(), site.getusersitepackages()}
    return [
        path
        for path in map(os.path.abspath, filter(None, sys.path))
        if path in installed
        or os.path.basename(path) in ("site-packages", "dist-packages")
        or any(path == folder or path.startswith(f"{folder}/") for folder in own)
    ]
