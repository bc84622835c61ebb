"""Programs, their limits and their results."""

import dataclasses
from typing import Literal

MIB = 1 << 20
VALUE_CHARS = 1 << 16  # maximum length of a value or a traceback

Status = Literal["ok", "raised", "timed out", "out of memory", "too much output", "killed"]


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of one program.

    Attributes:
      seconds: wall time, for programs that sleep or wait. It must be well above the processor time, or a harmless
        program times out on a busy machine.
      cpu_seconds: processor time, rounded up to whole seconds.
      memory_bytes: address space, NumPy and SymPy included.
      output_bytes: standard output and standard error together.
      file_bytes: its scratch folder, and each file in it.
      processes: threads, and without seccomp processes too. The kernel counts them by user: where programs cannot have
        separate users, concurrent ones share their sum.
    """

    seconds: float = 30.0
    cpu_seconds: float = 10.0
    memory_bytes: int = 2048 * MIB
    output_bytes: int = MIB
    file_bytes: int = 16 * MIB
    processes: int = 16


@dataclasses.dataclass(frozen=True)
class Program:
    """Python code that runs as the module `__main__`.

    Attributes:
      code: its source.
      call: the name of a function to call without arguments after the code has run.
    """

    code: str
    call: str = ""


@dataclasses.dataclass(frozen=True)
class ProgramResult:
    """The result of a program.

    Attributes:
      status: "ok" where it ran to its end, the call included. A program that exits by `sys.exit` has "raised", one
        that exits by `os._exit` was "killed", whatever its exit code, since it did not reach its end.
      output: what it printed, up to the limit; bytes that are not UTF-8 are replaced.
      value: `str()` of what `call` returned; None where nothing was called or it returned None.
      error: the end of its traceback, or the reason where there is none; "" for "ok".
      seconds: wall time.
    """

    status: Status
    output: str = ""
    value: str | None = None
    error: str = ""
    seconds: float = 0.0
