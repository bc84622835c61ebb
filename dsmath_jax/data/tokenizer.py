"""Tokenizers with one interface: SentencePiece models and Hugging Face `tokenizer.json` files."""

import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from dsmath_jax.data import special_tokens
from dsmath_jax.data.special_tokens import CONTROL, Encoded
from dsmath_jax.data.tokenizer_json import HuggingFaceTokenizer
from dsmath_jax.workdir import UserError, atomic_write

NAMES = ("tokenizer.json", "tokenizer.model")
CONTEXT_TOKENS = 8  # before tokens that are decoded, so that the first of them keep their white space
ANCHORS = ("a", "\n", "0")  # before a text that is encoded
# Files next to a tokenizer's: special tokens, transformers' settings, stop ids, the chat template.
COMPANION_FILES = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
MAX_PADDING = 1 / 20  # unused rows of a model's embedding per id of its tokenizer; DeepSeek: 100,015 ids, 102,400 rows


class Tokenizer(Protocol):
    """The interface of tokenizers.

    `encode` returns no control tokens: the name of one in a text (`</s>` on a web page) is plain text. `decode` skips
    control tokens.
    """

    vocab_size: int  # the largest id + 1
    control_ids: Mapping[str, int]  # by name: BOS, EOS and the other special tokens of a chat template
    special_tokens: Mapping[str, str]  # names by transformers' roles: "bos_token", "eos_token", "pad_token", ...
    bos_id: int | None  # put before every text; None if none is (Qwen)
    eos_id: int
    stop_ids: tuple[int, ...]  # end a completion: EOS first, then the model's others

    def encode(self, text: str) -> list[int]: ...

    def encode_marked(self, text: str) -> Encoded:
        """Encodes a text with marked control tokens (see `special_tokens`).

        Returns:
          the ids and, for each, the index in `text` of the character in which it ends.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str: ...


class SentencePieceTokenizer:
    """A SentencePiece `.model` file, with the tokens that files next to it add.

    `tokenizer_config.json` may give BOS and EOS other names than the model, or say that BOS is not put before a text.
    """

    def __init__(self, path: Path):
        special = special_tokens.read(path)
        model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())  # type: ignore[attr-defined]
        for name, i in sorted(special.added.items(), key=lambda item: item[1]):
            if i > len(model.pieces):
                raise UserError(f"{path}: the added token {name!r} has the id {i}, which is not the next; fix it.")
            if i == len(model.pieces):
                model.pieces.add(piece=name, score=0.0, type=model.SentencePiece.USER_DEFINED)
        for piece in model.pieces:
            is_control = piece.piece in special.names or CONTROL.fullmatch(piece.piece)
            if piece.type == piece.USER_DEFINED and is_control:
                piece.type = piece.CONTROL
        self._processor = self._inner = _processor(model)
        if not special.legacy:
            model.normalizer_spec.add_dummy_prefix = False
            self._inner = _processor(model)  # of the parts after control tokens
        self.vocab_size = self._processor.vocab_size()
        control = filter(self._processor.is_control, range(self.vocab_size))
        self.control_ids: Mapping[str, int] = {self._processor.id_to_piece(i): i for i in control}
        own = {f"{kind}_token": getattr(self._processor, f"{kind}_id")() for kind in ("bos", "eos", "unk", "pad")}
        roles = {role: self._processor.id_to_piece(i) for role, i in own.items() if i >= 0} | special.roles
        self.special_tokens: Mapping[str, str] = {role: name for role, name in roles.items() if name}
        eos_id = self.control_ids.get(self.special_tokens.get("eos_token", ""))
        if eos_id is None:
            raise UserError(f"{path} has no EOS token; give a tokenizer that has one.")
        self.eos_id, self.stop_ids = eos_id, special_tokens.stops(eos_id, special.stop_ids)
        bos = "" if special.add_bos is False else self.special_tokens.get("bos_token", "")
        self.bos_id = self.control_ids.get(bos)

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def encode_marked(self, text: str) -> Encoded:
        return special_tokens.encode_parts(text, self.control_ids, self._encode_part)

    def _encode_part(self, text: str, start: int) -> Encoded:
        pieces = (self._inner if start else self._processor).encode(text, return_type="proto").pieces
        ends = itertools.accumulate(len(piece.surface) for piece in pieces)
        # All but the last byte piece of a character, and a dummy prefix, have no surface.
        offsets = [end - bool(piece.surface) for piece, end in zip(pieces, ends, strict=True)]
        return [piece.id for piece in pieces], offsets

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode([int(i) for i in ids])


def _processor(model: Any) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def check_vocab_size(tokenizer: Tokenizer, vocab_size: int, model: str) -> None:
    """Raises where a tokenizer does not match a model's vocabulary.

    Args:
      tokenizer: the tokenizer.
      vocab_size: rows of the model's embedding.
      model: the name of the model in the message, such as its folder.

    The last control tokens may have no rows, if they are neither BOS nor end a completion: Gemma 3's image token.

    Raises:
      UserError: an id has no row, or there are more spare rows than padding explains: it is another model's tokenizer.
    """
    used = {tokenizer.bos_id or 0, *tokenizer.stop_ids}
    spare = set(tokenizer.control_ids.values()) - used
    needed = ids = max(tokenizer.vocab_size, *(i + 1 for i in used))
    while needed > vocab_size and needed - 1 in spare:
        needed -= 1
    if not needed <= vocab_size <= needed * (1 + MAX_PADDING):
        raise UserError(
            f"The tokenizer has ids up to {ids - 1:,} and {model} a vocabulary of {vocab_size:,}; give the model's "
            "own tokenizer (config.tokenizer.path, or --tokenizer of the export)."
        )


def check_same_pieces(tokenizer: Tokenizer, other: Tokenizer, model: str) -> None:
    """Raises where two tokenizers give ids other meanings, judged by 1,000 evenly spaced ids.

    Args:
      tokenizer: of the run.
      other: of a model that scores the run's tokens; it may have more control tokens.
      model: its name, for the message.

    Raises:
      UserError: an id has another text.
    """
    count = min(tokenizer.vocab_size, other.vocab_size)
    for token in range(0, count, max(1, count // 1000)):
        if tokenizer.decode([token]) != other.decode([token]):
            raise UserError(
                f"{model} has another tokenizer than the run: the token {token} is {other.decode([token])!r} there and "
                f"{tokenizer.decode([token])!r} here; name a model with the same tokenizer."
            )


def decode_after(tokenizer: Tokenizer, before: Sequence[int], tokens: Sequence[int]) -> str:
    """Decodes tokens in their context: alone, SentencePiece would drop white space at their start."""
    before = before[-CONTEXT_TOKENS:]
    start, whole = tokenizer.decode(before), tokenizer.decode([*before, *tokens])
    return whole.removeprefix(start) if whole.startswith(start) else tokenizer.decode(tokens)


def encode_after(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encodes a text that follows another: alone, SentencePiece would put white space before it.

    The text is encoded after a character whose tokens it leaves as they are; the tokens before it do not change.
    """
    for before in ANCHORS:
        start, whole = tokenizer.encode(before), tokenizer.encode(before + text)
        if whole[: len(start)] == start:
            return whole[len(start) :]
    return tokenizer.encode(text)


def load(path: str | Path) -> Tokenizer:
    """Loads a `.model` or `tokenizer.json` file, or the one in a folder.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    file = _find_file(Path(path))
    try:
        return (HuggingFaceTokenizer if file.suffix == ".json" else SentencePieceTokenizer)(file)
    except UserError:
        raise
    except Exception as error:  # the libraries raise many kinds of exceptions
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"The tokenizer {file} cannot be read ({reason}); give another file.") from None


def find(path: Path) -> Path | None:
    """Returns the `.model` or `tokenizer.json` file that `path` is or contains, if any."""
    candidates = [path / name for name in NAMES] if path.is_dir() else [path]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _find_file(path: Path) -> Path:
    file = find(path)
    if file is None:
        raise UserError(f"No tokenizer at {path}; give a .model or tokenizer.json file, or a folder with one.")
    return file


def train_sentencepiece(texts: Iterable[str], path: Path, vocab_size: int, markers: Sequence[str] = ()) -> None:
    """Trains a SentencePiece BPE model on `texts`, with split digits (paper §2.2), byte fallback, no normalization.

    Ids: 0 unknown, 1 BOS, 2 EOS. White space is kept; newline and the `markers` are always tokens, so
    `decode(encode(text)) == text`.

    Raises:
      UserError: the texts have too few distinct pieces for `vocab_size`.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts for line in text.splitlines() if line),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="bpe",
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            split_digits=True,
            byte_fallback=True,
            character_coverage=0.9995,
            user_defined_symbols=["\n", *markers],
            max_sentence_length=65536,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"SentencePiece could not train {vocab_size} pieces ({reason}); set tokenizer.vocab_size."
        ) from None
    with atomic_write(path, "wb") as file:
        file.write(model.getvalue())


def files(source: Path) -> list[Path]:
    """Returns a tokenizer's file and its `COMPANION_FILES`; none if there is no tokenizer."""
    file = find(source)
    return [path for path in (file, *map(file.with_name, COMPANION_FILES)) if path.is_file()] if file else []


def copy(source: Path, folder: Path) -> None:
    """Copies a tokenizer's `files` to a folder, under the names that `load` finds."""
    file = _find_file(source)
    load(file)
    name = "tokenizer.json" if file.suffix == ".json" else "tokenizer.model"
    for path in files(file):
        with atomic_write(folder / (name if path == file else path.name), "wb") as out:
            out.write(path.read_bytes())
