"""Forward passes over completions: log-probabilities of the policy and the reference model, and values."""

import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from dsmath_jax.models.decoder import Decoder
from dsmath_jax.rl.batches import Packing, RowShapes, Sequences, pack
from dsmath_jax.sharding import to_host
from dsmath_jax.training.objectives import batch_logprobs

MEMORY_KINDS = {"device": "device", "host": "pinned_host"}
INPUTS = ("tokens", "targets", "segment_ids", "positions")

Forward = Any  # a jitted (params, batch) -> [B,T]


@functools.lru_cache(maxsize=8)
def jitted_logprobs(model: Decoder, temperature: float) -> Forward:
    """Returns the jitted log-probabilities `[B,T]` of a batch's targets at a temperature."""
    return jax.jit(lambda params, batch: batch_logprobs(model, params, batch, temperature)[0])


class PackedForward:
    """Computes a jitted forward pass on packed sequences by micro-batches; every process gets all results."""

    def __init__(self, forward: Forward, shapes: RowShapes):
        self._forward, self._shapes = forward, shapes

    def __call__(self, params: Any, sequences: Sequences) -> Float[np.ndarray, " N"]:
        """Returns the result at each token of the completions: where it is the target."""
        packing, outputs = self.cells(params, sequences)
        return outputs[packing.targets(sequences)]

    def cells(self, params: Any, sequences: Sequences) -> tuple[Packing, Float[np.ndarray, " cells"]]:
        """Returns where the sequences are packed, and the result at each cell of the batch."""
        packing, layout = pack(sequences.lengths, self._shapes), self._shapes.layout
        batch = packing.batch(sequences, {})
        micro = self._shapes.micro_batches({name: batch[name] for name in INPUTS})
        # All are dispatched before the first result is fetched: transfers overlap with the computation.
        outputs = [self._forward(params, layout.put_batch(layout.take_my_rows(part))) for part in micro]
        return packing, np.concatenate([to_host(each) for each in outputs]).ravel()


class ReferenceModel:
    """A model that only scores: on the devices or, with offload, in host memory between uses."""

    def __init__(self, logprobs: PackedForward, params: Any, memory: str):
        """`memory` is "device" or "host"."""
        self._logprobs = logprobs
        self._shardings = jax.tree.map(lambda leaf: leaf.sharding, params)
        stored = jax.tree.map(lambda sharding: sharding.with_memory_kind(MEMORY_KINDS[memory]), self._shardings)
        self._params = jax.device_put(params, stored)

    @property
    def params(self) -> Any:
        """The parameters on the devices."""
        return jax.device_put(self._params, self._shardings)

    def __call__(self, sequences: Sequences) -> Float[np.ndarray, " N"]:
        """Returns the log-probabilities of the completions' tokens."""
        return self._logprobs(self.params, sequences)
