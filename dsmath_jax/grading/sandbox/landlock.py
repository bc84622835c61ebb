"""Landlock: restricts the paths that a program may open, whatever its user."""

import os
from collections.abc import Sequence

from dsmath_jax.grading.sandbox import kernel

# Rights in the order of the bits LANDLOCK_ACCESS_FS_*.
_RIGHTS = (
    "execute write_file read_file read_dir remove_dir remove_file make_char make_dir make_reg make_sock make_fifo "
    "make_block make_sym refer truncate ioctl_dev"
).split()
_FIRST = 3  # the first version that can refuse to truncate files; Linux 6.2
_DEVICES = 5  # the first version with ioctl_dev
_CONNECT_AND_BIND_TCP = 3
_SIGNALS_AND_ABSTRACT_SOCKETS = 3


def _bits(names: str) -> int:
    return sum(1 << _RIGHTS.index(name) for name in names.split())


_READ = _bits("read_file read_dir execute")  # newer kernels may want it to map shared libraries
# No folders, links or devices: a scratch folder is flat.
_SCRATCH = _bits("read_file read_dir write_file truncate make_reg remove_file")
_DEVICE = _bits("read_file write_file truncate")
_OF_FILES = _bits("execute read_file write_file truncate ioctl_dev")


def restrict(readable: Sequence[str], devices: Sequence[str], scratch: str) -> None:
    """Refuses this process all paths except these, and, where the kernel can, TCP and signals to other processes.

    `no_new_privs` must be set. Open files keep their rights. Metadata (names, sizes, modes, times) stay visible, and
    their owner can change them. Raises OSError without Landlock.
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
