"""LoRA (arXiv 2106.09685): low-rank adapters of the matrices of a frozen decoder.

A matrix W becomes W + (alpha / r) A B (§4.1, Eq. 3). The adapters of `layers/q [L,D,N,H]` are `layers/q_lora_a [L,D,r]`
and `layers/q_lora_b [L,r,N,H]`, r being the rank. The decoder computes x W + (x A) B where its parameters have them. It
does not know the factor alpha / r: `combine` multiplies B by it.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

Params = Any

# The matrices of a layer that can have adapters, with the number of their input axes (after the layers').
MATRICES = {"q": 1, "k": 1, "v": 1, "o": 2, "gate": 1, "up": 1, "down": 1}
LORA_A, LORA_B = "_lora_a", "_lora_b"


def targeted(targets: str) -> list[str]:
    """Returns the names of the matrices whose paths, such as `layers/q`, the regular expression matches as a whole."""
    return [name for name in MATRICES if re.fullmatch(targets, f"layers/{name}")]


def initial_adapters(params: Params, targets: str, rank: int, key: Array) -> Params:
    """Returns adapters whose product is 0: A is uniform within +-1/sqrt(inputs) (Kaiming, as in peft), B is 0.

    Args:
      params: the decoder's parameters, real or abstract, for their shapes.
      targets: see `targeted`.
      rank: r, of every pair.
      key: of the random numbers; those of a matrix do not depend on which others have adapters.
    """
    layers = {}
    for number, (name, inputs) in enumerate(MATRICES.items()):
        if name in targeted(targets):
            stacked, *shape = params["layers"][name].shape
            ins, outs = shape[:inputs], shape[inputs:]
            bound = math.prod(ins) ** -0.5
            layers[name + LORA_A] = jax.random.uniform(
                jax.random.fold_in(key, number), (stacked, *ins, rank), jnp.float32, -bound, bound
            )
            layers[name + LORA_B] = jnp.zeros((stacked, rank, *outs), jnp.float32)
    return {"layers": layers}


class Frozen(NamedTuple):
    """The parameters that are not trained with adapters.

    Attributes:
      params: a tree with the paths of the trained one, such as a decoder's parameters; None where all are trained.
      scale: alpha / r, the factor of the adapters' product.
    """

    params: Params | None = None
    scale: float = 1.0

    def combine(self, trained: Params) -> Params:
        """Returns the parameters of the whole model; see `combine`."""
        return trained if self.params is None else combine(self.params, trained, self.scale)


def combine(frozen: Params, trained: Params, scale: float) -> Params:
    """Returns the frozen parameters with the trained ones, without a copy of the former.

    Where `frozen` has adapters too, of an earlier training, the products of both are summed: the pairs are one of a
    larger rank. A trained parameter that is not of an adapter, such as a reward head, replaces the frozen one.

    Args:
      frozen: nested dicts of arrays.
      trained: the same, with some of the paths and with adapters.
      scale: B is multiplied by it.
    """
    combined = dict(frozen)
    for name, value in trained.items():
        earlier = combined.get(name)
        if isinstance(value, Mapping):
            combined[name] = combine(earlier or {}, value, scale)
        elif name.endswith(LORA_A):
            combined[name] = value if earlier is None else jnp.concatenate([earlier, value], axis=-1)
        elif name.endswith(LORA_B):
            combined[name] = value * scale if earlier is None else jnp.concatenate([earlier, value * scale], axis=1)
        else:
            combined[name] = value
    return combined


def adapters_of(params: Params) -> dict[str, tuple[Array, Array]]:
    """Returns A and B by the names of the matrices of a decoder that have them."""
    layers = params.get("layers", {})
    return {name: (layers[name + LORA_A], layers[name + LORA_B]) for name in MATRICES if name + LORA_A in layers}


def merge(params: Params) -> Params:
    """Returns the decoder's parameters with W + A B in place of W; the sum is computed in float32.

    Where W is bfloat16 the sum is rounded to it, which loses small updates.
    """
    layers = without_adapters(params)["layers"]
    for name, (a, b) in adapters_of(params).items():
        weight, (stacked, rank) = layers[name], b.shape[:2]
        product = jnp.matmul(
            a.reshape(stacked, -1, rank).astype(jnp.float32), b.reshape(stacked, rank, -1).astype(jnp.float32),
            precision=jax.lax.Precision.HIGHEST,
        )  # fmt: skip
        layers[name] = (weight.astype(jnp.float32) + product.reshape(weight.shape)).astype(weight.dtype)
    return {**params, "layers": layers}


def without_adapters(params: Params) -> Params:
    """Returns the decoder's parameters without adapters: those of the model that they were trained on."""
    layers = {name: leaf for name, leaf in params["layers"].items() if not name.endswith((LORA_A, LORA_B))}
    return {**params, "layers": layers}


def frozen_dtypes(params: Params, compute_dtype: str) -> Params:
    """Returns abstract parameters like these, matrices and biases in the compute dtype, norm scales in float32.

    The decoder casts the former before each use, so they lose nothing by being stored in it.
    """

    def cast(path: Any, leaf: Any) -> Any:
        dtype = jnp.float32 if path[-1].key == "scale" else jnp.dtype(compute_dtype)
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)

    return jax.tree_util.tree_map_with_path(cast, params)
