"""Tests which mechanisms work on this machine: a child locks itself in with each and attempts what must be refused."""

import contextlib
import functools
import os
import socket
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn

from dsmath_jax.grading.sandbox import namespaces
from dsmath_jax.grading.sandbox.jail import MECHANISMS, Jail
from dsmath_jax.grading.sandbox.limits import Limits

CANARY = "canary"  # a file in the sandbox's folder that no program may read
UNSANDBOXED = "unsandboxed"


def missing(folder: str, packages: Sequence[str], withheld: Collection[str]) -> dict[str, str]:
    """Returns the mechanisms that do not work, and why.

    Args:
      folder: a folder with the file `CANARY`.
      packages: folders from which programs import.
      withheld: mechanisms that must not be used.
    """
    reasons = {}
    for name in MECHANISMS:
        jail = Jail(frozenset([name]), folder, tuple(packages), Limits(), 1)
        reasons[name] = "it is withheld" if name in withheld else _failure(functools.partial(_try, name, jail))
    return {name: reason for name, reason in reasons.items() if reason}


def contain(mechanisms: Collection[str]) -> bool:
    """Returns whether mechanisms contain a program.

    Namespaces or Landlock protect files; namespaces or seccomp protect the network and other processes.
    """
    return "namespaces" in mechanisms or {"landlock", "seccomp"} <= set(mechanisms)


def level(mechanisms: Collection[str]) -> str:
    """Describes the protection in words."""
    names = ", ".join(name for name in MECHANISMS if name in mechanisms)
    if contain(mechanisms):
        return names
    return f"{UNSANDBOXED} but for {names}" if names else UNSANDBOXED


# A program that attempts what the whole jail must refuse, and prints what was not refused.
PROOF = """
import os, socket
def refused(what, attempt):
    try:
        attempt()
    except OSError:
        return
    print(what)
refused("reads a file of the user", lambda: open({canary!r}).close())
refused("reads /etc/passwd", lambda: open("/etc/passwd").close())
refused("lists /proc", lambda: os.listdir("/proc"))
refused("writes outside its folder", lambda: open({canary!r} + ".written", "w").close())
refused("connects", lambda: socket.create_connection(("127.0.0.1", {port}), 1).close())
refused("signals its parent", lambda: os.kill(os.getppid() or 1 << 21, 0))
with open("mine", "w") as file:
    file.write("a program writes to its scratch folder")
import numpy, sympy, decimal
"""


def _try(name: str, jail: Jail) -> None:
    if name == "namespaces":
        namespaces.enter_processes()
        reason = _failure(lambda: _within(name, jail))
        if reason:
            raise OSError(reason)
    else:
        _within(name, jail)


def _within(name: str, jail: Jail) -> None:
    prepared = jail.prepare()
    try:
        reason = _failure(lambda: _ATTEMPTS[name](prepared.lock_in(0), jail.folder), prepared.fork)
    finally:
        prepared.clean(0)
    if reason:
        raise OSError(reason)


def _files(scratch: str, folder: str) -> None:
    with open(f"{scratch}/mine", "w", encoding="ascii") as file:
        file.write("mine")
    _refused("reading of other files", lambda: open(f"{folder}/{CANARY}", "rb").close())
    _refused("writing of other files", lambda: open(f"{folder}/{CANARY}.written", "wb").close())
    _refused("truncation of other files", lambda: os.truncate(f"{folder}/{CANARY}", 0))
    _refused("removal of other files", lambda: os.unlink(f"{folder}/{CANARY}"))
    _refused("reading of /etc/passwd", lambda: open("/etc/passwd", "rb").close())


def _world(scratch: str, folder: str) -> None:
    _files(scratch, folder)
    if os.getpid() != 1:
        raise OSError("a program is not the first process of its namespace")
    _refused("connecting", lambda: socket.create_connection(("127.0.0.1", 9), 1).close())
    if len(socket.if_nameindex()) > 1:
        raise OSError("a program sees network interfaces")


def _calls(scratch: str, folder: str) -> None:
    _refused("a change of a file's mode", lambda: os.chmod(scratch, 0o700))
    _refused("a socket", lambda: socket.socket().close())
    _refused("a signal", lambda: os.kill(os.getpid(), 0))
    _refused("a fork", lambda: os.fork() or os._exit(0))


_ATTEMPTS: dict[str, Callable[[str, str], None]] = {"namespaces": _world, "landlock": _files, "seccomp": _calls}


def _refused(what: str, attempt: Callable[[], object]) -> None:
    try:
        attempt()
    except OSError:
        return
    raise OSError(f"{what} is not refused")


def _failure(attempt: Callable[[], None], fork: Callable[[], int] = os.fork) -> str:
    """Makes an attempt in a child; returns why it failed, or ""."""
    answers, answer = os.pipe()
    process = fork()
    if process == 0:
        _attempt(attempt, answer)
    os.close(answer)
    with open(answers, encoding="utf-8") as file:
        reason = file.read()
    status = os.waitpid(process, 0)[1]
    return reason or (f"the attempt ended with status {status}" if status else "")


def _attempt(attempt: Callable[[], None], answer: int) -> NoReturn:
    with contextlib.suppress(BaseException):  # the process may not even be able to report
        try:
            attempt()
        except BaseException as error:
            os.write(answer, f"{error}"[:500].encode())
            os._exit(0)
        os._exit(0)
    os._exit(1)
