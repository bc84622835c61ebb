"""Sharding: every parameter has its one rule, and eight devices compute what one does on every mesh."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.models.sizes import sizes
from dsmath_jax.rl.reward_model.model import with_reward_head
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import AXES, RULES, Layout, MeshSettings, make_mesh, path_name
from dsmath_jax.training.model_files import build_model
from dsmath_jax.training.objectives import next_token
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.settings import TrainingSettings
from dsmath_jax.training.step import TrainState, make_train_step, state_from_params
from dsmath_jax.workdir import UserError
from tests.devices import cpu_devices

FOUR = Layout(AbstractMesh((1, 2, 1, 2), AXES))
PROMPTS = [[1, 7, 3], [1, 9], [1, 4, 4, 8]]
QUICK = ({"fsdp": 2, "context": 2, "tensor": 2},)
SLOW = (
    {"fsdp": 4, "tensor": 2}, {"replica": 2, "fsdp": 1, "context": 2, "tensor": 2}, {"fsdp": 8},
    {"tensor": 8, "fsdp": 1}, {"context": 8, "fsdp": 1}, {"replica": 2, "fsdp": 4}, {"fsdp": 4, "context": 2},
    {"fsdp": 1, "context": 4, "tensor": 2}, {"replica": 2, "fsdp": 2, "tensor": 2},
)  # fmt: skip
# What families add to LLaMA, together; the windows of the layers differ.
ALL_FIELDS = {
    "attention_bias": True, "qk_norm": "all", "norm_placement": "both", "rms_norm_offset": 1.0,
    "scale_embeddings": True, "hidden_act": "gelu_pytorch_tanh", "query_pre_attn_scalar": 3, "sliding_window": 5,
    "layer_types": ("sliding_attention", "full_attention"), "rope_local_base_freq": 50.0,
    "attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0,
}  # fmt: skip
SAMPLED = QUICK[0]  # the mesh on which the sampler is tried
STEPS = 20


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_is_matched_by_exactly_one_rule(make_model: Callable[..., Decoder], tied: bool) -> None:
    model = make_model(tie_word_embeddings=tied)
    decoder = jax.eval_shape(lambda: initial_params(model, jax.random.key(0)))
    reward = jax.eval_shape(lambda: with_reward_head(decoder, model.config.hidden_size))
    for path, leaf in [*jax.tree_util.tree_leaves_with_path(decoder), *jax.tree_util.tree_leaves_with_path(reward)]:
        matching = [axes for pattern, axes in RULES if re.search(pattern, path_name(path))]
        assert len(matching) == 1, path_name(path)
        assert len(matching[0]) in (leaf.ndim, 0), path_name(path)


def test_optimizer_state_is_sharded_like_its_parameters(model: Decoder, layout: Layout) -> None:
    shapes = jax.eval_shape(lambda: initial_params(model, jax.random.key(0)))
    state = jax.eval_shape(optax.adamw(1e-3).init, shapes)
    assert len(jax.tree.leaves(layout.param_shardings(state))) == len(jax.tree.leaves(state))
    assert FOUR.param_spec("0/mu/layers/q", (2, 16, 4, 4)) == FOUR.param_spec("layers/q", (2, 16, 4, 4))


def test_an_axis_that_does_not_divide_is_left_whole() -> None:
    assert FOUR.param_spec("layers/q", (2, 16, 4, 4)) == PartitionSpec(None, "fsdp", "tensor", None)
    assert FOUR.param_spec("layers/k", (2, 16, 1, 4)) == PartitionSpec(None, "fsdp", None, None)
    assert FOUR.param_spec("embedding", (23, 16)) == PartitionSpec(None, "fsdp")
    with pytest.raises(ValueError, match="no sharding rule matches the parameter layers/new"):
        FOUR.param_spec("layers/new", (2, 2))


@pytest.mark.parametrize("name", ["1b3", "7b"])
@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
def test_dimensions_of_the_papers_sizes_divide(name: str, tensor: int) -> None:
    """No parameter is left whole on an axis that its rule names: over 256 devices by fsdp, heads by tensor."""
    model = Decoder(ModelConfig(**sizes(name)))
    layout = Layout(AbstractMesh((1, 256, 1, tensor), AXES))
    shapes = jax.eval_shape(lambda: initial_params(model, jax.random.key(0)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        rule = next(axes for pattern, axes in RULES if re.search(pattern, path_name(path)))
        assert layout.param_spec(path_name(path), leaf.shape) == PartitionSpec(*rule), path_name(path)


def test_a_mesh_that_does_not_fit_the_devices_is_refused() -> None:
    assert dict(make_mesh().shape) == {"replica": 1, "fsdp": 1, "context": 1, "tensor": 1}
    whole = r"mesh replica=1 x fsdp=2 x context=1 x tensor=1 does not multiply to the 1 devices; change config.mesh"
    with pytest.raises(UserError, match=whole):
        make_mesh(MeshSettings(fsdp=2))
    with pytest.raises(UserError, match=r"fsdp=0 x context=1 x tensor=2"):
        make_mesh(MeshSettings(tensor=2))
    with pytest.raises(UserError, match=r"^tensor is 0; it must be at least 1\.$"):
        make_mesh(MeshSettings(tensor=0))


def test_rows_that_do_not_divide_are_refused(model: Decoder, layout: Layout) -> None:
    step = make_train_step(next_token, model, optax.sgd(1.0), layout, TrainState({}, ()), grad_accum_steps=3)
    with pytest.raises(
        UserError, match=r"A batch of 8 rows is not divisible by grad_accum_steps=3 times .* = 1; change"
    ):
        step.lower(TrainState({}, ()), {"tokens": jnp.zeros((8, 4), jnp.int32)})


def test_batches_arrive_whole(layout: Layout) -> None:
    batch = {"tokens": np.arange(12).reshape(4, 3), "labels": np.arange(4)}
    for name, values in layout.put_batch(layout.take_my_rows(batch)).items():
        np.testing.assert_array_equal(values, batch[name])


def packed_batch() -> dict[str, np.ndarray]:
    """Two segments a row and padding at its end; weights that differ from row to row."""
    noise = np.random.default_rng(0)
    batch = {name: noise.integers(1, 24, (8, 16)).astype(np.int32) for name in ("tokens", "targets")}
    batch["segment_ids"] = np.repeat([[1] * 6 + [2] * 8 + [0] * 2], 8, axis=0).astype(np.int32)
    batch["positions"] = np.repeat([[*range(6), *range(8), 0, 0]], 8, axis=0).astype(np.int32)
    batch["loss_weights"] = noise.integers(0, 2, (8, 16)).astype(np.float32) * (batch["segment_ids"] > 0)
    return batch


def starting_params(config: ModelConfig) -> Any:
    return jax.device_get(jax.jit(lambda: initial_params(Decoder(config), jax.random.key(1)))())


def compute(layout: Layout, config: ModelConfig, params: Any, sample: bool) -> dict[str, np.ndarray]:
    """The gradient of the first of twenty steps, all their losses, and sampled completions."""
    model = build_model(config, layout)
    params = jax.device_put(params, layout.param_shardings(params))
    found: dict[str, np.ndarray] = {}
    if sample:
        groups = Sampler(model, layout, [2], 5, 8).generate(params, PROMPTS, SamplingParams(samples=2, seed=3))
        found |= {f"tokens/{c.prompt}/{c.sample}": np.array(c.tokens) for group in groups for c in group}

    batch = layout.put_batch(layout.take_my_rows(packed_batch()))
    optimizer = make_optimizer(TrainingSettings(steps=STEPS, peak_lr=3e-3, warmup_steps=2, clip_norm=1e9))
    state = state_from_params(params, optimizer, layout)
    step = make_train_step(next_token, model, optimizer, layout, state, grad_accum_steps=8 // layout.batch_shards)
    losses = []
    for number in range(STEPS):
        state, scalars = step(state, batch)
        losses.append(float(scalars["loss"]))
        if number == 0:
            found |= {name: np.asarray(value) for name, value in scalars.items()}
            for path, moment in jax.tree_util.tree_leaves_with_path(optax.tree.get(state.opt_state, "mu")):
                found[f"gradient/{path_name(path)}"] = np.asarray(moment) / (1 - 0.9)
    before = jax.tree.map(np.asarray, state)
    state, scalars = step(state, batch | {"loss_weights": jnp.zeros_like(batch["loss_weights"])})
    assert jax.tree.map(lambda x: x.sharding, state) == layout.param_shardings(state)
    found["skipped"] = scalars["step_skipped"]
    changed = jax.tree.map(lambda x, y: (x != np.asarray(y)).sum(), before, state)
    found["changed by a skipped step"] = sum(jax.tree.leaves(changed))
    q = state.params["layers"]["q"]
    found["largest share of q"] = np.array(max(shard.data.size for shard in q.addressable_shards) / q.size)
    return found | {"losses": np.array(losses)}


def on_eight_devices(config: ModelConfig, meshes: Sequence[dict[str, int]], folder: Path) -> "subprocess.Popen[bytes]":
    """Starts what computes the same on every mesh; the results are in `folder`, by number."""
    # A collective waits for all eight devices, so it deadlocks with fewer than eight free threads.
    environment = cpu_devices(8) | {"NPROC": "32", "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false"}
    command = [sys.executable, __file__, str(folder), json.dumps(dataclasses.asdict(config)), json.dumps(meshes)]
    return subprocess.Popen(command, env=environment)


@pytest.mark.parametrize(
    ("changes", "meshes"),
    [
        pytest.param({}, QUICK, id="quick"),
        pytest.param({}, SLOW, id="slow", marks=pytest.mark.slow),
        pytest.param(ALL_FIELDS, QUICK + SLOW, id="all fields", marks=pytest.mark.slow),
    ],
)
def test_eight_devices_compute_what_one_does(
    make_model: Callable[..., Decoder],
    layout: Layout,
    tmp_path: Path,
    changes: dict[str, Any],
    meshes: Sequence[dict[str, int]],
) -> None:
    """fsdp, tensor, context, replica and their products: loss, gradients, twenty steps, and the sampler's tokens."""
    sizes = {"hidden_size": 16, "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 24}
    config = make_model(vocab_size=24, remat="dots", **sizes | changes).config
    with on_eight_devices(config, meshes, tmp_path) as process:
        one = compute(layout, config, starting_params(config), sample=SAMPLED in meshes)
    assert process.returncode == 0
    assert one.pop("largest share of q") == 1.0
    assert np.abs(one["gradient/layers/q"]).max() > 1e-3
    assert one["losses"][-1] < 0.7 * one["losses"][0]
    assert one["skipped"] == one["changed by a skipped step"] == 1  # the step number of the schedule
    for number, shape in enumerate(meshes):
        eight = dict(np.load(tmp_path / f"{number}.npz"))
        assert eight.pop("largest share of q") == 1 / (shape.get("fsdp", 1) * shape.get("tensor", 1)), shape
        assert {name for name in one if shape == SAMPLED or not name.startswith("tokens")} == eight.keys()
        for name, value in eight.items():
            if name.startswith("tokens"):
                np.testing.assert_array_equal(value, one[name], err_msg=f"{shape} {name}")
            else:
                np.testing.assert_allclose(value, one[name], atol=1e-5, rtol=1e-5, err_msg=f"{shape} {name}")


@pytest.mark.slow
def test_eight_cpu_devices_train_in_bfloat16(
    make_model: Callable[..., Decoder], layout: Layout, tmp_path: Path
) -> None:
    """XLA for CPUs aborts over a bfloat16 sum of `map_row_shards`; the losses are those of one device, rounded."""
    config = make_model(vocab_size=24, num_hidden_layers=1, compute_dtype="bfloat16").config
    with on_eight_devices(config, [{"replica": 2, "fsdp": 2, "context": 2}], tmp_path) as process:
        one = compute(layout, config, starting_params(config), sample=False)
    assert process.returncode == 0
    np.testing.assert_allclose(np.load(tmp_path / "0.npz")["losses"], one["losses"], rtol=1e-2)


if __name__ == "__main__":
    config = ModelConfig(**json.loads(sys.argv[2]))
    params = starting_params(config)
    for number, shape in enumerate(json.loads(sys.argv[3])):
        layout = Layout(make_mesh(MeshSettings(**shape)))
        np.savez(Path(sys.argv[1]) / f"{number}.npz", **compute(layout, config, params, sample=shape == SAMPLED))
