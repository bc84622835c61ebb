"""Reward models: the decoder with a linear head that scores tokens, its losses, and the scoring of completions.

A score is the logit of "correct". An outcome model (paper §4.1.2) scores a completion's last token, a process model
(§4.1.3) the last token of every step; for the objectives both are tokens with labels.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dsmath_jax.models.decoder import Decoder
from dsmath_jax.models.lora import combine, frozen_dtypes
from dsmath_jax.rl.batches import RowShapes, Sequences
from dsmath_jax.rl.losses import pair_sides, segment_sums
from dsmath_jax.rl.scoring import Forward, PackedForward
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sharding import Layout
from dsmath_jax.training import checkpoint, lora
from dsmath_jax.training.model_files import abstract_params, read_base, read_model
from dsmath_jax.training.objectives import Batch, Objective, Sums

# (params, prompts, completions, ends) -> the scores at the ends of each completion
Score = Callable[[Any, Sequence[Sequence[int]], Sequence[Completion], Sequence[np.ndarray]], list[np.ndarray]]
# The same with the parameters bound.
ScoreRows = Callable[[Sequence[Sequence[int]], Sequence[Completion], Sequence[np.ndarray]], list[np.ndarray]]


class RewardModel(NamedTuple):
    """A decoder, and parameters `{"model": ..., "reward": {"kernel" [D,1], "bias" [1]}}` with the reward head."""

    model: Decoder
    params: Any


def with_reward_head(params: Any, hidden_size: int) -> Any:
    """Returns decoder parameters with a reward head of zeros, which scores everything 0."""
    return {"model": params, "reward": {"kernel": jnp.zeros((hidden_size, 1)), "bias": jnp.zeros(1)}}


def read(folder: Path, layout: Layout, *, frozen: bool = False) -> RewardModel:
    """Reads a finished reward model, `folder/{model.json,params}`, its parameters sharded.

    Adapters of LoRA come with the parameters of the model they belong to; `frozen` is as for `model_files.read_params`.
    """
    model = read_model(folder, layout)
    config = model.config
    if adapters := lora.read_adapters(folder):
        if adapters.base_is_reward_model:
            base = read(adapters.base_folder, layout, frozen=frozen).params["model"]
        else:
            base = read_base(adapters, config, layout, frozen)
        decoder = lora.abstract_adapters(config, adapters.settings, layout)
        params = checkpoint.restore(folder / "params", _with_abstract_head(decoder, config.hidden_size, layout))
        return RewardModel(model, combine({"model": base}, params, adapters.settings.scale))
    decoder = abstract_params(config, layout)
    decoder = frozen_dtypes(decoder, config.compute_dtype) if frozen else decoder
    return RewardModel(
        model, checkpoint.restore(folder / "params", _with_abstract_head(decoder, config.hidden_size, layout))
    )


def _with_abstract_head(decoder: Any, hidden_size: int, layout: Layout) -> Any:
    return layout.abstract(jax.eval_shape(lambda params: with_reward_head(params, hidden_size), decoder))


def token_scores(model: Decoder, params: Any, batch: Batch) -> Float[Array, "B T"]:
    """Computes the score of every token, from the tokens up to it."""
    hidden = model.apply({"params": params["model"]}, batch["tokens"], batch["positions"], batch["segment_ids"])
    head = params["reward"]
    # A sum of products: accelerators would round a matrix product to bfloat16.
    return jnp.sum(hidden * head["kernel"][:, 0], axis=-1) + head["bias"][0]


def cross_entropy(model: Decoder, params: Any, batch: Batch) -> Sums:
    """Computes the binary cross-entropy (nats) of `labels [B,T]`, which may be soft, with `weights [B,T]`.

    Every labeled token has the same weight, whatever its completion, as in the sum over steps of Math-Shepherd (Wang et
    al. 2023, Eq. 2): the scores of steps are normalized together over completions, so all should be calibrated alike.
    """
    logits, labels, weights = token_scores(model, params, batch), batch["labels"], batch["weights"]
    losses = jnp.logaddexp(0.0, logits) - labels * logits
    correct = ((logits > 0) == (labels >= 0.5)).astype(logits.dtype)
    return (jnp.sum(losses * weights), jnp.sum(weights)), {"accuracy": jnp.sum(correct * weights)}


def bradley_terry(model: Decoder, params: Any, batch: Batch) -> Sums:
    """Computes the Bradley-Terry loss -log sigmoid(r+ - r-) (nats) of pairs of completions of the same problem.

    The segments 1 and 2 of a row, 3 and 4, and so on, are pairs: the chosen completion and the rejected one. `weights`
    is 1 at the token of each segment whose score counts; a pair with a side of zeros has no weight.
    """
    weights, segment_ids = batch["weights"], batch["segment_ids"]
    chosen, rejected = pair_sides(segment_sums(token_scores(model, params, batch) * weights, segment_ids))
    counts = jnp.minimum(*pair_sides(segment_sums(weights, segment_ids)))
    margin = chosen - rejected
    order = (margin > 0).astype(margin.dtype) + 0.5 * (margin == 0)
    loss = jnp.sum(jnp.logaddexp(0.0, -margin) * counts)
    return (loss, jnp.sum(counts)), {"accuracy": jnp.sum(order * counts)}


# By kind of model: the objective, and the completions of an example.
OBJECTIVES: dict[str, Objective] = {"pointwise": cross_entropy, "pairwise": bradley_terry, "process": cross_entropy}
SIDES = {"pointwise": 1, "pairwise": 2, "process": 1}


@functools.lru_cache(maxsize=8)
def jitted_scores(model: Decoder, layout: Layout) -> Forward:
    """Returns the jitted `token_scores(params, batch)` of a model; every process gets all scores."""
    return jax.jit(functools.partial(token_scores, model), out_shardings=layout.replicated)


def scorer(model: Decoder, shapes: RowShapes) -> Score:
    """Returns `score(params, prompts, completions, ends) -> scores at the ends [float64]`, one array per completion.

    Completions are scored in packed rows; every process gets all scores. Equal completions of equal prompts are scored
    once, since sums round differently in another batch. A completion without ends has no scores.

    Args:
      model: the decoder.
      shapes: of the batches.
    """
    forward = PackedForward(jitted_scores(model, shapes.layout), shapes)

    def score(
        params: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Completion], ends: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        pairs = [(tuple(prompts[c.prompt]), tuple(c.tokens)) for c in completions]
        if not pairs:
            return []
        numbers = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
        packing, logits = forward.cells(params, Sequences.of(list(numbers)))
        firsts = [packing.starts[numbers[pair]] + len(pair[0]) for pair in pairs]
        cells = [first + np.asarray(each, np.int64) for first, each in zip(firsts, ends, strict=True)]
        return [logits[each].astype(np.float64) for each in cells]

    return score


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the area under the ROC curve: the share of ordered (correct, incorrect) pairs, a tie counts half."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives, negatives = int(labels.sum()), int((~labels).sum())
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))
