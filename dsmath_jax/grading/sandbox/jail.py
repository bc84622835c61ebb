"""How a process locks itself in with the mechanisms that a system has."""

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
    """What locks programs in.

    Attributes:
      mechanisms: those to use.
      folder: of the sandbox; scratch folders lie below it where there are no namespaces.
      packages: folders from which programs import.
      slots: programs that run at once.
    """

    mechanisms: frozenset[str]
    folder: str
    packages: tuple[str, ...]
    limits: Limits
    slots: int

    def prepare(self) -> "Prepared":
        """Locks this process in as far as all programs share it, and makes ready what each of them needs."""
        readable, devices = _existing(self._readable()), _existing(DEVICES)
        instructions = syscalls.compiled() if "seccomp" in self.mechanisms else b""
        users = _users()
        confined = "namespaces" in self.mechanisms
        tasks = self.limits.processes
        if os.getuid() in users:  # the bound is the kernel's, which counts by user: here all programs share one
            others = 2 if confined else 2 + _tasks(os.getuid())  # the server and its parent
            tasks = others + self.slots * tasks
        else:
            os.chmod(self.folder, 0o711)  # scratch folders lie below, each its user's alone
        own = os.open("/proc/self/ns/pid", os.O_RDONLY) if confined else -1
        if confined:
            namespaces.enter_files(self.folder, readable, devices)
        return Prepared(self, readable, devices, instructions, users, tasks, own)

    def _readable(self) -> list[str]:
        return [f"{sys.base_prefix}/lib", f"{sys.base_prefix}/lib64", *_LIBRARIES, *self.packages]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A jail whose process has made it ready.

    Attributes:
      readable: folders and files that programs may read.
      devices: files that they may read and write.
      instructions: of seccomp's filter.
      users: that programs run as, in turn.
      tasks: threads and processes that such a user may have while they run.
      own: descriptor of the process's namespace of processes, -1 without.
    """

    jail: Jail
    readable: Sequence[str]
    devices: Sequence[str]
    instructions: bytes
    users: Sequence[int]
    tasks: int
    own: int

    def fork(self) -> int:
        return os.fork() if self.own < 0 else namespaces.fork(self.own)

    def lock_in(self, number: int) -> str:
        """Locks this process in for good, and returns its scratch folder, in which it is."""
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
            kept = self._keys()
            kernel.prctl(kernel.PR_SET_KEEPCAPS, int(bool(kept)))
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            kernel.keep_capabilities(*kept)
        else:
            kernel.keep_capabilities()
        kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)  # which another user's identity clears
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        self._limit(limits)
        if "landlock" in mechanisms:
            landlock.restrict(self.readable, self.devices, scratch)
        if self.instructions:
            kernel.seccomp(self.instructions)
        return scratch

    def _keys(self) -> list[int]:
        """The capability with which a program reads libraries in a home that only root may enter.

        A namespace shows them elsewhere. Without, some containers have only one that lets write, too: that is for
        Landlock to refuse, and where that is missing as well nothing contains a program.
        """
        useful = [kernel.CAP_DAC_READ_SEARCH, kernel.CAP_DAC_OVERRIDE]
        return [number for number in useful if self.own < 0 and kernel.has_capabilities(number)][:1]

    def scratch(self, number: int) -> str:
        return f"{self.jail.folder}/{number}"

    def overfull(self, number: int) -> bool:
        """Whether a program's files are more than it may have. In a namespace it is the kernel that refuses them.

        Those that it has deleted and holds open are not seen here: each has its limit, and descriptors have theirs.
        """
        if self.own >= 0:
            return False
        files, size = 0, 0
        with contextlib.suppress(FileNotFoundError):  # the program has not come so far yet
            for entry in os.scandir(self.scratch(number)):
                with contextlib.suppress(FileNotFoundError):  # it has vanished meanwhile
                    found = entry.stat(follow_symlinks=False)
                    size += min(found.st_size, found.st_blocks * 512)  # without holes, and what fills the last block
                files += 1
        return files > namespaces.INODES or size > self.jail.limits.file_bytes

    def clean(self, number: int) -> None:
        """Deletes what an ended program left."""
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
    """Who programs run as: root's have identities that own nothing, and whose tasks the kernel counts apart."""
    own = os.getuid()
    # To become another, and to delete what that has left.
    needed = (kernel.CAP_CHOWN, kernel.CAP_SETGID, kernel.CAP_SETUID, kernel.CAP_DAC_OVERRIDE)
    if own != 0 or not kernel.has_capabilities(*needed):
        return range(own, own + 1)
    with open("/proc/self/uid_map", encoding="ascii") as file:
        ranges = [[int(word) for word in line.split()] for line in file]
    first, _, count = max(ranges, key=lambda fields: fields[2])
    # Near the end of a range lie the numbers that systems hand out last; a range of a few has none to spare.
    return range(first + count - 2048, first + count - 1024) if count > 4096 else range(1)


def _tasks(user: int) -> int:
    """Threads and processes that a user has now."""
    found = 0
    for entry in os.scandir("/proc"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # ended meanwhile, or hidden
            if entry.name.isdigit() and entry.stat().st_uid == user:
                found += len(os.listdir(f"{entry.path}/task"))
    return found
