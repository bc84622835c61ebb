"""LoRA in training: the step differentiates the adapters alone, and a stage keeps these and the name of their model."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

import dsmath_jax as dm
from dsmath_jax import runner, stages
from dsmath_jax.models.decoder import Decoder
from dsmath_jax.models.huggingface import read_config
from dsmath_jax.models.huggingface.__main__ import ExportOptions, export_model
from dsmath_jax.models.lora import MATRICES, Frozen, combine, initial_adapters, merge, without_adapters
from dsmath_jax.recipe import Recipe
from dsmath_jax.settings import build
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training import checkpoint, lora
from dsmath_jax.training.flops import matmul_parameters, model_flops_per_token
from dsmath_jax.training.loop import TrainLoop
from dsmath_jax.training.model_files import (
    abstract_params,
    import_params,
    load_model,
    read_model_config,
    read_params,
)
from dsmath_jax.training.objectives import next_token
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.settings import LoraSettings, TrainingSettings
from dsmath_jax.training.step import TrainState, make_train_step, state_from_params
from dsmath_jax.workdir import UserError, read_json, read_jsonl, write_jsonl
from tests.rl.trainer_runs import equal
from tests.training.test_step import make_batch

SETTINGS = LoraSettings(rank=3, alpha=6.0)


def random_adapters(params: Any) -> Any:
    adapters = initial_adapters(params, SETTINGS.targets, SETTINGS.rank, jax.random.key(1))
    noise = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(noise.normal(0, 0.3, x.shape), jnp.float32), adapters)


@pytest.mark.parametrize("accumulate", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_the_gradient_is_the_chain_rule_of_the_full_one(
    model: Decoder, params: Any, layout: Layout, accumulate: int
) -> None:
    """W' = W + s A B, so dA = s dW B^T and dB = s A^T dW, dW being the gradient of the merged matrix."""
    batch, scale, optimizer = make_batch("uneven"), SETTINGS.scale, optax.sgd(1.0)
    adapters = random_adapters(params)
    merged = lora.merged(combine(jax.tree.map(jnp.copy, params), adapters, scale), layout)
    loss, full = jax.jit(jax.value_and_grad(lambda params: next_token(model, params, batch)[0][0] / 28))(merged)
    state = TrainState(jax.tree.map(jnp.copy, adapters), optimizer.init(adapters))
    step = make_train_step(next_token, model, optimizer, layout, state, accumulate, Frozen(params, scale))
    after, scalars = step(state, batch)
    assert float(scalars["loss"]) == pytest.approx(float(loss), rel=1e-5)
    for name, inputs in (("q", 1), ("o", 2), ("gate", 1), ("down", 1)):
        a, b = (np.float64(adapters["layers"][f"{name}_lora_{side}"]) for side in "ab")
        gradient = np.float64(full["layers"][name])
        layers, ins = len(gradient), int(np.prod(gradient.shape[1 : 1 + inputs]))
        d_w, a2, b2 = (
            gradient.reshape(layers, ins, -1),
            a.reshape(layers, ins, -1),
            b.reshape(layers, SETTINGS.rank, -1),
        )
        expected = {"a": scale * d_w @ b2.swapaxes(1, 2), "b": scale * a2.swapaxes(1, 2) @ d_w}
        for side, before in (("a", a), ("b", b)):
            found = before - np.float64(after.params["layers"][f"{name}_lora_{side}"])
            want = expected[side].reshape(found.shape)
            np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * max(1, np.abs(want).max()))


def test_the_state_has_the_adapters_alone(model: Decoder, params: Any, layout: Layout) -> None:
    """The base is an argument of the step, neither donated nor part of the program."""
    trained = lora.trainable(SETTINGS, lambda frozen: params, model, layout, seed=0)
    optimizer = make_optimizer(TrainingSettings(steps=10, peak_lr=1e-2))
    state = state_from_params(trained.read(), optimizer, layout)
    c = model.config
    widths = {  # inputs + outputs of each matrix
        "q": c.hidden_size + c.num_attention_heads * c.head_dim, "k": c.hidden_size + c.num_key_value_heads * c.head_dim
    }  # fmt: skip
    sizes = 2 * (widths["q"] + widths["k"]) + 3 * (c.hidden_size + c.intermediate_size)
    count = c.num_hidden_layers * SETTINGS.rank * sizes
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == count
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * count
    step = make_train_step(next_token, model, optimizer, layout, state, 1, trained.frozen)
    compiled = step.lower(state, make_batch("even")).compile()
    assert compiled.memory_analysis().argument_size_in_bytes > 4 * (3 * count + sum(
        leaf.size for leaf in jax.tree.leaves(params)
    ))  # fmt: skip
    before = jax.tree.map(np.asarray, params)
    state, _ = step(state, make_batch("even"))
    state, _ = step(state, make_batch("uneven"))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, before, params)))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(state.params))
    assert model_flops_per_token(c, 8, count) == model_flops_per_token(c, 8) - 2 * matmul_parameters(c) + 6 * count


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": "layers/x"}, "lora.targets is 'layers/x', which matches no matrix; the paths are layers/q, "),
        ({"targets": "layers/(q"}, r"lora.targets is 'layers/\(q', which is no regular expression"),
        ({"rank": 0}, "lora.rank is 0; it must be at least 1"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(LoraSettings, fields, "lora.")


# --- the stage sft ---


@pytest.fixture(scope="module")
def make_run(checkpoint_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs `tokenizer` and `sft` from a Hugging Face folder, with LoRA, and returns the workdir."""
    data = tmp_path_factory.mktemp("data")
    shutil.copytree(checkpoint_hf, data / "base")
    write_jsonl(data / "mine.jsonl", [{"question": f"Say {n}.", "solution": f"It is {n}."} for n in range(40)])

    def run(name: str, **changes: Any) -> Path:
        sft = {
            "init": "hf:base", "data": ("mine.jsonl",), "sequence_length": 64, "batch_size": 2, "steps": 3,
            "checkpoint_every": 1, "eval_rows": 2, "peak_lr": 1e-1, "lora": {"rank": 2},
        }  # fmt: skip
        recipe = {"data_dir": str(data), "tokenizer": {"path": "base"}, "sft": sft | changes}
        runner.run(stages.STAGES, build(Recipe, recipe), data / name, ("tokenizer", "sft"), [])
        return data / name

    return run


@pytest.fixture(scope="module")
def workdir(make_run: Callable[..., Path]) -> Path:
    return make_run("run")


def test_a_stage_keeps_its_adapters_and_where_their_model_is(workdir: Path, layout: Layout) -> None:
    folder = workdir / "sft"
    with pytest.raises(UserError, match="only the config's model has the array embedding"):
        checkpoint.restore(folder / "params", abstract_params(read_model_config(folder), layout))
    like = lora.abstract_adapters(read_model_config(folder), LoraSettings(rank=2), layout)
    checkpoint.restore(folder / "params", like)  # these alone, or it would be refused
    fields = read_json(folder / "lora.json")
    assert (fields["base"], fields["rank"], fields["alpha"]) == (f"hf:{workdir.parent / 'base'}", 2, 32.0)
    config = read_model_config(folder)
    model, base = read_params(folder, config, layout), import_params(workdir.parent / "base", config, layout)
    assert equal(without_adapters(model), base)
    losses = [row["eval_loss"] for row in read_jsonl(folder / "metrics.jsonl") if "eval_loss" in row]
    assert losses[1] < losses[0] - 0.1
    loaded = load_model(str(folder), layout)
    assert equal(loaded.params, model)
    assert loaded.fingerprint != load_model(f"hf:{workdir.parent / 'base'}", layout).fingerprint


def test_a_killed_run_resumes_bit_by_bit(
    make_run: Callable[..., Path], workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = TrainLoop.update

    def stop(self: TrainLoop, *arguments: Any) -> None:
        if self._step == 2:
            raise KeyboardInterrupt
        update(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TrainLoop, "update", stop)
        with pytest.raises(KeyboardInterrupt):
            make_run("killed")
    killed = make_run("killed")
    for name in ("sft/metrics.jsonl", "sft/lora.json"):
        assert (killed / name).read_bytes() == (workdir / name).read_bytes()
    layout = Layout(make_mesh())
    models = [read_params(folder / "sft", read_model_config(folder / "sft"), layout) for folder in (workdir, killed)]
    assert equal(*models)


def test_adapters_are_exported_for_peft(workdir: Path, layout: Layout) -> None:
    """Matrices are [outputs, inputs] there."""
    target = workdir.parent / "peft"
    message = export_model(workdir / "sft", target, ExportOptions())
    assert message.endswith("in float32, adapters in the format of peft, a tokenizer of 300 ids")
    config = read_json(target / "adapter_config.json")
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (2, 32.0, {})
    assert config["base_model_name_or_path"] == str(workdir.parent / "base")
    assert config["target_modules"] == sorted(f"{name}_proj" for name in MATRICES)
    tensors = load_file(target / "adapter_model.safetensors")
    c = read_model_config(workdir / "sft")
    heads, groups = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    sizes = {  # inputs, outputs
        "self_attn.q_proj": (c.hidden_size, heads), "self_attn.k_proj": (c.hidden_size, groups),
        "self_attn.v_proj": (c.hidden_size, groups), "self_attn.o_proj": (heads, c.hidden_size),
        "mlp.gate_proj": (c.hidden_size, c.intermediate_size), "mlp.up_proj": (c.hidden_size, c.intermediate_size),
        "mlp.down_proj": (c.intermediate_size, c.hidden_size),
    }  # fmt: skip
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        f"base_model.model.model.layers.{layer}.{name}.lora_{side}.weight": shape
        for layer in range(c.num_hidden_layers)
        for name, (inputs, outputs) in sizes.items()
        for side, shape in (("A", (2, inputs)), ("B", (outputs, 2)))
    }
    base = load_file(workdir.parent / "base" / "model.safetensors")
    merged = merge(read_params(workdir / "sft", c, layout))
    for module, path in (("self_attn.o_proj", "o"), ("mlp.up_proj", "up"), ("self_attn.q_proj", "q")):
        name = f"model.layers.0.{module}"
        a, b = (tensors[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
        weight = base[f"{name}.weight"] + 16.0 * b @ a
        np.testing.assert_allclose(weight.T.ravel(), np.ravel(merged["layers"][path][0]), rtol=1e-5, atol=1e-6)


def test_merging_is_an_option_that_says_what_it_loses(workdir: Path, layout: Layout) -> None:
    for dtype, lost in (("float32", 1e-5), ("bfloat16", 0.1)):
        target = workdir.parent / f"merged_{dtype}"
        message = export_model(workdir / "sft", target, ExportOptions(dtype, merge=True))
        found = re.search(r"merged in \w+: .* by (\S+) on average, .*; adapters change them by (\S+)", message)
        assert found
        assert float(found[1]) < lost < float(found[2])
        config = read_config(target, "float32")
        expected = merge(read_params(workdir / "sft", config, layout))
        for one, other in zip(
            jax.tree.leaves(expected), jax.tree.leaves(import_params(target, config, layout)), strict=True
        ):
            np.testing.assert_array_equal(one.astype(dtype), other.astype(dtype))


@pytest.mark.slow
def test_a_model_with_adapters_is_saved_merged_and_trained_further(workdir: Path, layout: Layout) -> None:
    model = load_model(str(workdir / "sft"), layout)
    target = workdir.parent / "saved"
    dm.save_model(model, target, "float32")
    config = read_config(target, "float32")
    assert equal(import_params(target, config, layout), merge(model.params))
    records = [dm.Record(str(n), f"Say {n}.", answer=str(n)) for n in range(4)]
    trained = dm.train(
        str(workdir / "sft"), records, workdir.parent / "trained", steps=1, prompts_per_step=2, group_size=2,
        max_new_tokens=4, lora={"rank": 1}, eval_every=0,
    )  # fmt: skip
    assert equal(without_adapters(trained.params), merge(model.params))
    assert trained.params["layers"]["q_lora_a"].shape[-1] == 1
