"""Landlock: the paths that a program may open, whoever it runs as."""

import os
from collections.abc import Sequence

from dsmath_jax.grading.sandbox import kernel

# Rights by the bit of Linux's LANDLOCK_ACCESS_FS_*, in its order.
_RIGHTS = (
    "execute write_file read_file read_dir remove_dir remove_file make_char make_dir make_reg make_sock make_fifo "
    "make_block make_sym refer truncate ioctl_dev"
).split()
_FIRST = 3  # the version that refuses to truncate files; Linux 6.2
_DEVICES = 5  # the version that knows of ioctl_dev
_CONNECT_AND_BIND_TCP = 3
_SIGNALS_AND_ABSTRACT_SOCKETS = 3


def _bits(names: str) -> int:
    return sum(1 << _RIGHTS.index(name) for name in names.split())


_READ = _bits("read_file read_dir execute")  # a shared library is mapped as executable: newer kernels may ask for it
# No folders, links or devices: what is left of a program is a flat folder of files.
_SCRATCH = _bits("read_file read_dir write_file truncate make_reg remove_file")
_DEVICE = _bits("read_file write_file truncate")
_OF_FILES = _bits("execute read_file write_file truncate ioctl_dev")


def restrict(readable: Sequence[str], devices: Sequence[str], scratch: str) -> None:
    """Refuses this process all paths but these, TCP, and signals to others where the kernel's version knows of that.

    `no_new_privs` must be set. Rights of what is open already are not changed, and what is not content can be seen
    and, by its owner, be changed still: names, sizes, modes, times. Raises OSError without Landlock.
    """
    version = kernel.landlock_version()
    if version < _FIRST:
        raise OSError(f"version {version} of Landlock lets programs truncate all files")
    known = (1 << len(_RIGHTS) - (version < _DEVICES)) - 1
    fields = (known, _CONNECT_AND_BIND_TCP, _SIGNALS_AND_ABSTRACT_SOCKETS)
    ruleset = kernel.landlock_ruleset(fields[: 1 if version < 4 else 2 if version < 6 else 3])
    for paths, rights in ((readable, _READ), (devices, _DEVICE), ((scratch,), _SCRATCH)):
        for path in paths:
            allowed = rights & known
            kernel.landlock_allow(ruleset, path, allowed if os.path.isdir(path) else allowed & _OF_FILES)
    kernel.landlock_restrict(ruleset)
