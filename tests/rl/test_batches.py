"""Prompts with their completions as training data, and packed into rows: nothing is lost, doubled or changed."""

import types
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.models.decoder import Decoder
from dsmath_jax.rl.batches import RowShapes, Sequences, pack, pack_batch, sequences_of, split, take, token_fields
from dsmath_jax.rl.reward_model.model import jitted_scores, with_reward_head
from dsmath_jax.rl.scoring import PackedForward, jitted_logprobs
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import Layout

from .unpacked import batch_of, unpacked_batch

EOS = 2
PROMPTS = [[1, 7, 3], [1, 9]]
COMPLETIONS = [
    Completion(0, 0, [4, 5, EOS], [-0.1, -0.2, -0.3], [], "eos"),
    Completion(0, 1, [6], [-0.4], [], "length"),
    Completion(1, 0, [8, 9, EOS], [-0.5, 0.0, -0.6], [], "eos", (1,)),
]
SHARDS = st.sampled_from([1, 2, 8])


def layout_of(shards: int) -> Any:
    return types.SimpleNamespace(batch_shards=shards, size_of=lambda axis: 1)


@st.composite
def sequences(draw: st.DrawFn, longest: int = 40, even: bool = False) -> Sequences:
    """Sequences of distinct tokens, so that any one lost, doubled or moved is seen."""
    lengths = draw(st.lists(st.tuples(st.integers(1, longest // 2), st.integers(1, longest // 2)), min_size=1))
    lengths *= 1 + even
    ids = iter(range(1, 10**6))
    return Sequences.of([([next(ids) for _ in range(p)], [next(ids) for _ in range(c)]) for p, c in lengths])


def test_a_row_has_prompts_with_completions_and_nothing_else(layout: Layout) -> None:
    data = sequences_of(PROMPTS, COMPLETIONS), token_fields(COMPLETIONS)
    batch = pack_batch(*data, RowShapes(16, 3, 1, layout))
    assert batch["tokens"].tolist() == [[1, 7, 3, 4, 5, 2, 1, 9, 8, 9, 2, 1, 7, 3, 6, 0]]
    assert batch["targets"].tolist() == [[7, 3, 4, 5, 2, 1, 9, 8, 9, 2, 1, 7, 3, 6, 0, 0]]
    assert batch["segment_ids"].tolist() == [[1] * 6 + [2] * 5 + [3] * 4 + [0]]
    assert batch["positions"][0, :15].tolist() == [*range(6), *range(5), *range(4)]
    # Sampled tokens have loss, EOS too, and the inserted one has none.
    assert batch["loss_weights"].tolist() == [[0, 0, 1, 1, 1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0]]
    logprobs = [0, 0, -0.1, -0.2, -0.3, 0, 0, -0.5, 0, -0.6, 0, 0, 0, -0.4, 0, 0]
    np.testing.assert_allclose(batch["sampler_logprobs"], [logprobs])


@given(sequences(), st.integers(1, 4), SHARDS)
def test_every_token_is_in_one_segment_with_its_values(given_sequences: Sequences, parts: int, shards: int) -> None:
    rows = shards * parts * -(-len(given_sequences.lengths) // (shards * parts))
    shapes = RowShapes(40, rows, parts, layout_of(shards))
    fields = {
        "loss_weights": (np.arange(given_sequences.completion_lengths.sum()) % 3 > 0).astype(np.float32),
        "advantages": np.arange(1, 1 + given_sequences.completion_lengths.sum(), dtype=np.float32),
    }
    batch = pack_batch(given_sequences, fields, shapes)
    expected = unpacked_batch(given_sequences, fields, 40)
    found = {}
    for row, ids in enumerate(batch["segment_ids"]):
        for segment in range(1, ids.max() + 1):
            (cells,) = np.nonzero(ids == segment)
            assert (np.diff(cells) == 1).all()
            found[batch["tokens"][row, cells[0]]] = {name: values[row, cells] for name, values in batch.items()}
    assert len(found) == len(given_sequences.lengths)
    for i, length in enumerate(given_sequences.lengths):
        segment = found[expected["tokens"][i, 0]]
        for name in expected.keys() - {"segment_ids", "targets"}:
            np.testing.assert_array_equal(segment[name], expected[name][i, :length])
        np.testing.assert_array_equal(segment["targets"][:-1], expected["targets"][i, : length - 1])
    assert sum(len(segment["tokens"]) for segment in found.values()) == (batch["segment_ids"] > 0).sum()
    assert batch["loss_weights"].sum() == fields["loss_weights"].sum()
    num_rows = len(batch["tokens"])
    assert num_rows <= rows
    assert num_rows % (shards * shapes.num_micro_batches(num_rows)) == 0
    assert num_rows // shapes.num_micro_batches(num_rows) <= rows // parts


@given(sequences(even=True), SHARDS)
def test_pairs_share_a_row_in_their_order(given_sequences: Sequences, shards: int) -> None:
    packing = pack(given_sequences.lengths, RowShapes(80, len(given_sequences.lengths), 1, layout_of(shards)), 2)
    first, second = packing.segments.reshape(-1, 2).T
    assert (first % 2 == 1).all()
    np.testing.assert_array_equal(second, first + 1)
    rows = (packing.starts // packing.shape[1]).reshape(-1, 2)
    np.testing.assert_array_equal(rows[:, 0], rows[:, 1])


@given(st.integers(1, 2000), st.integers(1, 500), st.integers(1, 16), SHARDS)
def test_batches_have_one_of_few_shapes(longest: int, micro_rows: int, parts: int, shards: int) -> None:
    rows = micro_rows * shards * parts
    shapes = RowShapes(longest, rows, parts, layout_of(shards))
    assert longest <= shapes.row_length < longest + 128
    counts = [shapes.num_rows(needed) for needed in range(1, rows + 1, max(1, rows // 50))]
    assert len(set(counts)) <= 8 * rows.bit_length()
    assert counts == sorted(counts)
    assert all(
        needed <= count <= rows for needed, count in zip(range(1, rows + 1, max(1, rows // 50)), counts, strict=True)
    )


def test_packing_depends_on_the_lengths_alone() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 64)
    one, other = (pack(lengths.copy(), RowShapes(200, 64, 1, layout_of(1))) for _ in range(2))
    assert one.shape == other.shape
    assert one.starts.tolist() == other.starts.tolist()


def test_lognormal_lengths_fill_most_of_the_rows() -> None:
    """16 questions x 64 completions, of 100 and on average 200 tokens, at most 1,024."""
    noise, shapes = np.random.default_rng(0), RowShapes(512 + 1024, 1024, 8, layout_of(16))
    lengths = [100 + np.minimum(noise.lognormal(np.log(200) - 0.32, 0.8, 1024), 1024).astype(int) for _ in range(30)]
    packed = [pack(each, shapes).shape for each in lengths]
    shares = [1 - each.sum() / np.prod(shape) for each, shape in zip(lengths, packed, strict=True)]
    assert np.mean(shares) < 0.13
    assert np.mean([1 - each.mean() / each.max() for each in lengths]) > 0.7  # without packing
    assert len(set(packed)) <= 3


def test_split_and_take() -> None:
    values, lengths = np.arange(6), np.array([3, 1, 2])
    assert [part.tolist() for part in split(values, lengths)] == [[0, 1, 2], [3], [4, 5]]
    assert take(values, lengths, [2, 0]).tolist() == [4, 5, 0, 1, 2]
    assert take(values, lengths, []).tolist() == split(values[:0], []) == []
    chosen = sequences_of(PROMPTS, COMPLETIONS).take([2, 1])
    assert chosen.tokens.tolist() == [1, 9, 8, 9, 2, 1, 7, 3, 6]
    assert (chosen.lengths.tolist(), chosen.completion_lengths.tolist()) == ([5, 4], [3, 1])


def test_training_sees_the_logprobs_that_the_sampler_saw(model: Decoder, params: Any, layout: Layout) -> None:
    """So that the first update on a rollout has a ratio of one."""
    temperature = 0.6
    sampler = Sampler(model, layout, [EOS, 5], 6, decode_slots=8)
    groups = sampler.generate(params, PROMPTS, SamplingParams(samples=4, temperature=temperature, seed=3))
    completions = [completion for group in groups for completion in group]
    forward = PackedForward(jitted_logprobs(model, temperature), RowShapes(9, 8, 2, layout))
    scored = forward(params, sequences_of(PROMPTS, completions))
    np.testing.assert_allclose(scored, token_fields(completions)["sampler_logprobs"], atol=2e-5)


@pytest.mark.parametrize("parts", [1, 3])
def test_packed_scores_are_those_of_single_rows(model: Decoder, params: Any, layout: Layout, parts: int) -> None:
    """Log-probabilities and values of completions of 1 to 12 tokens."""
    noise = np.random.default_rng(0)
    completions = [
        Completion(i % 2, i, noise.integers(3, 20, 1 + i % 12).tolist(), [0.0] * (1 + i % 12), [], "eos")
        for i in range(18)
    ]
    data, batch = sequences_of(PROMPTS, completions), batch_of(PROMPTS, completions, 15)
    value = with_reward_head(params, 16)
    value["reward"]["kernel"] = jax.random.normal(jax.random.key(1), (16, 1))
    for forward, weights in ((jitted_logprobs(model, 1.0), params), (jitted_scores(model, layout), value)):
        found = PackedForward(forward, RowShapes(15, 18, parts, layout))(weights, data)
        expected = np.asarray(forward(weights, batch))[batch["loss_weights"] > 0]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.std(expected) > 0.01
