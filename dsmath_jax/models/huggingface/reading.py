"""Safetensors in: a reader for each of our leaves, which reads the part that it is asked for and nothing else."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.huggingface.names import INDEX_FILE, LEAVES, SINGLE_FILE, Leaf
from dsmath_jax.workdir import UserError, json_object

FLOATS = ("BF16", "F16", "F32", "F64")  # others are quantised
NAMED = 4  # so many wrong tensors are named, the rest counted


@dataclasses.dataclass(frozen=True)
class Reader:
    """One of our leaves in their files: called with an index of it, as `jax.make_array_from_callback` does, gives that
    part. In memory are the part and one layer's share of it as the file holds it.
    """

    leaf: Leaf
    tensors: Sequence[Any]  # their tensors, not read yet
    shape: tuple[int, ...]
    dtype: np.dtype

    def __call__(self, index: tuple[slice, ...] | None = None) -> np.ndarray:
        spans = [range(n)[part] for n, part in zip(self.shape, index or [slice(None)] * len(self.shape), strict=True)]
        out = np.empty([len(span) for span in spans], self.dtype)
        if self.leaf.stacked:
            for place, layer in enumerate(spans[0]):
                out[place] = self._part(self.tensors[layer], self.shape[1:], spans[1:])
        else:
            out[...] = self._part(self.tensors[0], self.shape, spans)
        return out

    def _part(self, tensor: Any, shape: tuple[int, ...], spans: list[range]) -> np.ndarray:
        """A part of one of their tensors, with our axes.

        A matrix's inputs (and outputs) are flattened in the file: along the first axis of each only what is wanted is
        read, along the others (the size of a head, which is never split) all of it.
        """
        inputs = self.leaf.inputs
        if not inputs:
            return tensor[tuple(slice(span.start, span.stop) for span in spans)]
        ins, columns = _flattened(shape[:inputs], spans[0])
        outs, rows = _flattened(shape[inputs:], spans[inputs])
        matrix = tensor[rows, columns].T.reshape(*ins, *outs)
        rest = [slice(span.start, span.stop) for span in spans]
        rest[0] = rest[inputs] = slice(None)
        return matrix[tuple(rest)]


def _flattened(shape: tuple[int, ...], first: range) -> tuple[tuple[int, ...], slice]:
    """What is read of flattened axes for a part of the first of them: its shape and its place."""
    stride = math.prod(shape[1:])
    return (len(first), *shape[1:]), slice(first.start * stride, first.stop * stride)


def readers(folder: Path, sizes: ModelConfig, like: Mapping[str, Any]) -> dict[str, Reader]:
    """A reader for each of our leaves; every tensor's name and shape is checked before anything is read.

    Args:
      folder: with `model.safetensors`, or `model.safetensors.index.json` and the files that it names.
      sizes: from `read_config`.
      like: our leaves by path: their shapes, and the dtypes that the readers give.

    Raises:
      UserError: a file cannot be read, or tensors are missing, unexpected, misshapen or no floating-point numbers.
    """
    found = _tensors(folder)
    expected = {
        name: LEAVES[path].their_shape(tuple(leaf.shape))
        for path, leaf in like.items()
        for name in LEAVES[path].names(sizes.num_hidden_layers)
    }
    # Old exports hold the rotary frequencies of every layer, and a tied head may be there a second time.
    spare = {name for name in found if name.endswith("rotary_emb.inv_freq")}
    spare |= {LEAVES["head"].name} if sizes.tie_word_embeddings else set()
    shapes = {name: tuple(tensor.get_shape()) for name, tensor in found.items()}
    both = expected.keys() & found.keys()
    wrong = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys() - spare),
        "misshapen": [
            f"{n} has {shapes[n]} and must have {expected[n]}" for n in sorted(both) if shapes[n] != expected[n]
        ],
        "quantised": [
            f"{n} of type {found[n].get_dtype()}" for n in sorted(both) if found[n].get_dtype() not in FLOATS
        ],
    }
    reasons = [f"{kind}: {_some(what)}" for kind, what in wrong.items() if what]
    if reasons:
        raise UserError(
            f"{folder}: the tensors are not those of its config.json ({'; '.join(reasons)}); correct config.json or "
            "fetch the model again."
        )
    return {
        path: Reader(
            LEAVES[path],
            [found[name] for name in LEAVES[path].names(sizes.num_hidden_layers)],
            tuple(leaf.shape),
            np.dtype(leaf.dtype),
        )
        for path, leaf in like.items()
    }


def _some(names: list[str]) -> str:
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _tensors(folder: Path) -> dict[str, Any]:
    """All tensors of a folder's files by name, not read yet."""
    index = folder / INDEX_FILE
    if (folder / SINGLE_FILE).is_file():
        return _open(folder / SINGLE_FILE)
    if not index.is_file():
        raise UserError(f"{folder} has no {SINGLE_FILE} and no {INDEX_FILE}; give the folder of a Hugging Face model.")
    places = json_object(index.read_bytes(), str(index), "it").get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{index}: the field weight_map, which gives each tensor's file, is missing; fetch it again.")
    files = {}
    for name in sorted(set(places.values())):
        if not (folder / name).is_file():
            raise UserError(f"{index} names the file {name}, which is missing; fetch it too.")
        files[name] = _open(folder / name)
    for tensor, name in places.items():
        if tensor not in files[name]:
            raise UserError(f"{index} places the tensor {tensor} in {name}, which does not hold it; fetch both again.")
    unlisted = {tensor: found for tensors in files.values() for tensor, found in tensors.items()}
    return unlisted | {tensor: files[name][tensor] for tensor, name in places.items()}


def _open(path: Path) -> dict[str, Any]:
    try:
        # By reads of parts: pages of a memory map would count as this process's memory until others need them.
        file = safe_open(str(path), framework="numpy", backend="pread")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); fetch it again.") from None
    return {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
