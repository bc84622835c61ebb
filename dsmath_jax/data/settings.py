"""The settings of the tokenizer."""

import dataclasses

from dsmath_jax.settings import check_least, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """The stage `tokenizer`: an existing tokenizer, or SentencePiece trained on the corpus."""

    path: str = setting("", "file or folder of a tokenizer, below data_dir; '' trains one on the corpus")
    vocab_size: int = setting(4096, "pieces of the tokenizer that is trained; ignored with a path")

    def __post_init__(self) -> None:
        check_least("vocab_size", self.vocab_size, 0 if self.path else 1)
