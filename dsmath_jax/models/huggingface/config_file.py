"""`config.json`: to a `ModelConfig` and back."""

from pathlib import Path
from typing import Any

from dsmath_jax.models.config import ModelConfig, trained_config
from dsmath_jax.workdir import UserError, json_object

# Fields that both have, under one name: those that a file must state, and those that it may leave out or set to null.
STATED = (
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
    """The sizes of a LLaMA folder, with those fields of `ModelConfig` that are ours to choose in `changes`.

    Raises:
      UserError: no `config.json`, or a field that is missing or that the decoder does not support.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{path} is missing; give the folder of a Hugging Face model.")
    theirs = json_object(path.read_bytes(), str(path), "it")
    for field in ("architectures", *STATED):
        if field not in theirs:
            raise UserError(f"{path}: the field {field} is missing; add it.")
    for field, kind in TYPES.items():
        if field in theirs and not isinstance(theirs[field], kind):
            raise UserError(f"{path}: {field} is {theirs[field]!r}, which is of the wrong type; fix it.")
    family = next((name for name in FAMILIES if name in theirs["architectures"]), None)
    if family is None:
        raise UserError(f"{path}: architectures is {theirs['architectures']}; only {', '.join(FAMILIES)} can be read.")
    for field, value in FAMILIES[family].items():
        if theirs.get(field, value) != value:
            raise UserError(f"{path}: {field} = {theirs[field]!r} is not supported; it must be {value!r}.")
    # transformers 5 keeps everything in rope_parameters, 4 the scaling in rope_scaling and theta beside it.
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in ROPE_TYPES:
        raise UserError(f"{path}: the rope type '{rope_type}' is not supported; only {' and '.join(ROPE_TYPES)} are.")
    if rope_type == "linear" and "factor" not in rope:
        raise UserError(f"{path}: the rope type 'linear' has no factor; add it.")
    fields = {
        "head_dim": theirs["hidden_size"] // max(theirs["num_attention_heads"], 1),  # where the file states none
        "rope_theta": rope.get("rope_theta", theirs.get("rope_theta", 10_000.0)),
        "rope_scaling": rope["factor"] if rope_type == "linear" else 1.0,
        "compute_dtype": compute_dtype,
    }
    fields |= {field: theirs[field] for field in STATED}
    fields |= {field: theirs[field] for field in OPTIONAL if theirs.get(field) is not None}
    return trained_config(fields | changes, str(path))


def config_json(sizes: ModelConfig, dtype: str, bos_id: int | None, eos_id: int | None) -> dict[str, Any]:
    """The `config.json` of a model; versions 4 and 5 of transformers find the rotary embedding's settings each where
    they look."""
    rope: dict[str, Any] = {"rope_type": "default"}
    if sizes.rope_scaling != 1.0:
        rope = {"rope_type": "linear", "factor": float(sizes.rope_scaling)}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{field: getattr(sizes, field) for field in (*STATED, *OPTIONAL)},
        **FAMILIES["LlamaForCausalLM"],
        "rope_theta": sizes.rope_theta,
        "rope_scaling": None if sizes.rope_scaling == 1.0 else rope,
        "rope_parameters": rope | {"rope_theta": sizes.rope_theta},
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "dtype": dtype,
        "torch_dtype": dtype,
        "use_cache": True,
    }
