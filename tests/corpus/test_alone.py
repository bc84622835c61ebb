"""The example in the docstring of the package runs and imports no JAX."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dsmath_jax.corpus

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_example_runs_without_jax(tmp_path: Path) -> None:
    lines = inspect.getdoc(dsmath_jax.corpus).splitlines()
    example = "\n".join(line.removeprefix("    ") for line in lines if line.startswith("    "))
    code = f"{example}\nimport sys\nassert not {{'jax', 'grain'}} & set(sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert output.returncode == 0, output.stderr
    assert 100 < int(output.stdout.split()[0]) < 250
    assert (tmp_path / "corpus/card.html").is_file()
