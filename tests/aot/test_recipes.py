"""The variants of recipes by accelerator: their meshes are those of the devices, and they fit."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dsmath_jax.aot.__main__ import ENVIRONMENT
from dsmath_jax.aot.topology import ARCHITECTURES
from tests.aot.compilers import needs_cuda, needs_cudnn, needs_libtpu

ROOT = Path(__file__).parents[2]
RECIPES = ("pretrain_1b3", "pretrain_7b", "sft_7b", "grpo_7b", "sft", "grpo", "grpo_tools")
FEWER_PASSES = "JAX_DISABLE_MOST_OPTIMIZATIONS"
MARGIN = 0.93  # of the memory that programs may use
VARIANTS = [
    (recipe, accelerator)
    for recipe in RECIPES
    for accelerator in runpy.run_path(str(ROOT / "configs" / f"{recipe}.py"))["ACCELERATORS"]
]


def is_gpu(accelerator: str) -> bool:
    return accelerator.split("-")[0] in ARCHITECTURES


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs Python without the flags of conftest.py: a program as it would be run."""
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", FEWER_PASSES)}
    environment |= ENVIRONMENT | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3000, check=False
    )


MESHES = """
import json, sys
from dsmath_jax.aot.__main__ import STAGES
from dsmath_jax.aot.estimate import num_rows
from dsmath_jax.aot.program import capture_stderr
from dsmath_jax.aot.topology import topology
from dsmath_jax.command_line import load_recipe
from dsmath_jax.sharding import Layout, make_mesh

def rows_left(recipe, layout):
    settings = next(each for each in (getattr(recipe, name) for name in STAGES) if each is not None)
    return num_rows(settings) % (settings.grad_accum_steps * layout.batch_shards)

with capture_stderr():
    found = []
    for recipe, accelerator in json.loads(sys.argv[1]):
        recipe, devices = load_recipe(f"{recipe}:{accelerator}"), topology(accelerator).devices
        layout = Layout(make_mesh(recipe.mesh, devices))
        found.append([layout.mesh.size, len(devices), rows_left(recipe, layout)])
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    "gpu", [pytest.param(False, marks=needs_libtpu, id="tpu"), pytest.param(True, marks=needs_cuda, id="gpu")]
)
def test_every_mesh_is_that_of_its_devices_and_splits_the_batch(gpu: bool) -> None:
    variants = [each for each in VARIANTS if is_gpu(each[1]) == gpu]
    done = run("-c", MESHES, json.dumps(variants))
    assert done.returncode == 0, done.stderr
    for variant, (size, devices, rows_left) in zip(variants, json.loads(done.stdout), strict=True):
        assert (size, rows_left) == (devices, 0), variant


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(each, marks=(needs_cuda, needs_cudnn) if is_gpu(each[1]) else needs_libtpu, id=":".join(each))
        for each in VARIANTS
    ],
)
def test_every_variant_fits(variant: tuple[str, str], tmp_path: Path) -> None:
    recipe, accelerator = variant
    out = tmp_path / "out.json"
    done = run("-m", "dsmath_jax.aot", f"--config={recipe}:{accelerator}", f"--topology={accelerator}", f"--json={out}")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert found["fits"]
    assert found["hbm_bytes"] < MARGIN * found["chip_bytes"], done.stdout
