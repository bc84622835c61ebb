"""The sampler: completions belong to their keys alone, say their true log-probabilities, and end where they should."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from dsmath_jax.models.llama import Llama, head
from dsmath_jax.sampling.sampler import Completion, Sampler

STOPS, MOST = (2, 5), 6
PROMPTS = [[1, 7, 3], [1, 9], [1, 4, 4, 8, 20, 11], [1], [1, 13, 7, 7]]


@pytest.fixture(scope="module")
def sampler(model: Llama, mesh: Mesh) -> Sampler:
    return Sampler(model, mesh, STOPS, MOST, rows=12)


@pytest.fixture(scope="module")
def logits_of(model: Llama, params: Any) -> Callable[[Sequence[int]], np.ndarray]:
    """Next-token logits after every token of a sequence, in one pass without any cache."""

    @jax.jit
    def forward(tokens: jax.Array) -> jax.Array:
        places = jnp.arange(16)[None]
        hidden, _ = model.apply({"params": params}, tokens, places, jnp.ones_like(tokens))
        return hidden[0] @ head(params, model.config)

    def logits(tokens: Sequence[int]) -> np.ndarray:
        row = np.zeros((1, 16), np.int32)
        row[0, : len(tokens)] = tokens
        return np.float64(forward(row))[: len(tokens)]

    return logits


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def drawn(sampler: Sampler, params: Any, prompts: Sequence[Sequence[int]], **how: Any) -> list[list[Completion]]:
    return list(sampler.generate(params, prompts, **how))


def tokens(groups: list[list[Completion]]) -> list[list[list[int]]]:
    return [[completion.tokens for completion in group] for group in groups]


def test_a_completion_does_not_depend_on_the_batch_it_was_drawn_in(
    sampler: Sampler, model: Llama, params: Any, mesh: Mesh
) -> None:
    whole = drawn(sampler, params, PROMPTS, samples=3, seed=4, step=2)
    assert [[(c.prompt, c.sample) for c in group] for group in whole] == [[(p, s) for s in range(3)] for p in range(5)]
    # Two prompts at a time instead of four, two samples of each, in another order and beside a prompt so long that all
    # are padded to another width.
    order = [3, 0, 4, 1, 2]
    other = Sampler(model, mesh, STOPS, MOST, rows=4)
    prompts = [[1] * 40, *(PROMPTS[i] for i in order)]
    moved = drawn(other, params, prompts, samples=2, seed=4, step=2, prompt_ids=[99, *order])[1:]
    assert tokens(moved) == [tokens(whole)[i][:2] for i in order]
    for i, group in zip(order, moved, strict=True):
        for one, same in zip(group, whole[i], strict=False):
            np.testing.assert_allclose(one.logprobs, same.logprobs, atol=1e-5)


def test_seed_step_prompt_and_sample_each_make_another_key(sampler: Sampler, params: Any) -> None:
    same_prompt = [PROMPTS[0]] * 4
    base = {"samples": 3, "seed": 4, "step": 2, "prompt_ids": [0, 1, 2, 3]}
    first = tokens(drawn(sampler, params, same_prompt, **base))
    assert first == tokens(drawn(sampler, params, same_prompt, **base))
    assert len({tuple(t) for group in first for t in group}) == 12
    for change in ({"seed": 5}, {"step": 3}, {"prompt_ids": [4, 5, 6, 7]}):
        others = tokens(drawn(sampler, params, same_prompt, **base | change))
        assert all(one != other for one, other in zip(first, others, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_those_of_one_pass_over_the_whole_text(
    sampler: Sampler, params: Any, logits_of: Callable[..., np.ndarray], temperature: float
) -> None:
    for group in drawn(sampler, params, PROMPTS, samples=3, temperature=temperature, seed=1):
        for completion in group:
            prompt = PROMPTS[completion.prompt]
            logprobs = log_softmax(logits_of(prompt + completion.tokens[:-1]) / temperature)[len(prompt) - 1 :]
            expected = logprobs[np.arange(len(completion.tokens)), completion.tokens]
            np.testing.assert_allclose(completion.logprobs, expected, atol=2e-5)


def test_greedy_takes_the_likeliest_token_whatever_the_seed(
    sampler: Sampler, params: Any, logits_of: Callable[..., np.ndarray]
) -> None:
    greedy = drawn(sampler, params, PROMPTS, temperature=0.0, seed=1)
    assert tokens(greedy) == tokens(drawn(sampler, params, PROMPTS, temperature=0.0, seed=2, step=7))
    for prompt, [completion] in zip(PROMPTS, greedy, strict=True):
        text = list(prompt)
        while len(text) < len(prompt) + MOST and text[-1] not in STOPS:
            text.append(int(logits_of(text)[-1].argmax()))
        assert prompt + completion.tokens == text
        assert completion.logprobs == pytest.approx(
            [log_softmax(logits_of(text)[len(prompt) - 1 + t])[token] for t, token in enumerate(completion.tokens)],
            abs=2e-5,
        )


def test_a_completion_ends_with_its_first_eos_or_at_the_limit(sampler: Sampler, params: Any) -> None:
    completions = [
        c for step in range(25) for group in drawn(sampler, params, PROMPTS, samples=3, step=step) for c in group
    ]
    for c in completions:
        assert 1 <= len(c.tokens) == len(c.logprobs) <= MOST
        assert not set(c.tokens[:-1]) & set(STOPS)
        assert c.finished == (c.tokens[-1] in STOPS)
        assert c.finished or len(c.tokens) == MOST
    assert {c.tokens[-1] for c in completions if c.finished} == set(STOPS)
    assert any(not c.finished for c in completions)
    assert any(c.finished and len(c.tokens) == MOST for c in completions)  # an EOS at the limit still counts


def test_two_tokens_are_distributed_as_the_model_says(
    model: Llama, params: Any, mesh: Mesh, logits_of: Callable[..., np.ndarray]
) -> None:
    """Chi-square over pairs: a wrong temperature, or noise used twice, is far outside."""
    prompt, temperature, count = [1, 7], 1.3, 6000
    sampler = Sampler(model, mesh, [], 2, rows=count)
    [group] = sampler.generate(params, [prompt], samples=count, temperature=temperature, seed=0)
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
