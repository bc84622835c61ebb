"""Stage `pretrain`: rows of all sources, sizes from the config or a Hugging Face folder, and what is refused."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dsmath_jax import runner, stages
from dsmath_jax.data import rows, tokenizer
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.recipe import Recipe
from dsmath_jax.settings import build
from dsmath_jax.training import pretrain
from dsmath_jax.training.model_files import export_params
from dsmath_jax.training.step import TrainState
from dsmath_jax.workdir import UserError, read_json, write_jsonl

TEXTS = [f"The sum of {n} and {n + 1} is {2 * n + 1}." for n in range(300)]
SIZES = {
    "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    "intermediate_size": 32, "rope_theta": 10_000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    "max_position_embeddings": 64, "compute_dtype": "float32", "remat": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with texts of the user's own, a mirror of arXiv and a tokenizer."""
    folder = tmp_path_factory.mktemp("data")
    write_jsonl(folder / "mine/a.jsonl", [{"text": text} for text in TEXTS])
    write_jsonl(folder / "skypile/2020.jsonl", [{"text": f"{text} 数学"} for text in TEXTS])
    tokenizer.train_sentencepiece(TEXTS, folder / "tokenizer" / "tokenizer.model", 300)
    return folder


@pytest.fixture
def recipe(data: Path) -> dict[str, Any]:
    return {
        "data_dir": str(data),
        "tokenizer": {"path": "tokenizer", "vocab_size": 0},
        "model": dict(SIZES),
        "pretrain": {
            "mixture": {"mine": 0.5, "skypile": 0.5}, "sequence_length": 32, "batch_size": 8, "steps": 2,
            "checkpoint_every": 2, "eval_every": 2, "eval_rows": 4, "peak_lr": 1e-3, "warmup_steps": 1,
        },
    }  # fmt: skip


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Leaves the training out of the stage; a list of what it would have been called with."""
    calls: list[tuple] = []
    monkeypatch.setattr(pretrain, "train_next_token", lambda *arguments, **_: calls.append(arguments))
    return calls


def run(recipe: dict[str, Any], workdir: Path, *names: str) -> None:
    runner.run(stages.STAGES, build(Recipe, recipe), workdir, names or ("tokenizer", "pretrain"), [])


def test_without_the_corpus_in_the_mixture_no_corpus_is_read(recipe: dict[str, Any], tmp_path: Path, capsys) -> None:
    run(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "corpus").exists()
    metrics = [json.loads(line) for line in (tmp_path / "run/pretrain/metrics.jsonl").read_text().splitlines()]
    assert np.isfinite([row["eval_loss"] for row in metrics if "eval_loss" in row]).all()
    sizes = read_json(tmp_path / "run/pretrain/model.json")
    assert sizes["vocab_size"] == 300
    manifest = read_json(tmp_path / "run/pretrain/manifest.json")
    assert [Path(name).name for name in manifest["files"]] == ["a.jsonl"]
    for name, texts in (("mine", TEXTS), ("skypile", [f"{text} 数学" for text in TEXTS])):
        stored = rows.Rows(tmp_path / "run/pretrain/rows" / name, 32)
        tokens = np.concatenate([stored[i].row[0][stored[i].row[1] > 0] for i in range(len(stored))])
        apart = rows.read_rows(tmp_path / "run/pretrain/rows" / f"{name}.held-out", 32)
        text = tokenizer.load(tmp_path / "run/tokenizer").decode(tokens.tolist())
        held = tokenizer.load(tmp_path / "run/tokenizer").decode(apart[:, 0][apart[:, 1] > 0].tolist())
        assert text == "".join(t for n, t in enumerate(texts) if n % 50 != 49)
        assert held == "".join(texts[49::50])
    run(recipe, tmp_path / "run")
    assert "pretrain: complete, skipped" in capsys.readouterr().out


def test_the_corpus_is_read_where_the_mixture_names_it(recipe: dict[str, Any], tmp_path: Path) -> None:
    for name in ("corpus", "corpus/zh"):
        recipe["pretrain"]["mixture"] = {name: 1.0}
        with pytest.raises(UserError, match="Stage pretrain reads stage corpus"):
            run(recipe, tmp_path / "run")
    recipe["pretrain"]["mixture"] = {"mine": 1.0}
    recipe["tokenizer"] = {"path": "", "vocab_size": 300}
    with pytest.raises(UserError, match="Stage tokenizer reads stage corpus"):
        run(recipe, tmp_path / "run")


@pytest.mark.usefixtures("untrained")
def test_a_changed_file_of_the_users_is_noticed(recipe: dict[str, Any], data: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path / "run")
    (data / "mine" / "b.jsonl").write_text('{"text": "more"}\n')
    try:
        with pytest.raises(UserError, match=r"made with other settings \(.*mine/b.jsonl was changed"):
            run(recipe, tmp_path / "run")
    finally:
        (data / "mine" / "b.jsonl").unlink()


def test_documents_that_are_not_masked(recipe: dict[str, Any], tmp_path: Path, untrained: list[tuple]) -> None:
    for name, masked in (("masked", True), ("open", False)):
        recipe["pretrain"]["mask_documents"] = masked
        run(recipe, tmp_path / name)
    masked, unmasked = (batches(0) for _, _, _, _, _, batches, _ in untrained)
    assert masked["segment_ids"].max() > 1
    assert unmasked["segment_ids"].max() == 1
    assert unmasked["positions"][0].tolist() == list(range(32))
    np.testing.assert_array_equal(unmasked["tokens"], masked["tokens"])


def test_it_begins_with_the_weights_of_a_hugging_face_folder(
    recipe: dict[str, Any], data: Path, tmp_path: Path, untrained: list[tuple]
) -> None:
    model = Decoder(ModelConfig(**SIZES | {"vocab_size": 300}))
    params = jax.jit(lambda: initial_params(model, jax.random.key(7)))()
    export_params(data / "begun", model.config, params, data / "tokenizer" / "tokenizer.model", "float32")
    recipe["pretrain"]["init"] = "hf:begun"
    run(recipe, tmp_path / "run")
    (state,) = (one for one in untrained[0] if isinstance(one, TrainState))
    jax.tree.map(np.testing.assert_array_equal, state.params, params)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sequence_length": 65}, r"pretrain.sequence_length 65 exceeds the model's context 64"),
        ({"mixture": {"absent": 1.0}}, "There are no texts at .*absent"),
    ],
)
def test_bad_settings(recipe: dict[str, Any], tmp_path: Path, change: dict, words: str) -> None:
    recipe["pretrain"] |= change
    with pytest.raises(UserError, match=words):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run/pretrain/model.json").exists()


def test_a_vocabulary_that_is_not_the_tokenizers(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["model"]["vocab_size"] = 100
    with pytest.raises(UserError, match=r"config.model.vocab_size"):
        run(recipe, tmp_path / "run")


def test_sizes_may_come_from_a_hugging_face_folder(real_data: Path) -> None:
    init = "hf:checkpoints/stories260k_hf"
    text_tokenizer = tokenizer.load(real_data / "checkpoints/stories260k_hf")
    bare = pretrain.model_config(init, None, real_data, text_tokenizer)
    assert (bare.num_hidden_layers, bare.hidden_size, bare.vocab_size) == (5, 64, 512)
    chosen = ModelConfig(**SIZES | {"remat": "full", "compute_dtype": "float32"})
    sizes = pretrain.model_config(init, chosen, real_data, text_tokenizer)
    assert (sizes.num_hidden_layers, sizes.remat, sizes.compute_dtype) == (5, "full", "float32")
