"""Hugging Face folders in and out: what goes with a model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from dsmath_jax.data import chat, chat_template, tokenizer
from dsmath_jax.models import huggingface
from dsmath_jax.models.decoder import Decoder
from dsmath_jax.models.huggingface.__main__ import main
from dsmath_jax.workdir import exit_code, read_json, write_json

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
GENERATION = {"bos_token_id": 5, "eos_token_id": [9, 1], "temperature": 0.6, "top_p": 0.9, "do_sample": True}


@pytest.fixture
def round_trip(model: Decoder, params: Any, tmp_path: Path) -> Callable[[], Path]:
    """Imports a folder as transformers 5 saves it, exports it, and returns the exported folder."""
    source = tmp_path / "source"
    source.mkdir()
    huggingface.write(source, params, model.config)
    words = ["<s>", "</s>", "<|end|>", *(f"word{number}" for number in range(model.config.vocab_size - 3))]
    vocabulary = {word: number for number, word in enumerate(words)}
    words_only = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="word0"))
    words_only.add_special_tokens(words[:3])
    words_only.save(str(source / "tokenizer.json"))
    write_json(source / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>"})
    write_json(source / "generation_config.json", GENERATION)
    (source / "chat_template.jinja").write_text(TEMPLATE)

    def run() -> Path:
        stage, target = tmp_path / "stage", tmp_path / "target"
        for arguments in (
            ["import", f"--from={source}", f"--to={stage}"],
            ["export", f"--from={stage}", f"--to={target}"],
        ):
            if exit_code(lambda arguments=arguments: main(arguments)):
                pytest.fail(f"{arguments[0]} failed")
        return target

    return run


def test_the_chat_template_comes_back(round_trip: Callable[[], Path]) -> None:
    template = round_trip() / "chat_template.jinja"
    assert template.is_file()
    assert template.read_text() == TEMPLATE


def test_the_generation_settings_come_back(round_trip: Callable[[], Path]) -> None:
    found = read_json(round_trip() / "generation_config.json")
    assert found == found | GENERATION


def test_a_trained_models_template_and_instruction_are_exported(round_trip: Callable[[], Path], tmp_path: Path) -> None:
    round_trip()
    stage, target = tmp_path / "stage", tmp_path / "trained"
    text_tokenizer = tokenizer.load(stage)
    chat.save(chat.Chat(text_tokenizer, "Q: {{ messages[0].content }}", "Be brief."), stage)
    assert not exit_code(lambda: main(["export", f"--from={stage}", f"--to={target}"]))
    assert chat_template.stored(target) == "Q: {{ messages[0].content }}"
    assert chat.load(target, text_tokenizer) == chat.load(stage, text_tokenizer)


def test_the_token_that_ends_a_turn_is_exported(round_trip: Callable[[], Path], tmp_path: Path) -> None:
    round_trip()
    stage, target = tmp_path / "stage", tmp_path / "trained"
    text_tokenizer = tokenizer.load(stage)
    chat.save(chat.Chat(text_tokenizer, "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"), stage)
    assert not exit_code(lambda: main(["export", f"--from={stage}", f"--to={target}"]))
    found = read_json(target / "generation_config.json")
    assert found == GENERATION | {"eos_token_id": [9, 1, text_tokenizer.control_ids["<|end|>"]]}
    assert tokenizer.load(target).stop_ids == (1, 9, 2)
