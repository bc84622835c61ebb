"""Policies whose log-probabilities a test chooses, for the losses in float64.

`FreePolicy` has a hidden state for every position, so that gradients can be worked out by hand; `GivenLogprobs`
has the log-probabilities themselves as its parameters.
"""

import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dsmath_jax.models.decoder import map_unsharded
from dsmath_jax.rl.algorithms import Algorithm

GROUP, LENGTH, WIDTH, VOCABULARY = 4, 7, 3, 5
LENGTHS, STARTS = (1, 5, 3, 2), (2, 1, 0, 3)  # of the completions, and how many prompt targets come before
TEMPERATURE = 0.7


class FreePolicy:
    """Replaces the decoder: the hidden state of every position is a parameter."""

    config = types.SimpleNamespace(tie_word_embeddings=False, final_logit_softcapping=0.0, compute_dtype="float64")
    map_row_shards = staticmethod(map_unsharded)

    def apply(self, variables: dict, tokens: Any, positions: Any, segment_ids: Any) -> jax.Array:
        return variables["params"]["hidden"][tokens[:, 0]]  # the first token says which row this is


class GivenLogprobs(FreePolicy):
    """The "hidden states" are the targets' log-probabilities."""

    config = types.SimpleNamespace(tie_word_embeddings=False, final_logit_softcapping=0.0, compute_dtype="float32")

    @staticmethod
    def map_row_shards(function: Callable, rows: Sequence[jax.Array], matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
        entropy = rows[0] ** 2  # any number stands for it
        return rows[0], entropy if function.keywords["entropy_has_gradient"] else jax.lax.stop_gradient(entropy)


def free_params(seed: int = 0, length: int = LENGTH) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(seed)
    return {"hidden": noise.normal(size=(GROUP, length, WIDTH)), "head": noise.normal(size=(WIDTH, VOCABULARY))}


def free_batch(seed: int = 1) -> dict[str, np.ndarray]:
    """Four completions that begin and end at different places, a row each; all fields that any algorithm reads."""
    noise = np.random.default_rng(seed)
    places, shape = np.arange(LENGTH), (GROUP, LENGTH)
    starts, lengths = np.array(STARTS)[:, None], np.array(LENGTHS)[:, None]
    mask = ((places >= starts) & (places < starts + lengths)).astype(np.float64)
    rows = np.repeat(np.arange(GROUP)[:, None], LENGTH, axis=1)
    return {
        "tokens": rows, "positions": rows, "segment_ids": np.ones(shape, int), "loss_weights": mask,
        "targets": noise.integers(0, VOCABULARY, shape), "advantages": noise.normal(size=shape) * mask,
        "old_logprobs": -noise.exponential(1.5, shape) * mask, "ref_logprobs": -noise.exponential(1.5, shape) * mask,
        "sampler_logprobs": -noise.exponential(1.5, shape) * mask, "returns": noise.normal(size=shape) * mask,
        "old_values": noise.normal(size=shape) * mask,
    }  # fmt: skip


def free_pairs(seed: int = 2) -> dict[str, np.ndarray]:
    """DPO's batch: the completions of `free_batch` are the chosen sides, others of other lengths the rejected ones."""
    chosen, rejected = free_batch(seed), {n: x[::-1] for n, x in free_batch(seed + 1).items()}
    rejected |= {"segment_ids": 2 * chosen["segment_ids"], "tokens": chosen["tokens"]}
    return {name: np.concatenate([chosen[name], rejected[name]], axis=1) for name in chosen}


def policy(params: dict, batch: dict, temperature: float = TEMPERATURE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities, their gradients with respect to the hidden states, and entropies, by hand."""
    logits = params["hidden"][batch["tokens"][:, 0]] @ params["head"] / temperature
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    chosen = np.eye(VOCABULARY)[batch["targets"]]
    logprobs = np.log((probabilities * chosen).sum(axis=-1))
    slopes = (chosen - probabilities) @ params["head"].T / temperature
    return logprobs, slopes, -(probabilities * np.log(probabilities)).sum(axis=-1)


def mean_loss(algorithm: Algorithm, params: Any, batch: dict, model: Any = None) -> tuple[float, Any, dict[str, float]]:
    """Loss over weight, its gradient, and the metrics over weight, as the train step computes them."""

    def mean(params: Any) -> tuple[jax.Array, dict]:
        (loss, weight), metrics = algorithm.objective(model or FreePolicy(), params, batch)
        return loss / weight, {name: value / weight for name, value in metrics.items()}

    with jax.disable_jit():  # every call would compile a loop over chunks again
        (loss, metrics), gradient = jax.value_and_grad(mean, has_aux=True)(params)
    return float(loss), jax.tree.map(np.asarray, gradient), {name: float(value) for name, value in metrics.items()}


def given(logprobs: np.ndarray, mask: np.ndarray, **fields: np.ndarray) -> tuple[dict, dict]:
    """Parameters and batch for `GivenLogprobs`."""
    rows = np.repeat(np.arange(len(mask))[:, None], mask.shape[1], axis=1)
    inputs = {"tokens": rows, "positions": rows, "segment_ids": np.ones_like(rows), "targets": rows}
    batch = inputs | {"loss_weights": mask} | fields
    return {"hidden": np.asarray(logprobs), "head": np.zeros((1, 1))}, batch
