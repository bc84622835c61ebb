"""What a process does when it is locked in: runs one program, and reports."""

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
    """Runs the program of a job, JSON [code, call], and writes what became of it to the descriptor `report`.

    The report is "ok", "none" (nothing was returned) or "raised", a space, the number of bytes to come, a line feed,
    and the value or traceback in UTF-8. The program may well write a false one: it speaks for this program only.
    """
    write, leave = os.write, os._exit  # which the program may replace
    code, call = json.loads(job)
    try:
        try:
            value = _value(code, call)
            how, text = ("none", "") if value is None else ("ok", str(value)[:VALUE_CHARS])
        except MemoryError:
            leave(OUT_OF_MEMORY)  # what fills the memory may still be there
        except BaseException as error:
            how, text = "raised", _told(error)[-VALUE_CHARS:]
        payload = text.encode("utf-8", "backslashreplace")
        rest = f"{how} {len(payload)}\n".encode() + payload
        while rest:
            rest = rest[write(report, rest) :]
    finally:
        leave(1)  # threads that are left end here
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
        sys.stdout.flush()  # the program may have put a file with a buffer there
    return value


def _told(error: BaseException) -> str:
    """The traceback from the program's own frames on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, trace)).rstrip()
    except Exception:  # an error that lies about itself
        return type(error).__name__
