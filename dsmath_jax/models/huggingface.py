"""Hugging Face LLaMA folders in: `config.json` to `ModelConfig`, safetensors to named arrays in our layout."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.workdir import UserError

# Our leaf: (their name, with {i} for the layer where leaves are stacked; how many of our first axes are the inputs of
# the matrix, which theirs has last, flattened: [outputs, inputs]; 0 for a leaf that is the same in both).
LEAVES: dict[str, tuple[str, int]] = {
    "embedding": ("model.embed_tokens.weight", 0),
    "head": ("lm_head.weight", 1),
    "final_norm/scale": ("model.norm.weight", 0),
    "layers/attention_norm/scale": ("model.layers.{i}.input_layernorm.weight", 0),
    "layers/feed_forward_norm/scale": ("model.layers.{i}.post_attention_layernorm.weight", 0),
    "layers/q": ("model.layers.{i}.self_attn.q_proj.weight", 1),
    "layers/k": ("model.layers.{i}.self_attn.k_proj.weight", 1),
    "layers/v": ("model.layers.{i}.self_attn.v_proj.weight", 1),
    "layers/o": ("model.layers.{i}.self_attn.o_proj.weight", 2),
    "layers/gate": ("model.layers.{i}.mlp.gate_proj.weight", 1),
    "layers/up": ("model.layers.{i}.mlp.up_proj.weight", 1),
    "layers/down": ("model.layers.{i}.mlp.down_proj.weight", 1),
}
REQUIRED = (
    "architectures", "vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size",
    "rms_norm_eps", "max_position_embeddings",
)  # fmt: skip
UNSUPPORTED = {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}


def read_config(folder: Path, compute_dtype: str) -> ModelConfig:
    """The sizes of a LLaMA folder.

    Raises:
      UserError: no `config.json`, or a field that the decoder does not support.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{path} is missing; give a Hugging Face model folder as hf:DIR.")
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path} is not JSON; give a Hugging Face model folder as hf:DIR.") from None
    missing = [field for field in REQUIRED if field not in theirs]
    if missing:
        raise UserError(f"{path}: the field {missing[0]} is missing; mend it.")
    if "LlamaForCausalLM" not in theirs["architectures"]:
        raise UserError(f"{path}: architectures is {theirs['architectures']}; only LlamaForCausalLM can be read.")
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(f"{path}: the rope type '{kind}' is not supported; only 'default' is.")
    for field, value in UNSUPPORTED.items():
        if theirs.get(field, value) != value:
            raise UserError(f"{path}: {field} = {theirs[field]!r} is not supported; it must be {value!r}.")
    heads = theirs["num_attention_heads"]
    return ModelConfig(
        vocab_size=theirs["vocab_size"],
        layers=theirs["num_hidden_layers"],
        width=theirs["hidden_size"],
        heads=heads,
        kv_heads=theirs.get("num_key_value_heads", heads),
        head_size=theirs.get("head_dim") or theirs["hidden_size"] // heads,
        hidden=theirs["intermediate_size"],
        rope_theta=float(rope.get("rope_theta", theirs.get("rope_theta", 10_000.0))),
        norm_eps=theirs["rms_norm_eps"],
        tie_embeddings=theirs.get("tie_word_embeddings", False),
        context=theirs["max_position_embeddings"],
        compute_dtype=compute_dtype,
    )


def read_arrays(folder: Path, config: ModelConfig, like: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (our path, float32 array) leaf by leaf; the layers of a leaf are stacked.

    Args:
      folder: with one or several `*.safetensors` files.
      config: from `read_config`.
      like: our leaves by path, for the shapes they must have.

    Raises:
      UserError: a file cannot be read, or a tensor is missing, unexpected or misshapen (named).
    """
    files: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            opened = safe_open(str(path), framework="flax")
        except SafetensorError as error:
            raise UserError(f"{path} cannot be read ({error}); fetch it again.") from None
        files |= dict.fromkeys(opened.keys(), opened)
    if not files:
        raise UserError(f"{folder} holds no .safetensors file; give a Hugging Face model folder as hf:DIR.")
    wanted = {name: leaf for name, leaf in LEAVES.items() if name in like}
    used = set()
    for ours, (theirs, inputs) in wanted.items():
        shape = tuple(like[ours].shape)[1:] if "{i}" in theirs else tuple(like[ours].shape)
        expected = (math.prod(shape[inputs:]), math.prod(shape[:inputs])) if inputs else shape
        names = [theirs.format(i=i) for i in range(config.layers)] if "{i}" in theirs else [theirs]
        layers = []
        for name in names:
            if name not in files:
                raise UserError(f"{folder}: the tensor {name} is missing.")
            tensor = np.asarray(files[name].get_tensor(name)).astype(np.float32)
            if tensor.shape != expected:
                raise UserError(
                    f"{folder}: the tensor {name} has shape {tensor.shape}; by config.json it has {expected}."
                )
            layers.append(tensor.T.reshape(shape) if inputs else tensor)
        used |= set(names)
        yield ours, np.stack(layers) if "{i}" in theirs else layers[0]
    rest = sorted(name for name in files.keys() - used if not name.endswith("rotary_emb.inv_freq"))
    if rest and not (config.tie_embeddings and rest == ["lm_head.weight"]):
        raise UserError(f"{folder}: the tensor {rest[0]} is unexpected in a LlamaForCausalLM of this config.json.")
