"""Marks of tests that need a compiler for TPUs or GPUs, or cuDNN."""

import importlib.util

import pytest

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is missing: pip install -e '.[tpu]' -c constraints.txt"
)
needs_cuda = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None,
    reason="the compiler for GPUs is missing: pip install -e '.[aot-gpu]' -c constraints.txt",
)
needs_cudnn = pytest.mark.skipif(
    importlib.util.find_spec("nvidia") is None, reason="cuDNN's library is missing: pip install -e '.[aot-gpu]'"
)
