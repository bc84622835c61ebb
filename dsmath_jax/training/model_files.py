"""A stage's model below the workdir: `params/` (a checkpoint) and `model.json` (its sizes)."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.llama import Llama, initial_params
from dsmath_jax.sharding import abstract, by_rows_on, constrain_on, shardings_like
from dsmath_jax.training import checkpoint
from dsmath_jax.training.attention import attention_on
from dsmath_jax.workdir import read_json, write_json


def build_model(sizes: ModelConfig, mesh: Mesh) -> Llama:
    """The decoder as it runs on `mesh`."""
    return Llama(sizes, constrain_on(mesh), attention_on(mesh, sizes.attention), by_rows_on(mesh))


def abstract_params(config: ModelConfig, mesh: Mesh) -> Any:
    """Shapes, dtypes and shardings of the model's parameters; nothing is allocated."""
    shapes = jax.eval_shape(lambda: initial_params(Llama(config), jax.random.key(0)))
    return abstract(shapes, shardings_like(shapes, mesh))


def write_config(folder: Path, config: ModelConfig) -> None:
    if jax.process_index() == 0:
        write_json(folder / "model.json", dataclasses.asdict(config))


def read_model(folder: Path, mesh: Mesh) -> Llama:
    """The decoder of a finished stage, without its parameters."""
    return build_model(ModelConfig(**read_json(folder / "model.json")), mesh)


def read_params(folder: Path, config: ModelConfig, mesh: Mesh) -> Any:
    """The parameters of a finished stage, in their shards."""
    return checkpoint.restore(folder / "params", abstract_params(config, mesh))
