"""Writes safetensors: files of bounded size, one tensor at a time.

A safetensors file is the length of its header (8 bytes, little-endian), the header (JSON: dtype, shape and offsets of
each tensor), and the data. The header is known before the first tensor is fetched.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.models.huggingface.config_file import config_json
from dsmath_jax.models.huggingface.families import FAMILIES, architecture_of, params_of
from dsmath_jax.models.huggingface.names import INDEX_FILE, SINGLE_FILE, ParamSpec
from dsmath_jax.workdir import UserError, atomic_write, json_object, write_json

GIGABYTE = 10**9
TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


class Tensor(NamedTuple):
    """A tensor of the files and the parameter that it is part of."""

    name: str
    path: str  # of the parameter
    layer: int | None  # its index in a stacked parameter
    shape: tuple[int, ...]


def write(
    folder: Path,
    params: Any,
    config: ModelConfig,
    dtype: str = "bfloat16",
    max_file_bytes: int = 5 * GIGABYTE,
    bos_id: int | None = None,
    stop_ids: tuple[int, ...] = (),
) -> None:
    """Writes a model's `config.json`, `generation_config.json` and tensors into `folder`.

    One tensor at a time is in host memory. The folder is complete only at the end: pass a temporary one.

    Args:
      folder: an existing one.
      params: of any floating-point dtype; every array fully addressable by this process.
      config: of the model.
      dtype: of the tensors in the files.
      max_file_bytes: a larger model is split into several files, with an index.
      bos_id: of the tokenizer, None without one.
      stop_ids: of the tokenizer, EOS first.

    Raises:
      UserError: the dtype is not one of `TYPES` or too narrow for the family, no family has the decoder, or the
        parameters are not those of a decoder.
    """
    if dtype not in TYPES:
        raise UserError(f"Tensors cannot be written as '{dtype}'; give one of {', '.join(TYPES)}.")
    architecture, specs = architecture_of(config), params_of(config)
    if dtype == "float16" and not FAMILIES[architecture].float16:
        raise UserError(
            f"{architecture} cannot be written as 'float16', which its activations overflow; give bfloat16."
        )
    flat = flatten_dict(params, sep="/")
    decoder = jax.eval_shape(lambda: initial_params(Decoder(config), jax.random.key(0)))
    for path in sorted(flat.keys() ^ flatten_dict(decoder, sep="/").keys()):
        raise UserError(
            f"The parameters are not those of a language model ({'unexpected' if path in flat else 'missing'}: "
            f"{path}); export a stage that trains one."
        )
    write_json(folder / "config.json", config_json(config, dtype, bos_id, stop_ids[0] if stop_ids else None))
    if stop_ids:
        path = folder / "generation_config.json"  # the tokenizer's files may include it
        existing = json_object(path.read_bytes(), str(path), "it") if path.is_file() else {}
        stated = existing.get("eos_token_id") or []
        eos = list(dict.fromkeys([*(stated if isinstance(stated, list) else [stated]), *stop_ids]))
        eos_field = {"eos_token_id": eos[0] if len(eos) == 1 else eos}
        write_json(path, {"bos_token_id": bos_id} | existing | eos_field)
    files = list(_files(_tensors(flat, specs, config.num_hidden_layers), jnp.dtype(dtype).itemsize, max_file_bytes))
    names = [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    names = names if len(files) > 1 else [SINGLE_FILE]
    for name, tensors in zip(names, files, strict=True):
        _write_file(folder / name, tensors, flat, specs, dtype)
    if len(files) > 1:
        total = sum(math.prod(tensor.shape) for tensors in files for tensor in tensors) * jnp.dtype(dtype).itemsize
        weight_map = {tensor.name: name for name, tensors in zip(names, files, strict=True) for tensor in tensors}
        write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _tensors(flat: dict[str, Any], specs: dict[str, ParamSpec], layers: int) -> Iterator[Tensor]:
    """Yields the tensors in the decoder's order: embedding, layer by layer, norm and head."""
    stacked = [path for path, spec in specs.items() if path in flat and spec.stacked]
    order: list[tuple[str, int | None]] = [("embedding", None)]
    order += [(path, layer) for layer in range(layers) for path in stacked]
    order += [(path, None) for path in ("final_norm/scale", "head") if path in flat]
    for path, layer in order:
        spec = specs[path]
        yield Tensor(spec.name.format(i=layer), path, layer, spec.tensor_shape(flat[path].shape))


def _files(tensors: Iterator[Tensor], itemsize: int, max_bytes: int) -> Iterator[list[Tensor]]:
    """Splits tensors into files of at most `max_bytes`; a larger tensor gets its own file."""
    file: list[Tensor] = []
    size = 0
    for tensor in tensors:
        more = math.prod(tensor.shape) * itemsize
        if file and size + more > max_bytes:
            yield file
            file, size = [], 0
        file.append(tensor)
        size += more
    yield file


def _write_file(
    path: Path, tensors: list[Tensor], flat: dict[str, Any], specs: dict[str, ParamSpec], dtype: str
) -> None:
    by_name = {tensor.name: tensor for tensor in tensors}

    def fetch(name: str) -> np.ndarray:
        tensor = by_name[name]
        param = flat[tensor.path]
        array = np.asarray(param if tensor.layer is None else param[tensor.layer])
        return array.reshape(tensor.shape[::-1]).T if specs[tensor.path].inputs else array

    write_safetensors(path, {tensor.name: tensor.shape for tensor in tensors}, fetch, dtype)


def write_safetensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], fetch: Callable[[str], np.ndarray], dtype: str
) -> None:
    """Writes the tensors of these names and shapes, one after the other as `fetch(name)` returns them, as `dtype`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * jnp.dtype(dtype).itemsize
        header[name] = {"dtype": TYPES[dtype], "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the data to 8 bytes
    with atomic_write(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in shapes:
            file.write(np.ascontiguousarray(fetch(name), jnp.dtype(dtype)).view(np.uint8).data)
