"""The DeepSeekMath paper (arXiv 2402.03300) as one JAX codebase.

The names in `__all__` are its public API (docs/api.md) and follow semantic versioning; all others may change with any
version. They are imported on first use, so that parts without JAX (`dsmath_jax.corpus`, `dsmath_jax.grading`) do not
import it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dsmath_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from dsmath_jax.api import (
        Record,
        SamplingParams,
        evaluate,
        generate,
        grade,
        load_model,
        load_recipe,
        run,
        save_model,
        train,
    )

__all__ = [
    "Record",
    "SamplingParams",
    "evaluate",
    "generate",
    "grade",
    "load_model",
    "load_recipe",
    "run",
    "save_model",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("dsmath_jax.api"), name)
    raise AttributeError(f"module 'dsmath_jax' has no attribute '{name}'; its public names are {', '.join(__all__)}")
