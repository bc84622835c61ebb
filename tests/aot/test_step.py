"""The model that `aot` compiles: the recipe's, or that of the folder that a stage starts from."""

import dataclasses
import json
from pathlib import Path

import pytest

from dsmath_jax.aot.step import with_initial_model
from dsmath_jax.command_line import load_recipe
from dsmath_jax.data.hub import fetch_model
from dsmath_jax.recipe import Recipe
from dsmath_jax.workdir import UserError

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "num_hidden_layers": 3, "hidden_size": 16,
    "num_attention_heads": 4, "intermediate_size": 32, "rms_norm_eps": 1e-5, "max_position_embeddings": 256,
}  # fmt: skip


def started_from(init: str, data_dir: Path) -> Recipe:
    recipe = load_recipe("sft:t4")
    return dataclasses.replace(recipe, data_dir=str(data_dir), sft=dataclasses.replace(recipe.sft, init=init))


def test_the_sizes_are_those_of_the_folder_and_the_policies_the_recipes(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    recipe = started_from("hf:mine", tmp_path)
    model = with_initial_model(recipe, "sft").model
    assert (model.num_hidden_layers, model.hidden_size, model.vocab_size) == (3, 16, 64)
    assert (model.compute_dtype, model.remat, model.attention) == ("float32", "full", "xla")
    without_a_model = dataclasses.replace(recipe, model=None)
    assert with_initial_model(without_a_model, "sft").model.compute_dtype == "bfloat16"


def test_a_folder_that_is_missing_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = started_from("hf:yours", tmp_path)
    assert with_initial_model(recipe, "sft") == recipe
    assert f"{tmp_path}/yours is missing: compiling the recipe's own model." in caplog.text
    assert with_initial_model(recipe, "rl") == recipe  # no such section


def test_of_a_model_of_the_hub_only_the_config_is_downloaded(server, hub, tmp_path: Path) -> None:
    files = {"config.json": json.dumps(LLAMA).encode(), "model.safetensors": b"weights"}
    hub("me/mine", files, kind="models")
    model = with_initial_model(started_from("hf:me/mine", tmp_path), "sft").model
    assert (model.num_hidden_layers, model.hidden_size, model.vocab_size) == (3, 16, 64)
    assert [path.name for path in (tmp_path / "me/mine").glob("[!.]*")] == ["config.json"]
    assert fetch_model("me/mine", tmp_path) == tmp_path / "me/mine"
    assert (tmp_path / "me/mine/model.safetensors").is_file()


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match=r"mine/config.json is missing"):
        with_initial_model(started_from("hf:mine", tmp_path), "sft")
