"""The model config: sizes of the decoder, under the names of Hugging Face's `config.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dsmath_jax.settings import Settings, build, setting
from dsmath_jax.workdir import UserError

DTYPES = ("bfloat16", "float32", "float64")
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")
ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
NORM_PLACEMENTS = ("before", "after", "both")
QK_NORMS = ("none", "head", "all")
LAYER_TYPES = FULL, SLIDING = "full_attention", "sliding_attention"
REMAT = ("none", "full", "dots", "minimal")  # the keys of decoder.REMAT
ATTENTION = ("auto", "xla", "splash", "cudnn")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling(Settings):
    """How rotary embeddings are stretched beyond the context of pre-training; see `rope.py`.

    Raises:
      UserError: a field is invalid, or one that the rope type needs is missing.
    """

    rope_type: str = setting("default", "rule of the frequencies: a key of rope.RULES", choices=ROPE_TYPES)
    factor: float = setting(1.0, "by how much the context is stretched", gt=0)
    original_max_position_embeddings: int = setting(
        0, "context before it was stretched, tokens; 0: max_position_embeddings", ge=0
    )
    low_freq_factor: float = setting(0.0, "llama3: wavelengths above original context / this are stretched", ge=0)
    high_freq_factor: float = setting(0.0, "llama3: wavelengths below original context / this are not", ge=0)
    beta_fast: float = setting(32.0, "yarn: frequencies with more rotations in the context are not stretched", gt=0)
    beta_slow: float = setting(1.0, "yarn: frequencies with fewer rotations in the context are stretched", gt=0)
    truncate: bool = setting(True, "yarn: whether the bounds between the two are rounded to whole frequencies")
    attention_factor: float = setting(
        0.0, "yarn: factor of queries and keys; 0: by YaRN's formula (arXiv 2309.00071) of mscale and mscale_all_dim",
        ge=0,
    )  # fmt: skip
    mscale: float = setting(0.0, "yarn: coefficient in that formula, with mscale_all_dim; 0: one for both", ge=0)
    mscale_all_dim: float = setting(0.0, "yarn: coefficient of the formula's denominator", ge=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rope_type == "llama3" and not (
            self.original_max_position_embeddings and 0 < self.low_freq_factor < self.high_freq_factor
        ):
            raise UserError(
                "rope_type 'llama3' needs original_max_position_embeddings and 0 < low_freq_factor < high_freq_factor; "
                f"got {self.original_max_position_embeddings}, {self.low_freq_factor} and {self.high_freq_factor}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Config of a decoder: sizes, and what model families do differently; the defaults are LLaMA's (paper §2.2, §2.3).

    For the axis letters see `decoder.py`.

    Raises:
      UserError: a field is invalid; the message begins with the first invalid one.
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
    rope_scaling: RopeScaling = setting(RopeScaling(), "how the rotary embedding is stretched to longer contexts")
    rope_local_base_freq: float = setting(
        0.0, "rope_theta of the layers with a sliding window, not stretched; 0: as in the other layers", ge=0
    )
    rms_norm_eps: float = setting(1e-6, "added to the mean square in RMSNorm", gt=0)
    rms_norm_offset: float = setting(0.0, "added to the learned scale in RMSNorm; 1 in Gemma", ge=0, le=1)
    norm_placement: str = setting(
        "before", "where attention and feed-forward are normalized: before (their input), after (their output) or both",
        choices=NORM_PLACEMENTS,
    )  # fmt: skip
    qk_norm: str = setting(
        "none",
        "RMSNorm of queries and keys: none, head (each head) or all (all heads together)",
        choices=QK_NORMS,
    )
    attention_bias: bool = setting(False, "whether the q, k, v and output projections have biases")
    qkv_bias: bool = setting(False, "whether the q, k and v projections have biases")
    query_pre_attn_scalar: int = setting(0, "scores are divided by its square root; 0: head_dim", ge=0)
    attn_logit_softcapping: float = setting(0.0, "c in c x tanh(scores / c) of attention; 0: no cap", ge=0)
    final_logit_softcapping: float = setting(0.0, "c in c x tanh(logits / c) of the output; 0: no cap", ge=0)
    sliding_window: int = setting(0, "tokens that a token sees, itself included; 0: all earlier ones", ge=0)
    layer_types: tuple[str, ...] = setting(
        (), "of each layer, full_attention or sliding_attention; empty: sliding_window is that of all layers",
        choices=LAYER_TYPES,
    )  # fmt: skip
    hidden_act: str = setting("silu", "activation of the feed-forward layer's gate", choices=ACTIVATIONS)
    scale_embeddings: bool = setting(False, "whether embeddings are multiplied by the square root of hidden_size")
    tie_word_embeddings: bool = setting(False, "whether the output matrix is the embedding's transpose")
    max_position_embeddings: int = setting(4096, "longest sequence, tokens", ge=1)
    compute_dtype: str = setting(
        "bfloat16", "dtype of activations and matrix products; parameters are float32", choices=DTYPES
    )
    remat: str = setting(
        "minimal", "rematerialization policy of a layer: a key of decoder.REMAT",
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
        self._check_layer_types()
        if self.rope_local_base_freq and self.rope_scaling.rope_type == "yarn":
            raise UserError(
                f"rope_local_base_freq is {self.rope_local_base_freq}; with the rope type 'yarn', whose attention "
                "factor is that of all layers, it must be 0."
            )

    def _check_layer_types(self) -> None:
        """Checks `layer_types`, and replaces one whose layers are all alike by ()."""
        if len(self.layer_types) not in (0, self.num_hidden_layers):
            raise UserError(
                f"layer_types has {len(self.layer_types)} entries; give one for each of the {self.num_hidden_layers} "
                "layers."
            )
        if SLIDING in self.layer_types and not self.sliding_window:
            raise UserError(f"sliding_window is 0; give the window of the layers that layer_types calls '{SLIDING}'.")
        if len(set(self.layer_types)) == 1:
            if FULL in self.layer_types:
                object.__setattr__(self, "sliding_window", 0)
            object.__setattr__(self, "layer_types", ())

    @property
    def sliding_layers(self) -> tuple[bool, ...]:
        """Whether each layer's attention has the sliding window."""
        if self.layer_types:
            return tuple(kind == SLIDING for kind in self.layer_types)
        return (bool(self.sliding_window),) * self.num_hidden_layers


def trained_config(fields: Mapping[str, Any], path: str) -> ModelConfig:
    """Returns the config of a model with parameters, from the fields of the file `path`.

    Raises:
      UserError: a field is unknown, missing or invalid, or `vocab_size` is 0.
    """
    config = build(ModelConfig, fields, f"{path}: ")
    if not config.vocab_size:
        raise UserError(f"{path}: vocab_size is 0; give the number of the embedding's rows.")
    return config
