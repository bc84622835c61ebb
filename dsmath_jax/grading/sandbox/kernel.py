"""Wraps the Linux system calls that Python does not offer; each raises OSError."""

import ctypes
import os

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 8, 22, 38
CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SETGID, CAP_SETUID = 0, 1, 2, 6, 7
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
# The same numbers on every architecture.
_MOUNT_SETATTR, _LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 442, 444, 445, 446
_AT_RECURSIVE, _MOUNT_ATTR_RDONLY, _AT_FDCWD = 0x8000, 1, -100
_LANDLOCK_CREATE_RULESET_VERSION, _LANDLOCK_RULE_PATH_BENEATH = 1, 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def _checked(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(what: str, number: int, *arguments: object) -> int:
    words = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(what, _libc.syscall(ctypes.c_long(number), *words))


def unshare(flags: int) -> None:
    """Calls unshare(2)."""
    _checked("unshare", _libc.unshare(flags))


def setns(descriptor: int, kind: int) -> None:
    """Calls setns(2)."""
    _checked("setns", _libc.setns(descriptor, kind))


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Calls mount(2)."""
    _checked(
        f"mount of {target}",
        _libc.mount(
            source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), options.encode()
        ),
    )  # fmt: skip


def make_read_only(path: str) -> None:
    """Makes all mounts at and below `path` read-only (Linux 5.12)."""
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    size = ctypes.sizeof(attributes)
    _syscall("mount_setattr", _MOUNT_SETATTR, _AT_FDCWD, path.encode(), _AT_RECURSIVE, attributes, size)


def change_root(folder: str) -> None:
    """Makes a mounted folder the root and unmounts the old one."""
    os.chdir(folder)
    _checked("pivot_root", _libc.pivot_root(b".", b"."))
    _checked("umount", _libc.umount2(b".", MNT_DETACH))


def prctl(option: int, value: int) -> None:
    """Calls prctl(2)."""
    _checked("prctl", _libc.prctl(option, *(ctypes.c_ulong(word) for word in (value, 0, 0, 0))))


def has_capabilities(*wanted: int) -> bool:
    """Returns whether all of these capabilities are in effect."""
    header, sets = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _checked("capget", _libc.capget(header, sets))
    return all(sets[0] >> number & 1 for number in wanted)


def keep_capabilities(*numbers: int) -> None:
    """Drops all capabilities of the process except these."""
    mask = sum(1 << number for number in numbers)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(mask, mask, 0, 0, 0, 0)  # effective, permitted, inheritable; the low words, the high
    _checked("capset", _libc.capset(header, sets))


def landlock_version() -> int:
    """Returns the ABI version of Landlock."""
    return _syscall(
        "landlock_create_ruleset", _LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION
    )  # fmt: skip


def landlock_ruleset(handled: tuple[int, ...]) -> int:
    """Returns the descriptor of a ruleset that refuses the rights `handled`: file system, network, scope."""
    attributes = (ctypes.c_uint64 * len(handled))(*handled)
    return _syscall(
        "landlock_create_ruleset", _LANDLOCK_CREATE_RULESET, attributes, ctypes.sizeof(attributes), 0
    )  # fmt: skip


def landlock_allow(ruleset: int, path: str, rights: int) -> None:
    """Allows rights below a folder, or to a file."""
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _PathBeneath(rights, opened)
        _syscall(
            "landlock_add_rule", _LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, ctypes.byref(rule), 0
        )  # fmt: skip
    finally:
        os.close(opened)


def landlock_restrict(ruleset: int) -> None:
    """Applies a ruleset to this process."""
    _syscall("landlock_restrict_self", _LANDLOCK_RESTRICT_SELF, ruleset, 0)


def seccomp(instructions: bytes) -> None:
    """Installs a system call filter, compiled to instructions of 8 bytes."""
    program = _FilterProgram(len(instructions) // 8, instructions)
    _checked(
        "seccomp",
        _libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(program), 0, 0),
    )  # fmt: skip
