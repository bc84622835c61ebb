"""The model config: sizes of the decoder, under the names of Hugging Face's `config.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dsmath_jax.settings import Settings, build, setting
from dsmath_jax.workdir import UserError

DTYPES = ("bfloat16", "float32", "float64")
REMAT = ("none", "full", "dots", "minimal")  # the keys of llama.REMAT
ATTENTION = ("auto", "xla", "splash", "cudnn")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Config of a LLaMA-architecture decoder (paper §2.2, §2.3). For the axis letters see `llama.py`.

    Raises:
      UserError: a size is invalid; the message begins with the first invalid field.
    """

    vocab_size: int = setting(0, "V, rows of the embedding; 0 in recipes: the tokenizer's", ge=0)
    num_hidden_layers: int = setting(help="L, decoder layers", ge=1)
    hidden_size: int = setting(help="D, size of the hidden states", ge=1)
    num_attention_heads: int = setting(help="N, query heads of a layer", ge=1)
    num_key_value_heads: int = setting(
        0, "K, key/value heads, each shared by N/K query heads; 0: as many as num_attention_heads", ge=0
    )
    head_dim: int = setting(help="H, size of a head, even; N x H may differ from D", ge=1)
    intermediate_size: int = setting(help="F, size of the feed-forward layer", ge=1)
    rope_theta: float = setting(10_000.0, "base of the rotary embedding's wavelengths", gt=0)
    rope_scaling: float = setting(
        1.0, "positions are divided by it: the factor of Hugging Face's rope type 'linear'", gt=0
    )
    rms_norm_eps: float = setting(1e-6, "added to the mean square in RMSNorm", gt=0)
    tie_word_embeddings: bool = setting(False, "whether the output matrix is the embedding's transpose")
    max_position_embeddings: int = setting(4096, "longest sequence, tokens", ge=1)
    compute_dtype: str = setting(
        "bfloat16", "dtype of activations and matrix products; parameters are float32", choices=DTYPES
    )
    remat: str = setting(
        "minimal", "rematerialization policy of a layer: a key of llama.REMAT",
        choices=REMAT, changes_result=False,
    )  # fmt: skip
    attention: str = setting(
        "auto", "attention backend of training; auto: the platform's",
        choices=ATTENTION, changes_result=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.num_key_value_heads:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"num_attention_heads is {self.num_attention_heads}; it must be a multiple of num_key_value_heads, "
                f"which is {self.num_key_value_heads}, since each key/value head serves the same number of query heads."
            )
        if self.head_dim % 2:
            raise UserError(
                f"head_dim is {self.head_dim}; it must be even, since rotary embeddings pair the two halves of a head."
            )


def trained_config(fields: Mapping[str, Any], path: str) -> ModelConfig:
    """Returns the config of a model with parameters, from the fields of the file `path`.

    Raises:
      UserError: a field is unknown, missing or invalid, or `vocab_size` is 0.
    """
    config = build(ModelConfig, fields, f"{path}: ")
    if not config.vocab_size:
        raise UserError(f"{path}: vocab_size is 0; give the number of the embedding's rows.")
    return config
