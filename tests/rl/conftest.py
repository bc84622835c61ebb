"""A start for RL: a workdir with a tokenizer, an untrained decoder as `sft`, reward models, and problems."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from dsmath_jax.data import chat_template, tokenizer
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.rl.reward_model.model import with_reward_head
from dsmath_jax.rl.settings import RLSettings, with_method
from dsmath_jax.settings import build
from dsmath_jax.sharding import Layout
from dsmath_jax.toy.problems import write_problems
from dsmath_jax.training import checkpoint
from dsmath_jax.training.model_files import write_config
from dsmath_jax.workdir import read_jsonl, write_jsonl
from tests.rl.trainer_runs import RLRun

# Rewards that an untrained decoder's completions differ in, and some that cannot be used.
REWARDS = """
import pathlib

def digits(completion, record):
    return sum(c.isdigit() for c in completion) / (1 + len(completion))

def counted(completion, record):
    with open(pathlib.Path(__file__).with_name("graded"), "a") as file:
        file.write(repr(completion) + "\\n")
    return digits(completion, record)

def nan_for_some(completion, record):
    return float("nan") if len(completion) % 2 else digits(completion, record)

def nan_for_listed(completion, record):
    listed = pathlib.Path(__file__).with_name("without_reward").read_text().split()
    return float("nan") if record.id in listed else digits(completion, record)

def nan(completion, record):
    return float("nan")

def none(completion, record):
    return None

def same(completion, record):
    return 0.25

def for_every_third_question(completion, record):
    return digits(completion, record) if int(record.id.split("/")[-1]) % 3 == 0 else 0.0

def of_some(completion, record):
    return digits(completion, record) if len(completion) % 2 else None
"""
SETTINGS = {
    "data": ("toy/train",), "prompts_per_step": 2, "group_size": 4, "max_prompt_tokens": 128, "max_new_tokens": 12,
    "reward_fns": (("trainer_rewards:digits", 1.0),), "peak_lr": 1e-2, "warmup_steps": 1,
}  # fmt: skip


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory, layout: Layout) -> Path:
    folder = tmp_path_factory.mktemp("start")
    write_problems(folder / "data", 0, {"train": 24})
    texts = [row["solution"] for row in read_jsonl(folder / "data" / "problems" / "train.jsonl")]
    tokenizer.train_sentencepiece(texts, folder / "tokenizer" / "tokenizer.model", 300)
    chat_template.write(folder / "tokenizer", chat_template.DEEPSEEK_MATH)
    config = ModelConfig(
        vocab_size=300, num_hidden_layers=1, hidden_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        intermediate_size=24, max_position_embeddings=256,
        compute_dtype="float32", remat="none",
    )  # fmt: skip
    params = jax.jit(lambda: initial_params(Decoder(config), jax.random.key(0)))()
    write_config(folder / "sft", config)
    checkpoint.save(folder / "sft" / "params", params)
    larger = dataclasses.replace(config, hidden_size=24)
    teacher = jax.jit(lambda: initial_params(Decoder(larger), jax.random.key(5)))()
    write_config(folder / "pretrain", larger)
    checkpoint.save(folder / "pretrain" / "params", teacher)
    for number, name in enumerate(("reward_model", "process_model"), 1):
        reward_params = with_reward_head(params, config.hidden_size)
        reward_params["reward"]["kernel"] = jax.random.normal(jax.random.key(number), (config.hidden_size, 1))
        write_config(folder / name, config)
        checkpoint.save(folder / name / "params", reward_params)
        rows = [
            {"problem": n, "prompt": [1, 9, n + 3], "completion": [n + 4, 2], "ends": [1], "labels": [float(n % 2)]}
            for n in range(20)
        ]
        write_jsonl(folder / name / "samples.jsonl", rows)
    (folder / "rewards").mkdir()
    (folder / "rewards" / "trainer_rewards.py").write_text(REWARDS)
    return folder


@pytest.fixture
def recipe(start: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RLRun]:
    """Makes a run of a method, with some of its settings changed: `recipe("ppo", steps=4).run(workdir("run"))`."""
    monkeypatch.syspath_prepend(str(start / "rewards"))

    def make(method: str, steps: int = 2, checkpoint_every: int = 10, **changes: Any) -> RLRun:
        given = with_method(SETTINGS, method) | {"steps": steps, "checkpoint_every": checkpoint_every} | changes
        return RLRun(build(RLSettings, given, "rl."), start / "data", layout)

    return make


@pytest.fixture
def workdir(start: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes a workdir that has the stages of `start`."""

    def make(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for stage in ("tokenizer", "pretrain", "sft", "reward_model", "process_model"):
            (folder / stage).symlink_to(start / stage, target_is_directory=True)
        return folder

    return make


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield
