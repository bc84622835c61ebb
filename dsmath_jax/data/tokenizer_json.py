"""Hugging Face `tokenizer.json` files."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from dsmath_jax.data import special_tokens
from dsmath_jax.data.special_tokens import CONTROL, MARK, Encoded, SpecialTokens, mark, without_marks
from dsmath_jax.workdir import UserError

EOS_NAMES = ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "<｜end▁of▁sentence｜>")


class HuggingFaceTokenizer:
    """A Hugging Face `tokenizer.json` of any kind, see `tokenizer.Tokenizer`.

    Special tokens have the roles of `tokenizer_config.json`; without one, EOS has one of `EOS_NAMES`. BOS is put before
    a text if `add_bos_token` says so or, where that is not stated, if the file's post-processor does.
    """

    def __init__(self, path: Path):
        special, stored = special_tokens.read(path), json.loads(path.read_text(encoding="utf-8"))
        front = _first_token(stored.get("post_processor"))
        self.special_tokens: Mapping[str, str] = _roles(special, stored, front)
        names = _control_names(special, stored)
        names |= {name for role, name in self.special_tokens.items() if role in ("bos_token", "eos_token")}
        self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(_marked(stored, names), ensure_ascii=False))
        for token in stored["added_tokens"]:
            if self._id(token["content"]) != token["id"]:
                name = token["content"].strip(MARK)
                raise UserError(
                    f"{path}: the added token {name!r} has the id {token['id']}, which is not free; fix it."
                )
        self.control_ids: Mapping[str, int] = {name: self._id(mark(name)) for name in sorted(names)}
        # Ids may have gaps before special tokens.
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self._verbatim = self._misdecoded_tokens()
        if (eos := self.special_tokens.get("eos_token")) is None:
            raise UserError(f"{path} has no EOS token; name it as eos_token in tokenizer_config.json next to it.")
        self.eos_id = self.control_ids[eos]
        self.stop_ids = special_tokens.stops(self.eos_id, special.stop_ids)
        bos = {True: self.special_tokens.get("bos_token"), False: None, None: front}[special.add_bos]
        self.bos_id = None if bos is None else self.control_ids[bos]

    def _id(self, token: str) -> int:
        i = self._tokenizer.token_to_id(token)
        assert i is not None
        return i

    def _misdecoded_tokens(self) -> dict[int, str]:
        """Returns added tokens that a byte-level decoder would decode as bytes: DeepSeek's `ü` as a lone 0xFC."""
        if not isinstance(self._tokenizer.decoder, tokenizers.decoders.ByteLevel):
            return {}
        added = self._tokenizer.get_added_tokens_decoder().items()
        return {i: t.content for i, t in added if not t.special and self._tokenizer.decode([i]) != t.content}

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(without_marks(text)).ids

    def encode_marked(self, text: str) -> Encoded:
        encoded = self._tokenizer.encode(text)
        return encoded.ids, [max(start, end - 1) for start, end in encoded.offsets]

    def decode(self, ids: Sequence[int]) -> str:
        parts = itertools.groupby((int(i) for i in ids), self._verbatim.get)
        return "".join(
            self._tokenizer.decode(list(part), skip_special_tokens=True) if text is None else text * len(list(part))
            for text, part in parts
        )


def _first_token(post_processor: dict[str, Any] | None) -> str | None:
    """Returns the name of the special token that a post-processor puts before a text, if any."""
    for processor in (post_processor or {}).get("processors", [post_processor or {}]):
        for piece in processor.get("single", [])[:1]:
            if "SpecialToken" in piece:
                return piece["SpecialToken"]["id"]
    return None


def _vocabulary(stored: dict[str, Any]) -> set[str]:
    """Returns the names of all tokens of a file."""
    model = stored["model"]["vocab"]  # a list of (piece, score) in Unigram models
    pieces = model if isinstance(model, dict) else (piece for piece, _ in model)
    return {*pieces, *(token["content"] for token in stored["added_tokens"])}


def _roles(special: SpecialTokens, stored: dict[str, Any], front: str | None) -> dict[str, str]:
    """Returns the names of the special tokens by role, those that the vocabulary has."""
    known = {token["content"] for token in stored["added_tokens"]}
    common = {"bos_token": front, "eos_token": next((name for name in EOS_NAMES if name in known), None)}
    roles = {role: name for role, name in special.roles.items() if name or role != "eos_token"}
    vocabulary = _vocabulary(stored)
    return {role: name for role, name in (common | roles).items() if name and name in vocabulary}


def _control_names(special: SpecialTokens, stored: dict[str, Any]) -> set[str]:
    """Returns the names of the added tokens that are special, or look it."""
    added = {token["content"]: token["special"] for token in stored["added_tokens"]}
    return {
        name for name, is_special in added.items() if is_special or name in special.names or CONTROL.fullmatch(name)
    }


def _marked(stored: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Returns a file in which control tokens have marked names, so that only marked ones are found in a text.

    What would add tokens to a text or cut it (post-processor, padding, truncation) is left out.
    """
    model, added = stored["model"], stored["added_tokens"]

    def renamed(name: str) -> str:
        return mark(name) if name in names else name

    if isinstance(model["vocab"], dict):
        model["vocab"] = {renamed(name): i for name, i in model["vocab"].items()}
    else:
        model["vocab"] = [(renamed(name), score) for name, score in model["vocab"]]
    if model.get("merges"):  # a text cannot make a control token
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        model["merges"] = [pair for pair in pairs if not names & {*pair, "".join(pair)}]
    if model.get("unk_token"):
        model["unk_token"] = renamed(model["unk_token"])
    listed = {token["content"] for token in added}
    for token in added:
        if token["content"] in names:
            token |= {"content": renamed(token["content"]), "special": True, "normalized": False}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    ids = (
        model["vocab"] if isinstance(model["vocab"], dict) else {name: i for i, (name, _) in enumerate(model["vocab"])}
    )
    for name in sorted(names - listed):
        added.append({"id": ids[mark(name)], "content": mark(name), "special": True} | flags)
    return stored | {"post_processor": None, "padding": None, "truncation": None}
