"""Forward passes over a batch: log-probabilities of the policy and the reference model, and values."""

import functools
from typing import Any

import jax
import numpy as np

from dsmath_jax.models.decoder import Decoder
from dsmath_jax.rl.reward_model.model import Forward
from dsmath_jax.sharding import Layout, to_host
from dsmath_jax.training.objectives import batch_logprobs

MEMORY_KINDS = {"device": "device", "host": "pinned_host"}
INPUTS = ("tokens", "targets", "segment_ids", "positions")


@functools.lru_cache(maxsize=8)
def jitted_logprobs(model: Decoder, temperature: float) -> Forward:
    """Returns the jitted log-probabilities `[B,T]` of a batch's targets at a temperature."""
    return jax.jit(lambda params, batch: batch_logprobs(model, params, batch, temperature)[0])


class MicroBatchedForward:
    """Computes a jitted forward pass on host batches by micro-batches; every process gets all rows."""

    def __init__(self, forward: Forward, layout: Layout, parts: int):
        """`parts` is the number of micro-batches."""
        self._forward, self._layout, self._parts = forward, layout, parts

    def __call__(self, params: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
        micro = zip(*(np.array_split(batch[name], self._parts) for name in INPUTS), strict=True)
        outputs = []
        for fields in micro:
            share = self._layout.take_my_rows(dict(zip(INPUTS, fields, strict=True)))
            outputs.append(to_host(self._forward(params, self._layout.put_batch(share))))
        return np.concatenate(outputs)


class ReferenceModel:
    """A model that only scores: on the devices or, with offload, in host memory between uses."""

    def __init__(self, logprobs: MicroBatchedForward, params: Any, memory: str):
        """`memory` is "device" or "host"."""
        self._logprobs = logprobs
        self._shardings = jax.tree.map(lambda leaf: leaf.sharding, params)
        stored = jax.tree.map(lambda sharding: sharding.with_memory_kind(MEMORY_KINDS[memory]), self._shardings)
        self._params = jax.device_put(params, stored)

    @property
    def params(self) -> Any:
        """The parameters on the devices."""
        return jax.device_put(self._params, self._shardings)

    def __call__(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        """Returns the log-probabilities `[B,T]` of the batch's targets."""
        return self._logprobs(self.params, batch)
