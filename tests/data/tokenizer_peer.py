"""Runs in the peers' environment: token ids by transformers, for test_tokenizer_peer.py.

python tokenizer_peer.py ASKED.json ANSWERED.json
"""

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import jinja2
import transformers
from transformers.utils import chat_template_utils


class Date(datetime.datetime):
    """The date that is asked for, as the present one."""

    fixed = ""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
        return cls.fromisoformat(cls.fixed)


def chat(tokenizer: Any, asked: dict[str, Any], conversation: list[dict[str, str]]) -> dict[str, Any] | None:
    """Ids of a prompt, or of a whole conversation with the mask of its generation blocks; None if it is refused."""
    whole = conversation[-1]["role"] == "assistant"
    try:
        made = tokenizer.apply_chat_template(
            conversation, chat_template=asked["template"], add_generation_prompt=not whole, tokenize=True,
            return_dict=True, return_assistant_tokens_mask=whole, **asked["arguments"],
        )  # fmt: skip
    except jinja2.TemplateError:
        return None
    return {"ids": made["input_ids"], "mask": made.get("assistant_masks")}


def main(source: Path, target: Path) -> None:
    asked = json.loads(source.read_text())
    Date.fixed = asked["date"]
    chat_template_utils.datetime = Date
    tokenizers = {name: transformers.AutoTokenizer.from_pretrained(path) for name, path in asked["folders"].items()}
    answered: dict[str, Any] = {"texts": {}, "chats": {}}
    for name, tokenizer in tokenizers.items():
        answered["texts"][name] = [
            tokenizer(text, add_special_tokens=True, split_special_tokens=True)["input_ids"] for text in asked["texts"]
        ]
    for name, each in asked["chats"].items():
        tokenizer = tokenizers[each["tokenizer"]]
        answered["chats"][name] = [chat(tokenizer, each, conversation) for conversation in asked["conversations"]]
    target.write_text(json.dumps(answered))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
