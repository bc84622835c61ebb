"""Stages that start from a Hugging Face folder, on a user's data: the recipe `grpo`, and others."""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import dsmath_jax as dm
from dsmath_jax import runner, stages
from dsmath_jax.data import hub
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.settings import TokenizerSettings
from dsmath_jax.evaluation.settings import EvaluateSettings
from dsmath_jax.models.huggingface import read_config
from dsmath_jax.recipe import Recipe
from dsmath_jax.rl.reward_model import labels
from dsmath_jax.rl.reward_model.settings import RewardModelSettings
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.stages import STAGES
from dsmath_jax.training.model_files import import_params, load_model
from dsmath_jax.workdir import UserError, read_json, read_jsonl, write_jsonl

REWARD = "def brief(completion, record):\n    return record.extra['scale'] / (1 + len(completion))\n"
COLUMNS = {"question": "problem"}
THINKING = (  # a chat template whose prompts open a thought
    "{% for message in messages %}{{ message.content }}{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "\n{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
)


@pytest.fixture
def recipe(tmp_path: Path, checkpoint_hf: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    rows = [{"problem": f"What is {n} + 2?", "answer": str(n + 2), "scale": 1.0} for n in range(24)]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    (tmp_path / "brief_reward.py").write_text(REWARD, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "model").symlink_to(checkpoint_hf)
    recipe = dm.load_recipe("grpo")
    changes = {
        "data": ("mine.jsonl",), "columns": COLUMNS, "reward_fns": (("correct", 1.0), ("brief_reward:brief", 0.5)),
        "prompts_per_step": 2,
        "group_size": 2, "max_prompt_tokens": 64, "max_new_tokens": 8, "steps": 2, "checkpoint_every": 1,
        "grad_accum_steps": 1, "peak_lr": 1e-3, "warmup_steps": 0,
    }  # fmt: skip
    return dataclasses.replace(recipe, data_dir=str(tmp_path), rl=dataclasses.replace(recipe.rl, **changes))


def test_the_policy_starts_from_the_folder(recipe: Recipe, tmp_path: Path, checkpoint_hf: Path) -> None:
    workdir = tmp_path / "run"
    dm.run(recipe, workdir)
    rows = list(read_jsonl(workdir / "rl" / "metrics.jsonl"))
    assert [row["reward_errors"] for row in rows] == [0, 0]
    assert rows[0]["reward"] > 0
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


class EverySecond(contextlib.AbstractContextManager):
    """Grades every second completion as correct, since an untrained model has no correct ones."""

    def __exit__(self, *_: object) -> None:
        pass

    def score(self, texts: Sequence[str], *_: Any) -> tuple[np.ndarray, dict[str, int]]:
        return np.arange(len(texts)) % 2.0, {}


@pytest.mark.slow
def test_reward_models_and_evaluation_start_from_the_folder_too(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "RewardFunctions", lambda *_: EverySecond())
    rewarded = {
        "policy": "hf:model", "init": "hf:model", "data": ("mine.jsonl",), "columns": COLUMNS, "problems": 24,
        "samples": 2, "steps": 1, "max_new_tokens": 8, "max_thinking_tokens": 3, "batch_size": 4,
    }  # fmt: skip
    asked = {
        "models": ("hf:model", "rl"), "tasks": ("mine.jsonl",), "columns": COLUMNS, "samples": 1, "max_new_tokens": 8,
        "problems": 2, "max_thinking_tokens": 4,
    }  # fmt: skip
    rl = dataclasses.replace(recipe.rl, steps=1, method="grpo_os", reward="outcome", max_thinking_tokens=2)
    recipe = dataclasses.replace(
        recipe, rl=rl, chat=dataclasses.replace(recipe.chat, template=THINKING),
        reward_model=RewardModelSettings(**rewarded), evaluate=EvaluateSettings(**asked, allow_overlap=True),
    )  # fmt: skip
    workdir = tmp_path / "run"
    dm.run(recipe, workdir)
    made = {path.name for path in workdir.iterdir() if path.is_dir()}
    assert made == {"tokenizer", "reward_model", "rl", "evaluate", "report"}
    assert len(list(read_jsonl(workdir / "reward_model" / "samples.jsonl"))) == 48
    tokens = load_model(str(workdir / "rl"), Layout(make_mesh())).tokenizer
    [close] = tokens.encode("</think>")
    drawn = [row["completion"] for row in read_jsonl(workdir / "reward_model" / "samples.jsonl")]
    assert {ids.index(close) for ids in drawn if len(ids) > 3} == {3}  # the others ended before
    in_rl = [row["completion"] for row in read_jsonl(workdir / "rl" / "samples.jsonl")]
    evaluated = [row["completion"] for row in read_jsonl(workdir / "evaluate" / "rl" / "mine-cot" / "samples.jsonl")]
    assert all(text.startswith("<think>") and "</think>" in text for text in in_rl)
    assert all("</think>" in text for text in evaluated)
    summary = read_json(workdir / "evaluate" / "summary.json")
    assert [(name, one["pooled"]["num_overlapping"]) for name, one in summary.items()] == [
        ("hf:model", None),
        ("rl", 2),
    ]
    assert (workdir / "evaluate" / "hf_model" / "mine-cot" / "samples.jsonl").is_file()


def test_a_recipe_may_only_evaluate_a_folder(tmp_path: Path, checkpoint_hf: Path) -> None:
    (tmp_path / "mine.csv").write_text("problem,answer\n1 + 1?,2\n")
    asked = EvaluateSettings(
        models=(f"hf:{checkpoint_hf}",), tasks=("mine.csv",), columns={"question": "problem"}, max_new_tokens=4
    )  # fmt: skip
    recipe = Recipe(data_dir=str(tmp_path), evaluate=asked)
    (evaluate, _) = runner.plan(STAGES, recipe, tmp_path / "run", (), ())
    assert (evaluate.error, evaluate.stage.depends_on(recipe)) == (None, ())
    missing = dataclasses.replace(recipe, evaluate=dataclasses.replace(asked, models=("hf:elsewhere",)))
    (evaluate, _) = runner.plan(STAGES, missing, tmp_path / "run", (), ())
    assert "elsewhere" in str(evaluate.error)


def test_a_model_of_the_hub_is_not_downloaded_by_checks(recipe: Recipe, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        recipe, rl=dataclasses.replace(recipe.rl, init="hf:some/model"), tokenizer=TokenizerSettings()
    )  # fmt: skip
    assert [one.error for one in runner.plan(STAGES, recipe, tmp_path / "run", (), ())] == [None] * 3
    assert not (tmp_path / "some").exists()


def test_models_are_downloaded_for_the_tokenizer_and_after_the_plan(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hub, "fetch_model", lambda name, _: asked.append(name))
    recipe = dataclasses.replace(
        recipe, rl=dataclasses.replace(recipe.rl, init="hf:some/model"), tokenizer=TokenizerSettings(),
        evaluate=EvaluateSettings(models=("hf:other/model",), tasks=("mine.jsonl",), columns=COLUMNS),
    )  # fmt: skip
    assert recipe.tokenizer.path == "hf:some/model"
    stages.fetch_models(recipe, tmp_path / "run", ["tokenizer"])
    assert asked == ["some/model"]
    invalid = dataclasses.replace(recipe, rl=dataclasses.replace(recipe.rl, data=("gone.jsonl",)))
    with pytest.raises(UserError, match=r"gone\.jsonl"):
        stages.fetch_models(invalid, tmp_path / "run")
    assert asked == ["some/model"]
    (tmp_path / "run/rl").mkdir(parents=True)  # it was started with the files of its model, which the plan lacks
    stages.fetch_models(invalid, tmp_path / "run", ["rl"])
    assert asked == ["some/model"] * 2
    only = Recipe(tokenizer=TokenizerSettings(), evaluate=recipe.evaluate)
    assert only.tokenizer.path == "hf:other/model"
