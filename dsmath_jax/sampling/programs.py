"""Decode programs that are compiled in threads before they are needed."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import jax

from dsmath_jax.sampling.token_sampling import SamplingMode

MAX_THREADS = 8  # a compiler uses several cores, and gigabytes of memory for a large model

Program = Callable[..., Any]


class DecodePrograms:
    """The programs of `Engine.decode`, by the shapes of their inputs.

    Args:
      decode: the jitted function.
    """

    def __init__(self, decode: Any) -> None:
        self._decode = decode
        self._programs: dict[Any, Future[Program]] = {}

    @contextlib.contextmanager
    def compile_ahead(self, inputs: Iterable[tuple[Any, ...]], mode: SamplingMode) -> Iterator[None]:
        """Compiles the programs of these abstract inputs in threads, in order; the exit drops what has not begun."""
        missing = {key: each for each in inputs if (key := _key(each, mode)) not in self._programs}
        with contextlib.ExitStack() as stack:
            if missing:
                pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1))
                stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            for key, each in missing.items():
                self._programs[key] = pool.submit(lambda each: self._decode.lower(*each, mode=mode).compile(), each)
            yield
        for key in missing:
            if self._programs[key].cancelled():
                del self._programs[key]

    def find(self, inputs: tuple[Any, ...], mode: SamplingMode) -> Program:
        """Returns the program for inputs like these; waits for it where a thread compiles it."""
        jitted = functools.partial(self._decode, mode=mode)
        program = self._programs.get(_key(inputs, mode)) if self._programs else None
        try:
            return jitted if program is None else program.result()
        except CancelledError:  # by the end of the call that had asked for it
            return jitted


def _key(inputs: tuple[Any, ...], mode: SamplingMode) -> Any:
    return mode, *((x.shape, x.dtype) for x in jax.tree.leaves(inputs))
