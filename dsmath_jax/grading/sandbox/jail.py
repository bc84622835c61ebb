"""Locks a process in with the mechanisms that work on the system."""

import contextlib
import dataclasses
import math
import os
import resource
import shutil
import sys
from collections.abc import Sequence

from dsmath_jax.grading.sandbox import kernel, landlock, namespaces, syscalls
from dsmath_jax.grading.sandbox.limits import Limits

MECHANISMS = ("namespaces", "landlock", "seccomp")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo")
_OPEN_FILES = 128
_LARGEST_STACK = 64 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class Jail:
    """The configuration that locks programs in.

    Attributes:
      mechanisms: the mechanisms to use.
      folder: the folder of the sandbox; without namespaces scratch folders are below it.
      packages: folders from which programs import.
      limits: limits of each program.
      slots: number of programs that run at once.
    """

    mechanisms: frozenset[str]
    folder: str
    packages: tuple[str, ...]
    limits: Limits
    slots: int

    def prepare(self) -> "Prepared":
        """Applies to this process what all programs share, and prepares what each of them needs."""
        readable, devices = _existing(self._readable()), _existing(DEVICES)
        instructions = syscalls.compiled() if "seccomp" in self.mechanisms else b""
        users = _users()
        confined = "namespaces" in self.mechanisms
        tasks = self.limits.processes
        if os.getuid() in users:  # the kernel counts tasks by user, and here all programs share one
            others = 2 if confined else 2 + _tasks(os.getuid())  # the server and its parent
            tasks = others + self.slots * tasks
        else:
            os.chmod(self.folder, 0o711)  # scratch folders are below it, each private to its user
        own = os.open("/proc/self/ns/pid", os.O_RDONLY) if confined else -1
        if confined:
            namespaces.enter_files(self.folder, readable, devices)
        return Prepared(self, readable, devices, instructions, users, tasks, own)

    def _readable(self) -> list[str]:
        return [f"{sys.base_prefix}/lib", f"{sys.base_prefix}/lib64", *_LIBRARIES, *self.packages]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A jail that this process has prepared.

    Attributes:
      readable: folders and files that programs may read.
      devices: files that programs may read and write.
      instructions: of the seccomp filter.
      users: ids that programs run as, in turn.
      tasks: maximum number of threads and processes of such a user.
      own: descriptor of this process's PID namespace; -1 without namespaces.
    """

    jail: Jail
    readable: Sequence[str]
    devices: Sequence[str]
    instructions: bytes
    users: Sequence[int]
    tasks: int
    own: int

    def fork(self) -> int:
        """Forks the process of a program, with namespaces in its own PID namespace."""
        return os.fork() if self.own < 0 else namespaces.fork(self.own)

    def lock_in(self, number: int) -> str:
        """Locks this process in irrevocably; returns its scratch folder, now the working directory."""
        limits, mechanisms = self.jail.limits, self.jail.mechanisms
        user = self.users[number % len(self.users)]
        if self.own >= 0:
            scratch = namespaces.SCRATCH
            namespaces.separate(limits.file_bytes, user, sockets=not self.instructions)
        else:
            scratch = self.scratch(number)
            os.mkdir(scratch, mode=0o700)
            os.chown(scratch, user, -1)
        os.chdir(scratch)
        if os.getuid() != user:
            capabilities = self._read_capabilities()
            kernel.prctl(kernel.PR_SET_KEEPCAPS, int(bool(capabilities)))
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            kernel.keep_capabilities(*capabilities)
        else:
            kernel.keep_capabilities()
        kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)  # cleared by the change of user
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        self._limit(limits)
        if "landlock" in mechanisms:
            landlock.restrict(self.readable, self.devices, scratch)
        if self.instructions:
            kernel.seccomp(self.instructions)
        return scratch

    def _read_capabilities(self) -> list[int]:
        """Returns the capability with which a program reads libraries in a home that only root may enter.

        With namespaces none is needed. In some containers only CAP_DAC_OVERRIDE is available, which allows writes too;
        Landlock refuses them, and without Landlock and namespaces no program is contained anyway.
        """
        useful = [kernel.CAP_DAC_READ_SEARCH, kernel.CAP_DAC_OVERRIDE]
        return [number for number in useful if self.own < 0 and kernel.has_capabilities(number)][:1]

    def scratch(self, number: int) -> str:
        """Returns the scratch folder of a program without namespaces."""
        return f"{self.jail.folder}/{number}"

    def overfull(self, number: int) -> bool:
        """Returns whether a program's files exceed their limit. With namespaces the kernel enforces it.

        Deleted files that the program holds open are not counted; file sizes and descriptors have separate limits.
        """
        if self.own >= 0:
            return False
        files, size = 0, 0
        with contextlib.suppress(FileNotFoundError):  # the program has not made it yet
            for entry in os.scandir(self.scratch(number)):
                with contextlib.suppress(FileNotFoundError):  # it was deleted meanwhile
                    stat = entry.stat(follow_symlinks=False)
                    size += min(stat.st_size, stat.st_blocks * 512)  # without holes and block padding
                files += 1
        return files > namespaces.INODES or size > self.jail.limits.file_bytes

    def clean(self, number: int) -> None:
        """Deletes the scratch folder of a program that has ended."""
        if self.own < 0:
            shutil.rmtree(self.scratch(number), ignore_errors=True)

    def _limit(self, limits: Limits) -> None:
        for kind, most in (
            (resource.RLIMIT_AS, limits.memory_bytes),
            (resource.RLIMIT_CPU, math.ceil(limits.cpu_seconds)),
            (resource.RLIMIT_FSIZE, limits.file_bytes),
            (resource.RLIMIT_NPROC, self.tasks),
            (resource.RLIMIT_NOFILE, _OPEN_FILES),
            (resource.RLIMIT_STACK, _LARGEST_STACK),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_MSGQUEUE, 0),
        ):
            soft, hard = resource.getrlimit(kind)
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            least = min(most, soft) if kind == resource.RLIMIT_STACK and soft != resource.RLIM_INFINITY else most
            resource.setrlimit(kind, (least, most))


def _existing(paths: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(os.path.abspath(path) for path in paths if os.path.exists(path)))


def _users() -> range:
    """Returns the user ids of programs: as root, ids that own nothing and whose tasks the kernel counts separately."""
    own = os.getuid()
    # To change the user, and to delete its files.
    needed = (kernel.CAP_CHOWN, kernel.CAP_SETGID, kernel.CAP_SETUID, kernel.CAP_DAC_OVERRIDE)
    if own != 0 or not kernel.has_capabilities(*needed):
        return range(own, own + 1)
    with open("/proc/self/uid_map", encoding="ascii") as file:
        ranges = [[int(word) for word in line.split()] for line in file]
    first, _, count = max(ranges, key=lambda fields: fields[2])
    # Systems assign the ids near the end of a range last; a small range has none to spare.
    return range(first + count - 2048, first + count - 1024) if count > 4096 else range(1)


def _tasks(user: int) -> int:
    """Returns the number of threads and processes of a user."""
    count = 0
    for entry in os.scandir("/proc"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # ended meanwhile, or hidden
            if entry.name.isdigit() and entry.stat().st_uid == user:
                count += len(os.listdir(f"{entry.path}/task"))
    return count
