"""A model that scores tokens of another one must give them the same meaning."""

from pathlib import Path

import pytest

from dsmath_jax.data import tokenizer as tokenizers
from dsmath_jax.workdir import UserError

from . import tokenizer_folders


def test_tokens_of_another_meaning_are_refused(tmp_path: Path) -> None:
    for name in ("mistral", "llama2", "qwen"):
        getattr(tokenizer_folders, name)(tmp_path / name)
    mistral, qwen = (tokenizers.load(tmp_path / name) for name in ("mistral", "qwen"))
    tokenizers.check_same_pieces(mistral, tokenizers.load(tmp_path / "mistral"), "hf:mine")
    with pytest.raises(
        UserError, match=r"^hf:mine has another tokenizer than the run: the token \d+ is .* there and .* here"
    ):
        tokenizers.check_same_pieces(mistral, qwen, "hf:mine")
