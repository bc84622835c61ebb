"""A sandbox for tests."""

import contextlib
from collections.abc import Iterator

import pytest

from dsmath_jax.grading.sandbox import Limits, Sandbox
from dsmath_jax.workdir import UserError


@contextlib.contextmanager
def working_sandbox(seconds: float) -> Iterator[Sandbox]:
    """Yields a sandbox with this time limit of a program; skips the test where none works."""
    try:
        made = Sandbox(limits=Limits(seconds=seconds, cpu_seconds=seconds))
    except UserError as why:
        pytest.skip(f"no sandbox here: {why}")
    with made:
        yield made
