"""A start for RL: a workdir with a tokenizer, an untrained decoder as `sft`, reward models, and problems."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from dsmath_jax.data import tokenizer
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.llama import Llama, initial_params
from dsmath_jax.rl.reward_model import with_head
from dsmath_jax.rl.settings import rl_fields
from dsmath_jax.sharding import Layout
from dsmath_jax.toy.problems import write_problems
from dsmath_jax.training import checkpoint
from dsmath_jax.training.loop import loop_fields
from dsmath_jax.training.model_files import write_config
from dsmath_jax.training.optimizer import adamw
from dsmath_jax.workdir import read_jsonl, write_jsonl

# Rewards that an untrained decoder's completions differ in.
RULES = """
import pathlib

def digits(completion, record):
    return sum(c.isdigit() for c in completion) / (1 + len(completion))

def counted(completion, record):
    with open(pathlib.Path(__file__).with_name("graded"), "a") as file:
        file.write(repr(completion) + "\\n")
    return digits(completion, record)

def nan_for_some(completion, record):
    return float("nan") if len(completion) % 2 else digits(completion, record)

def nan(completion, record):
    return float("nan")

def same(completion, record):
    return 0.25
"""


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory, layout: Layout) -> Path:
    folder = tmp_path_factory.mktemp("start")
    write_problems(folder / "data", 0, {"train": 24})
    texts = [row["solution"] for row in read_jsonl(folder / "data" / "problems" / "train.jsonl")]
    tokenizer.train_sentencepiece(texts, folder / "tokenizer" / "tokenizer.model", 300)
    sizes = ModelConfig(
        vocab_size=300, num_hidden_layers=1, hidden_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        intermediate_size=24, max_position_embeddings=256,
        compute_dtype="float32", remat="none",
    )  # fmt: skip
    params = jax.jit(lambda: initial_params(Llama(sizes), jax.random.key(0)))()
    write_config(folder / "sft", sizes)
    checkpoint.save(folder / "sft" / "params", params)
    for number, name in enumerate(("reward_model", "process_model"), 1):
        judge = with_head(params, sizes.hidden_size)
        judge["reward"]["kernel"] = jax.random.normal(jax.random.key(number), (sizes.hidden_size, 1))
        write_config(folder / name, sizes)
        checkpoint.save(folder / name / "params", judge)
        rows = [
            {"problem": n, "prompt": [1, 9, n + 3], "completion": [n + 4, 2], "ends": [1], "labels": [float(n % 2)]}
            for n in range(20)
        ]
        write_jsonl(folder / name / "samples.jsonl", rows)
    (folder / "rules").mkdir()
    (folder / "rules" / "loop_rules.py").write_text(RULES)
    return folder


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs of the stage share what they compile: each makes its jitted functions anew."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def recipe(start: Path, monkeypatch: pytest.MonkeyPatch, compiled_once: None) -> Callable[..., ConfigDict]:
    """A config for `rl.loop.run` in a workdir made by `workdir`, with some of its rl settings changed."""
    monkeypatch.syspath_prepend(str(start / "rules"))

    def make(method: str, steps: int = 2, checkpoint_every: int = 10, **changes: Any) -> ConfigDict:
        config = ConfigDict({"seed": 3, "data_dir": str(start / "data")})
        config.mesh = {"replica": 1, "fsdp": 1, "context": 1, "tensor": 1}
        settings = {
            "prompts": 2, "group_size": 4, "max_prompt_tokens": 128, "max_new_tokens": 12,
            "rules": (("loop_rules:digits", 1.0),),
        }  # fmt: skip
        config.rl = rl_fields(("toy/train",), method, **settings | changes)
        config.rl.update(loop_fields(steps, checkpoint_every), **adamw(1e-2, 1))
        return config

    return make


@pytest.fixture
def workdir(start: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A new workdir that has the stages of `start`."""

    def make(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for stage in ("tokenizer", "sft", "reward_model", "process_model"):
            (folder / stage).symlink_to(start / stage, target_is_directory=True)
        return folder

    return make


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield
