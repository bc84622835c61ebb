"""The settings of the tokenizer, and of how a model is asked."""

import dataclasses

from dsmath_jax.settings import check_least, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """The stage `tokenizer`: an existing tokenizer, or SentencePiece trained on the corpus."""

    path: str = setting("", "file or folder of a tokenizer, below data_dir; '' trains one on the corpus")
    vocab_size: int = setting(4096, "pieces of the tokenizer that is trained; ignored with a path")

    def __post_init__(self) -> None:
        check_least("vocab_size", self.vocab_size, 0 if self.path else 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """How all stages ask a model: the chat template, and the instruction below every question."""

    template: str = setting("", "Jinja chat template; '' for the tokenizer's own, else the paper's")
    instruction: str = setting("", "below every question: a text, or 'paper' for the paper's by mode and language")
