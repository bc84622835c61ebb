"""Symmetric int8 quantization of matrices and of the KV cache: int8 values with a float32 scale, absmax / 127.

A product with quantized values is scaled after it: x W = (x values) scale, with a scale of each output channel of a
matrix; q k = (q values) scale, with one of each token and head of the KV cache. So nothing is dequantized in memory.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float32, Int8

from dsmath_jax.models.lora import MATRICES

INT8 = "int8"
SCALE = "_scale"  # the scales of `layers/q` are `layers/q_scale`
LARGEST = 127  # of int8; -128 is not used


class Quantized(NamedTuple):
    """An array as int8: `values` times `scale`, which lacks the axes that share a scale."""

    values: Int8[Array, "..."]
    scale: Float32[Array, "..."]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.values.shape


def quantize(x: Array, axes: Sequence[int] = (-1,)) -> Quantized:
    """Quantizes an array; entries along `axes` share a scale. An entry changes by at most half its scale."""
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=tuple(axes), keepdims=True) / LARGEST
    scale = jnp.maximum(scale, jnp.finfo(jnp.float32).tiny)
    return Quantized(jnp.round(x / scale).astype(jnp.int8), jnp.squeeze(scale, tuple(axes)))


def operand(x: Array | Quantized, dtype: Any) -> tuple[Array, Array | None]:
    """Returns the operand of a product that `x` takes part in, and the factors of the product; None for none."""
    return (x.values.astype(dtype), x.scale) if isinstance(x, Quantized) else (x, None)


def stored(x: Array, dtype: Any) -> Array | Quantized:
    """Returns an array in a dtype; in int8 it is quantized over its last axis."""
    return quantize(x) if dtype == INT8 else x.astype(dtype)


def stored_like(x: Array, like: Array | Quantized) -> Array | Quantized:
    """Returns an array in the dtype of another one, or quantized over its last axis if that is."""
    return stored(x, INT8 if isinstance(like, Quantized) else like.dtype)


def zeros(shape: Sequence[int], dtype: str) -> Array | Quantized:
    """Returns zeros in a dtype; those in int8 are quantized over their last axis."""
    x = jnp.zeros(shape, dtype)
    return Quantized(x, jnp.zeros(x.shape[:-1], jnp.float32)) if dtype == INT8 else x


def quantize_layer(params: dict[str, Any]) -> dict[str, Any]:
    """Returns a decoder layer's parameters with its matrices quantized by output channel; adapters stay as they are."""
    quantized = {name: quantize(params[name], range(inputs)) for name, inputs in MATRICES.items()}
    values = {name: matrix.values for name, matrix in quantized.items()}
    return params | values | {name + SCALE: matrix.scale for name, matrix in quantized.items()}
