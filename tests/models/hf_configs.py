"""A tiny `config.json` of every family, as transformers 4 or 5 writes it: odd sizes, and windows that texts exceed."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dsmath_jax.models import huggingface
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.sharding import path_name
from dsmath_jax.workdir import write_json

COMMON: dict[str, Any] = {
    "vocab_size": 29, "num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 4, "intermediate_size": 20, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}  # fmt: skip
LLAMA, MISTRAL, QWEN2 = ({"architectures": [f"{name}ForCausalLM"]} for name in ("Llama", "Mistral", "Qwen2"))
GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True, "sliding_window": 5, "head_dim": 6}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"factor": 4.0, "original_max_position_embeddings": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama, all heads, own theta": LLAMA | {"rope_theta": 300.0, "num_key_value_heads": 4},
    "llama, one key head, tied": LLAMA | {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "llama, larger heads": LLAMA | {"head_dim": 6, "rope_scaling": None},
    "llama, biases": LLAMA | {"attention_bias": True},
    "llama, linear": LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama, llama3": LLAMA | {"rope_parameters": LLAMA3 | {"rope_theta": 100.0}, "head_dim": 14},
    "llama, dynamic": LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "llama, yarn": LLAMA | {"rope_scaling": YARN | {"type": "yarn"}, "head_dim": 12, "rope_theta": 1000.0},
    "qwen2, yarn with coefficients": QWEN2 | {
        "rope_parameters": YARN | {
            "rope_type": "yarn", "rope_theta": 500.0, "mscale": 0.7, "mscale_all_dim": 0.4, "beta_fast": 5.0,
            "beta_slow": 0.5, "truncate": False,
        },
        "head_dim": 12,
    },
    "mistral": MISTRAL | {"sliding_window": None},
    "mistral, window": MISTRAL | {"sliding_window": 5},
    "qwen2, tied": QWEN2 | {"tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": 5},
    "qwen2, some windows": QWEN2 | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "head_dim": 6, "attention_bias": False},
    "qwen3, biases and windows": {
        "architectures": ["Qwen3ForCausalLM"], "head_dim": 6, "attention_bias": True, "use_sliding_window": True,
        "sliding_window": 6, "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "olmo2": {"architectures": ["Olmo2ForCausalLM"], "attention_bias": False},
    "gemma2": GEMMA | {
        "architectures": ["Gemma2ForCausalLM"], "query_pre_attn_scalar": 9, "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 2.0,
    },
    "gemma3, of transformers 4": GEMMA | {
        "architectures": ["Gemma3ForCausalLM"], "query_pre_attn_scalar": 6, "sliding_window_pattern": 2,
        "rope_theta": 1000.0, "rope_local_base_freq": 50.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    },
    "gemma3, of transformers 5": GEMMA | {
        "architectures": ["Gemma3ForCausalLM"], "query_pre_attn_scalar": 6,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0},
        },
    },
}  # fmt: skip
CONFIGS = {name: COMMON | config for name, config in CONFIGS.items()}
LENGTH = 20  # tokens of a text


def model_config(name: str, folder: Path, **changes: Any) -> ModelConfig:
    """The config of one of `CONFIGS`, read from a `config.json` in the folder."""
    write_json(folder / "config.json", CONFIGS[name])
    return huggingface.read_config(folder, "float32", **changes)


@functools.cache
def shapes_of(config: ModelConfig) -> Any:
    return jax.eval_shape(lambda: initial_params(Decoder(config), jax.random.key(0)))


def random_params(config: ModelConfig) -> Any:
    """Random parameters: no scale is 1, no bias 0, and the context matters to the logits."""
    noise, shapes = np.random.default_rng(0), shapes_of(config)

    def values(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name, x = path_name(path), np.float32(noise.standard_normal(leaf.shape))
        if name.endswith("scale"):
            return 1 - config.rms_norm_offset + 0.2 * x
        return x if name.endswith(("embedding", "bias")) else x * np.float32(leaf.shape[-2] ** -0.5)

    return jax.tree_util.tree_map_with_path(values, shapes)
