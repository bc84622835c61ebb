"""Runs one program in a process that is locked in, and reports its result."""

import json
import linecache
import os
import sys
import traceback
import types
from typing import NoReturn

from dsmath_jax.grading.sandbox.limits import VALUE_CHARS

NAME = "program.py"  # in tracebacks
OUT_OF_MEMORY = 97  # exit code


def run(job: bytes, report: int) -> NoReturn:
    """Runs the program of a job, JSON [code, call], and writes its result to the descriptor `report`.

    The report is "ok", "none" (nothing was returned) or "raised", a space, the number of bytes that follow, a line
    feed, and the value or traceback in UTF-8. The program can forge it, but only its own.
    """
    write, leave = os.write, os._exit  # the program may replace them
    code, call = json.loads(job)
    try:
        try:
            value = _value(code, call)
            status, text = ("none", "") if value is None else ("ok", str(value)[:VALUE_CHARS])
        except MemoryError:
            leave(OUT_OF_MEMORY)  # the memory may still be full
        except BaseException as error:
            status, text = "raised", _traceback(error)[-VALUE_CHARS:]
        payload = text.encode("utf-8", "backslashreplace")
        rest = f"{status} {len(payload)}\n".encode() + payload
        while rest:
            rest = rest[write(report, rest) :]
    finally:
        leave(1)  # ends remaining threads
    raise AssertionError


def _value(code: str, call: str) -> object:
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    linecache.cache[NAME] = (len(code), None, code.splitlines(keepends=True), NAME)
    exec(compile(code, NAME, "exec"), main.__dict__)
    if call and call not in main.__dict__:
        raise NameError(f"name '{call}' is not defined")
    value = main.__dict__[call]() if call else None
    if sys.stdout is not None:
        sys.stdout.flush()  # the program may have replaced it by a buffered file
    return value


def _traceback(error: BaseException) -> str:
    """Formats the traceback from the program's own frames."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, trace)).rstrip()
    except Exception:  # an error that cannot be formatted
        return type(error).__name__
