"""Reads safetensors: a reader for each parameter, which reads any slice of it and nothing else."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.huggingface.families import params_of
from dsmath_jax.models.huggingface.names import IGNORED, INDEX_FILE, SINGLE_FILE, ParamSpec, text_name
from dsmath_jax.workdir import UserError, json_object

FLOATS = ("BF16", "F16", "F32", "F64")  # other dtypes are quantized
MAX_LISTED = 4  # tensors of an error message; the rest is counted


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads one parameter: called with an index, as by `jax.make_array_from_callback`, it returns that slice.

    Memory holds the slice, and one layer's part of it as stored in the file.
    """

    spec: ParamSpec
    tensors: Sequence[Any]  # slices of the files, not read yet
    shape: tuple[int, ...]
    dtype: np.dtype

    def __call__(self, index: tuple[slice, ...] | None = None) -> np.ndarray:
        spans = [range(n)[part] for n, part in zip(self.shape, index or [slice(None)] * len(self.shape), strict=True)]
        out = np.empty([len(span) for span in spans], self.dtype)
        if self.spec.stacked:
            for i, layer in enumerate(spans[0]):
                out[i] = self._part(self.tensors[layer], self.shape[1:], spans[1:])
        else:
            out[...] = self._part(self.tensors[0], self.shape, spans)
        return out

    def _part(self, tensor: Any, shape: tuple[int, ...], spans: list[range]) -> np.ndarray:
        """Returns a slice of one tensor, with the parameter's axes.

        A matrix's inputs (and outputs) are flattened in the file: only the slice is read along the first axis of each,
        and everything along the others (the head size, which is never split).
        """
        inputs = self.spec.inputs
        if not inputs:
            return tensor[tuple(slice(span.start, span.stop) for span in spans)]
        ins, columns = _flat_slice(shape[:inputs], spans[0])
        outs, rows = _flat_slice(shape[inputs:], spans[inputs])
        matrix = tensor[rows, columns].T.reshape(*ins, *outs)
        rest = [slice(span.start, span.stop) for span in spans]
        rest[0] = rest[inputs] = slice(None)
        return matrix[tuple(rest)]


def _flat_slice(shape: tuple[int, ...], first: range) -> tuple[tuple[int, ...], slice]:
    """Returns the shape and the flat slice of a range of the first of several flattened axes."""
    stride = math.prod(shape[1:])
    return (len(first), *shape[1:]), slice(first.start * stride, first.stop * stride)


def readers(folder: Path, config: ModelConfig, like: Mapping[str, Any]) -> dict[str, Reader]:
    """Returns a reader for each parameter; all names and shapes are checked before anything is read.

    Args:
      folder: has `model.safetensors`, or `model.safetensors.index.json` and the files that it names.
      config: from `read_config`.
      like: shapes of the parameters by path, and the dtypes to return.

    Raises:
      UserError: a file cannot be read, or tensors are missing, unexpected, of another shape or not floating-point.
    """
    tensors, params = {text_name(name): tensor for name, tensor in _tensors(folder).items()}, params_of(config)
    expected = {
        name: params[path].tensor_shape(tuple(array.shape))
        for path, array in like.items()
        for name in params[path].names(config.num_hidden_layers)
    }
    ignored = {name for name in tensors if IGNORED.search(name)}
    # A tied head may be stored too.
    ignored |= {params["head"].name} if config.tie_word_embeddings else set()
    shapes = {name: tuple(tensor.get_shape()) for name, tensor in tensors.items()}
    both = expected.keys() & tensors.keys()
    problems = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - expected.keys() - ignored),
        "shape mismatch": [
            f"{n} has {shapes[n]} and must have {expected[n]}" for n in sorted(both) if shapes[n] != expected[n]
        ],
        "quantized": [
            f"{n} of type {tensors[n].get_dtype()}" for n in sorted(both) if tensors[n].get_dtype() not in FLOATS
        ],
    }
    reasons = [f"{kind}: {_listed(what)}" for kind, what in problems.items() if what]
    if reasons:
        raise UserError(
            f"{folder}: the tensors are not those of its config.json ({'; '.join(reasons)}); correct config.json or "
            "fetch the model again."
        )
    return {
        path: Reader(
            params[path],
            [tensors[name] for name in params[path].names(config.num_hidden_layers)],
            tuple(array.shape),
            np.dtype(array.dtype),
        )
        for path, array in like.items()
    }


def _listed(names: list[str]) -> str:
    rest = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _tensors(folder: Path) -> dict[str, Any]:
    """Returns all tensors of a folder's files by name, not read yet."""
    index = folder / INDEX_FILE
    if (folder / SINGLE_FILE).is_file():
        return _open(folder / SINGLE_FILE)
    if not index.is_file():
        if any(folder.glob("pytorch_model*.bin")):
            raise UserError(
                f"{folder} has its tensors in pytorch_model*.bin, which can run code when it is read; convert it where "
                f'it is trusted: python -c "from transformers import AutoModelForCausalLM as M; '
                f"M.from_pretrained('{folder}').save_pretrained('{folder}', safe_serialization=True)\""
            )
        raise UserError(f"{folder} has no {SINGLE_FILE} and no {INDEX_FILE}; give the folder of a Hugging Face model.")
    weight_map = json_object(index.read_bytes(), str(index), "it").get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UserError(f"{index}: the field weight_map, which gives each tensor's file, is missing; fetch it again.")
    files = {}
    for name in sorted(set(weight_map.values())):
        if not (folder / name).is_file():
            raise UserError(f"{index} names the file {name}, which is missing; fetch it too.")
        files[name] = _open(folder / name)
    for tensor, name in weight_map.items():
        if tensor not in files[name]:
            raise UserError(f"{index} places the tensor {tensor} in {name}, which does not have it; fetch both again.")
    unlisted = {name: tensor for tensors in files.values() for name, tensor in tensors.items()}
    return unlisted | {tensor: files[name][tensor] for tensor, name in weight_map.items()}


def _open(path: Path) -> dict[str, Any]:
    try:
        # `pread`, since the pages of a memory map would count as this process's memory.
        file = safe_open(str(path), framework="numpy", backend="pread")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); fetch it again.") from None
    return {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
