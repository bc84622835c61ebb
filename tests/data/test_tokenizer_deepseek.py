"""DeepSeek's byte-level BPE: the golden encodings of its two vocabularies, and DeepSeekMath's template as ids.

The vocabularies are GGUF files; here they become the `tokenizer.json` that DeepSeek publishes.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models
from tokenizers import pre_tokenizers as pre

from dsmath_jax.data import tokenizer
from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import Record
from dsmath_jax.workdir import UserError, write_json

# How each splits text before the merges: newlines, words with the space before them, punctuation, CJK; digits stand
# alone in both. The LLM's words are letters that have a case, in whatever script.
SPLITS = {
    "deepseek-llm": [
        r"[\r\n]", r"\s?[\p{Lu}\p{Ll}\p{Lt}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", r"[一-龥ࠀ-一가-퟿]+",
    ],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+"],
}  # fmt: skip
NORMAL, CONTROL = 1, 3  # GGUF's types of tokens; the others here are added ones that are no control tokens
Load = Callable[[str], tokenizer.Tokenizer]


def gguf_metadata(data: bytes) -> dict[str, Any]:
    """The key-value pairs at the head of a GGUF file (version 3): typed numbers, strings, arrays of either."""
    at = 4
    assert data[:at] == b"GGUF"

    def number(code: str) -> Any:
        nonlocal at
        at += struct.calcsize(code)
        return struct.unpack_from("<" + code, data, at - struct.calcsize(code))[0]

    def value(kind: int) -> Any:
        nonlocal at
        if kind == 8:
            size = number("Q")
            at += size
            return data[at - size : at].decode()
        if kind == 9:
            kind = number("I")
            return [value(kind) for _ in range(number("Q"))]
        return number("BbHhIif?  Qqd"[kind])

    _version, _tensors, pairs = number("I"), number("Q"), number("Q")
    return {value(8): value(number("I")) for _ in range(pairs)}


def write_tokenizer(vocabulary: Path, folder: Path) -> None:
    """A GGUF vocabulary as `tokenizer.json` and `tokenizer_config.json`."""
    fields = gguf_metadata(vocabulary.read_bytes())
    prefix = "tokenizer.ggml."
    tokens, kinds = fields[prefix + "tokens"], fields[prefix + "token_type"]
    vocab = {token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == NORMAL}
    merges = [tuple(pair.split(" ")) for pair in fields[prefix + "merges"]]
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    splits = [pre.Split(Regex(split), "isolated") for split in SPLITS[fields[prefix + "pre"]]]
    last = [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    made.pre_tokenizer = pre.Sequence([*splits, *last])
    made.decoder = decoders.ByteLevel()
    for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind != NORMAL and not token.startswith("[PAD"):  # rows of the model that are no tokens
            made.add_tokens([AddedToken(token, special=kind == CONTROL, normalized=False)])
            assert made.token_to_id(token) == i
    made.save(str(folder / "tokenizer.json"))
    special = {f"{kind}_token": tokens[fields[f"{prefix}{kind}_token_id"]] for kind in ("bos", "eos")}
    write_json(folder / "tokenizer_config.json", special | {"add_bos_token": True})


LOADED: dict[str, tokenizer.Tokenizer] = {}  # turning one takes seconds


@pytest.fixture
def load(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Load:
    def one(name: str) -> tokenizer.Tokenizer:
        if name not in LOADED:
            folder = tmp_path_factory.mktemp(name)
            write_tokenizer(real_data / "tokenizers" / f"ggml-vocab-{name}.gguf", folder)
            LOADED[name] = tokenizer.load(folder)
        return LOADED[name]

    return one


@pytest.mark.parametrize("name", SPLITS)
def test_golden_encodings(load: Load, real_data: Path, name: str) -> None:
    loaded = load(name)
    stem = real_data / "tokenizers" / f"ggml-vocab-{name}.gguf"
    with open(f"{stem}.inp", encoding="utf-8", newline="") as file:
        texts = file.read().split("\n__ggml_vocab_test__\n")[:-1]
    golden = [[int(i) for i in line.split()] for line in Path(f"{stem}.out").read_text().splitlines()]
    assert len(texts) == len(golden) > 40
    assert [loaded.encode(text) for text in texts] == golden
    assert [loaded.decode(ids) for ids in golden] == texts


@pytest.mark.parametrize(
    ("name", "bos", "eos", "size", "rows"),
    [("deepseek-llm", 100_000, 100_001, 100_015, 102_400), ("deepseek-coder", 32_013, 32_014, 32_022, 32_256)],
)
def test_special_tokens_and_padded_vocabularies(
    load: Load, name: str, bos: int, eos: int, size: int, rows: int
) -> None:
    loaded = load(name)
    assert (loaded.bos_id, loaded.eos_id, loaded.stop_ids, loaded.vocab_size) == (bos, eos, (eos,), size)
    tokenizer.check_vocab_size(loaded, rows, "the model")
    with pytest.raises(UserError, match=f"ids up to {size - 1:,} and the model a vocabulary of {eos:,}"):
        tokenizer.check_vocab_size(loaded, eos, "the model")


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("text", ["Führer", "üü÷ À la carte ÿ", "aü\n\n3.14 ü", "ｘ＝１２３，语言。"])
def test_added_letters_come_back(load: Load, name: str, text: str) -> None:
    """A byte-level decoder alone takes the added token `ü` for the byte 0xFC."""
    assert load(name).decode(load(name).encode(text)) == text


def test_the_template_of_deepseekmath_as_ids(load: Load) -> None:
    loaded = load("deepseek-llm")
    record = Record("", "What is 1 + 12?", "It is 13.")
    tokens, prompt = Chat(loaded).solution(record), Chat(loaded).prompt_ids(record)
    completion = [i for i, learned in zip(*tokens, strict=True) if learned]
    assert prompt == [100000, 5726, 25, 2461, 317, 207, 16, 919, 207, 16, 17, 30, 185, 185, 77398, 25]
    assert completion == [809, 317, 207, 16, 18, 13, 100001]
    assert [loaded.decode([i]) for i in prompt[-5:]] == ["?", "\n", "\n", "Assistant", ":"]
    # Nothing merges across the border, so what is sampled is what was learned.
    whole = "User: What is 1 + 12?\n\nAssistant: It is 13."
    assert [*prompt, *completion] == tokens.ids == [loaded.bos_id, *loaded.encode(whole), loaded.eos_id]
