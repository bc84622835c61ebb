"""Subprocesses with several CPU devices."""

import os
from pathlib import Path


def cpu_devices(count: int) -> dict[str, str]:
    """The environment of a subprocess that has `count` CPU devices and imports this package."""
    flags = os.environ["XLA_FLAGS"]  # of conftest.py
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={count}",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
