"""Reward models with LoRA: the adapters and the whole head are trained, and the folder has these alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dsmath_jax.data import chat
from dsmath_jax.data import tokenizer as tokenizers
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.models.lora import MATRICES, adapters_of, without_adapters
from dsmath_jax.rl.reward_model import labels
from dsmath_jax.rl.reward_model.model import read, with_reward_head
from dsmath_jax.rl.reward_model.stage import run
from dsmath_jax.sharding import Layout
from dsmath_jax.training import checkpoint
from dsmath_jax.training.lora import abstract_adapters
from dsmath_jax.training.model_files import write_config
from dsmath_jax.training.settings import LoraSettings
from dsmath_jax.workdir import read_json, write_jsonl
from tests.rl.reward_model import test_stage as plain
from tests.rl.trainer_runs import equal


@pytest.mark.slow
def test_a_stage_learns_with_adapters_and_a_head(
    tmp_path: Path, make_model: Callable[..., Decoder], layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["The answer is 7.", "1 + 6 = 7 9 9", "User: what is 6 + 1?\n\nAssistant:"]
    tokenizers.train_sentencepiece(texts, tmp_path / "tokenizer" / "tokenizer.model", 300, chat.MARKERS)
    monkeypatch.setattr(plain, "TOKENIZER", tokenizers.load(tmp_path / "tokenizer"))
    model = make_model(num_hidden_layers=1, vocab_size=300, max_position_embeddings=128)
    base: Any = jax.jit(lambda: initial_params(model, jax.random.key(1)))()
    write_config(tmp_path / "sft", model.config)
    checkpoint.save(tmp_path / "sft" / "params", base)
    records = [{"id": str(i), "question": f"what is {i} + 1?", "solution": "", "answer": "7"} for i in range(50)]
    write_jsonl(tmp_path / "data" / "problems" / "rl.jsonl", records)
    monkeypatch.setattr(labels, "Sampler", plain.Policy)
    folder, settings = tmp_path / "process_model", LoraSettings(rank=4)
    changes = {"init": "sft", "completions": 2, "problems": 40, "max_new_tokens": 30, "batch_size": 16}
    training = plain.settings_of("process", 60, lora=settings, **changes)
    arguments = folder, training, None, ChatSettings(template="paper"), tmp_path / "data", layout, 0
    summary = run(*arguments)
    assert summary["last_auc"] > 0.9
    assert read_json(folder / "lora.json")["base"] == "../sft"
    adapters = abstract_adapters(model.config, settings, layout)
    like = jax.eval_shape(lambda adapters: with_reward_head(adapters, model.config.hidden_size), adapters)
    stored = checkpoint.restore(folder / "params", layout.abstract(like))  # these alone, or it would be refused
    assert np.abs(stored["reward"]["kernel"]).max() > 0
    trained = read(folder, layout).params
    assert adapters_of(trained["model"]).keys() == MATRICES.keys()
    assert equal(without_adapters(trained["model"]), base)
    assert equal(trained["reward"], stored["reward"])
    assert run(*arguments) == summary  # of a complete folder
