"""A stage's model below the workdir: `params/` (a checkpoint) and `model.json` (its sizes)."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dsmath_jax.data import tokenizer
from dsmath_jax.models import huggingface
from dsmath_jax.models.config import ModelConfig, trained_config
from dsmath_jax.models.llama import Llama, initial_params
from dsmath_jax.sharding import Layout, path_name
from dsmath_jax.training import checkpoint
from dsmath_jax.training.attention import attention_on
from dsmath_jax.workdir import read_json, write_json


class LanguageModel(NamedTuple):
    """A decoder with its parameters and its tokenizer, and where it lies."""

    model: Llama
    params: Any
    tokenizer: tokenizer.Tokenizer
    layout: Layout


def build_model(config: ModelConfig, layout: Layout) -> Llama:
    """The decoder as it runs on the layout's mesh."""
    return Llama(config, layout.constrain, attention_on(layout, config.attention), layout.by_rows)


def abstract_params(config: ModelConfig, layout: Layout) -> Any:
    """Shapes, dtypes and shardings of the model's parameters; nothing is allocated."""
    return layout.abstract(jax.eval_shape(lambda: initial_params(Llama(config), jax.random.key(0))))


def write_config(folder: Path, config: ModelConfig) -> None:
    if jax.process_index() == 0:
        write_json(folder / "model.json", dataclasses.asdict(config))


def read_sizes(folder: Path) -> ModelConfig:
    """Returns the sizes of a finished stage's model.

    Raises:
      UserError: a field of its `model.json` is unknown, missing or invalid.
    """
    path = folder / "model.json"
    return trained_config(read_json(path), str(path))


def read_model(folder: Path, layout: Layout) -> Llama:
    """The decoder of a finished stage, without its parameters."""
    return build_model(read_sizes(folder), layout)


def read_params(folder: Path, config: ModelConfig, layout: Layout) -> Any:
    """The parameters of a finished stage, in their shards."""
    return checkpoint.restore(folder / "params", abstract_params(config, layout))


def find_tokenizer(folder: Path) -> Path | None:
    """The file of the tokenizer of a stage's model: in its folder, as imported models have it, or the run's."""
    return tokenizer.find(folder) or tokenizer.find(folder.parent / "tokenizer")


def import_params(folder: Path, sizes: ModelConfig, layout: Layout, dtype: str = "float32") -> Any:
    """The parameters of a Hugging Face folder in their shards.

    In host memory are one device's shard of one leaf, and one layer of that as the file holds it, at a time.

    Raises:
      UserError: a file cannot be read, or its tensors are not those of its `config.json`.
    """
    like = abstract_params(sizes, layout)
    flat = {
        path_name(path): jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)
        for path, leaf in jax.tree_util.tree_leaves_with_path(like)
    }
    leaves = {
        path: _in_shards(reader, flat[path].sharding)
        for path, reader in huggingface.readers(folder, sizes, flat).items()
    }
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[path_name(path)], like)


def _in_shards(reader: huggingface.Reader, sharding: jax.sharding.Sharding) -> jax.Array:
    parts: dict[str, jax.Array] = {}  # by their place: devices that hold the same part copy it from each other
    shards = []
    for device, index in sharding.addressable_devices_indices_map(reader.shape).items():
        place = str(index)
        source = parts[place] if place in parts else reader(index)
        parts[place] = jax.block_until_ready(jax.device_put(source, device))
        shards.append(parts[place])
    return jax.make_array_from_single_device_arrays(reader.shape, sharding, shards)
