"""Sharding: every parameter has its one rule, and four devices compute what one does."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.llama import Llama, initial_params
from dsmath_jax.rl.reward_model import with_head
from dsmath_jax.sampling.sampler import Sampler
from dsmath_jax.sharding import (
    RULES,
    constrain_on,
    global_batch,
    make_mesh,
    path_name,
    process_share,
    shardings_like,
    spec_of,
)
from dsmath_jax.training.objectives import next_token
from dsmath_jax.training.step import TrainState, make_train_step
from dsmath_jax.workdir import UserError

FOUR = AbstractMesh((2, 2), ("fsdp", "tensor"))
PROMPTS = [[1, 7, 3], [1, 9], [1, 4, 4, 8]]


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_is_matched_by_exactly_one_rule(make_model: Callable[..., Llama], tied: bool) -> None:
    model = make_model(tie_embeddings=tied)
    decoder = jax.eval_shape(lambda: initial_params(model, jax.random.key(0)))
    reward = jax.eval_shape(lambda: with_head(decoder, model.config.width))
    for path, leaf in [*jax.tree_util.tree_leaves_with_path(decoder), *jax.tree_util.tree_leaves_with_path(reward)]:
        matching = [axes for pattern, axes in RULES if re.search(pattern, path_name(path))]
        assert len(matching) == 1, path_name(path)
        assert len(matching[0]) in (leaf.ndim, 0), path_name(path)


def test_optimizer_state_lies_where_its_parameters_do(model: Llama, mesh: Mesh) -> None:
    shapes = jax.eval_shape(lambda: initial_params(model, jax.random.key(0)))
    state = jax.eval_shape(optax.adamw(1e-3).init, shapes)
    assert len(jax.tree.leaves(shardings_like(state, mesh))) == len(jax.tree.leaves(state))
    assert spec_of("0/mu/layers/q", (2, 16, 4, 4), FOUR) == spec_of("layers/q", (2, 16, 4, 4), FOUR)


def test_an_axis_that_does_not_divide_is_left_whole() -> None:
    assert spec_of("layers/q", (2, 16, 4, 4), FOUR) == PartitionSpec(None, "fsdp", "tensor", None)
    assert spec_of("layers/k", (2, 16, 1, 4), FOUR) == PartitionSpec(None, "fsdp", None, None)
    assert spec_of("embedding", (23, 16), FOUR) == PartitionSpec(None, "fsdp")
    with pytest.raises(ValueError, match="no sharding rule matches the parameter layers/new"):
        spec_of("layers/new", (2, 2), FOUR)


def test_a_mesh_that_does_not_fit_the_devices_is_refused() -> None:
    assert dict(make_mesh().shape) == {"fsdp": 1, "tensor": 1}
    with pytest.raises(UserError, match=r"mesh fsdp=2 x tensor=1 does not multiply to the 1 devices"):
        make_mesh(fsdp=2)
    with pytest.raises(UserError, match=r"mesh fsdp=0 x tensor=2"):
        make_mesh(tensor=2)


def test_batches_arrive_whole(mesh: Mesh) -> None:
    batch = {"tokens": np.arange(12).reshape(4, 3)}
    np.testing.assert_array_equal(global_batch(process_share(batch), mesh)["tokens"], batch["tokens"])


def compute(mesh: Mesh, sizes: ModelConfig) -> dict[str, np.ndarray]:
    """Loss and gradient of a train step, and sampled completions, of the decoder in its shards."""
    model = Llama(sizes, constrain_on(mesh))
    params = jax.jit(lambda: initial_params(Llama(sizes), jax.random.key(1)))()
    params = jax.device_put(params, shardings_like(params, mesh))
    groups = Sampler(model, mesh, [2], 5, rows=8).generate(params, PROMPTS, samples=2, seed=3)
    found = {f"tokens/{c.prompt}/{c.sample}": np.array(c.tokens) for group in groups for c in group}

    noise = np.random.default_rng(0)
    batch = {name: noise.integers(1, 24, (8, 10)).astype(np.int32) for name in ("tokens", "targets")}
    batch["segment_ids"] = np.repeat([[1] * 6 + [2] * 4], 8, axis=0).astype(np.int32)
    batch["positions"] = np.repeat([[*range(6), *range(4)]], 8, axis=0).astype(np.int32)
    batch["loss_weights"] = noise.integers(0, 2, (8, 10)).astype(np.float32)
    optimizer = optax.sgd(1.0)  # the update is the gradient
    state = TrainState(jax.tree.map(jnp.copy, params), optimizer.init(params))
    step = make_train_step(next_token, model, optimizer, mesh, state, accumulate=2)
    after, scalars = step(state, global_batch(batch, mesh))
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(after.params), strict=True
    ):
        assert new.sharding.is_equivalent_to(old.sharding, old.ndim), path_name(path)
        found[f"gradient/{path_name(path)}"] = np.asarray(old) - np.asarray(new)
    q = params["layers"]["q"]
    found["largest share of q"] = np.array(max(shard.data.size for shard in q.addressable_shards) / q.size)
    return found | {name: np.asarray(value) for name, value in scalars.items()}


def test_four_devices_compute_what_one_does(make_model: Callable[..., Llama], mesh: Mesh, tmp_path: Path) -> None:
    sizes = make_model(vocab_size=24).config
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, __file__, str(tmp_path / "four.npz"), json.dumps(dataclasses.asdict(sizes))]
    with subprocess.Popen(command, env=environment) as process:
        one = compute(mesh, sizes)
    assert process.returncode == 0
    four = dict(np.load(tmp_path / "four.npz"))
    assert one.keys() == four.keys()
    assert (one.pop("largest share of q"), four.pop("largest share of q")) == (1.0, 0.25)
    for name, value in one.items():
        if name.startswith("tokens"):
            np.testing.assert_array_equal(four[name], value, err_msg=name)
        else:
            np.testing.assert_allclose(four[name], value, atol=1e-5, rtol=1e-5, err_msg=name)
    assert np.abs(one["gradient/layers/q"]).max() > 1e-3


if __name__ == "__main__":
    np.savez(sys.argv[1], **compute(make_mesh(fsdp=2, tensor=2), ModelConfig(**json.loads(sys.argv[2]))))
