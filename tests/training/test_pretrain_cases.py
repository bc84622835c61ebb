"""Stage `pretrain` given invalid numbers and half a character: one sentence each, before anything is written."""

import dataclasses
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from dsmath_jax import command_line, runner, stages
from dsmath_jax.data import rows, tokenizer
from dsmath_jax.models.sizes import sizes
from dsmath_jax.recipe import Recipe
from dsmath_jax.settings import build
from dsmath_jax.training.settings import PretrainSettings
from dsmath_jax.workdir import UserError, write_jsonl

TEXTS = [f"The sum of {n} and {n + 1} is {2 * n + 1}." for n in range(100)]
LENGTH = 32
HALF_A_CHARACTER = '{"text": "fine"}\n{"text": "half \\ud800 a character"}\n'


def make_recipe(data: Path, **changes: Any) -> dict[str, Any]:
    """A recipe of a tiny model and the texts in `data/mine` and `data/other`, with fields of `pretrain` changed."""
    unknown = changes.keys() - {field.name for field in dataclasses.fields(PretrainSettings)}
    if unknown:
        raise KeyError(f"pretrain has no {unknown}: name the fields here as the recipe does")
    fields = {
        "mixture": {"mine": 0.5, "other": 0.5}, "sequence_length": LENGTH, "batch_size": 8, "steps": 2,
        "checkpoint_every": 2, "eval_rows": 0, "peak_lr": 1e-3, "warmup_steps": 1,
    }  # fmt: skip
    return {
        "data_dir": str(data),
        "mesh": {"fsdp": 1},
        "tokenizer": {"path": "tokenizer", "vocab_size": 0},
        "model": sizes(
            "1m", num_hidden_layers=1, hidden_size=16, num_attention_heads=2, head_dim=8, intermediate_size=32,
            max_position_embeddings=64, tie_word_embeddings=False, remat="none",
        ),
        "pretrain": fields | changes,
    }  # fmt: skip


def run_stage(recipe: dict[str, Any], workdir: Path) -> None:
    runner.run(stages.STAGES, build(Recipe, recipe), workdir, ("tokenizer", "pretrain"), [])


def read_texts(workdir: Path, source: str) -> list[str]:
    """The documents in the packed rows of a source."""
    stored = rows.Rows(workdir / "pretrain" / "rows" / source, LENGTH)
    text_tokenizer = tokenizer.load(workdir / "tokenizer")
    packed = [stored[number].row for number in range(len(stored))]
    tokens = np.concatenate([row[0][row[1] > 0] for row in packed])
    ends = np.flatnonzero(tokens == text_tokenizer.eos_id)
    return [text_tokenizer.decode(part.tolist()) for part in np.split(tokens, ends + 1) if len(part)]


def refusal(action: Callable[[], object]) -> str:
    """The sentence that the user reads.

    Raises:
      AssertionError: there is none, but a traceback or a run that continues.
    """
    try:
        action()
    except UserError as error:
        sentence = str(error)
    except Exception as error:
        raise AssertionError("".join(traceback.format_exception_only(error)).strip()) from error
    else:
        raise AssertionError("accepted")
    assert "\n" not in sentence
    return sentence


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "data/mine/a.jsonl", [{"text": text} for text in TEXTS])
    write_jsonl(tmp_path / "data/other/a.jsonl", [{"text": f"{text} And more."} for text in TEXTS])
    tokenizer.train_sentencepiece(TEXTS, tmp_path / "data/tokenizer/tokenizer.model", 285)
    return tmp_path / "data"


def test_the_recipe_itself_is_accepted(data: Path, tmp_path: Path) -> None:
    run_stage(make_recipe(data), tmp_path / "run")
    assert (tmp_path / "run/pretrain/manifest.json").is_file()


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 0},
        {"batch_size": -8},
        {"sequence_length": 0},
        {"grad_accum_steps": 0},
        {"checkpoint_every": 0},
        {"mixture": {"mine": 1.0, "other": 0.0}},
        {"mixture": {"mine": 1.0, "other": -0.5}},
        {"mixture": {}},
        {"mixture": {"mine": 0.0}},
        {"peak_lr": -1e-3},
        {"steps": -3},
        {"profile": (10, 12)},
        {"mixture": {"mine": 0.5, "other": float("nan")}},
    ],
)
def test_a_wrong_number_is_refused_in_a_sentence(data: Path, tmp_path: Path, changes: dict) -> None:
    """Before anything is written that a later run would take for finished work."""
    recipe = make_recipe(data, **changes)
    sentence = refusal(lambda: run_stage(recipe, tmp_path / "run"))
    [name] = changes
    assert re.search(rf"\bpretrain\.{name}\b", sentence), sentence
    assert " was " not in sentence, sentence
    assert not (tmp_path / "run/pretrain/metrics.jsonl").exists()
    assert not (tmp_path / "run/pretrain/manifest.json").exists()


CONFIG_FILE = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({"seed": 0, "pretrain": {"mixture": {"mine": 0.5, "other": 0.5}, "steps": 4}})
"""


def test_a_mixture_set_as_a_whole_is_not_said_to_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    path.write_text(CONFIG_FILE)
    _, recipe = command_line.parse(["main.py", f"--config={path}", "--config.pretrain.mixture={'mine': 1.0}"])
    assert recipe.pretrain is not None
    assert recipe.pretrain.mixture == {"mine": 1.0}


def train_word_pieces(path: Path) -> None:
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(TEXTS, trainer)
    model.save(str(path))


@pytest.mark.parametrize("kind", ["SentencePiece", "Hugging Face"])
def test_half_a_character_in_a_document(data: Path, tmp_path: Path, kind: str) -> None:
    """Either U+FFFD takes its place, or one sentence names the file and the record."""
    (data / "docs").mkdir()
    (data / "docs" / "a.jsonl").write_text(HALF_A_CHARACTER)
    if kind == "Hugging Face":
        (data / "tokenizer" / "tokenizer.model").unlink()
        train_word_pieces(data / "tokenizer" / "tokenizer.json")
    recipe = make_recipe(data, mixture={"docs": 1.0})
    try:
        sentence = refusal(lambda: run_stage(recipe, tmp_path / "run"))
    except AssertionError as error:
        if str(error) != "accepted":
            raise
        assert read_texts(tmp_path / "run", "docs") == ["fine", "half \ufffd a character"]
    else:
        assert "a.jsonl" in sentence
        assert "record 2" in sentence
