"""A worker process: calls a function on the items that the fork server sends (`workers`)."""

import contextlib
import inspect
import json
import math
import os
import pickle
import resource
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from dsmath_jax import user_code

OUT_OF_MEMORY = 97  # exit code


def run_worker(items: int, results: int, memory_bytes: int, seconds: float) -> NoReturn:
    """Reads chunks of items, calls their function and writes each result when it is known.

    Args:
      items, results: descriptors of pipes. Results are lines of index, status, value and reason; an empty line says
        that the worker is ready and, with an asynchronous function, that its event loop is not blocked.
      memory_bytes: limit of the address space.
      seconds: time limit of a call of an asynchronous function; the fork server limits the others.
    """
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = memory_bytes if most == resource.RLIM_INFINITY else min(memory_bytes, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reader = os.fdopen(items, "rb")
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            name, pickled, in_flight = pickle.load(reader)
            _run_chunk(name, pickled, in_flight, results, seconds)
    os._exit(0)


def resolve(name: str) -> Callable[..., Any]:
    """Returns the function "package.module:function"; raises what its import raises, ValueError or AttributeError."""
    function = user_code.resolve(name)
    if not callable(function):
        raise ValueError(f"'{name}' is not a function")
    return function


def is_async(function: Callable[..., Any]) -> bool:
    """Returns whether a function, or an object's `__call__`, is an `async def`."""
    return any(map(inspect.iscoroutinefunction, (function, getattr(function, "__call__", None))))  # noqa: B004


def describe_callable(name: str, num_arguments: int) -> tuple[str, bool]:
    """Returns the name of the first parameter of "package.module:function", "" if unknown, and whether it `is_async`.

    Raises what its import raises, and where it cannot be called with `num_arguments`.
    """
    function = resolve(name)
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions in C have none
        return "", False
    signature.bind(*[None] * num_arguments)
    return next(iter(signature.parameters)), is_async(function)


def after(seconds: float) -> str:
    """Returns the reason of an item that exceeded its time limit."""
    return f"after {seconds:g} s"


def _run_chunk(name: str, pickled: list[tuple[int, bytes]], in_flight: int, results: int, seconds: float) -> None:
    process = os.getpid()

    def write(index: int, line: bytes) -> None:
        if os.getpid() != process:
            os._exit(0)  # the function forked, and the child returned as well
        _write(results, b"%d, %s" % (index, line))

    try:
        function, items = resolve(name), [(index, pickle.loads(item)) for index, item in pickled]
    except BaseException as error:
        os.write(results, b"\n")
        for index, _ in pickled:
            write(index, _failure(error))
        return
    if is_async(function):
        _run_async(function, items, in_flight, write, lambda: os.write(results, b"\n"), seconds)
        return
    os.write(results, b"\n")
    for index, item in items:
        try:
            line = _line("ok", function(*item))
        except BaseException as error:
            line = _failure(error)
        write(index, line)


def _run_async(
    function: Callable[..., Any], items: list[tuple[int, Any]], in_flight: int, write: Callable[[int, bytes], None],
    alive: Callable[[], Any], seconds: float,
) -> None:  # fmt: skip
    from dsmath_jax.grading import async_calls  # slow to import, which is no part of a call's time

    async def call(item: Sequence[Any]) -> bytes:
        try:
            return _line("ok", await function(*item))
        except BaseException as error:
            return _failure(error)

    late = _line("timed out", None, after(seconds))
    calls = async_calls.run_calls(call, items, seconds, in_flight, write, alive, late)
    async_calls.event_loop().run_until_complete(calls)


def _line(*result: Any) -> bytes:
    return json.dumps(result, default=_plain)[1:-1].encode() + b"\n"


def _plain(value: Any) -> Any:
    """Converts an array to a list, and one of a single value or a NumPy scalar to a number."""
    if not hasattr(value, "item"):
        raise TypeError(f"the function returned a value of type {type(value).__name__}, which JSON cannot hold")
    return value.item() if math.prod(getattr(value, "shape", ())) == 1 else value.tolist()


def _failure(error: BaseException) -> bytes:
    """Returns the result of a call that raised."""
    if isinstance(error, MemoryError):
        os._exit(OUT_OF_MEMORY)  # the memory may still be full for the next items
    return _line("raised", None, _message(error))


def _message(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {str(error)[:500]}"
    except Exception:  # an error whose own text raises
        return type(error).__name__


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
