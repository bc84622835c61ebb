"""Tokenizers: text comes back as it went in, digits stand alone, both file formats behind one interface."""

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmath_jax.data import chat, tokenizer
from dsmath_jax.workdir import UserError, write_json

# The same numbers over and over, so that training would make one piece of them if it might.
TEXTS = [
    f"In 2024 Tom has 1250 apples and buys {i} more.\n1250 + {i} = {1250 + i}\nThe answer is {1250 + i}."
    for i in range(300)
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tokenizer.Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    tokenizer.train_sentencepiece(TEXTS, path, 330, chat.MARKERS)
    return tokenizer.load(path)


class TestTraining:
    # SentencePiece writes a space as U+2581, so that character itself comes back as a space.
    @settings(max_examples=150, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=40))
    def test_any_text_comes_back(self, trained: tokenizer.Tokenizer, text: str) -> None:
        assert trained.decode(trained.encode(text)) == text

    @pytest.mark.parametrize(
        "text", ["  a  b ", "\n\na\n", "\t\r\n", " ", "User: a\n\nAssistant: b", "<s> </s> <0x0A>"]
    )
    def test_white_space_and_markup_come_back(self, trained: tokenizer.Tokenizer, text: str) -> None:
        ids = trained.encode(text)
        assert trained.decode(ids) == text
        assert not {trained.bos_id, trained.eos_id} & set(ids)

    def test_every_digit_is_a_token(self, trained: tokenizer.Tokenizer) -> None:
        pieces = [trained.decode([i]) for i in trained.encode("In 2024: 1250+1234567890")]
        assert [piece for piece in pieces if any(c.isdigit() for c in piece)] == list("202412501234567890")

    def test_markers_and_the_newline_are_single_tokens(self, trained: tokenizer.Tokenizer) -> None:
        assert all(len(trained.encode(marker)) == 1 for marker in (*chat.MARKERS, "\n"))
        ids = trained.encode("User: Tom\n\nAssistant: Tom")
        for marker in chat.MARKERS:
            assert ids.count(trained.encode(marker)[0]) == 1

    def test_unseen_characters_fall_back_to_bytes(self, trained: tokenizer.Tokenizer) -> None:
        ids = trained.encode("語🙂")
        assert len(ids) == len("語🙂".encode())
        assert 0 not in ids
        assert trained.decode(ids) == "語🙂"

    def test_ids_and_size(self, trained: tokenizer.Tokenizer) -> None:
        assert (trained.bos_id, trained.eos_id, trained.vocab_size) == (1, 2, 330)
        assert trained.decode([trained.bos_id, *trained.encode("Tom"), trained.eos_id]) == "Tom"

    def test_the_same_texts_give_the_same_bytes(self, tmp_path: Path) -> None:
        for name in "ab":
            tokenizer.train_sentencepiece(iter(TEXTS), tmp_path / name, 330, chat.MARKERS)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    @pytest.mark.parametrize("texts", [["ab"], []])
    def test_too_little_text_is_told(self, tmp_path: Path, texts: list[str]) -> None:
        with pytest.raises(UserError, match=r"could not train 400 pieces .*set tokenizer\.vocab_size"):
            tokenizer.train_sentencepiece(texts, tmp_path / "tokenizer.model", 400)
        assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A byte-level BPE `tokenizer.json` that puts BOS before every text of itself, as LLaMA's do."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<begin>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(TEXTS, trainer)
    model.post_processor = tokenizers.processors.TemplateProcessing(
        single="<begin> $A", special_tokens=[("<begin>", model.token_to_id("<begin>"))]
    )
    model.save(str(tmp_path / "tokenizer.json"))
    write_json(tmp_path / "tokenizer_config.json", {"bos_token": {"content": "<begin>"}, "eos_token": None})
    return tmp_path


class TestHuggingFace:
    def test_text_comes_back_without_special_tokens(self, folder: Path) -> None:
        loaded = tokenizer.load(folder)
        ids = loaded.encode("Tom has 5 apples.\n\n語")
        assert loaded.bos_id not in ids
        assert loaded.decode([loaded.bos_id, *ids, loaded.eos_id]) == "Tom has 5 apples.\n\n語"
        assert loaded.vocab_size == 300

    def test_special_tokens_come_from_the_settings_or_from_usual_names(self, folder: Path) -> None:
        loaded = tokenizer.load(folder / "tokenizer.json")
        assert (loaded.bos_id, loaded.eos_id) == (0, 1)
        (folder / "tokenizer_config.json").unlink()
        with pytest.raises(UserError, match="no BOS token; name it as bos_token"):
            tokenizer.load(folder)

    def test_a_copy_is_the_same_tokenizer(self, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        target = tmp_path_factory.mktemp("copy")
        tokenizer.copy(folder, target)
        assert tokenizer.load(target).encode("Tom has 5") == tokenizer.load(folder).encode("Tom has 5")
        assert tokenizer.load(target).bos_id == 0


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No tokenizer at"):
        tokenizer.load(tmp_path)
    for name in ("tokenizer.model", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"no tokenizer")
        with pytest.raises(UserError, match=rf"{name} cannot be read"):
            tokenizer.load(tmp_path / name)


def test_a_real_sentencepiece_model(real_data: Path) -> None:
    loaded = tokenizer.load(real_data / "tokenizers" / "llama32k.model")
    assert (loaded.vocab_size, loaded.bos_id, loaded.eos_id) == (32000, 1, 2)
    text = "Natalia sold 48/2 = 24 clips in May.\n语言"
    assert loaded.decode(loaded.encode(text)) == text
