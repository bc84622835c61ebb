"""Reward models: the decoder with a linear head that scores tokens, its losses, and how completions are scored.

A score is the logit of "correct". An outcome model (paper §4.1.2) is read at a completion's last token, a process model
(§4.1.3) at the last token of every step; for the objectives both are tokens with labels.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dsmath_jax.models.llama import Llama
from dsmath_jax.rl.batches import padded_length, token_rows
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sharding import Layout, to_host
from dsmath_jax.training import checkpoint
from dsmath_jax.training.model_files import abstract_params, read_model
from dsmath_jax.training.objectives import Batch, Objective, Sums

LEAST_WIDTH = 32  # tokens of the shortest rows that the scorer compiles for

# (params, prompts, completions, ends) -> the scores at the ends of each completion
Score = Callable[[Any, Sequence[Sequence[int]], Sequence[Completion], Sequence[np.ndarray]], list[np.ndarray]]
# The same with the parameters given.
ScoreRows = Callable[[Sequence[Sequence[int]], Sequence[Completion], Sequence[np.ndarray]], list[np.ndarray]]


class RewardModel(NamedTuple):
    """A decoder, and parameters `{"model": ..., "reward": {"kernel" [D,1], "bias" [1]}}` with its head."""

    model: Llama
    params: Any


def with_head(params: Any, hidden_size: int) -> Any:
    """Decoder parameters with a head of zeros, which scores everything 0."""
    return {"model": params, "reward": {"kernel": jnp.zeros((hidden_size, 1)), "bias": jnp.zeros(1)}}


def read(folder: Path, layout: Layout) -> RewardModel:
    """A finished reward model, `folder/{model.json,params}`, its parameters in their shards."""
    model = read_model(folder, layout)
    decoder = abstract_params(model.config, layout)
    shapes = jax.eval_shape(lambda params: with_head(params, model.config.hidden_size), decoder)
    return RewardModel(model, checkpoint.restore(folder / "params", layout.abstract(shapes)))


def token_scores(model: Llama, params: Any, batch: Batch) -> Float[Array, "B T"]:
    """The head's output at every token, which sees the tokens up to itself."""
    hidden = model.apply({"params": params["model"]}, batch["tokens"], batch["positions"], batch["segment_ids"])
    head = params["reward"]
    # A sum of products, not a matrix product: accelerators would round that to bfloat16.
    return jnp.sum(hidden * head["kernel"][:, 0], axis=-1) + head["bias"][0]


def cross_entropy(model: Llama, params: Any, batch: Batch) -> Sums:
    """Binary cross-entropy (nats) of `labels [B,T]`, which may be soft, at the tokens of `weights [B,T]`.

    Every labelled token counts alike, whatever the completion that it is in, as in the sum over steps of Math-Shepherd
    (Wang et al. 2023, Eq. 2): a process model's scores are used one by one, pooled over completions, so that each of
    them should be as well calibrated as the others.
    """
    logits, labels, weights = token_scores(model, params, batch), batch["labels"], batch["weights"]
    losses = jnp.logaddexp(0.0, logits) - labels * logits
    correct = ((logits > 0) == (labels >= 0.5)).astype(logits.dtype)
    return (jnp.sum(losses * weights), jnp.sum(weights)), {"accuracy": jnp.sum(correct * weights)}


def bradley_terry(model: Llama, params: Any, batch: Batch) -> Sums:
    """-log sigmoid(r+ - r-) (nats) of pairs of completions of the same problem, the chosen and the rejected one.

    The fields are those of `cross_entropy` twice, as `chosen_*` and `rejected_*`; `*_weights` marks the one token of
    each row at which its score is read, and a pair without marks has no weight.
    """
    chosen, rejected = (_marked_score(model, params, batch, side) for side in ("chosen_", "rejected_"))
    counts = jnp.sum(batch["chosen_weights"], axis=1)
    margin = chosen - rejected
    order = (margin > 0).astype(margin.dtype) + 0.5 * (margin == 0)
    loss = jnp.sum(jnp.logaddexp(0.0, -margin) * counts)
    return (loss, jnp.sum(counts)), {"accuracy": jnp.sum(order * counts)}


def _marked_score(model: Llama, params: Any, batch: Batch, side: str) -> Float[Array, " B"]:
    fields = {name.removeprefix(side): value for name, value in batch.items() if name.startswith(side)}
    return jnp.sum(token_scores(model, params, fields) * fields["weights"], axis=1)


# What the rows of each kind of model are made of: an example has a row for each prefix of fields.
OBJECTIVES: dict[str, Objective] = {
    "pointwise": cross_entropy, "pairwise": bradley_terry, "process": cross_entropy
}  # fmt: skip
SIDES: dict[str, tuple[str, ...]] = {"pointwise": ("",), "pairwise": ("chosen_", "rejected_"), "process": ("",)}


def scorer(model: Llama, layout: Layout, length: int, rows: int) -> Score:
    """Makes `score(params, prompts, completions, ends) -> scores at the ends [float64]`, one array a completion.

    Completions are scored in the order of their lengths, `rows` at a time, in rows of a few widths, a program for
    each; every process gets all scores. Equal completions of equal prompts are scored once, since in another batch the
    sums round differently. A completion without ends has no scores.

    Args:
      model: of the parameters that `score` is given.
      layout: where they are; rows are spread over replica and fsdp.
      length: a prompt and its completion have at most so many tokens.
      rows: completions at a time, rounded up to what divides over the mesh.
    """
    compiled = jax.jit(functools.partial(token_scores, model), out_shardings=layout.replicated)
    rows = -(-rows // layout.batch_shards) * layout.batch_shards
    whole = padded_length(length, layout)
    doubled = [padded_length(LEAST_WIDTH << i, layout) for i in range(whole.bit_length())]
    widths = [*(width for width in doubled if width < whole), whole]

    def score(
        params: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Completion], ends: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        places: dict[tuple[int, ...], dict[int, np.ndarray]] = defaultdict(dict)  # sequence -> completion -> ends in it
        for i, (completion, its_ends) in enumerate(zip(completions, ends, strict=True)):
            prompt = prompts[completion.prompt]
            places[*prompt, *completion.tokens][i] = len(prompt) + np.asarray(its_ends, np.int64)
        sequences = sorted(places, key=len)
        found = [np.zeros(0)] * len(completions)
        for start in range(0, len(sequences), rows):
            part = sequences[start : start + rows]
            filled = part + part[:1] * (rows - len(part))
            width = next(width for width in widths if width >= len(part[-1]))
            batch = layout.share(token_rows(filled, width))
            logits = to_host(compiled(params, layout.batch(batch)))
            for row, sequence in enumerate(part):
                for i, its_places in places[sequence].items():
                    found[i] = logits[row, its_places].astype(np.float64)
        return found

    return score


def auc(found: np.ndarray, labels: np.ndarray) -> float:
    """The share of (correct, incorrect) pairs that the scores put in order, a tie counts half; by the ranks' sum."""
    _, place, counts = np.unique(found, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    good, bad = int(labels.sum()), int((~labels).sum())
    return float((ranks[labels].sum() - good * (good + 1) / 2) / (good * bad))
