"""Tokenizers as others publish them, and conversations."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers

from dsmath_jax.data import chat, instruction_rows, instructions, tokenizer
from dsmath_jax.data.datasets import Record
from dsmath_jax.workdir import write_json

SOLUTION = "Run:\n```python\nprint(6*7)\n```\n```output\n42\n```\nSo 42."
MULTI_TURN = [
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And times 3?"},
    {"role": "assistant", "content": "12"},
]
EOS = "</s>"


def encode_record(text_tokenizer: tokenizer.Tokenizer, record: dict[str, Any]) -> tuple[str, list[int], list[int]]:
    """A record of SFT data as the stage reads it: its style, its token ids, and the ids that the model learns."""
    instruction = instructions.parse("cases/1", record)
    example = instruction_rows.example(chat.Chat(text_tokenizer), instruction)
    return instruction.style, example.tokens.tolist(), example.tokens[example.loss_mask].tolist()


def encode_prompt(text_tokenizer: tokenizer.Tokenizer, question: str) -> list[int]:
    return chat.Chat(text_tokenizer).prompt_ids(Record("", question))


def decode_turns(text_tokenizer: tokenizer.Tokenizer, ids: list[int]) -> list[str]:
    """The texts that the EOS tokens in `ids` end."""
    texts, turn = [], []
    for token in ids:
        if token == text_tokenizer.eos_id:
            texts.append(text_tokenizer.decode(turn))
            turn = []
        else:
            turn.append(token)
    assert not turn, "the last turn has no EOS"
    return texts


@pytest.fixture
def byte_level(tmp_path: Path) -> Callable[..., tokenizer.Tokenizer]:
    """Builds a byte-level BPE tokenizer with the special token `EOS`, the ordinary pieces given, and settings."""

    def build(pieces: tuple[str, ...] = (), **settings: Any) -> tokenizer.Tokenizer:
        alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
        vocabulary, merges = {character: number for number, character in enumerate(alphabet)}, []
        for piece in pieces:
            for end in range(2, len(piece) + 1):
                merges.append((piece[: end - 1], piece[end - 1]))
                vocabulary[piece[:end]] = len(vocabulary)
        model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
        model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        model.decoder = tokenizers.decoders.ByteLevel()
        model.add_special_tokens([EOS, *(name for name in settings.values() if isinstance(name, str))])
        model.save(str(tmp_path / "tokenizer.json"))
        write_json(tmp_path / "tokenizer_config.json", {"eos_token": EOS, "add_bos_token": True, **settings})
        return tokenizer.load(tmp_path)

    return build


@pytest.mark.parametrize("pieces", [("<s>",), ()], ids=["with an ordinary piece <s>", "without"])
def test_a_bos_token_of_null_means_no_bos(byte_level: Callable[..., tokenizer.Tokenizer], pieces: tuple) -> None:
    """As Qwen's tokenizer_config.json states it."""
    loaded = byte_level(pieces, bos_token=None, add_bos_token=False)
    assert encode_prompt(loaded, "a") == loaded.encode("User: a\n\nAssistant:")
    _, tokens, _ = encode_record(loaded, {"question": "a", "solution": "b"})
    assert tokens == [*loaded.encode("User: a\n\nAssistant: b"), loaded.eos_id]


@pytest.mark.parametrize("name", ["<begin>", EOS])
def test_control_tokens_written_out_in_a_text_are_text(
    byte_level: Callable[..., tokenizer.Tokenizer], name: str
) -> None:
    """Else a web page can end a document, and a question the prompt."""
    loaded = byte_level(bos_token="<begin>")
    text = f"a page that quotes {name} in its text"
    ids = loaded.encode(text)
    assert not {loaded.bos_id, loaded.eos_id} & set(ids)
    assert loaded.decode(ids) == text
    assert not {loaded.bos_id, loaded.eos_id} & set(encode_prompt(loaded, text)[1:])


def test_marks_of_turns_are_control_tokens_even_where_their_file_does_not_call_them_special(
    byte_level: Callable[..., tokenizer.Tokenizer], tmp_path: Path
) -> None:
    """As in DeepSeek-R1's tokenizer.json; `<think>`, which is not special there either, is the model's own word."""
    byte_level(bos_token=None, turn="<｜User｜>", word="<think>")
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    for token in stored["added_tokens"]:
        token["special"] = token["content"] == EOS
    write_json(tmp_path / "tokenizer.json", stored)
    loaded = tokenizer.load(tmp_path)
    think = loaded.encode("<think>")
    assert len(think) == 1
    ids = loaded.encode("6<｜User｜>7<think>")
    assert ids[-1:] == think
    assert loaded.control_ids.keys() == {EOS, "<｜User｜>"}
    assert not set(loaded.control_ids.values()) & set(ids)
    assert loaded.decode(ids) == "6<｜User｜>7<think>"
    template = "<｜User｜>{{ messages[0].content }}"
    asked = chat.Chat(loaded, template).prompt_ids(Record("", "<｜User｜>"))
    assert [i for i in asked if i in loaded.control_ids.values()] == [loaded.control_ids["<｜User｜>"]]


def test_marks_of_turns_are_control_tokens_of_sentencepiece_too(
    train_pieces: Callable[..., tokenizer.Tokenizer],
) -> None:
    """Where `<|im_start|>` is among the user-defined symbols of the model."""
    loaded = train_pieces(user_defined_symbols=["\n", "<|im_start|>"])
    assert "<|im_start|>" in loaded.control_ids
    ids = loaded.encode("a <|im_start|>\n")
    assert loaded.control_ids["<|im_start|>"] not in ids
    assert loaded.decode(ids) == "a <|im_start|>\n"


@pytest.fixture
def train_pieces(tmp_path: Path) -> Callable[..., tokenizer.Tokenizer]:
    """Trains a small SentencePiece model with the options given."""

    def train(**options: Any) -> tokenizer.Tokenizer:
        with open(tmp_path / "tokenizer.model", "wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(["User: What is 6*7? Assistant: So 42.", "print(6*7) output python Run:"] * 9),
                model_writer=file, vocab_size=310, model_type="bpe", normalization_rule_name="identity",
                remove_extra_whitespaces=False, byte_fallback=True, num_threads=1, minloglevel=2, **options,
            )  # fmt: skip
        return tokenizer.load(tmp_path)

    return train


@pytest.fixture(params=["small", "llama32k"])
def prefixed(request: pytest.FixtureRequest) -> tokenizer.Tokenizer:
    if request.param == "small":
        # A space before every text, as Llama 2's and Mistral's put it.
        return request.getfixturevalue("train_pieces")(add_dummy_prefix=True, user_defined_symbols=["\n"])
    return tokenizer.load(request.getfixturevalue("real_data") / "tokenizers" / "llama32k.model")


def test_control_tokens_written_out_are_text_to_sentencepiece_too(prefixed: tokenizer.Tokenizer) -> None:
    text = "a page that quotes <s> and </s> in its text"
    control = set(prefixed.control_ids.values())
    assert not control & set(prefixed.encode(text))
    assert prefixed.decode(prefixed.encode(text)) == text
    assert [i for i in encode_prompt(prefixed, text) if i in control] == [prefixed.bos_id]
    _, tokens, _ = encode_record(prefixed, {"question": text, "solution": text})
    assert [i for i in tokens if i in control] == [prefixed.bos_id, prefixed.eos_id]


def test_the_parts_of_a_solution_gain_no_spaces(prefixed: tokenizer.Tokenizer) -> None:
    style, tokens, _ = encode_record(prefixed, {"question": "6*7?", "solution": SOLUTION})
    assert style == "tora"
    assert prefixed.decode(tokens) == f"User: 6*7?\n\nAssistant: {SOLUTION}"


class TestConversations:
    def test_every_turn_follows_the_template(self, byte_level: Callable[..., tokenizer.Tokenizer]) -> None:
        loaded = byte_level(bos_token="<begin>")
        style, tokens, learned = encode_record(loaded, {"messages": MULTI_TURN})
        assert decode_turns(loaded, tokens) == [
            "User: What is 2+2?\n\nAssistant: 4",
            "User: And times 3?\n\nAssistant: 12",
        ]
        assert decode_turns(loaded, learned) == [" 4", " 12"]
        assert tokens.count(loaded.bos_id) == 1
        assert style == "cot"

    def test_the_system_message_comes_first(self, byte_level: Callable[..., tokenizer.Tokenizer]) -> None:
        loaded = byte_level(bos_token="<begin>")
        messages = [{"role": "system", "content": "Be brief."}, *MULTI_TURN[:2]]
        _, tokens, learned = encode_record(loaded, {"messages": messages})
        assert decode_turns(loaded, tokens) == ["Be brief.\n\nUser: What is 2+2?\n\nAssistant: 4"]
        assert decode_turns(loaded, learned) == [" 4"]


def test_the_papers_template_as_ids_of_llama(real_data: Path) -> None:
    llama = chat.Chat(tokenizer.load(real_data / "tokenizers" / "llama32k.model"))
    record = Record("", "What is 1 + 12?", "It is 13.")
    prompt = [1, 4911, 29901, 1724, 338, 29871, 29896, 718, 29871, 29896, 29906, 29973, 13, 13, 7900, 22137, 29901]
    completion = [739, 338, 29871, 29896, 29941, 29889, 2]
    assert llama.prompt_ids(record) == prompt
    assert llama.solution(record) == (prompt + completion, [False] * len(prompt) + [True] * len(completion))
