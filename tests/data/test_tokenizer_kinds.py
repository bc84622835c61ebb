"""The kinds of tokenizers that public models have: special tokens, BOS, ids as their files' library gives them."""

from pathlib import Path
from typing import Any

import pytest
import tokenizers

from dsmath_jax.data import special_tokens, tokenizer
from dsmath_jax.data.chat import Chat, assistant, user
from dsmath_jax.workdir import UserError, read_json, write_json
from tests.data import templates, tokenizer_folders
from tests.data.tokenizer_folders import KINDS

TEXTS = tokenizer_folders.texts(60)
JSON_KINDS = [name for name in KINDS if "sentencepiece" not in name]
BOS = {"qwen": None, "llama3": "<|begin_of_text|>", "gemma": "<bos>"}
STOPS = {
    "qwen": ["<|im_end|>", "<|endoftext|>"],
    "llama3": ["<|eot_id|>", "<|end_of_text|>"],
    "gemma": ["<eos>", "<end_of_turn>"],
}
QUESTION, ANSWER = "What is 6*7?", "It is\n\n\n**42**. 语言🙂"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kinds")
    for name, write in KINDS.items():
        write(root / name)
    return root


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    """A folder to change."""
    KINDS["qwen"](tmp_path)
    return tmp_path


def raw(folder: Path) -> tokenizers.Tokenizer:
    """The file as its library reads it."""
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def change(path: Path, **fields: Any) -> None:
    write_json(path, (read_json(path) if path.exists() else {}) | fields)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens(root: Path, kind: str) -> None:
    loaded = tokenizer.load(root / kind)
    assert loaded.bos_id == loaded.control_ids.get(BOS.get(kind, "<s>"))
    assert loaded.stop_ids == tuple(loaded.control_ids[name] for name in STOPS.get(kind, ["</s>"]))
    roles = loaded.special_tokens
    assert (roles.get("bos_token"), roles["eos_token"]) == (BOS.get(kind, "<s>"), STOPS.get(kind, ["</s>"])[0])


@pytest.mark.parametrize("kind", JSON_KINDS)
def test_texts_have_the_ids_of_the_file_and_no_control_tokens(root: Path, kind: str) -> None:
    loaded, library = tokenizer.load(root / kind), raw(root / kind)
    library.encode_special_tokens = True  # as text
    control = set(loaded.control_ids.values())
    for text in TEXTS:
        ids = loaded.encode(text)
        assert not control & set(ids), text
        if "_of_turn" not in text:  # which Gemma's files do not call special
            assert ids == library.encode(text, add_special_tokens=False).ids, text


@pytest.mark.parametrize(("name", "template", "kind", "arguments"), templates.USED, ids=lambda value: str(value)[:20])
def test_a_rendered_text_is_encoded_as_a_whole(
    root: Path, name: str, template: str, kind: str, arguments: dict[str, Any]
) -> None:
    chat = Chat(tokenizer.load(root / kind), template, template_kwargs=arguments)
    messages = [user(QUESTION), assistant(ANSWER), user("And 6*8?"), assistant("48")]
    rendered = chat.render(messages)
    tokens = chat.tokenize(messages)
    assert chat.encode(rendered) == tokens.ids
    if kind in JSON_KINDS:
        plain = rendered.replace(special_tokens.MARK, "")
        assert tokens.ids == raw(root / kind).encode(plain, add_special_tokens=False).ids
    learned = chat.tokenizer.decode([i for i, has_loss in zip(*tokens, strict=True) if has_loss])
    thought = "<think>\n\n</think>\n\n" if name == "thinking" else ""
    assert learned.replace(" ", "") == f"{ANSWER}{thought}48".replace(" ", "")
    ends = [i for i, has_loss in zip(*tokens, strict=True) if has_loss and i in chat.stop_ids]
    assert len(ends) == 2


def test_the_thoughts_of_earlier_turns_are_left_out(root: Path) -> None:
    chat = Chat(tokenizer.load(root / "qwen"), templates.THINKING)
    thought = assistant("<think>\n6*7\n</think>\n\n42")
    tokens = chat.tokenize([user(QUESTION), thought, user(QUESTION), thought])
    ids = [i for i, has_loss in zip(*tokens, strict=True) if has_loss]
    assert chat.tokenizer.decode(ids) == "42<think>\n6*7\n</think>\n\n42"
    think = chat.tokenizer.encode("<think>")
    assert len(think) == 1  # an added token that is not special: the model writes it
    assert ids.count(think[0]) == 1


def test_the_token_that_ends_the_templates_turn_ends_a_completion(root: Path, qwen: Path) -> None:
    """A base model's EOS is another one."""
    change(qwen / "tokenizer_config.json", eos_token="<|endoftext|>")
    change(qwen / "generation_config.json", eos_token_id=[])
    loaded = tokenizer.load(qwen)
    names = ("<|endoftext|>", "<|im_end|>")
    assert loaded.stop_ids == (loaded.control_ids[names[0]],)
    assert Chat(loaded, templates.CHATML).stop_ids == tuple(loaded.control_ids[name] for name in names)
    assert Chat(loaded, "").stop_ids == loaded.stop_ids


def test_bos_is_put_before_a_text_as_the_files_say(root: Path, tmp_path: Path) -> None:
    KINDS["llama3"](tmp_path)
    config = tmp_path / "tokenizer_config.json"
    bos = tokenizer.load(tmp_path).control_ids["<|begin_of_text|>"]
    change(config, add_bos_token=False)
    loaded = tokenizer.load(tmp_path)
    assert (loaded.bos_id, loaded.special_tokens["bos_token"]) == (None, "<|begin_of_text|>")
    chat = Chat(loaded)
    assert chat.encode(chat.plain("a")) == loaded.encode("a")
    config.unlink()
    loaded = tokenizer.load(tmp_path)  # by the post-processor; EOS has a common name
    assert (loaded.bos_id, loaded.special_tokens["bos_token"]) == (bos, "<|begin_of_text|>")
    assert loaded.special_tokens["eos_token"] == "<|end_of_text|>"


def test_the_last_control_tokens_may_have_no_row(root: Path) -> None:
    """As Gemma 3's image token in its text model."""
    loaded = tokenizer.load(root / "gemma")
    names = sorted(loaded.control_ids, key=lambda name: loaded.control_ids[name])
    assert names[-1] == "<image_soft_token>"
    for rows in (loaded.vocab_size - 1, loaded.vocab_size, loaded.vocab_size + 9):
        tokenizer.check_vocab_size(loaded, rows, "the model")
    with pytest.raises(UserError, match="the model a vocabulary of"):
        tokenizer.check_vocab_size(loaded, loaded.vocab_size - 2, "the model")
    with pytest.raises(UserError, match="the model a vocabulary of"):
        tokenizer.check_vocab_size(tokenizer.load(root / "qwen"), loaded.control_ids["<eos>"], "the model")


def test_what_a_file_says_of_truncation_and_padding_is_for_other_uses(qwen: Path) -> None:
    library = raw(qwen)
    library.enable_truncation(3)
    library.enable_padding(length=64)
    library.save(str(qwen / "tokenizer.json"))
    assert len(tokenizer.load(qwen).encode("a b c d e f g")) > 3


def test_a_control_token_that_merges_would_make_is_text(qwen: Path) -> None:
    stored = read_json(qwen / "tokenizer.json")
    for token, pair in (("<|", ("<", "|")), ("<|x", ("<|", "x")), ("<|x|>", ("<|x", "|>")), ("|>", ("|", ">"))):
        stored["model"]["vocab"][token] = len(stored["model"]["vocab"]) + 100
        stored["model"]["merges"].append(pair)
    stored["model"]["merges"].sort(key=lambda pair: len("".join(pair)))
    flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    stored["added_tokens"] = [{"id": stored["model"]["vocab"]["<|x|>"], "content": "<|x|>"} | flags]
    write_json(qwen / "tokenizer.json", stored)
    write_json(qwen / "tokenizer_config.json", {"eos_token": "<|x|>"})
    (qwen / "generation_config.json").unlink()
    loaded = tokenizer.load(qwen)
    assert loaded.eos_id not in loaded.encode("<|x|>")
    assert loaded.decode(loaded.encode("<|x|>")) == "<|x|>"


def test_tokens_that_files_add_to_a_sentencepiece_model(tmp_path: Path) -> None:
    KINDS["sentencepiece"](tmp_path)
    size = tokenizer.load(tmp_path).vocab_size
    write_json(tmp_path / "added_tokens.json", {"<|im_end|>": size + 1, "<|im_start|>": size, "<think>": size + 2})
    change(tmp_path / "tokenizer_config.json", eos_token="<|im_end|>")
    loaded = tokenizer.load(tmp_path)
    assert (loaded.vocab_size, loaded.eos_id) == (size + 3, size + 1)
    assert loaded.control_ids["<|im_start|>"] == size
    ids = loaded.encode("a <|im_end|><think>b")
    assert size + 2 in ids
    assert not {size, size + 1} & set(ids)
    assert loaded.decode(ids) == "a <|im_end|><think>b"
    chat = Chat(loaded, templates.CHATML)
    assert chat.tokenize([user(QUESTION), assistant(ANSWER)]).ids.count(size + 1) == 3
    write_json(tmp_path / "added_tokens.json", {"<think>": size + 2})
    with pytest.raises(UserError, match=f"the added token '<think>' has the id {size + 2}, which is not the next"):
        tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("file", "fields", "sentence"),
    [
        ("tokenizer_config.json", {"eos_token": 3}, "config.json: eos_token is 3; it must be a token's text"),
        ("tokenizer_config.json", {"eos_token": "<|nope|>"}, "has no EOS token; name it as eos_token"),
        ("tokenizer_config.json", {"add_bos_token": "yes"}, "add_bos_token is 'yes'; it must be true or false"),
        ("tokenizer_config.json", {"additional_special_tokens": 3}, "special_tokens is 3; it must be a list"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {}}}, "added_tokens_decoder does not give tokens"),
        ("added_tokens.json", {"<x>": "7"}, r"added_tokens\.json: not all values are token ids"),
        ("generation_config.json", {"eos_token_id": "2"}, "eos_token_id is '2'; it must be a token id or a list"),
        ("generation_config.json", {"eos_token_id": [2, None]}, r"eos_token_id is \[2, None\]; it must be"),
        ("tokenizer.json", {"added_tokens": [{"id": 9999, "content": "<x>", "special": True, "single_word": False,
          "lstrip": False, "rstrip": False, "normalized": False}]}, "the added token '<x>' has the id 9999"),
        ("tokenizer.json", {"model": None}, r"tokenizer\.json cannot be read"),
    ],
)  # fmt: skip
def test_bad_files_are_named(qwen: Path, file: str, fields: dict[str, Any], sentence: str) -> None:
    change(qwen / file, **fields)
    with pytest.raises(UserError, match=sentence):
        tokenizer.load(qwen)
