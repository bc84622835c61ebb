"""Namespaces: hide other processes, the network, and all files except given ones.

An ordinary user enters them within a user namespace. Linux 5.12 or newer.
"""

import contextlib
import os
from collections.abc import Sequence

from dsmath_jax.grading.sandbox import kernel

SCRATCH = "/scratch"  # where a program's folder is mounted
INODES = 1024  # of a scratch folder
_ROOT = "/root"  # of programs, below the root of their mounts


def enter_processes() -> None:
    """Puts the next forked process alone into a new PID namespace, as the first process, with which all others end."""
    user, group = os.getuid(), os.getgid()
    if user == 0:
        with contextlib.suppress(PermissionError):  # root in a container without the right to: as an ordinary user
            kernel.unshare(kernel.CLONE_NEWPID)
            return
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def enter_files(folder: str, readable: Sequence[str], devices: Sequence[str]) -> None:
    """Removes the network and all files except these, which become read-only, for the rest of this process.

    Args:
      folder: an empty folder, where the new root is built.
      readable: folders and files; some may be below others.
      devices: files in /dev.
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
    # A process whose root is not that of its mounts gets no user namespace, in which it could mount unlimited memory.
    os.chroot(_ROOT)
    os.chdir("/")


def fork(own: int) -> int:
    """Forks the first process of a new PID namespace; `own` is the descriptor of this process's PID namespace."""
    kernel.setns(own, kernel.CLONE_NEWPID)
    kernel.unshare(kernel.CLONE_NEWPID)
    return os.fork()


def separate(size: int, user: int, sockets: bool) -> None:
    """Gives this process a private scratch folder in memory and private System V IPC.

    Args:
      size: of the folder in bytes.
      user: its owner.
      sockets: whether to separate abstract socket names too, for a process that can open sockets.
    """
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | (kernel.CLONE_NEWNET if sockets else 0))
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    options = f"size={size},nr_inodes={INODES},mode=700,uid={user},gid={user if os.getuid() == 0 else os.getgid()}"
    kernel.mount("tmpfs", SCRATCH, "tmpfs", flags, options)
