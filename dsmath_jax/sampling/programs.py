"""Decode programs that are compiled in threads before they are needed."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from dsmath_jax.sampling.token_sampling import SamplingMode

MAX_THREADS = 4  # a compiler uses several cores, and gigabytes of memory for a large model

Program = Callable[..., Any]


class DecodePrograms:
    """The programs of `Engine.decode`, by the shapes of their inputs.

    Which of them are those that were compiled ahead depends on the calls alone, and not on when a thread ends: all
    processes use the same programs.

    Args:
      decode: the jitted function.
    """

    def __init__(self, decode: Any) -> None:
        self._decode = decode
        self._programs: dict[Any, Future[Program]] = {}
        self._used: set[Any] = set()

    @contextlib.contextmanager
    def compile_ahead(self, inputs: Iterable[tuple[Any, ...]], mode: SamplingMode) -> Iterator[None]:
        """Traces the programs of these abstract inputs, and compiles them in threads, in order.

        The exit keeps those that were used. What a thread compiles by then is dropped when it ends, the rest at once.
        """
        missing = {key: each for each in inputs if (key := _key(each, mode)) not in self._programs}
        pool = ThreadPoolExecutor(MAX_THREADS) if missing else None
        try:
            for key, each in missing.items():
                assert pool is not None
                self._programs[key] = pool.submit(self._decode.lower(*each, mode=mode).compile)
            yield
        finally:
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)
            self._programs = {key: program for key, program in self._programs.items() if key in self._used}

    def find(self, inputs: tuple[Any, ...], mode: SamplingMode) -> Program:
        """Returns the program for inputs like these; waits for it where a thread compiles it."""
        key = _key(inputs, mode) if self._programs else None
        if key not in self._programs:
            return functools.partial(self._decode, mode=mode)
        program = self._programs[key].result()
        self._used.add(key)
        return program


def _key(inputs: tuple[Any, ...], mode: SamplingMode) -> Any:
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]  # of this thread
    return mode, precision, *((x.shape, x.dtype) for x in jax.tree.leaves(inputs))
