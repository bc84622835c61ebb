"""LoRA's adapters: unmerged they compute what merged ones do, the start is the base, and stacked ones add up."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.models import lora
from dsmath_jax.models.decoder import Decoder
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import Layout

ALL = "layers/(q|k|v|o|gate|up|down)"
TOKENS = np.random.default_rng(0).integers(1, 23, (2, 10)).astype(np.int32)


def random_adapters(params: Any, targets: str = ALL, rank: int = 3, seed: int = 5) -> Any:
    """Adapters whose B is not 0, unlike that of the start."""
    adapters = lora.initial_adapters(params, targets, rank, jax.random.key(seed))
    noise = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(noise.normal(0, 0.3, x.shape), jnp.float32), adapters)


@pytest.fixture(scope="module")
def hidden(model: Decoder) -> Callable[[Any], np.ndarray]:
    """The final hidden states, by parameters."""
    positions = np.broadcast_to(np.arange(TOKENS.shape[1]), TOKENS.shape)
    apply = jax.jit(lambda params: model.apply({"params": params}, TOKENS, positions, np.ones_like(TOKENS)))
    return lambda params: np.asarray(apply(params))


def test_the_start_is_the_base(params: Any, hidden: Callable[[Any], np.ndarray]) -> None:
    adapters = lora.initial_adapters(params, ALL, 4, jax.random.key(0))
    for name, inputs in lora.MATRICES.items():
        a, b = adapters["layers"][name + lora.LORA_A], adapters["layers"][name + lora.LORA_B]
        weight = params["layers"][name]
        assert a.shape == (*weight.shape[: 1 + inputs], 4)
        assert b.shape == (weight.shape[0], 4, *weight.shape[1 + inputs :])
        assert not b.any()
        bound = np.prod(weight.shape[1 : 1 + inputs]) ** -0.5  # Kaiming uniform with a = sqrt(5), as in peft
        assert 0.9 * bound < np.abs(a).max() <= bound
        assert abs(np.std(a) / bound - 3**-0.5) < 0.1
    assert np.array_equal(hidden(lora.combine(params, adapters, 2.0)), hidden(params))


@pytest.mark.parametrize("targets", [ALL, "layers/[qv]", "layers/o"])
def test_unmerged_equals_merged(params: Any, hidden: Callable[[Any], np.ndarray], targets: str) -> None:
    combined = lora.combine(params, random_adapters(params, targets), 1.5)
    merged = lora.merge(combined)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    changed = {name for name in lora.MATRICES if not np.array_equal(merged["layers"][name], params["layers"][name])}
    assert changed == set(lora.targeted(targets))
    if "o" in changed:
        a, b = (np.float64(x) for x in lora.adapters_of(combined)["o"])
        expected = np.float64(params["layers"]["o"]) + np.einsum("lnhr,lrd->lnhd", a, b)
        np.testing.assert_allclose(merged["layers"]["o"], expected, rtol=1e-5, atol=1e-6)
    unmerged = hidden(combined)
    np.testing.assert_allclose(unmerged, hidden(merged), rtol=0, atol=1e-5 * np.abs(unmerged).max())
    assert np.abs(unmerged - hidden(params)).max() > 0.01
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, lora.without_adapters(combined), params)))


def test_adapters_of_two_trainings_add_up(params: Any, hidden: Callable[[Any], np.ndarray]) -> None:
    first, second = random_adapters(params, rank=2), random_adapters(params, "layers/[qo]", rank=3, seed=6)
    once = lora.combine(params, first, 0.5)
    both = lora.combine(once, second, 2.0)
    assert both["layers"]["q_lora_a"].shape[-1] == 5
    assert both["layers"]["v_lora_a"].shape[-1] == 2
    twice = hidden(lora.merge(lora.combine(lora.merge(once), second, 2.0)))
    np.testing.assert_allclose(hidden(both), twice, rtol=0, atol=1e-5 * np.abs(twice).max())


def test_the_sampler_decodes_with_adapters(model: Decoder, layout: Layout, params: Any) -> None:
    combined = lora.combine(params, random_adapters(params), 1.0)
    sampler = Sampler(model, layout, [], 6, decode_slots=2)
    prompts = TOKENS[:, :4].tolist()

    def greedy(params: Any) -> list[list[int]]:
        return [group[0].tokens for group in sampler.generate(params, prompts, SamplingParams(temperature=0.0))]

    assert greedy(combined) == greedy(lora.merge(combined)) != greedy(params)


def test_a_base_in_its_compute_dtype_is_the_same_model(
    make_model: Callable[..., Decoder], layout: Layout, params: Any
) -> None:
    model = make_model(compute_dtype="bfloat16")
    positions = np.broadcast_to(np.arange(TOKENS.shape[1]), TOKENS.shape)
    scaled = jax.tree.map(lambda x: x * 1.001, params)  # norm scales that bfloat16 does not have
    abstract = lora.frozen_dtypes(layout.abstract(scaled), "bfloat16")
    stored = jax.tree.map(lambda x, like: x.astype(like.dtype), scaled, abstract)
    assert {str(x.dtype) for x in jax.tree.leaves(stored)} == {"bfloat16", "float32"}
    apply = jax.jit(lambda params: model.apply({"params": params}, TOKENS, positions, np.ones_like(TOKENS)))
    assert np.array_equal(apply(stored), apply(scaled))
