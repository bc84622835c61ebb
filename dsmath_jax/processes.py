"""The processes of a run on several hosts: how they find each other, and how they end together.

Collectives and barriers wait for every process. When one of them is gone, the others would wait until JAX's heartbeats
abort them, or without end. So each process keeps a connection to process 0 open. The kernel closes it when the process
ends, however it ends; a process that fails sends its sentence first. Process 0 passes either on to all, and they end.
"""

import contextlib
import json
import logging
import secrets
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import jax
from jax._src import distributed  # nothing public gives the key-value store or the coordinator's address

from dsmath_jax.workdir import UserError, exit_now, explain

START_SECONDS = 300  # in which all processes must have started
CONNECT_SECONDS = 30.0
GRACE_SECONDS = 5.0  # for a process to end by itself after another has failed: often all fail for the same reason
CRASHED = 1  # exit code of a process with a traceback
LOST = 75  # exit code of the others where a process ended without a sentence; the same command resumes
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # a host that is gone: 40 seconds
KEY = "dsmath_jax/watch"  # of process 0's port and of the word that the others greet with


@contextlib.contextmanager
def joined(coordinator: str = "", processes: int = 0, process: int = -1) -> Iterator[None]:
    """Joins the processes of a run. They leave the block together; where one fails in it, all end.

    Args:
      coordinator: address of process 0 as HOST:PORT; "" to detect it.
      processes: how many there are.
      process: the number of this one.

    Raises:
      UserError: only some are given, or the processes do not find each other.
    """
    start_processes(coordinator, processes, process)
    watch = Watch(distributed.global_state)
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        watch.fail(error)
    watch.leave()


def start_processes(coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Joins the processes of a run on several hosts. On Cloud TPU and under SLURM JAX finds all three by itself.

    Args and errors are those of `joined`.
    """
    given = {"coordinator": coordinator != "", "processes": processes > 0, "process": process >= 0}
    if len(set(given.values())) > 1:
        missing = ", ".join(f"--{name}" for name, there in given.items() if not there)
        raise UserError(f"{missing} is missing: give --coordinator, --processes and --process together, or none.")
    if coordinator and process >= processes:
        raise UserError(f"--process={process} must be below --processes={processes}; the first is 0.")
    jax.config.update(
        "jax_enable_preemption_service", False
    )  # it would swallow the SIGTERM that `PreemptionListener` waits for
    # JAX aborts the process where not all others come in time, so the sentence has to come before.
    timer = threading.Timer(START_SECONDS, _give_up, [coordinator])
    timer.daemon = True
    timer.start()
    try:
        # All three are None where JAX is to find them.
        jax.distributed.initialize(
            coordinator or None,
            processes or None,
            process if coordinator else None,
            initialization_timeout=START_SECONDS + 60,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"The processes of the run did not find each other ({reason}); give --coordinator=HOST:PORT, --processes "
            "and --process."
        ) from None
    finally:
        timer.cancel()


def _give_up(coordinator: str) -> NoReturn:
    print(
        f"error: The processes of the run did not find each other within {START_SECONDS} seconds"
        f"{f' at {coordinator}' if coordinator else ''}; see the output of each, and start all of them again.",
        file=sys.stderr,
    )
    exit_now(UserError.code)


class Ended(NamedTuple):
    """The end of a process: its number, its exit code, and what the others say of it."""

    process: int
    code: int
    reason: str


class Watch:
    """This process's connections: those of process 0 to all others, and of another process to process 0."""

    def __init__(self, state: Any):
        """Takes JAX's distributed state. Its backends are yet to start, since they wait for all processes."""
        self._process, self._processes = state.process_id, state.num_processes
        self._connections: dict[int, socket.socket] = {}
        self._changed = threading.Condition()  # of the connections
        self._other_failed, self._ending = threading.Event(), threading.Event()
        if self._process == 0:
            self._accept(state.client)
        else:
            self._connect(state.client, state.coordinator_address.rpartition(":")[0].strip("[]"))

    # --- this process ---

    def fail(self, error: BaseException) -> NoReturn:
        """Ends this process with the error's sentence or traceback, and all others with it."""
        if isinstance(error, UserError) and error.everywhere:
            print(f"error: {error}", file=sys.stderr)
            self.leave()
            exit_now(error.code)
        explained = explain(error)
        if explained is None and self._other_failed.wait(GRACE_SECONDS):
            threading.Event().wait()  # the error came of the other's end, with which this process is about to end
        self._ending.set()
        if explained:
            sentence, code = explained
            print(f"error: {sentence}", file=sys.stderr)
        else:
            sentence = (
                f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')} (its output has the traceback)"
            )
            code = CRASHED
            traceback.print_exception(error)
        self._tell(Ended(self._process, code, f"failed: {sentence}"))
        self._wait_for_others()
        exit_now(code)

    def leave(self) -> None:
        """Waits until all processes are here, and disconnects from them."""
        jax.distributed.shutdown()
        self._ending.set()
        self._tell(Ended(self._process, 0, ""))

    def _tell(self, ended: Ended) -> None:
        with self._changed:
            connections = list(self._connections.values())
        for connection in connections:
            with contextlib.suppress(OSError):  # that one has ended as well
                connection.sendall(json.dumps(ended).encode() + b"\n")

    def _wait_for_others(self) -> None:
        """Keeps process 0 until the others have ended: JAX aborts them where its coordinator is gone."""
        if self._process == 0:
            with self._changed:
                self._changed.wait_for(lambda: not self._connections, 2 * GRACE_SECONDS)

    # --- the others ---

    def _accept(self, client: Any) -> None:
        """Lets the others connect, and publishes where."""
        both = socket.has_dualstack_ipv6()
        server = socket.create_server(
            ("", 0), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both
        )  # fmt: skip
        word = secrets.token_hex()
        client.key_value_set(KEY, json.dumps([server.getsockname()[1], word]))

        def greet(connection: socket.socket) -> None:
            with contextlib.suppress(OSError, ValueError):
                greeting = connection.makefile("rb").readline().decode().split()
                if greeting[:1] == [word]:
                    self._listen(int(greeting[1]), connection)

        def accept() -> None:
            while True:
                connection, _ = server.accept()
                threading.Thread(target=greet, args=[connection], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def _connect(self, client: Any, host: str) -> None:
        port, word = json.loads(client.blocking_key_value_get(KEY, int(CONNECT_SECONDS * 1000)))
        try:
            connection = socket.create_connection((host, port), CONNECT_SECONDS)
            connection.settimeout(None)
            connection.sendall(f"{word} {self._process}\n".encode())
        except OSError as error:
            logging.warning(
                "Process %d cannot connect to %s:%d (%s): the end of a process is seen after 100 seconds; open the "
                "ports between the hosts.", self._process, host, port, error,
            )  # fmt: skip
            return
        threading.Thread(target=self._listen, args=[0, connection], daemon=True).start()

    def _listen(self, process: int, connection: socket.socket) -> None:
        """Waits for the end of the process on the other side."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            if hasattr(socket, option):  # macOS lacks some
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        with self._changed:
            self._connections[process] = connection
        line = b""
        with contextlib.suppress(OSError):
            line = connection.makefile("rb").readline()
        lost = "was killed, or its host is gone; run the same command again on all, it resumes."
        ended = Ended(*json.loads(line)) if line else Ended(process, LOST, lost)
        with self._changed:
            del self._connections[process]
            self._changed.notify_all()
            first = not self._other_failed.is_set() and not self._ending.is_set()
            if ended.code and first:
                self._other_failed.set()
        if ended.code and first:
            self._follow(ended)

    def _follow(self, ended: Ended) -> None:
        """Ends this process, and all others where it is process 0, since one of them has ended."""
        if self._process == 0:
            self._tell(ended)
        if ended.code != LOST and self._ending.wait(GRACE_SECONDS):
            return
        print(f"error: Process {ended.process} of {self._processes} {ended.reason}", file=sys.stderr)
        self._wait_for_others()
        exit_now(ended.code)
