"""Connects the processes of a run on several hosts, and ends them together.

Collectives and barriers wait for every process. If one ends, the others would wait until JAX's heartbeats abort them,
or forever. So each process keeps a connection to process 0. The kernel closes it when the process ends, even by a kill;
a process that fails sends its error first. Process 0 forwards either to all others, and they end.
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
from jax._src import distributed  # for the key-value store and the coordinator's address, which are not public

from dsmath_jax.workdir import UserError, exit_now, explain

START_SECONDS = 300  # time limit for all processes to start
CONNECT_SECONDS = 30.0
GRACE_SECONDS = 5.0  # for a process to fail by itself after another failed, often for the same reason
CRASHED = 1  # exit code of a process with a traceback
LOST = 75  # exit code of the others if a process ended without an error message; the same command resumes
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # notices a lost host after 40 seconds
KEY = "dsmath_jax/watch"  # of process 0's port and of the token with which the others authenticate


@contextlib.contextmanager
def join_processes(coordinator: str = "", processes: int = 0, process: int = -1) -> Iterator[None]:
    """Joins the processes of a run; they leave the block together, and if one fails in it, all end.

    Args:
      coordinator: address of process 0 as HOST:PORT; "" to detect it.
      processes: number of processes.
      process: index of this process.

    Raises:
      UserError: only some arguments are given, or the processes cannot connect.
    """
    initialize_distributed(coordinator, processes, process)
    watch = Watch(distributed.global_state)
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        watch.fail(error)
    watch.leave()


def initialize_distributed(coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Initializes `jax.distributed`; on Cloud TPU and under SLURM, JAX detects all three arguments.

    Args and errors are those of `join_processes`.
    """
    given = {"coordinator": coordinator != "", "processes": processes > 0, "process": process >= 0}
    if len(set(given.values())) > 1:
        missing = ", ".join(f"--{name}" for name, is_given in given.items() if not is_given)
        raise UserError(
            f"{missing} is missing: give --coordinator, --processes and --process together, or none of them."
        )
    if coordinator and process >= processes:
        raise UserError(f"--process={process} must be below --processes={processes}; the first is 0.")
    # Else it would intercept the SIGTERM that `PreemptionListener` waits for.
    jax.config.update("jax_enable_preemption_service", False)
    # JAX aborts the process if not all others start in time; the error message has to come first.
    timer = threading.Timer(START_SECONDS, _give_up, [coordinator])
    timer.daemon = True
    timer.start()
    try:
        # None: JAX detects them.
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
        f"{f' at {coordinator}' if coordinator else ''}; check the output of each, and start all of them again.",
        file=sys.stderr,
    )
    exit_now(UserError.code)


class Ended(NamedTuple):
    """How a process ended: its index, its exit code, and the reason that the others print."""

    process: int
    code: int
    reason: str


class Watch:
    """The connections by which processes notice that others have ended: from process 0 to each of the others."""

    def __init__(self, state: Any):
        """Connects the processes by JAX's distributed `state`. Call it before backends start, which wait for all."""
        self._process, self._processes = state.process_id, state.num_processes
        self._connections: dict[int, socket.socket] = {}
        self._changed = threading.Condition()  # notified when connections end
        self._other_failed, self._ending = threading.Event(), threading.Event()
        if self._process == 0:
            self._accept(state.client)
        else:
            self._connect(state.client, state.coordinator_address.rpartition(":")[0].strip("[]"))

    # --- this process ---

    def fail(self, error: BaseException) -> NoReturn:
        """Ends this process with its error message or traceback, and all others with it."""
        if isinstance(error, UserError) and error.on_all_processes:
            print(f"error: {error}", file=sys.stderr)
            self.leave()
            exit_now(error.code)
        explained = explain(error)
        if explained is None and self._other_failed.wait(GRACE_SECONDS):
            threading.Event().wait()  # another process caused the error; `_follow` is about to end this one
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
        self._send(Ended(self._process, code, f"failed: {sentence}"))
        self._wait_for_others()
        exit_now(code)

    def leave(self) -> None:
        """Waits for all processes and disconnects from them."""
        jax.distributed.shutdown()
        self._ending.set()
        self._send(Ended(self._process, 0, ""))

    def _send(self, ended: Ended) -> None:
        with self._changed:
            connections = list(self._connections.values())
        for connection in connections:
            with contextlib.suppress(OSError):  # it has ended, too
                connection.sendall(json.dumps(ended).encode() + b"\n")

    def _wait_for_others(self) -> None:
        """Keeps process 0 alive until the others have ended, since JAX aborts them without its coordinator."""
        if self._process == 0:
            with self._changed:
                self._changed.wait_for(lambda: not self._connections, 2 * GRACE_SECONDS)

    # --- the others ---

    def _accept(self, client: Any) -> None:
        """Accepts connections of the others, and publishes the port."""
        dual = socket.has_dualstack_ipv6()
        server = socket.create_server(
            ("", 0), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual
        )  # fmt: skip
        token = secrets.token_hex()
        client.key_value_set(KEY, json.dumps([server.getsockname()[1], token]))

        def greet(connection: socket.socket) -> None:
            with contextlib.suppress(OSError, ValueError):
                greeting = connection.makefile("rb").readline().decode().split()
                if greeting[:1] == [token]:
                    self._listen(int(greeting[1]), connection)

        def accept() -> None:
            while True:
                connection, _ = server.accept()
                threading.Thread(target=greet, args=[connection], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def _connect(self, client: Any, host: str) -> None:
        port, token = json.loads(client.blocking_key_value_get(KEY, int(CONNECT_SECONDS * 1000)))
        try:
            connection = socket.create_connection((host, port), CONNECT_SECONDS)
            connection.settimeout(None)
            connection.sendall(f"{token} {self._process}\n".encode())
        except OSError as error:
            logging.warning(
                "Process %d cannot connect to %s:%d (%s), so the end of a process is noticed only after 100 "
                "seconds; open the ports between the hosts.", self._process, host, port, error,
            )  # fmt: skip
            return
        threading.Thread(target=self._listen, args=[0, connection], daemon=True).start()

    def _listen(self, process: int, connection: socket.socket) -> None:
        """Waits for the end of the process at the other end of the connection."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            if hasattr(socket, option):  # macOS lacks some
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        with self._changed:
            self._connections[process] = connection
        line = b""
        with contextlib.suppress(OSError):
            line = connection.makefile("rb").readline()
        lost = "was killed, or its host is gone; run the same command again on all to resume."
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
        """Ends this process because another has ended; process 0 ends all others as well."""
        if self._process == 0:
            self._send(ended)
        if ended.code != LOST and self._ending.wait(GRACE_SECONDS):
            return
        print(f"error: Process {ended.process} of {self._processes} {ended.reason}", file=sys.stderr)
        self._wait_for_others()
        exit_now(ended.code)
