"""What a program may use, and what became of it."""

import dataclasses
from typing import Literal

MIB = 1 << 20
VALUE_CHARS = 1 << 16  # of a value or a traceback; more is cut

How = Literal["ok", "raised", "timed out", "out of memory", "too much output", "killed"]


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of one program.

    Attributes:
      seconds: wall time: for what sleeps or waits. Well above the processor time, or an honest program is lost where
        the processors have other work.
      cpu_seconds: processor time, rounded up to whole seconds.
      memory_bytes: address space, NumPy and SymPy included.
      output_bytes: of standard output and standard error together.
      file_bytes: of its scratch folder, and of each file in it.
      processes: threads. Programs start no processes where seccomp is there; else these count as well. The kernel
        counts by user: where root has no users to give, programs that run at once share this many each.
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
      code: the text.
      call: the name of a function that is called without arguments when the code has run.
    """

    code: str
    call: str = ""


@dataclasses.dataclass(frozen=True)
class Ran:
    """What became of a program.

    Attributes:
      how: "ok" where it ran to its end, the call included. One that leaves by `sys.exit` has "raised", one that
        leaves by `os._exit` was "killed", whatever the code of its exit: what it was to do later was not done.
      output: what it printed, up to the limit. Bytes that are no UTF-8 are replaced.
      value: `str()` of what `call` returned; None where nothing was called or nothing returned.
      error: the traceback as a user sees it, its end where it is long, or why there is none; "" for "ok".
      seconds: wall time.
    """

    how: How
    output: str = ""
    value: str | None = None
    error: str = ""
    seconds: float = 0.0
