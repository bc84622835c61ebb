"""The train step of reward models, as `aot` compiles it: here for a CPU."""

import dataclasses
from pathlib import Path

import jax
import pytest

from dsmath_jax.aot import reward_model
from dsmath_jax.aot.reward_model import compile_reward_step, longest_row
from dsmath_jax.aot.step import Target
from dsmath_jax.aot.topology import Topology
from dsmath_jax.command_line import load_recipe
from dsmath_jax.hardware import CHIPS
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.recipe import Recipe
from dsmath_jax.rl.reward_model.settings import ProcessModelSettings, RewardModelSettings
from dsmath_jax.sharding import Layout, MeshSettings, make_mesh
from dsmath_jax.training.model_files import build_model
from dsmath_jax.training.settings import LoraSettings

MODEL = ModelConfig(
    vocab_size=128, num_hidden_layers=2, hidden_size=32, num_attention_heads=2, head_dim=16, intermediate_size=64,
    max_position_embeddings=512, compute_dtype="float32", remat="full", attention="xla",
)  # fmt: skip
WEIGHTS = 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32) + 32 + 2 * 128 * 32 + 33  # with the head


def recipe(kind: str, lora: LoraSettings | None = None) -> Recipe:
    make, stage = (
        (ProcessModelSettings, "process_model") if kind == "process" else (RewardModelSettings, "reward_model")
    )
    settings = make(kind=kind, lora=lora, batch_size=8, grad_accum_steps=2, steps=10, max_new_tokens=40)
    rl = dataclasses.replace(load_recipe("grpo_7b").rl, max_prompt_tokens=24)
    return dataclasses.replace(load_recipe("grpo_7b"), model=MODEL, rl=rl, **{stage: settings})


@pytest.fixture(autouse=True)
def cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layout = Layout(make_mesh(MeshSettings(), jax.devices()[:1]))
    target = Target(Topology("cpu:1", jax.devices()[:1], CHIPS["t4"]), layout, build_model(MODEL, layout))
    monkeypatch.setattr(reward_model, "make_target", lambda *_: target)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_all_parameters_and_their_moments_are_trained() -> None:
    found = compile_reward_step(recipe("pairwise"), "reward_model", "cpu:1")
    assert found["tokens"] == 8 * 2 * 64  # a pair of 24 + 40 tokens each in a row
    batch = 5 * 8 * 2 * 64 * 4
    assert found["memory"]["arguments"] == pytest.approx(3 * 4 * WEIGHTS + batch, rel=0.1)
    assert 1.1 < found["flops_ratio"] < 1.8  # the masked half of attention, and what pairs have between them


@pytest.mark.slow
def test_with_lora_matrices_are_frozen() -> None:
    whole = compile_reward_step(recipe("process"), "process_model", "cpu:1")
    found = compile_reward_step(recipe("process", LoraSettings(rank=2)), "process_model", "cpu:1")
    assert found["tokens"] == whole["tokens"] == 8 * 64
    assert found["memory"]["aliased"] < 0.2 * whole["memory"]["aliased"]
    assert found["flops"] < 0.9 * whole["flops"]
    assert 1.3 < found["flops_ratio"] < 1.8  # 6 units in place of 4, and the masked half of attention


def test_rows_are_as_long_as_those_of_rl_or_the_context() -> None:
    made = recipe("process")
    assert longest_row(made, made.process_model) == 64
    assert longest_row(dataclasses.replace(made, rl=None), made.process_model) == 512
