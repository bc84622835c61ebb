"""LoRA on a mesh: eight devices compute what one does, and both shard adapters by the rules."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder
from dsmath_jax.models.lora import Frozen, initial_adapters
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import RULES, Layout, MeshSettings, make_mesh, path_name
from dsmath_jax.training.lora import abstract_adapters, merged
from dsmath_jax.training.model_files import build_model
from dsmath_jax.training.objectives import next_token
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.settings import LoraSettings, TrainingSettings
from dsmath_jax.training.step import make_train_step, state_from_params
from tests.devices import cpu_devices
from tests.test_sharding import PROMPTS, packed_batch, starting_params

MESHES = ({"fsdp": 2, "context": 2, "tensor": 2}, {"fsdp": 8}, {"fsdp": 1, "tensor": 8}, {"replica": 2, "fsdp": 4})
SIZES = {"hidden_size": 16, "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 24}
SETTINGS = LoraSettings(rank=3, alpha=6.0)
STEPS = 10


def test_every_adapter_is_matched_by_exactly_one_rule(model: Decoder, layout: Layout) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_adapters(model.config, SETTINGS, layout)):
        matching = [axes for pattern, axes in RULES if re.search(pattern, path_name(path))]
        assert [len(axes) for axes in matching] == [leaf.ndim], path_name(path)


def compute(layout: Layout, config: ModelConfig, base: Any) -> dict[str, np.ndarray]:
    """The gradient of the first of ten steps, all their losses, and completions and the merged matrix at their end."""
    model = build_model(config, layout)
    base = jax.device_put(base, layout.param_shardings(base))
    noise = np.random.default_rng(0)
    shapes = initial_adapters(base, SETTINGS.targets, SETTINGS.rank, jax.random.key(0))
    adapters = jax.tree.map(lambda x: noise.normal(0, 0.2, x.shape).astype(np.float32), shapes)
    adapters = jax.device_put(adapters, layout.param_shardings(adapters))
    optimizer, frozen = make_optimizer(TrainingSettings(steps=STEPS, peak_lr=1e-2)), Frozen(base, SETTINGS.scale)
    state, batch = state_from_params(adapters, optimizer, layout), layout.put_batch(layout.take_my_rows(packed_batch()))
    step = make_train_step(next_token, model, optimizer, layout, state, 8 // layout.batch_shards, frozen)
    found, losses = dict[str, np.ndarray](), []
    for number in range(STEPS):
        state, scalars = step(state, batch)
        losses.append(float(scalars["loss"]))
        if number == 0:
            for path, moment in jax.tree_util.tree_leaves_with_path(optax.tree.get(state.opt_state, "mu")):
                found[f"moment/{path_name(path)}"] = np.asarray(moment) / max(1e-9, float(scalars["grad_norm"]))
    assert jax.tree.map(lambda x: x.sharding, state) == layout.param_shardings(state)
    combined = frozen.combine(state.params)
    groups = Sampler(model, layout, [2], 5, 8).generate(combined, PROMPTS, SamplingParams(samples=2, seed=3))
    found |= {f"tokens/{c.prompt}/{c.sample}": np.array(c.tokens) for group in groups for c in group}
    found["merged"] = np.asarray(merged(jax.tree.map(jax.numpy.copy, combined), layout)["layers"]["o"])
    return found | {"losses": np.array(losses)}


@pytest.mark.slow
def test_eight_devices_compute_what_one_does(
    make_model: Callable[..., Decoder], layout: Layout, tmp_path: Path
) -> None:
    config = make_model(vocab_size=24, remat="dots", **SIZES).config
    environment = cpu_devices(8) | {"NPROC": "32", "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false"}
    command = [sys.executable, __file__, str(tmp_path), json.dumps(dataclasses.asdict(config))]
    with subprocess.Popen(command, env=environment) as process:
        one = compute(layout, config, starting_params(config))
    assert process.returncode == 0
    assert one["losses"][-1] < 0.9 * one["losses"][0]
    for number, shape in enumerate(MESHES):
        eight = dict(np.load(tmp_path / f"{number}.npz"))
        assert one.keys() == eight.keys()
        for name, value in eight.items():
            np.testing.assert_allclose(value, one[name], atol=2e-5, rtol=2e-5, err_msg=f"{shape} {name}")


if __name__ == "__main__":
    folder, config = Path(sys.argv[1]), ModelConfig(**json.loads(sys.argv[2]))
    start = starting_params(config)
    for number, shape in enumerate(MESHES):
        found = compute(Layout(make_mesh(MeshSettings(**shape))), config, start)
        np.savez(folder / f"{number}.npz", **found)
