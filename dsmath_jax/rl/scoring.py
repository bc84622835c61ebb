"""What models say of the tokens of a batch: log-probabilities of policy and reference, a value model's values."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from dsmath_jax.sharding import Layout, to_host

MEMORIES = {"device": "device", "host": "pinned_host"}
INPUTS = ("tokens", "targets", "segment_ids", "positions")


class Reference:
    """The frozen policy that the KL is measured against: on the devices or, between its uses, in host memory."""

    def __init__(self, params: Any, memory: str):
        """`memory` is "device" or "host"."""
        self._shardings = jax.tree.map(lambda leaf: leaf.sharding, params)
        kept = jax.tree.map(lambda sharding: sharding.with_memory_kind(MEMORIES[memory]), self._shardings)
        self._params = jax.device_put(params, kept)

    @property
    def params(self) -> Any:
        """On the devices, for as long as the caller holds it."""
        return jax.device_put(self._params, self._shardings)


class TokenScorer:
    """A function `(params, batch) -> [B,T]` of host batches, computed in micro-batches; whole on every process."""

    def __init__(self, function: Callable[[Any, dict[str, Array]], Array], layout: Layout, parts: int):
        """`parts` is how many micro-batches there are."""
        self._function, self._layout, self._parts = jax.jit(function), layout, parts

    def __call__(self, params: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
        micro = zip(*(np.array_split(batch[name], self._parts) for name in INPUTS), strict=True)
        found = []
        for fields in micro:
            share = self._layout.share(dict(zip(INPUTS, fields, strict=True)))
            found.append(to_host(self._function(params, self._layout.batch(share))))
        return np.concatenate(found)
