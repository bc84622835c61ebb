"""Settings of the tokenizer and of the chat template."""

import dataclasses

from dsmath_jax.settings import INT32, Settings, setting
from dsmath_jax.workdir import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSettings(Settings):
    """Settings of stage `tokenizer`: an existing tokenizer, or SentencePiece trained on the corpus."""

    path: str = setting("", "file or folder of a tokenizer, below data_dir; '' trains one on the corpus", local=True)
    vocab_size: int = setting(4096, "pieces of the tokenizer that is trained; ignored with a path", ge=0, le=INT32)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.path or self.vocab_size):
            raise UserError("vocab_size is 0; it must be at least 1, or path name a tokenizer.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatSettings(Settings):
    """Settings of prompts in all stages: the chat template, and the instruction below every question."""

    template: str = setting("", "Jinja chat template; '' for the tokenizer's own, else the paper's")
    instruction: str = setting("", "below every question: a text, or 'paper' for the paper's by mode and language")
