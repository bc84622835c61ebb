"""Stage `sft`: from a finished stage or a Hugging Face folder; what it reads and refuses."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dsmath_jax import runner, stages
from dsmath_jax.data import rows
from dsmath_jax.models.huggingface import read_config
from dsmath_jax.recipe import Recipe
from dsmath_jax.settings import build
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training import sft
from dsmath_jax.training.model_files import import_params, read_model_config, read_params
from dsmath_jax.workdir import UserError, read_json, write_jsonl

INIT = "checkpoints/stories260k_hf"
TORA = "Add.\n```python\nprint(2)\n```\n```output\n2\n```\nSo 2."


@pytest.fixture
def recipe(real_data: Path, tmp_path: Path) -> dict[str, Any]:
    """Records of the user's own and the real checkpoint."""
    data = tmp_path / "data"
    (data / "checkpoints").mkdir(parents=True)
    (data / INIT).symlink_to((real_data / INIT).resolve())
    solutions = [f"It is {n}." for n in range(39)]
    write_jsonl(
        data / "mine/a.jsonl", [{"question": f"Say {n}.", "solution": s} for n, s in enumerate([*solutions, TORA])]
    )
    return {
        "data_dir": str(data),
        "tokenizer": {"path": INIT, "vocab_size": 0},
        "chat": {"template": "paper"},
        "sft": {
            "init": f"hf:{INIT}", "data": ("mine/",), "sequence_length": 96, "batch_size": 4, "steps": 2,
            "checkpoint_every": 2, "eval_every": 2, "eval_rows": 4, "peak_lr": 1e-3, "warmup_steps": 1,
        },
    }  # fmt: skip


def run(recipe: dict[str, Any], workdir: Path, *names: str) -> None:
    runner.run(stages.STAGES, build(Recipe, recipe), workdir, names or ("tokenizer", "sft"), [])


def test_it_begins_with_a_hugging_face_folder_and_needs_no_other_stage(recipe: dict[str, Any], tmp_path: Path) -> None:
    run(recipe, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir()) == ["sft", "tokenizer"]
    assert read_json(tmp_path / "run/sft/model.json")["num_hidden_layers"] == 5
    layout, folder = Layout(make_mesh()), tmp_path / "data" / INIT
    start = import_params(folder, read_config(folder, "float32"), layout)
    trained = read_params(tmp_path / "run/sft", read_model_config(tmp_path / "run/sft"), layout)
    for before, after in zip(jax.tree.leaves(start), jax.tree.leaves(trained), strict=True):
        assert 0 < np.abs(np.asarray(before) - np.asarray(after)).max() < 0.01  # two steps of AdamW away
    metrics = [json.loads(line) for line in (tmp_path / "run/sft/metrics.jsonl").read_text().splitlines()]
    assert np.isfinite([row["loss"] for row in metrics if "loss" in row]).all()
    assert np.isfinite(metrics[-1]["eval_loss"])
    learned = rows.Rows(tmp_path / "run/sft/rows/train", 96)
    assert sorted(one for i in range(len(learned)) for one in learned[i].ids)[0].startswith("mine/")
    manifest = read_json(tmp_path / "run/sft/manifest.json")
    assert [Path(name).name for name in manifest["files"]] == [
        "a.jsonl",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.model",
    ]


def test_changed_records_are_noticed(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft, "train_next_token", lambda *_, **__: None)
    run(recipe, tmp_path / "run")
    with open(tmp_path / "data/mine/a.jsonl", "a") as file:
        file.write('{"question": "Q", "solution": "S"}\n')
    with pytest.raises(UserError, match=r"a.jsonl was changed"):
        run(recipe, tmp_path / "run")


def test_without_init_it_reads_the_pretrained_stage(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["sft"]["init"] = ""
    with pytest.raises(UserError, match="Stage sft reads stage pretrain"):
        run(recipe, tmp_path / "run")


def test_invalid_records_and_lengths_are_refused(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["sft"]["sequence_length"] = 2048
    with pytest.raises(UserError, match=r"sft.sequence_length 2048 exceeds the model's context 512"):
        run(recipe, tmp_path / "one")
    recipe["sft"]["sequence_length"] = 96
    with open(tmp_path / "data/mine/a.jsonl", "a") as file:
        file.write('{"question": "Q"}\n')
    with pytest.raises(UserError, match=r"mine/a.jsonl, line 41: the field 'solution' is missing; fix or remove it"):
        run(recipe, tmp_path / "two")
    assert not (tmp_path / "two/sft/rows").exists()
