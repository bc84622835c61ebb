"""Packed rows have the loss, the metrics and the gradient of single rows, for every algorithm and any lengths."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmath_jax.models.decoder import Decoder
from dsmath_jax.rl.algorithms import GRPO, Algorithm
from dsmath_jax.rl.batches import Packing, RowShapes, Sequences, TokenFields, pack, pack_batch
from dsmath_jax.rl.methods import METHODS
from dsmath_jax.rl.reward_model.model import with_reward_head
from dsmath_jax.rl.rollout_files import TrainingData
from dsmath_jax.sharding import Layout
from dsmath_jax.training.step import TrainState, make_train_step

from .free_policy import GivenLogprobs
from .test_algorithm_properties import ALGORITHMS as VARIANTS

METHOD_ALGORITHMS = {name: method.algorithm() for name, method in METHODS.items()}
ALGORITHMS: dict[str, Algorithm] = VARIANTS | METHOD_ALGORITHMS
# Several methods have the same algorithm.
DISTINCT = {algorithm: name for name, algorithm in reversed(ALGORITHMS.items())}.values()
LENGTH = 24
OTHERS = ("grpo_rule", "gspo", "dapo", "online_rft", "dpo")  # whose losses on packed rows are tested without a decoder
OWN = """
from dsmath_jax.rl.losses import clip

def longest_mean(tokens, low, high):
    gain, metrics = clip(tokens._replace(advantages=tokens.mean_over_completion(tokens.advantages)), low, high)
    return gain, metrics | {"mean": tokens.mean_over_completion(tokens.log_ratios)}
"""


class GivenCells(GivenLogprobs):
    """The "hidden states" are the parameters of all cells."""

    def apply(self, variables: dict, tokens: Any, positions: Any, segment_ids: Any) -> jax.Array:
        return variables["params"]["hidden"]


def together(name: str) -> int:
    return 2 if name.startswith("dpo") else 1


def unpacked(sequences: Sequences, size: int) -> Packing:
    """A row for each completion, or for each pair."""
    pairs = sequences.lengths.reshape(-1, size)
    starts = np.cumsum(pairs, axis=1) - pairs + np.arange(len(pairs))[:, None] * size * LENGTH
    segments = np.broadcast_to(np.arange(1, size + 1), pairs.shape)
    return Packing(starts.ravel(), segments.ravel(), (len(pairs), size * LENGTH))


def random_data(lengths: list[tuple[int, int]], seed: int) -> tuple[Sequences, TokenFields]:
    """Completions with all fields that an objective reads; some tokens and some completions have no loss."""
    noise = np.random.default_rng(seed)
    sequences = Sequences.of(
        [(noise.integers(1, 20, p).tolist(), noise.integers(1, 20, c).tolist()) for p, c in lengths]
    )
    counts = sequences.completion_lengths
    names = ("advantages", "returns", "old_values", "old_logprobs", "ref_logprobs", "sampler_logprobs")
    fields = {name: noise.normal(size=counts.sum()).astype(np.float32) for name in names}
    fields |= {name: -np.abs(fields[name]) for name in names if "logprobs" in name}
    fields["advantages"] *= np.repeat(noise.random(len(counts)) < 0.7, counts)
    has_loss = np.repeat(noise.random(len(counts)) < 0.8, counts)
    fields["loss_weights"] = ((noise.random(counts.sum()) < 0.9) & has_loss).astype(np.float32)
    fields["entropy_coef"] = np.full(counts.sum(), 0.1, np.float32)
    return sequences, fields


def sums(
    algorithm: Algorithm, packing: Packing, sequences: Sequences, fields: TokenFields, logprobs: Any, values: Any
) -> list[np.ndarray]:
    """Loss, weight and metrics, and the gradient for each token of the completions."""
    batch, targets = packing.batch(sequences, fields), packing.targets(sequences)
    cells = np.zeros((2, *packing.shape))
    cells.reshape(2, -1)[:, targets] = logprobs, values
    found, gradients = value_and_gradient(algorithm)(*cells, batch)
    return [np.asarray(x) for x in jax.tree.leaves(found)] + [np.asarray(x).ravel()[targets] for x in gradients]


@functools.cache
def value_and_gradient(algorithm: Algorithm) -> Any:
    """The jitted loss, weight and metrics with the gradient, of log-probabilities and values `[B,T]`, and a batch."""

    def loss(logprobs: Any, values: Any, batch: Any) -> tuple[Any, Any]:
        params: Any = {"hidden": logprobs, "head": jnp.zeros((1, 1))}
        if algorithm.has_values:
            head = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
            params = {"policy": params, "value": {"model": {"hidden": values[..., None]}, "reward": head}}
        (total, weight), metrics = algorithm.objective(GivenCells(), params, batch)
        return total, (weight, metrics)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


LENGTHS = st.tuples(st.integers(1, LENGTH // 2), st.integers(1, LENGTH // 2))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", DISTINCT)
@settings(max_examples=3)
@given(lengths=st.lists(LENGTHS, min_size=6, max_size=6), seed=st.integers(0, 99))
def test_packed_rows_are_single_rows(layout: Layout, name: str, lengths: list[tuple[int, int]], seed: int) -> None:
    algorithm, size = ALGORITHMS[name], together(name)
    sequences, fields = random_data(lengths, seed)
    logprobs, values = np.random.default_rng(seed).normal(-1, 1, (2, sequences.completion_lengths.sum()))
    packing, single = (
        pack(sequences.lengths, RowShapes(size * LENGTH, 6 // size, 1, layout), size),
        unpacked(sequences, size),
    )
    packing = packing._replace(shape=single.shape)  # with rows of padding, so that both have one program
    one, other = (sums(algorithm, each, sequences, fields, logprobs, values) for each in (single, packing))
    for expected, found in zip(one, other, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_completions_without_loss_are_left_out(layout: Layout) -> None:
    data = TrainingData(*random_data([(3, 5), (2, 9), (4, 1), (1, 7)], 0))
    lengths = data.sequences.completion_lengths
    data.fields["loss_weights"] = np.repeat([1, 0, 0, 1], lengths).astype(np.float32)
    kept, shapes, algorithm = data.with_loss(), RowShapes(LENGTH, 4, 1, layout), GRPO()
    assert kept.sequences.completion_lengths.tolist() == [5, 7]
    packed = [pack(each.sequences.lengths, shapes)._replace(shape=(4, LENGTH)) for each in (data, kept)]
    found = [
        sums(algorithm, packing, *each, *np.zeros((2, each.sequences.completion_lengths.sum())))
        for packing, each in zip(packed, (data, kept), strict=True)
    ]
    has_loss = data.fields["loss_weights"] > 0
    for before, after in zip(*found, strict=True):
        np.testing.assert_allclose(before[has_loss] if before.shape else before, after, rtol=1e-12, atol=1e-15)
    none = data._replace(fields=data.fields | {"loss_weights": 0 * data.fields["loss_weights"]}).with_loss()
    batch = pack_batch(*none, shapes)
    assert batch["tokens"].shape == (1, LENGTH)
    assert not batch["segment_ids"].any()


@pytest.mark.usefixtures("float64")
def test_a_loss_of_the_users_with_a_mean_over_completions(
    layout: Layout, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_loss.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    sequences, fields = random_data([(3, 5), (2, 9), (4, 1), (1, 7)], 0)
    logprobs = np.random.default_rng(0).normal(-1, 1, sequences.completion_lengths.sum())
    packing, algorithm = pack(sequences.lengths, RowShapes(LENGTH, 4, 1, layout)), GRPO(loss="own_loss:longest_mean")
    assert packing.shape[0] < 4
    one, other = (
        sums(algorithm, each, sequences, fields, logprobs, logprobs) for each in (unpacked(sequences, 1), packing)
    )
    for expected, found in zip(one, other, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["ppo", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_a_step_of_a_decoder_on_packed_rows(model: Decoder, params: Any, layout: Layout, name: str) -> None:
    """In one or several micro-batches: attention, positions and losses stay within segments."""
    algorithm, size = ALGORITHMS[name], together(name)
    noise = np.random.default_rng(1)
    sequences, fields = random_data([tuple(noise.integers(1, 11, 2)) for _ in range(16)], 1)
    optimizer = optax.sgd(1.0)

    def step(packing: Packing, parts: int) -> tuple[Any, dict[str, float]]:
        read = lambda: jax.tree.map(jnp.copy, params)  # noqa: E731 - the step donates its state
        trained = algorithm.initial_params(read, 16)
        if algorithm.has_values:
            trained["value"]["reward"]["kernel"] = with_reward_head(None, 16)["reward"]["kernel"] + 0.1
        state = TrainState(trained, optimizer.init(trained))
        train = make_train_step(algorithm.objective, model, optimizer, layout, state, parts)
        state, metrics = train(state, layout.put_batch(packing.batch(sequences, fields)))
        return state.params, {n: float(x) for n, x in metrics.items()}

    expected, metrics = step(unpacked(sequences, size), 1)
    for parts in (1, 2):
        shapes = RowShapes(size * LENGTH, 16 // size, 4 * parts, layout)
        packing = pack(sequences.lengths, shapes, size)
        assert packing.shape[0] < 16 // size
        micro_batches = shapes.num_micro_batches(packing.shape[0])
        assert micro_batches > 1
        found, packed_metrics = step(packing, micro_batches)
        assert packed_metrics == pytest.approx(metrics, rel=2e-4, abs=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)
    assert metrics["grad_norm"] > 0.01
