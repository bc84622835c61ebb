"""Packed batches of reward models have the loss and the gradient of a padded row for each completion."""

import types
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dsmath_jax.models.decoder import Decoder
from dsmath_jax.rl.batches import RowShapes, pack
from dsmath_jax.rl.reward_model.model import OBJECTIVES, SIDES, token_scores, with_reward_head
from dsmath_jax.rl.reward_model.rows import batch_of, examples_of, index_of, longest_example
from dsmath_jax.sharding import Layout
from dsmath_jax.training.step import TrainState, make_train_step

from .test_stage import KINDS, Counter, planted

COUNT = 12  # examples of a batch
LENGTH = 24  # tokens of a row; a completion with its prompt has at most 16
Examples = list[tuple[dict, ...]]


def examples_for(kind: str, seed: int) -> Examples:
    """Rows, or pairs of consecutive rows, with soft labels; one has no tokens to score."""
    noise, size = np.random.default_rng(seed), SIDES[kind]
    rows = planted(kind, COUNT * size, 1, seed)
    rows = [row | {"labels": noise.random(len(row["labels"]), np.float32).tolist()} for row in rows]
    rows[3] |= {"ends": [], "labels": []}
    return [tuple(rows[i : i + size]) for i in range(0, len(rows), size)]


def padded_loss(kind: str, model: Any, params: Any, examples: Examples) -> tuple[Any, Any]:
    """The loss and the number of what it is a sum over, from one padded row for each completion."""
    rows = [row for example in examples for row in example]
    tokens = np.zeros((len(rows), LENGTH), np.int32)
    for number, row in enumerate(rows):
        sequence = [*row["prompt"], *row["completion"]]
        tokens[number, : len(sequence)] = sequence
    positions = np.broadcast_to(np.arange(LENGTH), tokens.shape)
    scores = token_scores(model, params, {"tokens": tokens, "positions": positions, "segment_ids": tokens * 0 + 1})
    at_ends = [scores[number, len(row["prompt"]) + np.asarray(row["ends"], int)] for number, row in enumerate(rows)]
    if kind == "pairwise":
        pairs = [pair for pair in zip(at_ends[::2], at_ends[1::2], strict=True) if pair[0].size and pair[1].size]
        margins = jnp.stack([chosen[0] - rejected[0] for chosen, rejected in pairs])
        return -jnp.sum(jnp.log(jax.nn.sigmoid(margins))), len(pairs)
    chance, labels = jax.nn.sigmoid(jnp.concatenate(at_ends)), np.concatenate([row["labels"] for row in rows])
    return -jnp.sum(labels * jnp.log(chance) + (1 - labels) * jnp.log(1 - chance)), len(labels)


def shapes_of(kind: str, layout: Layout, parts: int = 1) -> RowShapes:
    return RowShapes(LENGTH * SIDES[kind], COUNT, parts, layout)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_are_those_of_padded_rows(model: Decoder, layout: Layout, kind: str) -> None:
    noise, examples = np.random.default_rng(0), examples_for(kind, 0)
    params = with_reward_head({"embedding": jnp.asarray(noise.normal(size=(23, 16)))}, 16)
    params["reward"] = jax.tree.map(lambda x: jnp.asarray(noise.normal(size=x.shape)), params["reward"])
    counter: Any = Counter(model.config)
    batch = batch_of(examples, shapes_of(kind, layout))
    assert len(batch["tokens"]) < COUNT
    losses = [
        lambda params: OBJECTIVES[kind](counter, params, batch)[0],
        lambda params: padded_loss(kind, counter, params, examples),
    ]
    (found, gradient), (expected, padded) = (jax.jit(jax.value_and_grad(f, has_aux=True))(params) for f in losses)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), gradient, padded)


def test_a_step_of_a_decoder_in_micro_batches_is_that_of_padded_rows(
    model: Decoder, params: Any, layout: Layout
) -> None:
    kind = "pairwise"
    examples = examples_for(kind, 0)
    head = {"kernel": jax.random.normal(jax.random.key(0), (16, 1)), "bias": jnp.zeros(1)}
    start = {"model": params, "reward": head}
    padded = jax.value_and_grad(lambda params: padded_loss(kind, model, params, examples), has_aux=True)
    (loss, count), gradient = jax.jit(padded)(start)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g / count, start, gradient)
    shapes, optimizer = shapes_of(kind, layout, 4), optax.sgd(0.1)
    batch = batch_of(examples, shapes)
    micro_batches = shapes.num_micro_batches(len(batch["tokens"]))
    assert micro_batches > 1
    state = TrainState(jax.tree.map(jnp.copy, start), optimizer.init(start))
    state, metrics = make_train_step(OBJECTIVES[kind], model, optimizer, layout, state, micro_batches)(state, batch)
    assert float(metrics["loss"]) == pytest.approx(float(loss / count), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), state.params, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shards", [1, 4])
def test_every_example_is_in_a_row_and_rows_divide_over_the_mesh(kind: str, shards: int) -> None:
    """A pair is two consecutive segments of one row, the chosen one first."""
    layout: Any = types.SimpleNamespace(batch_shards=shards, size_of=lambda axis: 1)
    examples, shapes = examples_for(kind, 1), shapes_of(kind, layout, 2)
    batch = batch_of(examples, shapes)
    assert len(batch["tokens"]) % (shards * shapes.num_micro_batches(len(batch["tokens"]))) == 0
    found = []
    for tokens, ids, labels, weights in zip(
        *(batch[name] for name in ("tokens", "segment_ids", "labels", "weights")), strict=True
    ):
        segments = [ids == segment for segment in range(1, ids.max() + 1)]
        rows = [(tuple(tokens[at]), tuple(labels[at][weights[at] > 0])) for at in segments]
        found += [tuple(rows[i : i + SIDES[kind]]) for i in range(0, len(rows), SIDES[kind])]
    assert sorted(found) == sorted(tuple(as_segment(row) for row in example) for example in examples)
    assert batch["weights"].sum() == sum(len(row["ends"]) for example in examples for row in example)


def as_segment(row: dict) -> tuple[Sequence[int], Sequence[float]]:
    return (*row["prompt"], *row["completion"]), tuple(row["labels"])


def test_rows_are_as_long_as_the_longest_example() -> None:
    lengths = [(2, 3, 1.0), (2, 9, 0.0), (2, 5, 1.0), (2, 4, 0.0), (7, 8, 1.0)]  # the last has no pair
    rows: Any = [
        {"prompt": [prompt] * prompt, "completion": [1] * tokens, "ends": [tokens - 1], "labels": [label]}
        for prompt, tokens, label in lengths
    ]
    index = index_of(rows)
    chosen = np.ones(len(rows), bool)
    assert longest_example(index, examples_of("pointwise", index, chosen)) == 15
    assert longest_example(index, examples_of("pairwise", index, chosen)) == 2 + 5 + 2 + 9
    assert longest_example(index, []) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_lognormal_lengths_fill_most_of_the_rows(kind: str) -> None:
    """Completions as long as GSM8K's in the rows of a 7B run: mostly padding where each has a row."""
    noise, size = np.random.default_rng(0), SIDES[kind]
    layout: Any = types.SimpleNamespace(batch_shards=1, size_of=lambda axis: 1)
    prompts = noise.lognormal(np.log(100) - 0.08, 0.4, (15_000, 1)).clip(20, 512).astype(int)
    completions = noise.lognormal(np.log(200) - 0.32, 0.8, (15_000, 8)).clip(1, 1024).astype(int)
    lengths = (prompts + completions).astype(np.int32)
    longest = int(np.sort(lengths)[:, -size:].sum(axis=1).max())
    chosen = lengths[noise.choice(len(lengths), 256), :size]
    shape = pack(chosen.ravel(), RowShapes(longest, 256, 16, layout), size).shape
    single = RowShapes(int(lengths.max()), 1, 1, layout).row_length
    assert 1 - chosen.mean() / single > 0.75
    assert 1 - chosen.sum() / np.prod(shape) < 0.1
