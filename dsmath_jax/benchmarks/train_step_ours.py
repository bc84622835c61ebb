"""This project's side of `dsmath_jax.benchmarks.train_step`.

    python -m dsmath_jax.benchmarks.train_step_ours FOLDER

FOLDER holds `task.json`, and for the peer gets `hf/`, the random weights that all sides begin with, and `batch.npz`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dsmath_jax.benchmarks import turns
from dsmath_jax.data.packing import batch_of_rows
from dsmath_jax.models import huggingface
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.llama import initial_params
from dsmath_jax.settings import build
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training.flops import PEAK_FLOPS, model_flops_per_token
from dsmath_jax.training.model_files import build_model
from dsmath_jax.training.next_token import next_token_step
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.settings import PackedSettings
from dsmath_jax.training.step import init_state
from dsmath_jax.workdir import read_json


def prepare(folder: Path) -> tuple[dict, Callable[[], dict]]:
    """The step that recipes run, on the devices that there are, compiled and run once."""
    task = read_json(folder / "task.json")
    sizes, settings = ModelConfig(**task["model"]), build(PackedSettings, task["settings"])
    layout = Layout(make_mesh())
    model = build_model(sizes, layout)
    optimizer = make_optimizer(settings)
    state = init_state(lambda: initial_params(model, jax.random.key(0)), optimizer, layout)
    tokens = np.random.default_rng(0).integers(
        sizes.vocab_size, size=(task["rows"], task["length"] + 1), dtype=np.int32
    )
    host_batch = batch_of_rows(np.stack([tokens, np.ones_like(tokens), np.ones_like(tokens)], 1))
    if task["peer"]:
        (folder / "hf").mkdir()
        huggingface.write(folder / "hf", state.params, sizes, "float32")
        np.savez(folder / "batch.npz", tokens=host_batch["tokens"], targets=host_batch["targets"])
    batch = layout.batch(host_batch)
    step = next_token_step(settings, model, layout, state)
    device = jax.devices()[0]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    def run(steps: int) -> dict:
        nonlocal state
        losses = []
        for _ in range(steps):
            state, scalars = step(state, batch)
            losses.append(scalars["loss"])
        found: dict[str, Any] = {"losses": [float(loss) for loss in losses]}
        stats = device.memory_stats() if device.platform != "cpu" else None
        return found | ({"peak_bytes": stats["peak_bytes_in_use"]} if stats else {})

    ready = run(1) | {
        "parameters": parameters,
        "devices": [str(each.device_kind) for each in jax.devices()],
        "flops_per_token": model_flops_per_token(sizes, task["length"]),
        "peak_flops": PEAK_FLOPS.get(device.device_kind),
        "version": f"jax {jax.__version__}",
    }
    return ready, lambda: run(task["steps"])


if __name__ == "__main__":
    turns.serve(lambda: prepare(Path(sys.argv[1])))
