"""Sizes by name: what a recipe's `config.model` starts from."""

import dataclasses
from typing import Any

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.workdir import UserError

# A vocabulary of 0 is the tokenizer's. Heads, if not stated otherwise, have keys and values of their own.
SIZES: dict[str, dict[str, Any]] = {
    # 1.0 M parameters with 1,536 pieces: the laptop demo. On a CPU making values again is quicker than keeping them.
    "1m": {"vocab_size": 0, "layers": 4, "width": 128, "heads": 4, "head_size": 32, "hidden": 384, "context": 512,
           "tie_embeddings": True, "compute_dtype": "float32", "remat": "full"},
    # 134 M parameters with 32,000 pieces: one accelerator, minutes.
    "134m": {"vocab_size": 0, "layers": 12, "width": 768, "heads": 12, "head_size": 64, "hidden": 2048},
    # DeepSeek-LLM's small published shape, the paper's §2.2: 1.63 B parameters with both embeddings.
    "1b3": {"vocab_size": 102_400, "layers": 24, "width": 2048, "heads": 16, "head_size": 128, "hidden": 5504},
    # DeepSeek-Coder-Base-v1.5 7B and all DeepSeekMath 7B models (§2.3, §3, §4): 6.91 B parameters.
    "7b": {"vocab_size": 102_400, "layers": 30, "width": 4096, "heads": 32, "head_size": 128, "hidden": 11_008},
}  # fmt: skip


def sizes(name: str, **changes: Any) -> dict[str, Any]:
    """Every field of `ModelConfig` for the size `name`, with `changes`: a recipe's `config.model`.

    Raises:
      UserError: there is no such size or field.
    """
    if name not in SIZES:
        raise UserError(f"There is no model size '{name}'; give one of {', '.join(SIZES)}.")
    defaults = {f.name: f.default for f in dataclasses.fields(ModelConfig) if f.default is not dataclasses.MISSING}
    stated = SIZES[name] | changes
    unknown = sorted(stated.keys() - {field.name for field in dataclasses.fields(ModelConfig)})
    if unknown:
        raise UserError(f"The model has no field '{unknown[0]}'; see ModelConfig in dsmath_jax/models/config.py.")
    return {"kv_heads": stated["heads"]} | defaults | stated
