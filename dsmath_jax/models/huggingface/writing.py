"""Safetensors out: files of bounded size, written tensor by tensor.

A safetensors file is the length of its header (8 bytes, little-endian), the header (JSON: each tensor's type, shape and
place among the data), and the data. All of the header is known before the first tensor is.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.huggingface.config_file import config_json
from dsmath_jax.models.huggingface.names import INDEX_FILE, LEAVES, SINGLE_FILE
from dsmath_jax.workdir import UserError, atomic_write, json_object, write_json

GIGABYTE = 10**9
TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


class Tensor(NamedTuple):
    """One of their tensors and where it is found in our parameters."""

    name: str
    path: str  # of our leaf
    layer: int | None  # its place in a stacked leaf
    shape: tuple[int, ...]


def write(
    folder: Path,
    params: Any,
    sizes: ModelConfig,
    dtype: str = "bfloat16",
    max_file_bytes: int = 5 * GIGABYTE,
    bos_id: int | None = None,
    stop_ids: tuple[int, ...] = (),
) -> None:
    """Writes a model's `config.json`, `generation_config.json` and tensors into `folder`.

    In host memory is one tensor at a time. The folder is whole only at the end: the caller gives a temporary one.

    Args:
      folder: an existing one.
      params: our parameters, every array within this process's reach; of any floating-point type.
      sizes: the model's.
      dtype: of the tensors in the files.
      max_file_bytes: a larger model is parted into several files, with an index.
      bos_id: the tokenizer's, None without one.
      stop_ids: the tokenizer's, EOS first.

    Raises:
      UserError: the dtype is none of `TYPES`, or the parameters are not a plain decoder's.
    """
    if dtype not in TYPES:
        raise UserError(f"Tensors cannot be written as '{dtype}'; give one of {', '.join(TYPES)}.")
    leaves = flatten_dict(params, sep="/")
    wanted = LEAVES.keys() - ({"head"} if sizes.tie_word_embeddings else set())
    for path in sorted(leaves.keys() ^ wanted):
        raise UserError(
            f"The parameters are not those of a language model ({'unexpected' if path in leaves else 'missing'}: "
            f"{path}); export a stage that trains one."
        )
    write_json(folder / "config.json", config_json(sizes, dtype, bos_id, stop_ids[0] if stop_ids else None))
    if stop_ids:
        eos = stop_ids[0] if len(stop_ids) == 1 else list(stop_ids)
        path = folder / "generation_config.json"  # it may have come with the tokenizer
        before = json_object(path.read_bytes(), str(path), "it") if path.is_file() else {}
        write_json(path, before | {"bos_token_id": bos_id, "eos_token_id": eos})
    files = list(_files(_tensors(leaves, sizes.num_hidden_layers), jnp.dtype(dtype).itemsize, max_file_bytes))
    names = [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    names = names if len(files) > 1 else [SINGLE_FILE]
    for name, tensors in zip(names, files, strict=True):
        _write_file(folder / name, tensors, leaves, dtype)
    if len(files) > 1:
        total = sum(math.prod(tensor.shape) for tensors in files for tensor in tensors) * jnp.dtype(dtype).itemsize
        places = {tensor.name: name for name, tensors in zip(names, files, strict=True) for tensor in tensors}
        write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": places})


def _tensors(leaves: dict[str, Any], layers: int) -> Iterator[Tensor]:
    """Their tensors as the decoder uses them: embedding, layer by layer, norm and head."""
    stacked = [path for path in LEAVES if path in leaves and LEAVES[path].stacked]
    order: list[tuple[str, int | None]] = [("embedding", None)]
    order += [(path, layer) for layer in range(layers) for path in stacked]
    order += [(path, None) for path in ("final_norm/scale", "head") if path in leaves]
    for path, layer in order:
        leaf = LEAVES[path]
        yield Tensor(leaf.name.format(i=layer), path, layer, leaf.their_shape(leaves[path].shape))


def _files(tensors: Iterator[Tensor], itemsize: int, max_bytes: int) -> Iterator[list[Tensor]]:
    """Parts tensors into files of at most `max_bytes`; a larger tensor has a file of its own."""
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


def _write_file(path: Path, tensors: list[Tensor], leaves: dict[str, Any], dtype: str) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + math.prod(tensor.shape) * jnp.dtype(dtype).itemsize
        header[tensor.name] = {"dtype": TYPES[dtype], "shape": tensor.shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8
    with atomic_write(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            leaf = leaves[tensor.path]
            array = np.asarray(leaf if tensor.layer is None else leaf[tensor.layer])
            if LEAVES[tensor.path].inputs:
                array = array.reshape(tensor.shape[::-1]).T
            file.write(np.ascontiguousarray(array, jnp.dtype(dtype)).view(np.uint8).data)
