"""Forward passes over a batch: log-probabilities of the policy and the reference model, and values."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from dsmath_jax.sharding import Layout, to_host

MEMORY_KINDS = {"device": "device", "host": "pinned_host"}
INPUTS = ("tokens", "targets", "segment_ids", "positions")


class ReferenceModel:
    """The reference model of the KL: on the devices or, with offload, in host memory between uses."""

    def __init__(self, params: Any, memory: str):
        """`memory` is "device" or "host"."""
        self._shardings = jax.tree.map(lambda leaf: leaf.sharding, params)
        stored = jax.tree.map(lambda sharding: sharding.with_memory_kind(MEMORY_KINDS[memory]), self._shardings)
        self._params = jax.device_put(params, stored)

    @property
    def params(self) -> Any:
        """The parameters on the devices."""
        return jax.device_put(self._params, self._shardings)


class MicroBatchedForward:
    """Computes `function(params, batch) -> [B,T]` on host batches by micro-batches; every process gets all rows."""

    def __init__(self, function: Callable[[Any, dict[str, Array]], Array], layout: Layout, parts: int):
        """`parts` is the number of micro-batches."""
        self._function, self._layout, self._parts = jax.jit(function), layout, parts

    def __call__(self, params: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
        micro = zip(*(np.array_split(batch[name], self._parts) for name in INPUTS), strict=True)
        outputs = []
        for fields in micro:
            share = self._layout.take_my_rows(dict(zip(INPUTS, fields, strict=True)))
            outputs.append(to_host(self._function(params, self._layout.put_batch(share))))
        return np.concatenate(outputs)
