"""Prompts of any lengths: what all begin with is computed once, and no length changes a token."""

from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from hypothesis import given, strategies

from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.sampling import scheduler
from dsmath_jax.sampling.dtypes import DecodeDtypes
from dsmath_jax.sampling.sampler import Completion, Sampler, SamplingParams
from dsmath_jax.sampling.scheduler import num_shared_tokens
from dsmath_jax.sharding import Layout

NOISE = np.random.default_rng(0)
SHARED = NOISE.integers(6, 23, 70).tolist()
HOW: dict[str, Any] = {"samples": 3, "seed": 2, "temperature": 1.3}
VARIANTS = {
    "plain": {},
    "int8 cache": {},
    "window": {"sliding_window": 40},
    "alternating window": {"sliding_window": 40, "layer_types": ("sliding_attention", "full_attention")},
}


def random_prompts(lengths: Sequence[int]) -> list[list[int]]:
    return [NOISE.integers(6, 23, n).tolist() for n in lengths]


def alone(sampler: Sampler, params: Any, prompts: Sequence[Sequence[int]]) -> list[Completion]:
    """The completions of calls with one prompt each, which share nothing."""
    sampling = SamplingParams(**HOW)
    groups = (sampler.generate(params, [prompt], sampling, prompt_ids=[i]) for i, prompt in enumerate(prompts))
    return [completion for group in groups for one in group for completion in one]


def assert_equal(completions: list[Completion], expected: list[Completion]) -> None:
    assert [c.tokens for c in completions] == [c.tokens for c in expected]
    for completion, other in zip(completions, expected, strict=True):
        np.testing.assert_allclose(completion.logprobs, other.logprobs, atol=2e-5)


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=pytest.mark.slow) if name == "window" else name for name in VARIANTS]
)
def test_what_all_prompts_begin_with_is_prefilled_once(
    make_model: Callable[..., Decoder], layout: Layout, variant: str
) -> None:
    model = make_model(max_position_embeddings=256, **VARIANTS[variant])
    params = jax.jit(lambda: initial_params(model, jax.random.key(1)))()
    params["embedding"] *= 50
    dtypes = DecodeDtypes(cache_dtype="int8" if variant == "int8 cache" else "")
    sampler = Sampler(model, layout, (2, 5), 12, decode_slots=8, dtypes=dtypes, chunk=4)
    prompts = [SHARED + rest for rest in random_prompts((3, 40, 1, 9))]
    prompts[1][70] = prompts[0][70] % 22 + 1  # they differ from there on
    expected = alone(sampler, params, prompts)
    prefills = {name: mock.Mock(wraps=getattr(sampler.engine, name)) for name in ("prefill", "prefill_shared")}
    for name, call in prefills.items():
        setattr(sampler.engine, name, call)
    groups = sampler.generate(params, prompts, SamplingParams(**HOW))
    found = [completion for group in groups for completion in group]
    if variant == "int8 cache":  # the rest of a prompt reads quantized keys and values of what is shared
        equal = [one.tokens == other.tokens for one, other in zip(found, expected, strict=True)]
        assert np.mean(equal) > 0.5
    else:
        assert_equal(found, expected)
    assert prefills["prefill_shared"].call_count == 1
    assert {call.args[2].shape[1] for call in prefills["prefill"].call_args_list} <= {32, 64}, "without the 70 tokens"


@given(strategies.lists(strategies.lists(strategies.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=4))
def test_shared_tokens_are_the_longest_common_beginning(ends: list[list[int]]) -> None:
    prompts = [SHARED + end for end in ends]
    count = num_shared_tokens(prompts)
    if len(prompts) == 1:
        assert count == 0
        return
    assert all(prompt[:count] == prompts[0][:count] and len(prompt) > count for prompt in prompts)
    assert min(map(len, prompts)) == count + 1 or len({prompt[count] for prompt in prompts}) > 1


def test_short_beginnings_are_not_shared() -> None:
    assert num_shared_tokens([[*range(63), 1, 1], [*range(63), 2]]) == 0
    assert num_shared_tokens([[*range(64), 1, 1], [*range(64), 2]]) == 64
    assert num_shared_tokens([[*range(64)], [*range(64)]]) == 0, "one token of each is left to its own prefill"


def test_prompt_slots_are_as_long_as_the_prompts_in_them(make_model: Callable[..., Decoder], layout: Layout) -> None:
    """Short prompts after long ones, in pairs that begin with the longer one: slots shrink, and grow again."""
    model = make_model(max_position_embeddings=256)
    params = jax.jit(lambda: initial_params(model, jax.random.key(1)))()
    params["embedding"] *= 50
    sampler = Sampler(model, layout, (2, 5), 6, decode_slots=6, chunk=2)
    prompts = random_prompts((5, 150, 20, 9, 30, 8, 7, 140))
    expected = alone(sampler, params, prompts)
    resize = mock.Mock(wraps=sampler.engine.resize_prompts)
    sampler.engine.resize_prompts = resize  # type: ignore[method-assign]
    groups = sampler.generate(params, prompts, SamplingParams(**HOW))
    assert_equal([completion for group in groups for completion in group], expected)
    lengths = [call.args[1] for call in resize.call_args_list]
    assert lengths[0] < 512
    assert 512 in lengths[1:]


def test_prompts_of_similar_lengths_are_prefilled_together() -> None:
    lengths = (300, 20, 31, 25, 290, 8, 30, 270, 12, 40, 33, 60, 31, 9, 28, 11)
    prompts = [scheduler.Prompt([7] * n, i, 9) for i, n in enumerate(lengths)]
    stopping = scheduler.StoppingCriteria([1], (), None)
    batches = scheduler.Scheduler(prompts, 1, scheduler.SlotShape(16, 1, 1), stopping).admit()
    assert [batch.tokens.shape[1] for batch in batches] == [512, 512, 64, 32, 32, 32, 32, 32]
    alike = [scheduler.Prompt([7] * n, i, 9) for i, n in enumerate(range(33, 49))]
    [batch] = scheduler.Scheduler(alike, 1, scheduler.SlotShape(16, 1, 1), stopping).admit()
    assert batch.tokens.shape == (16, 64), "one prefill where grouping would save little"


def test_programs_that_were_compiled_ahead_are_used(
    model: Decoder, params: Any, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "MIN_CACHE_LENGTH", 16)
    prompts = random_prompts((3, 4, 5, 6))
    jitted, ahead = (Sampler(model, layout, (2,), 58, decode_slots=16, chunk=chunk) for chunk in (15, 16))
    ahead.compiles_ahead = True
    found = []
    for sampler in (jitted, ahead):
        groups = sampler.generate(params, prompts, SamplingParams(samples=4, seed=2))
        found.append([completion.tokens for group in groups for completion in group])
    assert found[0] == found[1]
    assert max(map(len, found[0])) > 24
    assert jitted.engine.decode._cache_size() > 1
    assert ahead.engine.decode._cache_size() <= 1, "other than a program of few rows with a shorter ring"
