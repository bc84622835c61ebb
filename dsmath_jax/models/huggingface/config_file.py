"""`config.json`: to our sizes and back."""

from pathlib import Path
from typing import Any

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.workdir import UserError, json_object

# Our field: theirs, where they mean the same.
FIELDS = {
    "vocab_size": "vocab_size",
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "context": "max_position_embeddings",
}
TYPES: dict[str, Any] = {  # of the fields that are read beyond a check of ModelConfig's
    "architectures": list, "hidden_size": int, "num_attention_heads": int, "num_key_value_heads": int | None,
    "head_dim": int | None, "rope_parameters": dict | None, "rope_scaling": dict | None,
    "tie_word_embeddings": bool | None,
}  # fmt: skip
FIXED = {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}  # what the decoder has no choice in
ROPE_TYPES = ("default", "linear")


def read_config(folder: Path, compute_dtype: str = "bfloat16", **changes: Any) -> ModelConfig:
    """The sizes of a LLaMA folder, with those fields of `ModelConfig` that are ours to choose in `changes`.

    Raises:
      UserError: no `config.json`, or a field that is missing or that the decoder does not support.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{path} is missing; give the folder of a Hugging Face model.")
    theirs = json_object(path.read_bytes(), str(path), "it")
    for field in ("architectures", *FIELDS.values()):
        if field not in theirs:
            raise UserError(f"{path}: the field {field} is missing; mend it.")
    for field, kind in TYPES.items():
        if field in theirs and not isinstance(theirs[field], kind):
            raise UserError(f"{path}: {field} is {theirs[field]!r}, which is of a wrong type; mend it.")
    if "LlamaForCausalLM" not in theirs["architectures"]:
        raise UserError(f"{path}: architectures is {theirs['architectures']}; only LlamaForCausalLM can be read.")
    for field, value in FIXED.items():
        if theirs.get(field, value) != value:
            raise UserError(f"{path}: {field} = {theirs[field]!r} is not supported; it must be {value!r}.")
    # transformers 5 keeps everything in rope_parameters, 4 the scaling in rope_scaling and theta beside it.
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in ROPE_TYPES:
        raise UserError(f"{path}: the rope type '{rope_type}' is not supported; only {' and '.join(ROPE_TYPES)} are.")
    if rope_type == "linear" and "factor" not in rope:
        raise UserError(f"{path}: the rope type 'linear' has no factor; mend it.")
    heads = theirs["num_attention_heads"]
    fields = {
        "kv_heads": theirs.get("num_key_value_heads") or heads,
        "head_size": theirs.get("head_dim") or theirs["hidden_size"] // max(heads, 1),
        "rope_theta": rope.get("rope_theta", theirs.get("rope_theta", 10_000.0)),
        "rope_scaling": rope["factor"] if rope_type == "linear" else 1.0,
        "tie_embeddings": theirs.get("tie_word_embeddings") or False,
        "compute_dtype": compute_dtype,
    }
    try:
        return ModelConfig(**{ours: theirs[field] for ours, field in FIELDS.items()} | fields | changes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def config_json(sizes: ModelConfig, dtype: str, bos_id: int | None, eos_id: int | None) -> dict[str, Any]:
    """The `config.json` of a model; versions 4 and 5 of transformers find the rotary embedding's settings each where
    they look."""
    rope: dict[str, Any] = {"rope_type": "default"}
    if sizes.rope_scaling != 1.0:
        rope = {"rope_type": "linear", "factor": float(sizes.rope_scaling)}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{field: getattr(sizes, ours) for ours, field in FIELDS.items()},
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_size,
        **FIXED,
        "rope_theta": sizes.rope_theta,
        "rope_scaling": None if sizes.rope_scaling == 1.0 else rope,
        "rope_parameters": rope | {"rope_theta": sizes.rope_theta},
        "tie_word_embeddings": sizes.tie_embeddings,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "dtype": dtype,
        "torch_dtype": dtype,
        "use_cache": True,
    }
