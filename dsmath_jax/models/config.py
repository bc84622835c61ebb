"""Sizes of the decoder, under the names of Hugging Face's `config.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dsmath_jax.settings import build, check_choice, setting
from dsmath_jax.workdir import UserError

CHOICES: dict[str, tuple[str, ...]] = {
    "compute_dtype": ("bfloat16", "float32", "float64"),
    "remat": ("none", "full", "dots", "minimal"),  # the keys of llama.REMAT
    "attention": ("auto", "xla", "splash", "cudnn"),
}
WHOLE = (
    "vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "intermediate_size", "max_position_embeddings",
)  # fmt: skip
MAY_BE_ZERO = ("vocab_size", "num_key_value_heads")
NUMBERS = (*WHOLE, "rope_theta", "rope_scaling", "rms_norm_eps")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A LLaMA-architecture decoder (paper §2.2, §2.3). For the axis letters see `llama.py`.

    Raises:
      UserError: the sizes make no decoder; the message begins with the first invalid field.
    """

    vocab_size: int = setting(0, "V, rows of the embedding; 0: the tokenizer's, as recipes may say")
    num_hidden_layers: int = setting(help="L, decoder layers")
    hidden_size: int = setting(help="D, numbers of a token's hidden state")
    num_attention_heads: int = setting(help="N, query heads of a layer")
    num_key_value_heads: int = setting(
        0, "K, key/value heads, each shared by N/K query heads; 0: as many as num_attention_heads"
    )
    head_dim: int = setting(help="H, numbers of a head, even; N x H may differ from D")
    intermediate_size: int = setting(help="F, numbers between the feed-forward matrices")
    rope_theta: float = setting(10_000.0, "base of the rotary embedding's wavelengths")
    rope_scaling: float = setting(1.0, "positions are divided by it: the factor of Hugging Face's rope type 'linear'")
    rms_norm_eps: float = setting(1e-6, "added to the mean square in RMSNorm")
    tie_word_embeddings: bool = setting(False, "whether the output matrix is the embedding's transpose")
    max_position_embeddings: int = setting(4096, "longest sequence, tokens")
    compute_dtype: str = setting("bfloat16", "dtype of activations and matrix products; parameters are float32")
    remat: str = setting(
        "minimal", "what the backward pass recomputes of a layer: a key of llama.REMAT", changes_result=False
    )
    attention: str = setting(
        "auto", "attention backend of training; auto: the best that the devices have", changes_result=False
    )

    def __post_init__(self) -> None:
        for name in NUMBERS:
            value, whole, zero = getattr(self, name), name in WHOLE, name in MAY_BE_ZERO
            typed = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not (typed and (value > 0 or (zero and value == 0))):
                kind = "whole number" if whole else "number"
                raise UserError(f"{name} is {value!r}; give a {kind} {'of at least' if zero else 'above'} zero.")
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        if not self.num_key_value_heads:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"num_attention_heads is {self.num_attention_heads}; it must be a multiple of num_key_value_heads, "
                f"which is {self.num_key_value_heads}, since each key/value head serves equally many query heads."
            )
        if self.head_dim % 2:
            raise UserError(
                f"head_dim is {self.head_dim}; it must be even, since rotary embeddings pair the two halves of a head."
            )


def trained_config(fields: Mapping[str, Any], path: str) -> ModelConfig:
    """Returns the sizes of a model that has parameters, from the fields that the file `path` states.

    Raises:
      UserError: a field is unknown, missing or invalid, or `vocab_size` is left to the tokenizer.
    """
    config = build(ModelConfig, fields, f"{path}: ")
    if not config.vocab_size:
        raise UserError(f"{path}: vocab_size is 0; give the number of the embedding's rows.")
    return config
