"""Conversion between `config.json` and `ModelConfig`."""

import dataclasses
from pathlib import Path
from typing import Any

from dsmath_jax.models.config import FULL, ROPE_TYPES, SLIDING, ModelConfig, RopeScaling, trained_config
from dsmath_jax.models.huggingface.families import FAMILIES, OPTIONAL, REQUIRED, Family, architecture_of
from dsmath_jax.workdir import UserError, json_object

# Models with a text decoder among others: the architecture of that decoder, whose config is the field text_config.
TEXT_MODELS = {"Gemma3ForConditionalGeneration": "Gemma3ForCausalLM"}
TYPES: dict[str, Any] = {  # of the fields that are used before ModelConfig checks its own
    "architectures": list, "hidden_size": int, "num_attention_heads": int, "num_hidden_layers": int,
    "rope_parameters": dict | None, "rope_scaling": dict | None, "text_config": dict, "max_window_layers": int,
    "sliding_window_pattern": int, "layer_types": list | None,
}  # fmt: skip
NOT_SCALING = ("rope_type", "type", "rope_theta", "partial_rotary_factor")  # the rest of a file's RoPE is RopeScaling's
# What each rope type must have.
ROPE_FIELDS: dict[str, tuple[str, ...]] = {
    "default": (), "linear": ("factor",), "dynamic": ("factor",), "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}  # fmt: skip


# --- reading ---


def read_config(folder: Path, compute_dtype: str = "bfloat16", **changes: Any) -> ModelConfig:
    """Returns the config of a folder with a `config.json` of transformers 4 or 5.

    `changes` sets fields of `ModelConfig` that `config.json` lacks.

    Raises:
      UserError: there is no `config.json`, or a field is missing or not supported.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{path} is missing; give the folder of a Hugging Face model.")
    hf_config = json_object(path.read_bytes(), str(path), "it")
    _check_types(hf_config, path)
    if "architectures" not in hf_config:
        raise UserError(f"{path}: the field architectures is missing; add it.")
    known = [*FAMILIES, *TEXT_MODELS]
    architecture = next((name for name in known if name in hf_config["architectures"]), None)
    if architecture is None:
        raise UserError(f"{path}: architectures is {hf_config['architectures']}; only {', '.join(known)} can be read.")
    if hf_config.get("quantization_config"):
        raise UserError(
            f"{path}: the field quantization_config says that the tensors are quantized, which is not supported; give "
            "the model that was quantized."
        )
    if architecture in TEXT_MODELS:
        if "text_config" not in hf_config:
            raise UserError(f"{path}: the field text_config of {architecture} is missing; fetch the file again.")
        architecture, hf_config = TEXT_MODELS[architecture], hf_config["text_config"]
        _check_types(hf_config, path)
    family = FAMILIES[architecture]
    hf_config = dict(family.defaults) | hf_config
    _check_values(hf_config, family, path)
    fields = _fields(hf_config, family) | _rope(hf_config, path)
    if "sliding_window" in family.fields:
        fields |= _windows(hf_config)
    return trained_config(fields | {"compute_dtype": compute_dtype} | changes, str(path))


def _check_types(hf_config: dict[str, Any], path: Path) -> None:
    for field, kind in TYPES.items():
        if field in hf_config and not isinstance(hf_config[field], kind):
            raise UserError(f"{path}: {field} is {hf_config[field]!r}, which has the wrong type; fix it.")


def _check_values(hf_config: dict[str, Any], family: Family, path: Path) -> None:
    """Raises a `UserError` where a size is missing, or a field has a value that the decoder does not support."""
    for field in REQUIRED:
        if field not in hf_config:
            raise UserError(f"{path}: the field {field} is missing; add it.")
    for field, value in family.required.items():
        if hf_config.get(field) not in (value, None):
            raise UserError(f"{path}: {field} = {hf_config[field]!r} is not supported; it must be {value!r}.")


def _fields(hf_config: dict[str, Any], family: Family) -> dict[str, Any]:
    """Returns the fields of `ModelConfig` that are read as they are."""
    fields = dict(family.decoder) | {field: hf_config[field] for field in REQUIRED}
    fields["head_dim"] = hf_config["hidden_size"] // max(hf_config["num_attention_heads"], 1)  # unless the file has it
    optional = (*OPTIONAL, *family.fields)
    return fields | {field: hf_config[field] for field in optional if hf_config.get(field) is not None}


def _windows(hf_config: dict[str, Any]) -> dict[str, Any]:
    """Returns the sliding window and the layers that have it."""
    window, layers = hf_config.get("sliding_window"), range(hf_config["num_hidden_layers"])
    if window is None or not hf_config.get("use_sliding_window", True):
        return {"sliding_window": 0, "layer_types": ()}
    types = hf_config.get("layer_types")
    if types is None and "max_window_layers" in hf_config:
        types = [SLIDING if i >= hf_config["max_window_layers"] else FULL for i in layers]
    elif types is None and "sliding_window_pattern" in hf_config:
        types = [SLIDING if (i + 1) % max(hf_config["sliding_window_pattern"], 1) else FULL for i in layers]
    return {"sliding_window": window, "layer_types": types or ()}


def _rope(hf_config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns the fields of rotary embeddings.

    transformers 5 has everything in rope_parameters, 4 has rope_scaling, rope_theta and rope_local_base_freq.
    """
    name = "rope_parameters" if hf_config.get("rope_parameters") else "rope_scaling"
    rope, local = hf_config.get(name) or {}, None
    if SLIDING in rope or FULL in rope:  # each kind of layer has its own
        rope, local = rope.get(FULL) or {}, rope.get(SLIDING) or {}
        if not (isinstance(rope, dict) and isinstance(local, dict)):
            raise UserError(f"{path}: {name} is {hf_config[name]!r}, which has the wrong type; fix it.")
    fields = {"rope_theta": rope.get("rope_theta", hf_config.get("rope_theta", 10_000.0))}
    if scaling := _scaling(rope, hf_config, f"{path}: {name}"):
        fields["rope_scaling"] = scaling
    if local == rope:
        fields["rope_local_base_freq"] = 0.0
    elif local is not None:
        if _rope_type(local) != "default":
            raise UserError(f"{path}: {name} has a rope type of {SLIDING} that is not supported; it must be 'default'.")
        fields["rope_local_base_freq"] = local.get("rope_theta", hf_config.get("rope_local_base_freq"))
    return fields


def _scaling(rope: dict[str, Any], hf_config: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns the fields of `RopeScaling`, none for the rope type "default"."""
    rope_type = _rope_type(rope)
    if rope_type not in ROPE_TYPES:
        raise UserError(f"{where}: the rope type {rope_type!r} is not supported; only {', '.join(ROPE_TYPES)} are.")
    scaling = {field: value for field, value in rope.items() if field not in NOT_SCALING and value is not None}
    for field in ROPE_FIELDS[rope_type]:
        if field not in scaling:
            raise UserError(f"{where}: the rope type '{rope_type}' has no {field}; add it.")
    if unknown := sorted(scaling.keys() - {field.name for field in dataclasses.fields(RopeScaling)}):
        raise UserError(f"{where} has the field {unknown[0]}, which is not supported.")
    if rope.get("partial_rotary_factor", hf_config.get("partial_rotary_factor")) not in (1, None):
        raise UserError(f"{where}: partial_rotary_factor is not supported; it must be 1.0.")
    context = hf_config["max_position_embeddings"]
    if rope_type == "dynamic" and scaling.get("original_max_position_embeddings", context) != context:
        raise UserError(
            f"{where}: with the rope type 'dynamic', frequencies would depend on the length of a text beyond "
            "original_max_position_embeddings, which is not supported; set max_position_embeddings to it."
        )
    return {} if rope_type == "default" else scaling | {"rope_type": rope_type}


def _rope_type(rope: dict[str, Any]) -> Any:
    return rope.get("rope_type", rope.get("type")) or "default"


# --- writing ---


def config_json(config: ModelConfig, dtype: str, bos_id: int | None, eos_id: int | None) -> dict[str, Any]:
    """Returns the `config.json` of a model, with rotary embeddings in the format of both transformers 4 and 5.

    Raises:
      UserError: no architecture of transformers has the decoder.
    """
    architecture = architecture_of(config)
    family = FAMILIES[architecture]
    hf_config: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": family.model_type,
        **{field: getattr(config, field) for field in (*REQUIRED, *OPTIONAL)},
        **family.required,
        **{field: _or_null(getattr(config, field)) for field in family.fields},
        **_rope_json(config),
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "dtype": dtype,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    if "layer_types" in family.fields:
        hf_config["layer_types"] = [SLIDING if sliding else FULL for sliding in config.sliding_layers]
    if "use_sliding_window" in family.defaults:
        first = config.sliding_layers.index(True) if config.sliding_window else config.num_hidden_layers
        hf_config |= {"use_sliding_window": bool(config.sliding_window), "max_window_layers": first}
    if "query_pre_attn_scalar" in family.fields:
        hf_config["query_pre_attn_scalar"] = config.query_pre_attn_scalar or config.head_dim
    if "rope_local_base_freq" in family.fields:
        full, local = hf_config["rope_parameters"], config.rope_local_base_freq
        own = {"rope_type": "default", "rope_theta": local} if local else full
        hf_config["rope_parameters"] = {FULL: full, SLIDING: own}
        hf_config["rope_local_base_freq"] = local or config.rope_theta
    return hf_config


def _or_null(value: Any) -> Any:
    """Returns None for a number of 0, by which `ModelConfig` says that there is no such thing."""
    return None if value == 0 and not isinstance(value, bool) else value


def _rope_json(config: ModelConfig) -> dict[str, Any]:
    defaults, scaling = dataclasses.asdict(RopeScaling()), dataclasses.asdict(config.rope_scaling)
    rope_type = scaling["rope_type"]
    needed = () if rope_type == "default" else ("rope_type", *ROPE_FIELDS[rope_type])
    rope = {name: value for name, value in scaling.items() if value != defaults[name] or name in needed}
    if rope_type == "yarn":
        rope.setdefault("original_max_position_embeddings", config.max_position_embeddings)
    return {
        "rope_theta": config.rope_theta,
        "rope_scaling": None if rope_type == "default" else rope,
        "rope_parameters": rope | {"rope_theta": config.rope_theta},
    }
