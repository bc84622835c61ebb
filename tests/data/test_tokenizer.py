"""Tokenizers: text comes back as it went in, digits stand alone, both file formats behind one interface."""

import json
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
    def test_any_text_round_trips(self, trained: tokenizer.Tokenizer, text: str) -> None:
        assert trained.decode(trained.encode(text)) == text

    @pytest.mark.parametrize(
        "text", ["  a  b ", "\n\na\n", "\t\r\n", " ", "User: a\n\nAssistant: b", "<s> </s> <0x0A>"]
    )
    def test_white_space_and_markup_round_trip(self, trained: tokenizer.Tokenizer, text: str) -> None:
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
    def test_too_little_text_is_an_error(self, tmp_path: Path, texts: list[str]) -> None:
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
    def test_text_round_trips_without_special_tokens(self, folder: Path) -> None:
        loaded = tokenizer.load(folder)
        ids = loaded.encode("Tom has 5 apples.\n\n語")
        assert loaded.bos_id not in ids
        assert loaded.decode([loaded.bos_id, *ids, loaded.eos_id]) == "Tom has 5 apples.\n\n語"
        assert loaded.vocab_size == 300

    def test_special_tokens_come_from_the_settings_or_from_usual_names(self, folder: Path) -> None:
        loaded = tokenizer.load(folder / "tokenizer.json")
        assert (loaded.bos_id, loaded.eos_id) == (0, 1)
        (folder / "tokenizer_config.json").unlink()
        loaded = tokenizer.load(folder)  # BOS by the post-processor
        assert (loaded.bos_id, loaded.eos_id) == (0, 1)

    def test_a_copy_is_the_same_tokenizer(self, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        target = tmp_path_factory.mktemp("copy")
        (folder / "chat_template.jinja").write_text("{{ messages }}")
        tokenizer.copy(folder, target)
        assert (target / "chat_template.jinja").read_text() == "{{ messages }}"
        assert tokenizer.load(target).encode("Tom has 5") == tokenizer.load(folder).encode("Tom has 5")
        assert tokenizer.load(target).bos_id == 0


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No tokenizer at"):
        tokenizer.load(tmp_path)
    for name in ("tokenizer.model", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"no tokenizer")
        with pytest.raises(UserError, match=rf"{name} cannot be read"):
            tokenizer.load(tmp_path / name)


@pytest.mark.parametrize("file", ["tokenizers/llama32k.model", "checkpoints/stories260k_hf/tokenizer.model"])
def test_real_sentencepiece_models_with_bytes_give_every_text_back(real_data: Path, file: str) -> None:
    loaded = tokenizer.load(real_data / file)
    assert (loaded.bos_id, loaded.eos_id, loaded.stop_ids) == (1, 2, (2,))
    lines = (real_data / "tokenizers" / "botchan.txt").read_text(encoding="utf-8").splitlines()[:500]
    for text in [*lines, "\n".join(lines[:9]), "a  b", " a", "\n", "語🙂\t48/2 = 24", "User: 1 + 1?\n\nAssistant:"]:
        assert loaded.decode(loaded.encode(text)) == text


@pytest.mark.parametrize(("name", "size"), [("test_model", 1000), ("test_ja_model", 8000)])
def test_real_sentencepiece_models_without_bytes_give_known_words_back(real_data: Path, name: str, size: int) -> None:
    loaded = tokenizer.load(real_data / "tokenizers" / f"{name}.model")
    assert loaded.vocab_size == size
    lines = (real_data / "tokenizers" / "botchan.txt").read_text(encoding="utf-8").splitlines()[:500]
    known = [line for line in lines if 0 not in loaded.encode(line)]
    assert len(known) > 400
    assert [loaded.decode(loaded.encode(line)) for line in known] == [" ".join(line.split()) for line in known]


class TestStopIds:
    """Stop ids, from the files next to a tokenizer."""

    def test_eos_alone_without_such_files(self, folder: Path) -> None:
        assert tokenizer.load(folder).stop_ids == (1,)

    @pytest.mark.parametrize(
        ("stated", "expected"), [([7, 1, 9, 7], (1, 7, 9)), (7, (1, 7)), (1, (1,)), ([], (1,)), (None, (1,))]
    )
    def test_eos_comes_first_and_each_once(self, folder: Path, stated: object, expected: tuple[int, ...]) -> None:
        write_json(folder / "generation_config.json", {"eos_token_id": stated})
        write_json(folder / "config.json", {"eos_token_id": 200})
        assert tokenizer.load(folder).stop_ids == expected

    def test_the_model_states_them_where_there_are_no_generation_settings(self, folder: Path) -> None:
        write_json(folder / "config.json", {"eos_token_id": [1, 9]})
        assert tokenizer.load(folder).stop_ids == (1, 9)

    def test_a_copy_keeps_them(self, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        write_json(folder / "generation_config.json", {"eos_token_id": [1, 7]})
        target = tmp_path_factory.mktemp("copy")
        tokenizer.copy(folder, target)
        assert tokenizer.load(target).stop_ids == (1, 7)

    def test_a_broken_file_is_named(self, folder: Path) -> None:
        (folder / "generation_config.json").write_text("{")
        with pytest.raises(UserError, match=r"generation_config\.json: not a JSON object"):
            tokenizer.load(folder)


class TestVocabularyFits:
    """The fixture's tokenizer has 300 ids, 0 to 299."""

    @pytest.mark.parametrize("rows", [300, 315])
    def test_padding_of_a_twentieth_is_fine(self, folder: Path, rows: int) -> None:
        tokenizer.check_vocab_size(tokenizer.load(folder), rows, "the model")

    @pytest.mark.parametrize("rows", [299, 316])
    def test_another_models_tokenizer_is_refused(self, folder: Path, rows: int) -> None:
        with pytest.raises(UserError, match=rf"ids up to 299 and runs/x/sft a vocabulary of {rows}; give the model"):
            tokenizer.check_vocab_size(tokenizer.load(folder), rows, "runs/x/sft")

    def test_ids_after_a_gap_count(self, folder: Path) -> None:
        made = json.loads((folder / "tokenizer.json").read_text())
        [last] = [token for token in made["added_tokens"] if token["content"] == "</s>"]
        last["id"] = made["model"]["vocab"]["</s>"] = 400
        (folder / "tokenizer.json").write_text(json.dumps(made))
        loaded = tokenizer.load(folder)
        assert (loaded.vocab_size, loaded.eos_id) == (401, 400)
        with pytest.raises(UserError, match="ids up to 400"):
            tokenizer.check_vocab_size(loaded, 400, "the model")

    def test_a_stop_id_without_a_row_is_refused(self, folder: Path) -> None:
        write_json(folder / "generation_config.json", {"eos_token_id": [1, 305]})
        with pytest.raises(UserError, match="ids up to 305"):
            tokenizer.check_vocab_size(tokenizer.load(folder), 300, "the model")
