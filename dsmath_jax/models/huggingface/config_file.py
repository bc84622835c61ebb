"""Conversion between `config.json` and `ModelConfig`."""

from pathlib import Path
from typing import Any

from dsmath_jax.models.config import ModelConfig, trained_config
from dsmath_jax.workdir import UserError, json_object

# Fields that both have, under one name: those that are required in a file, and those that may be missing or null.
REQUIRED = (
    "vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "rms_norm_eps",
    "max_position_embeddings",
)  # fmt: skip
OPTIONAL = ("num_key_value_heads", "head_dim", "tie_word_embeddings")
TYPES: dict[str, Any] = {  # of the fields that are used before ModelConfig checks its own
    "architectures": list, "hidden_size": int, "num_attention_heads": int, "rope_parameters": dict | None,
    "rope_scaling": dict | None,
}  # fmt: skip
# Families whose decoder and tensor names are LLaMA's: an architecture, and the values that the decoder requires.
FAMILIES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}
}
ROPE_TYPES = ("default", "linear")


def read_config(folder: Path, compute_dtype: str = "bfloat16", **changes: Any) -> ModelConfig:
    """Returns the config of a LLaMA folder; `changes` sets fields of `ModelConfig` that `config.json` lacks.

    Raises:
      UserError: there is no `config.json`, or a field is missing or not supported.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{path} is missing; give the folder of a Hugging Face model.")
    hf_config = json_object(path.read_bytes(), str(path), "it")
    for field in ("architectures", *REQUIRED):
        if field not in hf_config:
            raise UserError(f"{path}: the field {field} is missing; add it.")
    for field, kind in TYPES.items():
        if field in hf_config and not isinstance(hf_config[field], kind):
            raise UserError(f"{path}: {field} is {hf_config[field]!r}, which has the wrong type; fix it.")
    architectures = hf_config["architectures"]
    family = next((name for name in FAMILIES if name in architectures), None)
    if family is None:
        raise UserError(f"{path}: architectures is {architectures}; only {', '.join(FAMILIES)} can be read.")
    for field, value in FAMILIES[family].items():
        if hf_config.get(field, value) != value:
            raise UserError(f"{path}: {field} = {hf_config[field]!r} is not supported; it must be {value!r}.")
    # transformers 5 has everything in rope_parameters, 4 has rope_scaling and rope_theta.
    rope = hf_config.get("rope_parameters") or hf_config.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in ROPE_TYPES:
        raise UserError(f"{path}: the rope type '{rope_type}' is not supported; only {' and '.join(ROPE_TYPES)} are.")
    if rope_type == "linear" and "factor" not in rope:
        raise UserError(f"{path}: the rope type 'linear' has no factor; add it.")
    fields = {
        "head_dim": hf_config["hidden_size"] // max(hf_config["num_attention_heads"], 1),  # unless the file has it
        "rope_theta": rope.get("rope_theta", hf_config.get("rope_theta", 10_000.0)),
        "rope_scaling": rope["factor"] if rope_type == "linear" else 1.0,
        "compute_dtype": compute_dtype,
    }
    fields |= {field: hf_config[field] for field in REQUIRED}
    fields |= {field: hf_config[field] for field in OPTIONAL if hf_config.get(field) is not None}
    return trained_config(fields | changes, str(path))


def config_json(config: ModelConfig, dtype: str, bos_id: int | None, eos_id: int | None) -> dict[str, Any]:
    """Returns the `config.json` of a model, with rotary embeddings in the format of both transformers 4 and 5."""
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling != 1.0:
        rope = {"rope_type": "linear", "factor": float(config.rope_scaling)}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{field: getattr(config, field) for field in (*REQUIRED, *OPTIONAL)},
        **FAMILIES["LlamaForCausalLM"],
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling == 1.0 else rope,
        "rope_parameters": rope | {"rope_theta": config.rope_theta},
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "dtype": dtype,
        "torch_dtype": dtype,
        "use_cache": True,
    }
