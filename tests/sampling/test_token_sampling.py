"""Sampling tokens: filters and both log-probabilities against NumPy in float64, and the frequencies of tokens."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies

from dsmath_jax.sampling.token_sampling import SampledTokens, SamplingArrays, SamplingMode, sample_tokens

SAMPLED = SamplingMode(greedy=False, top_k=False, top_p=False)
FILTERED = SamplingMode(greedy=False, top_k=True, top_p=True)
VOCABULARY = 23


def sample(
    logits: Any, seed: int = 0, temperature: float = 1.0, k: int = 0, p: float = 1.0, mode: SamplingMode = FILTERED
) -> SampledTokens:
    """Samples a token of each row; k = 0 is no filter."""
    keys = jax.random.split(jax.random.key(seed), len(logits))
    how = SamplingArrays(np.float32(temperature), np.int32(k or logits.shape[1]), np.float32(p))
    return SampledTokens(
        *map(np.asarray, jax.jit(sample_tokens, static_argnums=3)(jnp.float32(logits), keys, how, mode))
    )


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(np.float64(x) - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def filter_mask(probabilities: np.ndarray, k: int, p: float) -> np.ndarray:
    """Which tokens of a row the filters keep, by sorting."""
    order = np.sort(probabilities)[::-1]
    mask = probabilities >= order[min(k, len(order)) - 1]
    order = np.sort(np.where(mask, probabilities, 0))[::-1] / probabilities[mask].sum()
    enough = np.argmax(np.cumsum(order) >= p - 1e-6)
    return mask & (probabilities / probabilities[mask].sum() >= order[enough] * (1 - 1e-9))


# Whole logits make ties; at a temperature of ln 2 their probabilities are sums of powers of two.
ROWS = strategies.lists(strategies.integers(-6, 6), min_size=VOCABULARY, max_size=VOCABULARY)


@settings(max_examples=60)
@given(ROWS, strategies.integers(1, VOCABULARY + 2), strategies.floats(0.05, 1.0), strategies.integers(0, 10**6))
def test_logprobs_are_those_before_and_after_the_filters(row: list[int], k: int, p: float, seed: int) -> None:
    logits = np.tile(np.float64(row), (8, 1))
    probabilities = softmax(logits / 0.8)[0]
    mask = filter_mask(probabilities, k, p)
    if mask.tolist() != filter_mask(probabilities, k, p + 2e-6).tolist():
        return  # a tie of the sum with p, within rounding
    found = sample(logits, seed, temperature=0.8, k=k, p=p)
    assert mask[found.tokens].all()
    np.testing.assert_allclose(found.logprobs, np.log(probabilities[found.tokens]), atol=2e-5)
    after_filters = probabilities[found.tokens] / probabilities[mask].sum()
    np.testing.assert_allclose(found.sampled_logprobs, np.log(after_filters), atol=2e-5)


def test_tokens_that_tie_with_the_last_one_kept_are_kept() -> None:
    logits = np.tile([3.0, 1.0, 2.0, 2.0, 2.0, 0.0], (400, 1))
    for how in ({"k": 2}, {"k": 3}, {"p": 0.6}):
        assert set(sample(logits, **how).tokens) == {0, 2, 3, 4}, how  # type: ignore[arg-type]
    assert set(sample(logits, k=1).tokens) == {0}
    assert set(sample(logits, p=1e-6).tokens) == {0}
    zeros = np.tile([-0.0, 0.0, -1.0], (100, 1))
    assert set(sample(zeros, k=1).tokens) == {0, 1}


@pytest.mark.parametrize("size", [2, 23, 64, 1000])
@pytest.mark.parametrize("filters", [{}, {"k": 12, "p": 0.9}])
def test_tokens_are_sampled_as_often_as_they_are_likely(size: int, filters: dict[str, Any]) -> None:
    count = 5_000
    row = np.random.default_rng(size).normal(size=size) * 1.5
    expected = softmax(row)
    mask = filter_mask(expected, filters.get("k", size), filters.get("p", 1.0))
    expected = np.where(mask, expected, 0) / expected[mask].sum() * count
    found = sample(np.tile(row, (count, 1)), **filters, mode=FILTERED if filters else SAMPLED)
    seen = np.bincount(found.tokens, minlength=size)
    often = expected >= 5
    cells = [*zip(seen[often], expected[often], strict=True), (seen[~often].sum(), expected[~often].sum() + 1e-9)]
    chi_square = sum((n - e) ** 2 / max(e, 1) for n, e in cells)
    assert chi_square < len(cells) + 4 * np.sqrt(2 * len(cells))


def test_tokens_without_probability_are_never_sampled() -> None:
    """Also at the ends of the vocabulary and of its blocks, where a random number near 0 or 1 would land."""
    logits = np.full((4096, 40), -np.inf)
    logits[:, [7, 8, 30]] = 0.0
    assert set(sample(logits, mode=SAMPLED).tokens) == {7, 8, 30}


@pytest.mark.parametrize("mode", [SAMPLED, FILTERED])
def test_a_row_does_not_depend_on_the_others(mode: SamplingMode) -> None:
    logits = jax.random.normal(jax.random.key(0), (40, 300)) * 3
    keys = jax.random.split(jax.random.key(1), 40)
    how = SamplingArrays(np.float32(0.7), np.int32(9), np.float32(0.9))
    sampler = jax.jit(sample_tokens, static_argnums=3)
    whole, part = sampler(logits, keys, how, mode), sampler(logits[30:33], keys[30:33], how, mode)
    np.testing.assert_array_equal(whole.tokens[30:33], part.tokens)
    np.testing.assert_allclose(whole.sampled_logprobs[30:33], part.sampled_logprobs, atol=2e-6)


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    logits = np.array([[0.0, 2.0, 2.0, 1.0], [5.0, 5.0, 5.0, 5.0]])
    found = sample(logits, mode=SamplingMode(greedy=True, top_k=False, top_p=False))
    assert found.tokens.tolist() == [1, 0]
    np.testing.assert_allclose(found.logprobs, np.log(softmax(logits)[[0, 1], [1, 0]]), atol=1e-6)
    assert found.sampled_logprobs.tolist() == [0.0, 0.0]
