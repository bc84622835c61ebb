"""The host's side of sampling: every sample is drawn once, slots do not wait, shapes are few."""

import numpy as np
from hypothesis import given, strategies

from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.scheduler import (
    Prompt,
    Scheduler,
    cache_lengths,
    next_cache_length,
    prefix_length,
    prompt_bucket,
    slot_shape,
)
from dsmath_jax.sampling.stopping import StoppingCriteria
from dsmath_jax.sampling.thinking import ThoughtState

EOS, LIMIT, CHUNK = 1, 12, 4


def simulate(prompts: int, samples: int, decode_slots: int, seed: int, shards: int = 1) -> tuple[list, list, list]:
    """Decodes random lengths; returns the groups, the sizes of the prefills, and how many slots worked in each step."""
    noise = np.random.default_rng(seed)
    lengths = noise.integers(1, LIMIT + 1, (prompts, samples))
    texts = [[7] * int(n) for n in noise.integers(1, 40, prompts)]
    prompt_slots, slots_per_prompt, _ = slot_shape(decode_slots, prompts, samples, shards)
    requests = [Prompt(text, 100 + i, LIMIT, ThoughtState(False, -i)) for i, text in enumerate(texts)]
    stopping = StoppingCriteria([EOS], (), None)
    scheduler = Scheduler(requests, samples, slot_shape(decode_slots, prompts, samples, shards), stopping)
    groups: list[list[Completion]] = []
    prefills, working, prefilled = [], [], {}
    while scheduler.unfinished:
        for batch in scheduler.admit():
            real = batch.prompt_slots < prompt_slots
            prefills.append(int(real.sum()))
            assert (batch.tokens > 0).sum(axis=1)[real].tolist() == batch.lengths[real].tolist()
            prefilled |= dict(zip(batch.prompt_slots[real].tolist(), batch.lengths[real].tolist(), strict=True))
        slots = scheduler.assign(CHUNK)
        assert not slots.idle.all()
        assert {slot: int(slots.prompt_lengths[slot]) for slot in prefilled} == prefilled
        for row in np.flatnonzero(~slots.idle):
            assert len(texts[slots.prompt_ids[row] - 100]) == slots.prompt_lengths[row // slots_per_prompt]
            assert slots.thinking_left[row] == 100 - slots.prompt_ids[row]
        planned = np.where(slots.idle, 0, lengths[np.maximum(slots.prompt_ids - 100, 0), slots.samples])
        positions = slots.num_tokens + np.arange(CHUNK)[:, None]
        drawn = np.where(positions == planned - 1, EOS, 1000 + 100 * slots.samples + positions)
        live = ~slots.idle & (positions < planned)
        steps = next((n for n in range(1, CHUNK) if (~live[n]).sum() >= scheduler.refill_threshold), CHUNK)
        working += live[:steps].sum(axis=1).tolist()
        scheduler.record(*(np.asarray(x[:steps]) for x in (drawn, -positions, -2 * positions, positions % 3 == 0)))
        groups += scheduler.pop_completed()
        if (compaction := scheduler.compact(32, LIMIT)) is not None:
            prefilled = {}  # prompts have moved; no other prompt comes
            slots_per_prompt = compaction.shape.slots_per_prompt
    for i, one in enumerate(groups):
        assert [(c.prompt, c.sample) for c in one] == [(i, s) for s in range(samples)]
        for c in one:
            assert len(c.tokens) == len(c.logprobs) == len(c.sampled_logprobs) == lengths[i, c.sample]
            assert c.tokens == [*(1000 + 100 * c.sample + t for t in range(len(c.tokens) - 1)), EOS]
            assert c.sampled_logprobs == [-2 * t for t in range(len(c.tokens))]
            assert c.inserted == tuple(range(0, len(c.tokens), 3))
            assert c.finish_reason == "eos"
    assert len(groups) == prompts
    return groups, prefills, working


@given(
    strategies.integers(1, 20), strategies.integers(1, 9), strategies.integers(1, 40), strategies.integers(0, 99),
    strategies.sampled_from([1, 2, 8]),
)  # fmt: skip
def test_every_sample_is_decoded_once_and_in_order(
    prompts: int, samples: int, decode_slots: int, seed: int, shards: int
) -> None:
    simulate(prompts, samples, decode_slots, seed, shards)


def test_slots_are_refilled() -> None:
    """Without refill a batch of 16 takes the steps of its longest: of 12, where 6.5 are the mean."""
    groups, prefills, working = simulate(8, 16, 16, seed=0)
    tokens = sum(len(c.tokens) for group in groups for c in group)
    assert sum(working) == tokens
    assert tokens / (16 * len(working)) > 0.8
    assert sum(prefills) <= 8 + 2  # one for each prompt, and a few more where a prompt slot took another's samples


@given(
    strategies.integers(1, 9), strategies.integers(1, 6), strategies.integers(1, 5), strategies.integers(1, 40),
    strategies.integers(0, 99),
)  # fmt: skip
def test_the_first_samples_to_end_are_wanted(
    prompts: int, wanted: int, more: int, decode_slots: int, seed: int
) -> None:
    """The others free their slots at once, whether they have started or not."""
    lengths = np.random.default_rng(seed).integers(1, LIMIT + 1, (prompts, wanted + more))
    shape = slot_shape(decode_slots, prompts, wanted + more, 1)
    requests = [Prompt([7], i, LIMIT) for i in range(prompts)]
    scheduler = Scheduler(requests, wanted + more, shape, StoppingCriteria([EOS], (), None), wanted=wanted)
    groups: list[list[Completion]] = []
    ended_in: dict[tuple[int, int], int] = {}
    chunk = 0
    while scheduler.unfinished:
        scheduler.admit()
        slots = scheduler.assign(CHUNK)
        assert not slots.idle.all()
        live = set(zip(slots.prompt_ids[~slots.idle].tolist(), slots.samples[~slots.idle].tolist(), strict=True))
        assert not live & ended_in.keys()
        counts = [sum(prompt == i for prompt, _ in ended_in) for i in range(prompts)]
        assert all(counts[prompt] < wanted for prompt, _ in live)
        planned = np.where(slots.idle, 0, lengths[slots.prompt_ids, slots.samples])
        positions = slots.num_tokens + np.arange(CHUNK)[:, None]
        drawn = np.where(positions == planned - 1, EOS, 1000 + positions)
        zeros = np.zeros(drawn.shape)
        scheduler.record(drawn, zeros, zeros, zeros > 0)
        chunk += 1
        ending = np.flatnonzero(~slots.idle & (planned <= slots.num_tokens + CHUNK))
        for key in zip(slots.prompt_ids[ending].tolist(), slots.samples[ending].tolist(), strict=True):
            ended_in.setdefault(key, chunk)
        groups += scheduler.pop_completed()
    for i, group in enumerate(groups):
        order = sorted((each for each in ended_in if each[0] == i), key=lambda each: ended_in[each])
        last = ended_in[order[wanted - 1]]
        found = {(c.prompt, c.sample) for c in group}
        assert len(group) == len(found) == wanted
        assert {each for each in order if ended_in[each] < last} <= found <= {e for e in order if ended_in[e] <= last}
        assert all(len(c.tokens) == lengths[i, c.sample] for c in group)
    assert len(groups) == prompts


def test_a_prompt_is_prefilled_once_where_all_fit() -> None:
    assert simulate(6, 4, 24, seed=1)[1] == [6]


@given(strategies.integers(1, 5000))
def test_lengths_are_rounded_to_few(length: int) -> None:
    for rounded in (prompt_bucket, prefix_length):
        assert length <= rounded(length) < max(33, 2 * length if rounded is prompt_bucket else 4 * length)
        assert rounded(rounded(length)) == rounded(length)
    assert len({prompt_bucket(n) for n in range(1, 4097)}) == 8
    assert len({prefix_length(n) for n in range(1, 4097)}) == 6
    assert prefix_length(length) >= prompt_bucket(length), "a prefill fits the prompt slots"


def test_rings_are_the_limit_and_its_halves() -> None:
    assert cache_lengths(42) == [42]
    assert cache_lengths(128) == [64, 128]
    assert cache_lengths(1024) == [64, 128, 256, 512, 1024]
    assert next_cache_length([64, 128, 256], 64, 65) == 128
    assert next_cache_length([64, 128, 256], 128, 60) == 128, "it would soon have to grow again"
    assert next_cache_length([64, 128, 256], 256, 40) == 64


@given(
    strategies.integers(1, 300), strategies.integers(1, 50), strategies.integers(1, 70), strategies.sampled_from([1, 8])
)
def test_the_shape_fits_the_decode_slots(decode_slots: int, prompts: int, samples: int, shards: int) -> None:
    prompt_slots, slots_per_prompt, _ = slot_shape(decode_slots, prompts, samples, shards)
    assert 1 <= slots_per_prompt <= samples
    assert prompt_slots >= 1
    assert prompt_slots * slots_per_prompt <= decode_slots
    assert prompt_slots < 2 * prompts + shards
    if prompts * samples <= decode_slots:
        assert slots_per_prompt == samples
        assert prompt_slots >= prompts


@given(strategies.integers(1, 300), strategies.integers(1, 70), strategies.sampled_from([1, 8]))
def test_all_numbers_of_prompts_share_a_few_shapes(decode_slots: int, samples: int, shards: int) -> None:
    shapes = {slot_shape(decode_slots, prompts, samples, shards) for prompts in range(1, 2 * decode_slots + 1)}
    assert len(shapes) <= decode_slots.bit_length() + 2


def test_a_call_that_fills_the_slots_has_a_prompt_slot_for_each_prompt() -> None:
    """The slots of a rollout are one for every completion: none is idle, whatever the number of prompts."""
    for prompts in range(1, 70):
        assert slot_shape(prompts * 6, prompts, 6, 1) == (prompts, 6, 1)
