"""Writes the adapters of LoRA in the format of peft: `adapter_config.json` and `adapter_model.safetensors`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.huggingface.families import params_of
from dsmath_jax.models.huggingface.writing import write_safetensors
from dsmath_jax.models.lora import MATRICES
from dsmath_jax.workdir import write_json

CONFIG_FILE, TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every tensor, by the modules that peft wraps around the model


def write_adapters(
    folder: Path, adapters: Mapping[str, tuple[Array, Array]], config: ModelConfig, base: str, scale: float = 1.0,
    dtype: str = "float32",
) -> None:  # fmt: skip
    """Writes adapters into `folder`.

    Args:
      folder: an existing one.
      adapters: A and B by the name of the matrix (`lora.adapters_of`), B with the factor alpha / r.
      config: of the model that they belong to.
      base: the name or the folder of that model.
      scale: alpha / r, which B is divided by, and which `lora_alpha` states.
      dtype: of the tensors.
    """
    specs = {name: params_of(config)[f"layers/{name}"] for name in adapters}
    modules = {name: spec.name.split(".")[-2] for name, spec in specs.items()}  # such as q_proj
    ranks = {modules[name]: b.shape[1] for name, (_, b) in adapters.items()}
    rank = max(ranks.values())
    others = {module: each for module, each in ranks.items() if each != rank}
    write_json(
        folder / CONFIG_FILE,
        {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": True,
            "r": rank, "lora_alpha": scale * rank, "target_modules": sorted(ranks), "lora_dropout": 0.0, "bias": "none",
            "fan_in_fan_out": False, "rank_pattern": others,
            "alpha_pattern": {module: scale * each for module, each in others.items()},
        },
    )  # fmt: skip
    tensors: dict[str, tuple[str, int]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(config.num_hidden_layers):
        for name, (a, b) in adapters.items():
            module = PREFIX + specs[name].name.format(i=layer).removesuffix(".weight")
            inputs = MATRICES[name]
            tensors |= {f"{module}.lora_A.weight": (name, layer), f"{module}.lora_B.weight": (name, layer)}
            shapes[f"{module}.lora_A.weight"] = (ranks[modules[name]], math.prod(a.shape[1 : 1 + inputs]))
            shapes[f"{module}.lora_B.weight"] = (math.prod(b.shape[2:]), ranks[modules[name]])

    def fetch(tensor: str) -> np.ndarray:
        name, layer = tensors[tensor]
        a, b = adapters[name]
        array: Any = np.asarray(a[layer]) if ".lora_A." in tensor else np.asarray(b[layer]) / scale
        return array.reshape(shapes[tensor][::-1]).T

    write_safetensors(folder / TENSORS_FILE, shapes, fetch, dtype)
