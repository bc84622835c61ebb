"""Beside transformers: the ids of texts, prompts and conversations, for the kinds of tokenizers and templates."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from dsmath_jax.data import tokenizer
from dsmath_jax.data.chat import Chat, Message
from dsmath_jax.workdir import UserError, read_json, write_json
from tests.data import templates, tokenizer_folders
from tests.data.test_tokenizer_deepseek import SPLITS, write_tokenizer
from tests.data.tokenizer_folders import KINDS

PEER = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"
DATE = "2025-02-03"
NAMES = (*KINDS, *SPLITS)
TEXTS = tokenizer_folders.texts(300)
QUESTION = {"role": "user", "content": "What is 6*7?"}
CONVERSATIONS = [
    [QUESTION],
    [{"role": "system", "content": "Be brief. "}, QUESTION],
    [QUESTION, {"role": "assistant", "content": "42"}, {"role": "user", "content": " And 语言 🙂\n\n\n+1?  "}],
    [QUESTION, {"role": "assistant", "content": "<think>\n6*7\n</think>\n\n42."}, QUESTION],
    [QUESTION, {"role": "assistant", "content": "It is\n```python\nprint(42)\n```"}],
    [QUESTION, {"role": "assistant", "content": "42"}, QUESTION, {"role": "assistant", "content": "Still 42."}],
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Path:
    root = tmp_path_factory.mktemp("kinds")
    for name, write in KINDS.items():
        write(root / name)
    for name in SPLITS:
        (root / name).mkdir()
        write_tokenizer(real_data / "tokenizers" / f"ggml-vocab-{name}.gguf", root / name)
    return root


@pytest.fixture(scope="module")
def answered(root: Path) -> dict[str, Any]:
    """What transformers makes of all of them."""
    if not PEER.is_file():
        pytest.skip("transformers is not installed: make peers")
    write_json(
        root / "asked.json",
        {
            "date": DATE, "texts": TEXTS, "conversations": CONVERSATIONS,
            "folders": {name: str(root / name) for name in NAMES},
            "chats": {
                name: {"template": template, "tokenizer": kind, "arguments": arguments}
                for name, template, kind, arguments in templates.USED
            },
        },
    )  # fmt: skip
    script = Path(__file__).with_name("tokenizer_peer.py")
    done = subprocess.run([PEER, script, root / "asked.json", root / "answered.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return read_json(root / "answered.json")


@pytest.mark.oracle
@pytest.mark.parametrize("kind", NAMES)
def test_texts_have_the_ids_of_transformers(root: Path, answered: dict[str, Any], kind: str) -> None:
    """Except for what Gemma's files do not call special, and SentencePiece's prefix before a blank.

    BOS is compared where a post-processor adds it: transformers 5 ignores `add_bos_token` next to a tokenizer.json.
    """
    chat = Chat(tokenizer.load(root / kind))
    encode = chat.tokenizer.encode if kind in SPLITS else lambda text: chat.encode(chat.plain(text))
    different = [
        (text, ids, expected)
        for text, expected in zip(TEXTS, answered["texts"][kind], strict=True)
        if (ids := encode(text)) != expected
        and not (kind == "gemma" and "_of_turn" in text)
        and not ("sentencepiece" in kind and text[:1] in (" ", "▁"))
    ]
    assert not different, f"{len(different)} of {len(TEXTS)}, the first: {different[0]}"


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "template", "kind", "arguments"), templates.USED, ids=lambda value: str(value)[:20])
def test_prompts_and_conversations_have_the_ids_of_transformers(
    root: Path, answered: dict[str, Any], name: str, template: str, kind: str, arguments: dict[str, Any]
) -> None:
    chat = Chat(tokenizer.load(root / kind), template, template_kwargs=arguments, date=DATE)
    for conversation, expected in zip(CONVERSATIONS, answered["chats"][name], strict=True):
        messages = [Message(m["role"], ((m["content"], m["role"] == "assistant"),)) for m in conversation]
        if expected is None:
            with pytest.raises(UserError, match=r"chat\.template fails"):
                chat.render(messages, generate=True)
        elif conversation[-1]["role"] == "user":
            assert chat.encode(chat.render(messages, generate=True)) == expected["ids"]
        else:
            tokens = chat.tokenize(messages)
            assert tokens.ids == expected["ids"]
            if any(expected["mask"]):  # the template says what the model writes
                assert [int(has_loss) for has_loss in tokens.loss_mask] == expected["mask"]
