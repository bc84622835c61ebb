"""GRPO from a Hugging Face folder on a user's questions with a user's reward: the recipe `grpo`."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import dsmath_jax as dm
from dsmath_jax.data.datasets import Record
from dsmath_jax.models.huggingface import read_config
from dsmath_jax.recipe import Recipe
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training.model_files import import_params, load_model
from dsmath_jax.workdir import UserError, read_jsonl, write_jsonl

REWARD = "def brief(completion, record):\n    return 1 / (1 + len(completion))\n"


@pytest.fixture
def recipe(tmp_path: Path, checkpoint_hf: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    write_jsonl(tmp_path / "mine.jsonl", [{"question": f"What is {n} + 2?", "answer": str(n + 2)} for n in range(8)])
    (tmp_path / "brief_reward.py").write_text(REWARD, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "model").symlink_to(checkpoint_hf)
    recipe = dm.load_recipe("grpo")
    changes = {
        "data": ("mine.jsonl",), "reward_fns": (("correct", 1.0), ("brief_reward:brief", 0.5)), "prompts_per_step": 2,
        "group_size": 2, "max_prompt_tokens": 64, "max_new_tokens": 8, "steps": 2, "checkpoint_every": 1,
        "grad_accum_steps": 1, "peak_lr": 1e-3, "warmup_steps": 0,
    }  # fmt: skip
    return dataclasses.replace(recipe, data_dir=str(tmp_path), rl=dataclasses.replace(recipe.rl, **changes))


def test_the_policy_starts_from_the_folder(recipe: Recipe, tmp_path: Path, checkpoint_hf: Path) -> None:
    workdir = tmp_path / "run"
    dm.run(recipe, workdir)
    assert len(list(read_jsonl(workdir / "rl" / "metrics.jsonl"))) == 2
    layout = Layout(make_mesh())
    start = import_params(checkpoint_hf, read_config(checkpoint_hf, "float32"), layout)
    model = load_model(str(workdir / "rl"), layout)
    moved = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), start, model.params)
    assert all(0 < step < 0.01 for step in jax.tree.leaves(moved))  # two steps of AdamW away
    asked = Record("", "What is 1 + 2?")
    assert model.chat.prompt(asked) == load_model(f"hf:{checkpoint_hf}", layout).chat.prompt(asked)
    stamp = (workdir / "rl" / "manifest.json").stat().st_mtime_ns
    dm.run(recipe, workdir)  # complete: nothing is done again
    assert (workdir / "rl" / "manifest.json").stat().st_mtime_ns == stamp


def test_another_model_in_the_folder_is_noticed(recipe: Recipe, tmp_path: Path, checkpoint_hf: Path) -> None:
    workdir = tmp_path / "run"
    (tmp_path / "model").unlink()
    (tmp_path / "model").mkdir()
    for path in checkpoint_hf.iterdir():
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    dm.run(recipe, workdir)
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}), encoding="utf-8")
    with pytest.raises(UserError, match=r"rl.*config\.json"):
        dm.run(recipe, workdir)


def test_a_folder_that_is_missing_is_refused_before_anything_is_made(recipe: Recipe, tmp_path: Path) -> None:
    tokenizer = dataclasses.replace(recipe.tokenizer, path="model")
    elsewhere = dataclasses.replace(recipe.rl, init="hf:elsewhere")
    with pytest.raises(UserError, match=r"elsewhere.*is missing; give the folder of a Hugging Face model"):
        dm.run(dataclasses.replace(recipe, rl=elsewhere, tokenizer=tokenizer), tmp_path / "run")
    assert not (tmp_path / "run" / "tokenizer").exists()
