"""Namespaces: no processes, no network and no files but those handed in.

As root they are entered as they are; as an ordinary user, within a namespace of users in which the user is its own
root. Linux 5.12 or newer.
"""

import contextlib
import os
from collections.abc import Sequence

from dsmath_jax.grading.sandbox import kernel

SCRATCH = "/scratch"  # where a program's folder is mounted
INODES = 1024  # of a scratch folder
_ROOT = "/root"  # of programs, below that of their mounts


def enter_processes() -> None:
    """The next process that this one forks, and it only, is the first of a world of its own: it takes all with it."""
    user, group = os.getuid(), os.getgid()
    if user == 0:
        with contextlib.suppress(PermissionError):  # root of a container that may not: as an ordinary user
            kernel.unshare(kernel.CLONE_NEWPID)
            return
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def enter_files(folder: str, readable: Sequence[str], devices: Sequence[str]) -> None:
    """Leaves this process, for good, no files but these, read-only under their own names, and no network.

    Args:
      folder: an empty folder, on which the new root is built.
      readable: folders and files; those below others may be named too.
      devices: files of /dev.
    """
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS)
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", folder, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755,size=1m")
    root, bound = folder + _ROOT, list[str]()
    for path in sorted({*readable, *devices}):
        if any(path.startswith(f"{other}/") for other in bound):
            continue
        target = root + path
        if os.path.isdir(path):
            os.makedirs(target, mode=0o755)
        else:
            os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
            open(target, "wb").close()
        kernel.mount(path, target, None, kernel.MS_BIND | kernel.MS_REC)
        bound.append(path)
    os.mkdir(root + SCRATCH, mode=0o755)
    kernel.change_root(folder)
    kernel.make_read_only("/")
    # Who has another root than its mounts' gets no namespace of users, in which it could mount memory without a limit.
    os.chroot(_ROOT)
    os.chdir("/")


def fork(own: int) -> int:
    """Forks, as the first of a world of its own, from the process whose namespace of processes is the descriptor."""
    kernel.setns(own, kernel.CLONE_NEWPID)
    kernel.unshare(kernel.CLONE_NEWPID)
    return os.fork()


def separate(size: int, user: int, sockets: bool) -> None:
    """Gives this process what nobody else sees and what ends with it: scratch folder in memory, System V's memory.

    Args:
      size: of the folder, in bytes.
      user: whose it is.
      sockets: the abstract names of sockets as well, for one that can open sockets.
    """
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | (kernel.CLONE_NEWNET if sockets else 0))
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    options = f"size={size},nr_inodes={INODES},mode=700,uid={user},gid={user if os.getuid() == 0 else os.getgid()}"
    kernel.mount("tmpfs", SCRATCH, "tmpfs", flags, options)
