"""Model sizes by name, for a recipe's `config.model`."""

from typing import Any

from dsmath_jax.workdir import UserError

_QWEN = {  # of Qwen2.5 up to 3B
    "vocab_size": 151_936, "num_key_value_heads": 2, "rope_theta": 1e6, "max_position_embeddings": 32_768,
    "qkv_bias": True, "tie_word_embeddings": True,
}  # fmt: skip
# Without vocab_size, the tokenizer's is used; without num_key_value_heads, every query head has its own.
SIZES: dict[str, dict[str, Any]] = {
    # 1.0 M parameters with 1,536 pieces: the laptop demo. On a CPU recomputing values is quicker than storing them.
    "1m": {
        "num_hidden_layers": 4, "hidden_size": 128, "num_attention_heads": 4, "head_dim": 32, "intermediate_size": 384,
        "max_position_embeddings": 512, "tie_word_embeddings": True, "compute_dtype": "float32", "remat": "full",
    },
    # 134 M parameters with 32,000 pieces: one accelerator, minutes.
    "134m": {
        "num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "head_dim": 64,
        "intermediate_size": 2048,
    },
    # DeepSeek-LLM's small published shape, the paper's §2.2: 1.63 B parameters with both embeddings.
    "1b3": {
        "vocab_size": 102_400, "num_hidden_layers": 24, "hidden_size": 2048, "num_attention_heads": 16,
        "head_dim": 128, "intermediate_size": 5504,
    },
    # DeepSeek-Coder-Base-v1.5 7B and all DeepSeekMath 7B models (§2.3, §3, §4): 6.91 B parameters.
    "7b": {
        "vocab_size": 102_400, "num_hidden_layers": 30, "hidden_size": 4096, "num_attention_heads": 32,
        "head_dim": 128, "intermediate_size": 11_008,
    },
    # Qwen2.5 and its Instruct, Math and Coder models: for configs/sft.py and configs/grpo.py.
    "qwen2.5-0.5b": _QWEN | {
        "num_hidden_layers": 24, "hidden_size": 896, "num_attention_heads": 14, "head_dim": 64,
        "intermediate_size": 4864,
    },
    "qwen2.5-1.5b": _QWEN | {
        "num_hidden_layers": 28, "hidden_size": 1536, "num_attention_heads": 12, "head_dim": 128,
        "intermediate_size": 8960,
    },
    "qwen2.5-3b": _QWEN | {
        "num_hidden_layers": 36, "hidden_size": 2048, "num_attention_heads": 16, "head_dim": 128,
        "intermediate_size": 11_008,
    },
    "qwen2.5-7b": _QWEN | {
        "vocab_size": 152_064, "num_hidden_layers": 28, "hidden_size": 3584, "num_attention_heads": 28,
        "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 18_944, "tie_word_embeddings": False,
    },
}  # fmt: skip


def sizes(name: str, **changes: Any) -> dict[str, Any]:
    """Returns the fields of `ModelConfig` of the size `name`, with `changes`: a recipe's `config.model`.

    Raises:
      UserError: there is no such size.
    """
    if name not in SIZES:
        raise UserError(f"There is no model size '{name}'; give one of {', '.join(SIZES)}.")
    return SIZES[name] | changes
