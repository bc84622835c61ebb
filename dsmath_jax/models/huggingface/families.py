"""Model families: what `config.json` and the tensors of each have that LLaMA's do not."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.huggingface.names import PARAMS, ParamSpec
from dsmath_jax.workdir import UserError

# Fields of ModelConfig that the config.json of every family has under the same name: those that it must have, and those
# that may be missing or null.
REQUIRED = (
    "vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "rms_norm_eps",
    "max_position_embeddings",
)  # fmt: skip
OPTIONAL = ("num_key_value_heads", "head_dim", "tie_word_embeddings")
ROPE = ("rope_theta", "rope_scaling")  # of every family, but each version of transformers writes them otherwise
RUNTIME = ("compute_dtype", "remat", "attention")  # of ModelConfig alone


class Family(NamedTuple):
    """One architecture of transformers.

    Attributes:
      model_type: its name in `config.json`.
      decoder: values of `ModelConfig` fields that all its models share, other than the default.
      fields: further fields of `ModelConfig` that its `config.json` has, under the same name.
      required: fields of `config.json` that have one value only.
      defaults: values of fields that `config.json` may lack, as in transformers.
      params: tensors with other names than LLaMA's.
      float16: whether activations stay within the range of float16.
    """

    model_type: str
    decoder: Mapping[str, Any] = {}
    fields: tuple[str, ...] = ()
    required: Mapping[str, Any] = {}
    defaults: Mapping[str, Any] = {}
    params: Mapping[str, ParamSpec] = {}
    float16: bool = True


_QWEN_WINDOWS = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
_GEMMA = Family(
    "gemma2",
    {
        "norm_placement": "both", "rms_norm_offset": 1.0, "scale_embeddings": True, "hidden_act": "gelu_pytorch_tanh"
    },
    (
        "attention_bias", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping",
        "sliding_window", "layer_types",
    ),
    {"hidden_activation": "gelu_pytorch_tanh"},
    {
        "head_dim": 256, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
        "sliding_window": 4096, "sliding_window_pattern": 2, "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    {"layers/feed_forward_norm/scale": ParamSpec("model.layers.{i}.pre_feedforward_layernorm.weight", 0)},
    float16=False,
)  # fmt: skip

# By architecture. Where several have the decoder of a config, the first is exported.
FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(
        "llama", fields=("hidden_act", "attention_bias"), required={"mlp_bias": False}
    ),
    "MistralForCausalLM": Family(
        "mistral", fields=("hidden_act", "sliding_window"), defaults={"sliding_window": 4096}
    ),
    "Qwen2ForCausalLM": Family(
        "qwen2", {"qkv_bias": True}, ("hidden_act", "sliding_window", "layer_types"), defaults=_QWEN_WINDOWS
    ),
    "Qwen3ForCausalLM": Family(
        "qwen3", {"qk_norm": "head"}, ("hidden_act", "attention_bias", "sliding_window", "layer_types"),
        defaults=_QWEN_WINDOWS | {"head_dim": 128},
    ),
    "Olmo2ForCausalLM": Family(
        "olmo2", {"qk_norm": "all", "norm_placement": "after"}, ("hidden_act", "attention_bias"),
        defaults={"rms_norm_eps": 1e-5},
    ),
    "Gemma2ForCausalLM": _GEMMA,
    "Gemma3ForCausalLM": _GEMMA._replace(
        model_type="gemma3_text",
        decoder={**_GEMMA.decoder, "qk_norm": "head"},
        fields=(*_GEMMA.fields, "rope_local_base_freq"),
        required={**_GEMMA.required, "use_bidirectional_attention": False},
        defaults={
            **_GEMMA.defaults,
            "attn_logit_softcapping": None, "final_logit_softcapping": None, "sliding_window_pattern": 6,
            "rope_theta": 1e6, "rope_local_base_freq": 1e4, "num_attention_heads": 8, "num_key_value_heads": 4,
            "max_position_embeddings": 131_072, "vocab_size": 262_208,
        },
    ),
}  # fmt: skip


def architecture_of(config: ModelConfig) -> str:
    """Returns the first architecture that has the config's decoder.

    Raises:
      UserError: none has it.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(ModelConfig)}
    own = defaults.keys() - {*REQUIRED, *OPTIONAL, *ROPE, *RUNTIME}

    def different(family: Family) -> list[str]:
        values = {name: defaults[name] for name in own - set(family.fields)} | dict(family.decoder)
        return sorted(name for name, value in values.items() if getattr(config, name) != value)

    found = {architecture: different(family) for architecture, family in FAMILIES.items()}
    architecture = min(found, key=lambda name: len(found[name]))
    if found[architecture]:
        fields = ", ".join(f"{name}={getattr(config, name)!r}" for name in found[architecture])
        raise UserError(
            f"No architecture of transformers has a decoder with {fields}; the nearest is {architecture}. Keep the "
            "model in its stage's format."
        )
    return architecture


def params_of(config: ModelConfig) -> dict[str, ParamSpec]:
    """Returns the tensors of every parameter that a model of the config's family may have."""
    return PARAMS | dict(FAMILIES[architecture_of(config)].params)
