"""Tokenizers with one interface: SentencePiece models and Hugging Face `tokenizer.json` files."""

import io
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2

from dsmath_jax.workdir import UserError, atomic_write, json_object

NAMES = ("tokenizer.json", "tokenizer.model")
# Files next to a tokenizer's: special tokens, transformers' settings, stop ids, the chat template.
COMPANION_FILES = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json",
    "chat_template.jinja",
)  # fmt: skip
HUGGING_FACE_SPECIALS = {
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<｜begin▁of▁sentence｜>"),
    "eos": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "<｜end▁of▁sentence｜>"),
}
# Added tokens of this form mark turns and tools, even if their file does not call them special (DeepSeek's <｜User｜>).
# Those that a model itself generates have other forms (<think>, <tool_call>).
CONTROL = re.compile(r"<[|｜].*[|｜]>")
MAX_PADDING = 1 / 20  # unused rows of a model's embedding per id of its tokenizer; DeepSeek: 100,015 ids, 102,400 rows


class Tokenizer(Protocol):
    """The interface of tokenizers.

    `encode` returns no control tokens: the name of one in a text (`</s>` on a web page) is plain text. `decode` skips
    control tokens.
    """

    vocab_size: int  # the largest id + 1
    control_ids: Mapping[str, int]  # by name: BOS, EOS and the other special tokens of a chat template
    bos_id: int | None  # None if the model has none (Qwen)
    eos_id: int
    stop_ids: tuple[int, ...]  # end a completion: EOS first, then the model's others

    def encode(self, text: str) -> list[int]: ...

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int]]:
        """Returns the ids and, for each, the index in `text` of the character in which it ends."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...


class SentencePieceTokenizer:
    """A SentencePiece `.model` file."""

    def __init__(self, path: Path):
        model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())  # type: ignore[attr-defined]
        for piece in model.pieces:
            if piece.type == piece.USER_DEFINED and CONTROL.fullmatch(piece.piece):
                piece.type = piece.CONTROL
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
        self.vocab_size = self._processor.vocab_size()
        control = filter(self._processor.is_control, range(self.vocab_size))
        self.control_ids: Mapping[str, int] = {self._processor.id_to_piece(i): i for i in control}
        self.bos_id = self._processor.bos_id() if self._processor.bos_id() >= 0 else None
        self.eos_id = self._processor.eos_id()
        if self.eos_id < 0:
            raise UserError(f"{path} has no EOS token; give a tokenizer that has one.")
        self.stop_ids = _stop_ids(path, self.eos_id)

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int]]:
        pieces = self._processor.encode(text, return_type="proto").pieces
        ends = itertools.accumulate(len(piece.surface) for piece in pieces)
        # All but the last byte piece of a character, and a dummy prefix, have no surface.
        offsets = [end - bool(piece.surface) for piece, end in zip(pieces, ends, strict=True)]
        return [piece.id for piece in pieces], offsets

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode([int(i) for i in ids])


class HuggingFaceTokenizer:
    """A Hugging Face `tokenizer.json`; BOS and EOS are those of `tokenizer_config.json`, or have common names."""

    def __init__(self, path: Path):
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        self._tokenizer.encode_special_tokens = True  # as text
        self._tokenizer.post_processor = None  # it would add special tokens, and trim offsets
        added = [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]
        self._tokenizer.add_special_tokens([name for name in added if CONTROL.fullmatch(name)])
        self.control_ids: Mapping[str, int] = self._control_ids()
        # Ids may have gaps before special tokens.
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self._verbatim = self._misdecoded_tokens()
        settings_path = path.with_name("tokenizer_config.json")
        settings = json.loads(settings_path.read_text(encoding="utf-8")) if settings_path.is_file() else {}
        no_bos = "bos_token" in settings and settings["bos_token"] is None
        self.bos_id = None if no_bos else self._special_id("bos", settings.get("bos_token"), path)
        self.eos_id = self._special_id("eos", settings.get("eos_token"), path)
        self.stop_ids = _stop_ids(path, self.eos_id)

    def _misdecoded_tokens(self) -> dict[int, str]:
        """Returns added tokens that a byte-level decoder would decode as bytes: DeepSeek's `ü` as a lone 0xFC."""
        if not isinstance(self._tokenizer.decoder, tokenizers.decoders.ByteLevel):
            return {}
        added = self._tokenizer.get_added_tokens_decoder().items()
        return {i: t.content for i, t in added if not t.special and self._tokenizer.decode([i]) != t.content}

    def _control_ids(self) -> dict[str, int]:
        added = self._tokenizer.get_added_tokens_decoder().items()
        return {token.content: i for i, token in added if token.special}

    def _special_id(self, kind: str, configured: str | dict | None, path: Path) -> int:
        """Returns the id of BOS or EOS: the configured token, made a control token, or the first common name."""
        configured = configured["content"] if isinstance(configured, dict) else configured
        if configured and configured not in self.control_ids and self._tokenizer.token_to_id(configured) is not None:
            self._tokenizer.add_special_tokens([configured])
            self.control_ids = self._control_ids()
        names = (configured,) if configured else HUGGING_FACE_SPECIALS[kind]
        for name in names:
            if name in self.control_ids:
                return self.control_ids[name]
        raise UserError(
            f"{path} has no {kind.upper()} token; name it as {kind}_token in tokenizer_config.json next to it"
            f"{', or null where the model has none' if kind == 'bos' else ''}."
        )

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int]]:
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return encoded.ids, [max(start, end - 1) for start, end in encoded.offsets]

    def decode(self, ids: Sequence[int]) -> str:
        parts = itertools.groupby((int(i) for i in ids), self._verbatim.get)
        return "".join(
            self._tokenizer.decode(list(part), skip_special_tokens=True) if text is None else text * len(list(part))
            for text, part in parts
        )


def _stop_ids(path: Path, eos_id: int) -> tuple[int, ...]:
    """Returns EOS and the EOS ids in `generation_config.json` (or else `config.json`) next to the tokenizer."""
    for settings in map(path.with_name, ("generation_config.json", "config.json")):
        if settings.is_file():
            configured = json_object(settings.read_bytes(), str(settings), "it").get("eos_token_id")
            configured = [configured] if isinstance(configured, int) else configured or []
            return (eos_id, *(i for i in dict.fromkeys(configured) if i != eos_id))
    return (eos_id,)


def check_vocab_size(tokenizer: Tokenizer, vocab_size: int, model: str) -> None:
    """Raises where a tokenizer does not match a model's vocabulary.

    Args:
      tokenizer: the tokenizer.
      vocab_size: rows of the model's embedding.
      model: the name of the model in the message, such as its folder.

    Raises:
      UserError: an id has no row, or there are more spare rows than padding explains: it is another model's tokenizer.
    """
    needed = max(tokenizer.vocab_size, *(i + 1 for i in (tokenizer.bos_id or 0, *tokenizer.stop_ids)))
    if not needed <= vocab_size <= needed * (1 + MAX_PADDING):
        raise UserError(
            f"The tokenizer has ids up to {needed - 1:,} and {model} a vocabulary of {vocab_size:,}; give the model's "
            "own tokenizer (config.tokenizer.path, or --tokenizer of the export)."
        )


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
