"""The losses on eight devices, with rows, tokens and parameters sharded: the same sums as on one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.rl.algorithms import DPO, GRPO, PPO, Algorithm, Likelihood
from dsmath_jax.rl.reward_model.model import with_reward_head
from dsmath_jax.sharding import Layout, MeshSettings, make_mesh, path_name, to_host
from dsmath_jax.training.model_files import build_model
from tests.devices import cpu_devices

SIZES = {
    "vocab_size": 24, "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 4, "intermediate_size": 24, "max_position_embeddings": 64, "compute_dtype": "float32",
}  # fmt: skip
ROWS, LENGTH = 4, 16
ALGORITHMS: dict[str, Algorithm] = {
    "grpo": GRPO(), "token mean": GRPO(normalize="token"), "dpo": DPO(beta=1.0),
    "likelihood": Likelihood(normalize_by_correct=True), "ppo": PPO(value_coef=0.1),
}  # fmt: skip


def batch_of(seed: int) -> dict[str, np.ndarray]:
    """Rows of two completions each, pairs for DPO."""
    noise = np.random.default_rng(seed)
    lengths = noise.integers(2, LENGTH // 2, (ROWS, 2))
    places = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH))
    ids = {name: noise.integers(1, 24, (ROWS, LENGTH)).astype(np.int32) for name in ("tokens", "targets")}
    names = ("old_logprobs", "ref_logprobs", "advantages", "sampler_logprobs", "returns", "old_values")
    floats = {name: noise.normal(size=(ROWS, LENGTH)).astype(np.float32) for name in names}
    floats |= {name: floats[name] * 0.5 - 3.2 for name in names if "logprobs" in name}
    first, both = lengths[:, :1], lengths.sum(axis=1, keepdims=True)
    segments = ((places < both) + 1 * (places >= first) * (places < both)).astype(np.int32)
    positions = (places - first * (places >= first)).astype(np.int32)
    mask = ((segments > 0) & (positions > 0)).astype(np.float32)
    return ids | floats | {"positions": positions, "segment_ids": segments, "loss_weights": mask}


def compute(axes: dict[str, int]) -> dict[str, np.ndarray]:
    """Loss, weight, metrics and gradients of every algorithm."""
    layout = Layout(make_mesh(MeshSettings(**axes)))
    model = build_model(ModelConfig(**SIZES), layout)
    plain = jax.jit(lambda: initial_params(Decoder(model.config), jax.random.key(1)))()
    value_params = jax.jit(lambda: with_reward_head(initial_params(Decoder(model.config), jax.random.key(2)), 16))()
    value_params["reward"]["kernel"] = jax.random.normal(jax.random.key(3), (16, 1))
    found = {}
    for name, algorithm in ALGORITHMS.items():
        params = {"policy": plain, "value": value_params} if name == "ppo" else plain
        params = jax.device_put(jax.tree.map(jnp.copy, params), layout.param_shardings(params))
        batch = batch_of(0)

        def sums(params: Any, batch: Any, algorithm: Algorithm = algorithm) -> Any:
            (loss, weight), metrics = algorithm.objective(model, params, batch)
            return loss, {"weight": weight, **metrics}

        computed = jax.jit(jax.value_and_grad(sums, has_aux=True))(params, layout.put_batch(batch))
        for path, x in jax.tree_util.tree_leaves_with_path(computed):
            found[f"{name}: {path_name(path)}"] = to_host(x)
    return found


@pytest.mark.slow
def test_sums_and_gradients_are_those_of_one_device(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, tmp_path / "eight.npz"], env=cpu_devices(8),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one = compute({"fsdp": 1})
    with np.load(tmp_path / "eight.npz") as eight:
        assert set(eight) == set(one)
        for name, x in one.items():
            np.testing.assert_allclose(eight[name], x, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(x).max()), err_msg=name)
    assert all(np.abs(one[f"{name}: 0/0"]) > 1e-3 for name in ALGORITHMS)


if __name__ == "__main__":
    np.savez(sys.argv[1], **compute({"replica": 2, "fsdp": 2, "context": 2}))
