"""The sampler: completions depend on their keys alone, have their true log-probabilities, and end where they should."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.models.decoder import Decoder, lm_head
from dsmath_jax.sampling import scheduler
from dsmath_jax.sampling.dtypes import DecodeDtypes
from dsmath_jax.sampling.sampler import Completion, Sampler, SamplingParams
from dsmath_jax.sharding import Layout
from dsmath_jax.workdir import UserError

STOPS, MOST = (2, 5), 6
PROMPTS = [[1, 7, 3], [1, 9], [1, 4, 4, 8, 20, 11], [1], [1, 13, 7, 7]]


@pytest.fixture(scope="module")
def sampler(model: Decoder, layout: Layout) -> Sampler:
    return Sampler(model, layout, STOPS, MOST, decode_slots=12)


@pytest.fixture(scope="module")
def logits_of(model: Decoder, params: Any) -> Callable[[Sequence[int]], np.ndarray]:
    """Next-token logits after every token of a sequence, in one pass without any cache."""

    @jax.jit
    def forward(tokens: jax.Array) -> jax.Array:
        positions = jnp.arange(16)[None]
        hidden = model.apply({"params": params}, tokens, positions, jnp.ones_like(tokens))
        return hidden[0] @ lm_head(params, model.config)

    def logits(tokens: Sequence[int]) -> np.ndarray:
        row = np.zeros((1, 16), np.int32)
        row[0, : len(tokens)] = tokens
        return np.float64(forward(row))[: len(tokens)]

    return logits


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def generate(sampler: Sampler, params: Any, prompts: Sequence[Sequence[int]], **how: Any) -> list[list[Completion]]:
    """The completions; what is neither `step`, `prompt_ids` nor `decode` is a field of `SamplingParams`."""
    calls = {name: how.pop(name) for name in ("step", "prompt_ids", "decode") if name in how}
    return list(sampler.generate(params, prompts, SamplingParams(**how), **calls))


def tokens(groups: list[list[Completion]]) -> list[list[list[int]]]:
    return [[completion.tokens for completion in group] for group in groups]


def test_a_completion_does_not_depend_on_its_batch(
    sampler: Sampler, model: Decoder, params: Any, layout: Layout
) -> None:
    whole = generate(sampler, params, PROMPTS, samples=3, seed=4, step=2)
    assert [[(c.prompt, c.sample) for c in group] for group in whole] == [[(p, s) for s in range(3)] for p in range(5)]
    # With other slots, two samples of each, in another order and with a prompt so long that all are padded to another
    # length.
    order = [3, 0, 4, 1, 2]
    other = Sampler(model, layout, STOPS, MOST, decode_slots=4)
    prompts = [[1] * 40, *(PROMPTS[i] for i in order)]
    moved = generate(other, params, prompts, samples=2, seed=4, step=2, prompt_ids=[99, *order])[1:]
    assert tokens(moved) == [tokens(whole)[i][:2] for i in order]
    for i, group in zip(order, moved, strict=True):
        for one, same in zip(group, whole[i], strict=False):
            np.testing.assert_allclose(one.logprobs, same.logprobs, atol=1e-5)


@pytest.mark.parametrize("decode_slots", [pytest.param(1, marks=pytest.mark.slow), 64])
def test_slots_and_their_refill_do_not_change_tokens(
    sampler: Sampler, model: Decoder, params: Any, layout: Layout, decode_slots: int
) -> None:
    how = {"samples": 5, "seed": 1, "temperature": 1.5}
    groups = generate(Sampler(model, layout, STOPS, MOST, decode_slots=decode_slots, chunk=4), params, PROMPTS, **how)
    assert tokens(groups) == tokens(generate(sampler, params, PROMPTS, **how))
    assert len({len(t) for group in tokens(groups) for t in group}) > 2


def test_rings_that_wrap_grow_and_shrink_do_not_change_tokens(
    model: Decoder, params: Any, layout: Layout, logits_of: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rings of 6 and 12 positions; lengths are mixed, so that long and short completions share them."""
    monkeypatch.setattr(scheduler, "MIN_CACHE_LENGTH", 6)
    sampler = Sampler(model, layout, STOPS, 12, decode_slots=4, chunk=2)
    lengths: list[int] = []
    resize = sampler.engine.resize
    monkeypatch.setattr(
        sampler.engine,
        "resize",
        lambda state, position, length: lengths.append(length) or resize(state, position, length),
    )
    for group in generate(sampler, params, [[1, 7], [1, 9, 3]], samples=9, temperature=1.4, seed=3):
        for completion in group:
            prompt = [[1, 7], [1, 9, 3]][completion.prompt]
            expected = log_softmax(logits_of(prompt + completion.tokens[:-1]) / 1.4)[len(prompt) - 1 :]
            expected = expected[np.arange(len(completion.tokens)), completion.tokens]
            np.testing.assert_allclose(completion.logprobs, expected, atol=2e-5)
    assert lengths[:2] == [12, 6]


@pytest.mark.parametrize(("old", "new"), [(8, 12), (12, 8)])
def test_resizing_holds_no_more_than_one_ring_twice(
    old: int, new: int, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = sampler.engine
    state = engine.empty_state(4, 3, 32, old)
    rings = len(jax.tree.leaves(state.cache))
    position_bytes = jax.tree.leaves(state.cache)[0].nbytes // old  # of one ring
    peaks = []

    def resize_ring(ring: jax.Array, position: int, length: int) -> jax.Array:
        resized = resize(ring, position, length)
        held = [x for x in jax.live_arrays() if x.shape in (ring.shape, resized.shape)]
        peaks.append(sum(x.nbytes for x in held))
        return resized

    resize = engine.resize_ring
    monkeypatch.setattr(engine, "resize_ring", resize_ring)
    resized = engine.resize(state, 3, new)
    assert jax.tree.leaves(resized.cache)[0].shape[2] == resized.token_indices.shape[1] == new
    assert all(x.is_deleted() for x in jax.tree.leaves((state.cache, state.token_indices)))
    assert max(peaks) == position_bytes * (rings * max(old, new) + min(old, new))


def test_a_slot_does_not_wait_for_the_longest(model: Decoder, params: Any, layout: Layout) -> None:
    """One prefill of the prompts, and fewer decode steps than batches of as many rows would take."""
    sampler = Sampler(model, layout, range(2, 7), 12, decode_slots=8, chunk=1)
    prefill = sampler.engine.prefill = mock.Mock(wraps=sampler.engine.prefill)
    chunks = sampler.engine.decode_programs = mock.Mock(wraps=sampler.engine.decode_programs)
    chunks.compile_ahead.return_value = contextlib.nullcontext()
    lengths = [len(t) for group in tokens(generate(sampler, params, PROMPTS[:2], samples=24, seed=2)) for t in group]
    assert prefill.call_count == 1
    batches = sum(max(lengths[i : i + 8]) for i in range(0, 48, 8))
    assert sum(lengths) / 8 <= chunks.find.call_count < 0.75 * batches


def test_fewer_and_fewer_prompts_share_programs(model: Decoder, params: Any, layout: Layout) -> None:
    """As in tool dialogues, some of which end in every turn: prompt slots are a power of two, so each compiles once."""
    sampler, found = Sampler(model, layout, STOPS, MOST, decode_slots=64, chunk=15), []  # an engine of its own
    for count in (40, 33, 14, 9):
        found.append(tokens(generate(sampler, params, (PROMPTS * 8)[:count], seed=4)))
        assert found[-1] == found[0][:count]
    programs = {name: getattr(sampler.engine, name)._cache_size() for name in ("empty_state", "prefill", "decode")}
    assert programs == dict.fromkeys(programs, 2)  # of 64 and 16 prompt slots


def test_a_completion_ends_where_it_fills_the_context(
    sampler: Sampler, model: Decoder, params: Any, layout: Layout
) -> None:
    """Of 8 tokens, which leave other prompts room for all of a completion; an EOS in the last position still counts."""
    narrow = model.clone(config=dataclasses.replace(model.config, max_position_embeddings=8))
    how, shortened = {"samples": 6, "seed": 4}, 0
    whole, ended = (generate(each, params, PROMPTS, **how) for each in (sampler, Sampler(narrow, layout, STOPS, MOST)))
    for before, after in zip((c for group in whole for c in group), (c for g in ended for c in g), strict=True):
        room = 8 - len(PROMPTS[before.prompt])
        assert after.tokens == before.tokens[:room]
        assert len(after.logprobs) == len(after.sampled_logprobs) == len(after.tokens)
        assert after.finish_reason == (before.finish_reason if len(before.tokens) <= room else "length")
        shortened += len(before.tokens) > room
    assert shortened > 3


def test_equal_calls_are_bitwise_equal(model: Decoder, params: Any, layout: Layout, sampler: Sampler) -> None:
    """Bitwise the same again, whatever the sampler did before."""
    how = {"samples": 4, "seed": 6, "top_k": 9, "top_p": 0.9}
    first = generate(sampler, params, PROMPTS, **how)
    generate(sampler, params, [[1] * 40], samples=3)
    assert generate(sampler, params, PROMPTS, **how) == first
    again = Sampler(model, layout, STOPS, MOST, decode_slots=12)
    programs = again.engine.decode._cache_size()
    assert generate(again, params, PROMPTS, **how) == first
    assert again.engine.decode._cache_size() == programs > 0  # a sampler of equal settings has compiled them


def test_sampled_logprobs_are_those_after_the_filters(
    sampler: Sampler, params: Any, logits_of: Callable[..., np.ndarray]
) -> None:
    for group in generate(sampler, params, PROMPTS, samples=4, seed=6, top_k=5, top_p=0.8, temperature=1.2):
        for c in group:
            prompt = PROMPTS[c.prompt]
            every = np.exp(log_softmax(logits_of(prompt + c.tokens[:-1])[len(prompt) - 1 :] / 1.2))
            for position, (token, probabilities) in enumerate(zip(c.tokens, every, strict=True)):
                likeliest = np.sort(probabilities)[::-1][:5]
                count = 1 + np.argmax(np.cumsum(likeliest) / likeliest.sum() >= 0.8)
                assert probabilities[token] >= likeliest[count - 1] * (1 - 1e-6)
                assert c.logprobs[position] == pytest.approx(np.log(probabilities[token]), abs=2e-5)
                share = np.log(probabilities[token] / likeliest[:count].sum())
                assert c.sampled_logprobs[position] == pytest.approx(share, abs=2e-5)


def test_a_stop_string_ends_a_completion_where_it_is_complete(sampler: Sampler, params: Any) -> None:
    """Each token is two letters; the string begins in the middle of one and ends in the middle of another."""
    letters = "abcdefghijklmnopqrstuvw"

    def decode(ids: Sequence[int]) -> str:
        return "".join(letters[i] + letters[-1 - i] for i in ids)

    how = {"samples": 6, "seed": 4}
    plain = [c for group in generate(sampler, params, PROMPTS, **how) for c in group]
    example = next(c for c in plain if len(c.tokens) > 3)
    string = decode(example.tokens[1:3])[1:3]
    stopped = [
        c for group in generate(sampler, params, PROMPTS, **how, stop_strings=[string], decode=decode) for c in group
    ]
    for before, after in zip(plain, stopped, strict=True):
        ends = [n for n in range(1, len(before.tokens) + 1) if string in decode(before.tokens[:n])]
        if ends:
            count = ends[0]
            assert after.finish_reason == "stop" or (count == len(before.tokens) and before.finish_reason == "eos")
            assert after.finished
            assert after.tokens == before.tokens[:count]
            np.testing.assert_allclose(after.logprobs, before.logprobs[:count], atol=1e-5)
        else:
            assert (after.tokens, after.finish_reason) == (before.tokens, before.finish_reason)
            np.testing.assert_allclose(after.logprobs, before.logprobs, atol=1e-5)  # other slots were left
    assert any(after.finish_reason == "stop" for after in stopped)


def test_a_bfloat16_cache_is_close(
    model: Decoder, params: Any, layout: Layout, logits_of: Callable[..., np.ndarray]
) -> None:
    narrow = Sampler(model, layout, [], MOST, decode_slots=12, dtypes=DecodeDtypes(cache_dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow.engine.empty_state(1, 1, 32, 8).cache)} == {
        jnp.dtype("bfloat16")
    }
    differences = []
    for group in generate(narrow, params, PROMPTS, samples=2):
        for c in group:
            prompt = PROMPTS[c.prompt]
            logprobs = log_softmax(logits_of(prompt + c.tokens[:-1]))[len(prompt) - 1 :]
            differences += [*(np.array(c.logprobs) - logprobs[np.arange(MOST), c.tokens])]
    assert 1e-5 < np.abs(differences).max() < 0.1


def test_no_prompts_give_no_completions(sampler: Sampler, params: Any) -> None:
    assert generate(sampler, params, []) == []


def test_invalid_arguments_are_refused(sampler: Sampler, model: Decoder, params: Any, layout: Layout) -> None:
    with pytest.raises(UserError, match=r"Prompt 1 is empty; give it at least one token"):
        sampler.generate(params, [[1], []])
    with pytest.raises(UserError, match=r"Prompt 1 has 64 tokens, which leaves no room .* the model's context of 64;"):
        sampler.generate(params, [[1], [1] * 64])
    with pytest.raises(UserError, match=r"Prompt 0 has the token 23, but the model's vocabulary ends at 22"):
        sampler.generate(params, [[1, 23]])
    invalid = {"samples": [0], "temperature": [-1.0], "top_k": [-1], "top_p": [0.0, 1.5], "seed": [-1, 2**31]}
    for name, value in ((name, value) for name, values in invalid.items() for value in values):
        with pytest.raises(UserError, match=f"Sampling with {name}={value} is invalid; give "):
            SamplingParams(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"max_new_tokens=0 and decode_slots=12 must both be at least 1"):
        Sampler(model, layout, STOPS, 0, decode_slots=12)


def test_seed_step_prompt_and_sample_each_change_the_key(sampler: Sampler, params: Any) -> None:
    same_prompt = [PROMPTS[0]] * 4
    base = {"samples": 3, "seed": 4, "step": 2, "prompt_ids": [0, 1, 2, 3]}
    first = tokens(generate(sampler, params, same_prompt, **base))
    assert first == tokens(generate(sampler, params, same_prompt, **base))
    assert len({tuple(t) for group in first for t in group}) == 12
    for change in ({"seed": 5}, {"step": 3}, {"prompt_ids": [4, 5, 6, 7]}):
        others = tokens(generate(sampler, params, same_prompt, **base | change))
        assert all(one != other for one, other in zip(first, others, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_equal_those_of_one_pass_over_the_whole_text(
    sampler: Sampler, params: Any, logits_of: Callable[..., np.ndarray], temperature: float
) -> None:
    for group in generate(sampler, params, PROMPTS, samples=3, temperature=temperature, seed=1):
        for completion in group:
            prompt = PROMPTS[completion.prompt]
            logprobs = log_softmax(logits_of(prompt + completion.tokens[:-1]) / temperature)[len(prompt) - 1 :]
            expected = logprobs[np.arange(len(completion.tokens)), completion.tokens]
            np.testing.assert_allclose(completion.logprobs, expected, atol=2e-5)


def test_greedy_takes_the_likeliest_token_whatever_the_seed(
    sampler: Sampler, params: Any, logits_of: Callable[..., np.ndarray]
) -> None:
    greedy = generate(sampler, params, PROMPTS, temperature=0.0, seed=1)
    assert tokens(greedy) == tokens(generate(sampler, params, PROMPTS, temperature=0.0, seed=2, step=7))
    for prompt, [completion] in zip(PROMPTS, greedy, strict=True):
        text = list(prompt)
        while len(text) < len(prompt) + MOST and text[-1] not in STOPS:
            text.append(int(logits_of(text)[-1].argmax()))
        assert prompt + completion.tokens == text
        assert completion.sampled_logprobs == [0.0] * len(completion.tokens)
        assert completion.logprobs == pytest.approx(
            [log_softmax(logits_of(text)[len(prompt) - 1 + t])[token] for t, token in enumerate(completion.tokens)],
            abs=2e-5,
        )


def test_a_completion_ends_with_its_first_eos_or_at_the_limit(sampler: Sampler, params: Any) -> None:
    completions = [
        c for step in range(25) for group in generate(sampler, params, PROMPTS, samples=3, step=step) for c in group
    ]
    for c in completions:
        assert 1 <= len(c.tokens) == len(c.logprobs) <= MOST
        assert not set(c.tokens[:-1]) & set(STOPS)
        assert c.finish_reason == ("eos" if c.tokens[-1] in STOPS else "length")
        assert c.finished == (c.finish_reason == "eos")
        assert c.finished or len(c.tokens) == MOST
    assert {c.tokens[-1] for c in completions if c.finished} == set(STOPS)
    assert any(not c.finished for c in completions)
    assert any(c.finished and len(c.tokens) == MOST for c in completions)  # an EOS at the limit still counts


def test_two_tokens_are_distributed_as_the_model_says(
    model: Decoder, params: Any, layout: Layout, logits_of: Callable[..., np.ndarray]
) -> None:
    """Chi-square over pairs: a wrong temperature, or a key used twice, is far outside."""
    prompt, temperature, count = [1, 7], 1.3, 6000
    sampler = Sampler(model, layout, [], 2, decode_slots=count)
    [group] = generate(sampler, params, [prompt], samples=count, temperature=temperature, seed=0)
    seen = np.zeros((23, 23))
    np.add.at(seen, tuple(np.array([c.tokens for c in group]).T), 1)
    first = np.exp(log_softmax(logits_of(prompt)[-1] / temperature))
    second = np.array([np.exp(log_softmax(logits_of([*prompt, token])[-1] / temperature)) for token in range(23)])
    expected = count * first[:, None] * second
    often = expected >= 5
    cells = [*zip(seen[often], expected[often], strict=True), (seen[~often].sum(), expected[~often].sum())]
    chi_square = sum((n - e) ** 2 / e for n, e in cells)
    freedom = len(cells) - 1
    assert freedom > 50
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_the_samples_that_are_kept_are_those_of_their_numbers(
    sampler: Sampler, model: Decoder, params: Any, layout: Layout
) -> None:
    """A completion does not depend on what is dropped: with a chunk of one step the shortest are kept."""
    whole = generate(sampler, params, PROMPTS[:3], samples=5, seed=4)
    one_by_one = Sampler(model, layout, STOPS, MOST, decode_slots=15, chunk=1)
    kept = generate(one_by_one, params, PROMPTS[:3], samples=2, oversample=3, seed=4)
    for group, full in zip(kept, whole, strict=True):
        first = sorted(sorted(full, key=lambda c: len(c.tokens))[:2], key=lambda c: c.sample)
        assert [(c.sample, c.tokens) for c in group] == [(c.sample, c.tokens) for c in first]
    assert [[c.sample for c in group] for group in kept] != [[0, 1]] * 3
    with pytest.raises(UserError, match="oversample=1 is invalid; give 0 where completions have a partner"):
        SamplingParams(oversample=1, partner=mock.Mock())
