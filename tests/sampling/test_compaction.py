"""Fewer slots for the remaining completions: each stays once, with its prompt, on its shard."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, strategies

from dsmath_jax.models.decoder import Decoder
from dsmath_jax.sampling import compaction
from dsmath_jax.sampling.compaction import EMPTY, Compaction, SlotShape, plan_compaction, smaller_shapes
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import Layout


def compact(shape: SlotShape, live: np.ndarray) -> Compaction | None:
    return plan_compaction(shape, list(smaller_shapes(shape, 512, 1024)), live.ravel().tolist())


def fits(shape: SlotShape, smaller: SlotShape, live: np.ndarray) -> bool:
    """Whether the live rows of each shard fit its groups of rows, each with rows of one prompt."""
    blocks = shape.shards if len(live) % shape.shards == 0 else 1
    rows = smaller.prompt_slots * smaller.slots_per_prompt // blocks
    groups = max(1, smaller.prompt_slots // blocks)
    of_blocks = live.reshape(blocks, max(1, shape.prompt_slots // blocks), -1).sum(axis=2)
    return bool((np.ceil(of_blocks / (rows // groups)).sum(axis=1) <= groups).all())


@given(
    strategies.integers(1, 24), strategies.integers(1, 12), strategies.sampled_from([1, 2, 3, 8]),
    strategies.floats(0, 1), strategies.integers(0, 99),
)  # fmt: skip
def test_live_rows_keep_their_prompt_and_their_shard(
    prompts: int, samples: int, shards: int, share: float, seed: int
) -> None:
    rows = prompts * samples
    live = np.random.default_rng(seed).random(rows) < share
    shape = SlotShape(prompts, samples, shards)
    fitting = list(itertools.takewhile(lambda smaller: fits(shape, smaller, live), smaller_shapes(shape, 512, 1024)))
    found = compact(shape, live)
    assert (found is not None) == bool(fitting)
    if found is None:
        return
    shape, taken, sources = found
    assert shape == fitting[-1], "the smallest that fits"
    assert taken.size == shape.prompt_slots * shape.slots_per_prompt >= compaction.MIN_ROWS
    blocks = len(taken)
    assert blocks == (shards if rows % shards == 0 else 1)
    offsets = rows // blocks * np.arange(blocks)[:, None]
    old_rows = np.where(taken == EMPTY, EMPTY, taken + offsets).reshape(-1)
    assert sorted(old_rows[old_rows != EMPTY]) == np.flatnonzero(live).tolist()
    assert (taken < rows // blocks).all(), "a row of another shard"
    prompt_of = np.arange(prompts)
    if sources is not None:
        prompt_of = (sources + prompts // blocks * np.arange(blocks)[:, None]).reshape(-1)
    assert len(prompt_of) == shape.prompt_slots
    for row, old in enumerate(old_rows):
        assert old == EMPTY or prompt_of[row // shape.slots_per_prompt] == old // samples


def test_slots_halve_down_to_the_smallest_shape() -> None:
    def shapes(*shape: int, prompt_length: int = 512) -> list[tuple[int, ...]]:
        return [smaller[:2] for smaller in smaller_shapes(SlotShape(*shape), prompt_length, 1024)]

    assert shapes(16, 6, 1) == [(16, 3), (16, 2), (16, 1), (8, 1)]
    assert shapes(16, 16, 1) == [(32, 4), (32, 2), (32, 1), (16, 1), (8, 1)], "prompt slots with copies"
    assert shapes(16, 64, 1)[:4] == [(128, 4), (128, 2), (128, 1), (64, 1)]
    assert shapes(16, 9, 8) == [(24, 4), (24, 2), (24, 1), (16, 1), (8, 1)]
    assert shapes(16, 16, 1, prompt_length=8192)[:2] == [(16, 8), (16, 4)], "copies of long prompts would take more"
    assert shapes(16, 2, 8) == [(16, 1), (8, 1)]
    assert shapes(4, 64, 16) == [(4, 32), (4, 16), (4, 8), (4, 4)], "four shards hold one prompt's slots"
    assert shapes(6, 8, 4) == [], "a shard would hold parts of two prompts"
    assert shapes(6, 5, 4) == [(6, 3), (6, 2)], "no split: 30 slots are not divisible"


def test_a_prompt_with_many_completions_left_takes_another_slot() -> None:
    live = np.zeros((8, 4), bool)
    live[2] = live[5, 1] = True
    found = compact(SlotShape(8, 4, 1), live)
    assert found is not None
    assert found.shape == (8, 1, 1)
    assert found.rows.tolist() == [[8, 9, 10, 11, 21, EMPTY, EMPTY, EMPTY]]
    assert found.prompt_slots is not None
    assert found.prompt_slots[0, :5].tolist() == [2, 2, 2, 2, 5]


@pytest.mark.parametrize("samples", [pytest.param(1, marks=pytest.mark.slow), 12])
def test_compaction_changes_no_token(
    model: Decoder, params: Any, layout: Layout, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    prompts = [[1, 7], [1, 9, 3], [1, 4, 4, 8], [1, 5]] * (4 if samples == 1 else 1)

    def generate(chunk: int) -> tuple[list[list[int]], set[int]]:
        sampler = Sampler(model, layout, (2, 5), 40, decode_slots=48, chunk=chunk)
        rows, find = set(), sampler.engine.decode_programs.find

        def observe(inputs: tuple, mode: Any) -> Any:
            rows.add(len(inputs[2].num_tokens))
            return find(inputs, mode)

        with monkeypatch.context() as patch:
            patch.setattr(sampler.engine.decode_programs, "find", observe)
            groups = sampler.generate(params, prompts, SamplingParams(samples=samples, seed=5, temperature=1.3))
            return [completion.tokens for group in groups for completion in group], rows

    compacted, rows = generate(2)
    monkeypatch.setattr(compaction, "MIN_ROWS", 1000)
    whole, all_rows = generate(3)
    assert compacted == whole
    assert len(all_rows) == 1
    assert min(rows) <= 12 < max(rows)


def test_a_compacted_state_has_the_rows_of_the_former_one(model: Decoder, layout: Layout) -> None:
    engine = Sampler(model, layout, (2,), 8, decode_slots=8).engine
    noise = np.random.default_rng(0)
    state = engine.empty_state(4, 4, 32, 8)
    state = jax.tree.map(lambda x: jax.numpy.asarray(noise.integers(0, 99, x.shape), x.dtype), state)
    before = jax.tree.map(np.asarray, state)
    live = np.zeros((4, 4), bool)
    live[1, 2:] = live[3, 0] = True
    found = compact(SlotShape(4, 4, 1), live)
    assert found is not None
    assert found.prompt_slots is not None
    after = engine.compact(state, found)
    kept = found.rows[0] != EMPTY
    for name in ("cache", "token_indices", "logits"):
        for new, old in zip(jax.tree.leaves(getattr(after, name)), jax.tree.leaves(getattr(before, name)), strict=True):
            np.testing.assert_array_equal(np.asarray(new)[kept], old[found.rows[0][kept]])
    for name in ("prefix", "prompt_logits"):
        for new, old in zip(jax.tree.leaves(getattr(after, name)), jax.tree.leaves(getattr(before, name)), strict=True):
            np.testing.assert_array_equal(np.asarray(new), old[found.prompt_slots[0]])
    assert all(x.is_deleted() for x in jax.tree.leaves((state.cache, state.prefix)))
