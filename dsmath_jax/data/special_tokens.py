"""The special tokens of a tokenizer, as the files next to it name them, and how a rendered text marks them.

In a marked text a control token is its name between two `MARK`s; the name alone is plain text. So a control token that
is spelled out in a question can neither end nor forge a turn.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dsmath_jax.workdir import UserError, json_object

MARK = "\ufdd0"  # a Unicode noncharacter; U+FFFD replaces it in texts
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA = ("additional_special_tokens", "extra_special_tokens")  # in transformers 4 and 5
# Added tokens of these forms mark turns and tools, even if their file does not call them special: <｜User｜> of
# DeepSeek, <start_of_turn> of Gemma, [INST] of Mistral. Those that a model itself generates (<think>, <tool_call>) have
# others.
CONTROL = re.compile(r"<[|｜].*[|｜]>|<(?:start|end)_of_\w+>|\[/?[A-Z_]+\]")
Encoded = tuple[list[int], list[int]]  # token ids, and for each the index of the character in which it ends


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """What the files next to a tokenizer state about its special tokens.

    Attributes:
      roles: names by `ROLES`; None where the file says null: there is no such token.
      extra: names of special tokens without a role.
      added: ids of tokens that were added to the vocabulary, by name.
      add_bos: whether BOS is put before a text; None if that is not stated.
      legacy: whether SentencePiece's dummy prefix is put before every text between control tokens, or only the first.
      stop_ids: the EOS ids of `generation_config.json` or else `config.json`.
    """

    roles: dict[str, str | None]
    extra: tuple[str, ...]
    added: dict[str, int]
    add_bos: bool | None
    legacy: bool
    stop_ids: tuple[int, ...]

    @property
    def names(self) -> set[str]:
        """All names."""
        return {*filter(None, self.roles.values()), *self.extra}


def read(tokenizer_file: Path) -> SpecialTokens:
    """Reads the files next to a tokenizer; where two disagree, `tokenizer_config.json` counts.

    Raises:
      UserError: a file is not a JSON object, or a field has the wrong type.
    """
    config = tokenizer_file.with_name("tokenizer_config.json")
    stated = _fields(config)
    fields = _fields(tokenizer_file.with_name("special_tokens_map.json")) | stated
    roles = {role: _name(config, role, fields[role]) for role in ROLES if role in fields}
    extra: list[str | None] = []
    for field in EXTRA:
        values = fields.get(field) or []
        if not isinstance(values, list | dict):
            raise UserError(f"{config}: {field} is {values!r}; it must be a list of tokens.")
        extra += [_name(config, field, value) for value in (values.values() if isinstance(values, dict) else values)]
    add_bos = fields.get("add_bos_token")
    if not isinstance(add_bos, bool | None):
        raise UserError(f"{config}: add_bos_token is {add_bos!r}; it must be true or false.")
    legacy = fields.get("legacy") is not False
    added = _added(tokenizer_file, stated.get("added_tokens_decoder") or {})
    return SpecialTokens(roles, tuple(filter(None, extra)), added, add_bos, legacy, _stop_ids(tokenizer_file))


def _fields(path: Path) -> dict[str, Any]:
    return json_object(path.read_bytes(), str(path), "it") if path.is_file() else {}


def _name(path: Path, field: str, value: Any) -> str | None:
    """Returns the name of a token, which may be the field `content` of an object."""
    name = value.get("content") if isinstance(value, dict) else value
    if not isinstance(name, str | None):
        raise UserError(f"{path}: {field} is {value!r}; it must be a token's text or null.")
    return name or None


def _added(tokenizer_file: Path, decoder: Any) -> dict[str, int]:
    """Returns the tokens in `added_tokens.json` and those of the field `added_tokens_decoder`."""
    path, config = (tokenizer_file.with_name(name) for name in ("added_tokens.json", "tokenizer_config.json"))
    added = _fields(path)
    if not all(type(i) is int for i in added.values()):
        raise UserError(f"{path}: not all values are token ids; fix or remove it.")
    try:
        return added | {token["content"]: int(i) for i, token in decoder.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{config}: added_tokens_decoder does not give tokens by their ids; fix or remove it."
        ) from None


def _stop_ids(tokenizer_file: Path) -> tuple[int, ...]:
    for path in map(tokenizer_file.with_name, ("generation_config.json", "config.json")):
        if path.is_file():
            stated = _fields(path).get("eos_token_id")
            ids = stated if isinstance(stated, list) else [] if stated is None else [stated]
            if not all(type(i) is int and i >= 0 for i in ids):
                raise UserError(f"{path}: eos_token_id is {stated!r}; it must be a token id or a list of them.")
            return tuple(ids)
    return ()


def stops(eos_id: int, stated: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the ids that end a completion: EOS, then the others."""
    return tuple(dict.fromkeys((eos_id, *stated)))


def mark(name: str) -> str:
    """Returns a control token as it is in a marked text."""
    return f"{MARK}{name}{MARK}"


def without_marks(text: str) -> str:
    """Replaces marks in a text that is not rendered."""
    return text.replace(MARK, "\ufffd")


def encode_parts(text: str, control_ids: Mapping[str, int], encode: Callable[[str, int], Encoded]) -> Encoded:
    """Encodes a marked text with `encode(part, index)`, each part between control tokens by itself."""
    ids: list[int] = []
    offsets: list[int] = []
    start = 0
    for number, part in enumerate(text.split(MARK)):
        part_ids, ends = ([control_ids[part]], [len(part)]) if number % 2 else encode(part, start)
        ids += part_ids
        offsets += [start + end for end in ends]
        start += len(part) + 1
    return ids, offsets
