"""The policy objective in float64: its value by a loop, its gradient by the paper's gradient coefficient."""

import types
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.models.llama import all_rows
from dsmath_jax.rl.methods import METHODS
from dsmath_jax.rl.objectives import PolicyObjective, clipped, k3

GROUP, LENGTH, WIDTH, VOCABULARY = 4, 7, 3, 5
LENGTHS, STARTS = (1, 5, 3, 2), (2, 1, 0, 3)  # of the completions, and how many prompt targets come before
REWARDS = np.array([[1.0, 0.0, 0.0, 1.0]])
EPS, BETA, TEMPERATURE = 0.2, 0.04, 0.7


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


class FreePolicy:
    """Stands for the decoder: the hidden state of every place is a parameter of its own."""

    config = types.SimpleNamespace(tie_embeddings=False, compute_dtype="float64")
    by_rows = staticmethod(all_rows)

    def apply(self, variables: dict, tokens: Any, positions: Any, segment_ids: Any) -> tuple[jax.Array, None]:
        rows = tokens[:, 0]  # which of the completions these are
        return variables["params"]["hidden"][rows], None


@pytest.fixture
def params() -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0)
    return {"hidden": noise.normal(size=(GROUP, LENGTH, WIDTH)), "head": noise.normal(size=(WIDTH, VOCABULARY))}


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    noise = np.random.default_rng(1)
    places = np.arange(LENGTH)
    starts, lengths = np.array(STARTS)[:, None], np.array(LENGTHS)[:, None]
    mask = ((places >= starts) & (places < starts + lengths)).astype(np.float64)
    tokens = np.repeat(np.arange(GROUP)[:, None], LENGTH, axis=1)
    shape = (GROUP, LENGTH)
    return {
        "tokens": tokens, "positions": tokens, "segment_ids": tokens, "loss_weights": mask,
        "targets": noise.integers(0, VOCABULARY, shape), "advantages": noise.normal(size=shape) * mask,
        "old_logprobs": -noise.exponential(1.5, shape) * mask, "ref_logprobs": -noise.exponential(1.5, shape) * mask,
    }  # fmt: skip


def policy(params: dict, batch: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities, their gradients with respect to the hidden states, and entropies, by hand."""
    logits = params["hidden"] @ params["head"] / TEMPERATURE
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    chosen = np.eye(VOCABULARY)[batch["targets"]]
    logprobs = np.log((probabilities * chosen).sum(axis=-1))
    slopes = (chosen - probabilities) @ params["head"].T / TEMPERATURE
    return logprobs, slopes, -(probabilities * np.log(probabilities)).sum(axis=-1)


def loss_and_gradient(objective: PolicyObjective, params: dict, batch: dict) -> tuple[float, Any, dict[str, float]]:
    def mean(params: dict) -> tuple[jax.Array, dict]:
        (loss, weight), metrics = objective(FreePolicy(), params, batch)
        return loss / weight, {name: value / weight for name, value in metrics.items()}

    (loss, metrics), gradient = jax.value_and_grad(mean, has_aux=True)(params)
    assert loss.dtype == gradient["hidden"].dtype == jnp.float64
    return float(loss), gradient, {name: float(value) for name, value in metrics.items()}


def places(batch: dict) -> list[tuple[int, int]]:
    return [(int(i), int(t)) for i, t in np.argwhere(batch["loss_weights"] > 0)]


def test_loss_is_equation_3(params: dict, batch: dict) -> None:
    logprobs, _, entropy = policy(params, batch)
    total, token_mean, kl, clip_fraction, entropies = 0.0, 0.0, 0.0, 0.0, 0.0
    for i, t in places(batch):
        ratio = np.exp(logprobs[i, t] - batch["old_logprobs"][i, t])
        advantage = batch["advantages"][i, t]
        gain = min(ratio * advantage, min(max(ratio, 1 - EPS), 1 + EPS) * advantage)
        difference = batch["ref_logprobs"][i, t] - logprobs[i, t]
        divergence = np.exp(difference) - difference - 1
        share = 1 / LENGTHS[i] / GROUP
        total += (gain - BETA * divergence) * share
        token_mean += (gain - BETA * divergence) / sum(LENGTHS)
        kl += divergence * share
        clip_fraction += (gain < ratio * advantage) * share
        entropies += entropy[i, t] * share
    loss, _, metrics = loss_and_gradient(PolicyObjective(EPS, BETA, TEMPERATURE), params, batch)
    assert loss == pytest.approx(-total, abs=1e-12)
    assert abs(total - token_mean) > 0.01  # the mean over all tokens is another number
    assert metrics["kl"] == pytest.approx(kl, abs=1e-12)
    assert metrics["clip_fraction"] == pytest.approx(clip_fraction, abs=1e-6)
    assert 0.1 < clip_fraction < 0.9
    assert metrics["entropy"] == pytest.approx(entropies, abs=1e-12)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_gradient_is_the_papers_coefficient_times_the_score(name: str, params: dict, batch: dict) -> None:
    """Paper Eq. 5 and Table 10 where pi_old = pi_theta."""
    method = METHODS[name]
    beta = BETA if method.has_kl else 0.0
    logprobs, slopes, _ = policy(params, batch)
    advantages = method.advantage(REWARDS).reshape(-1, 1) * batch["loss_weights"]
    on_policy = batch | {"old_logprobs": logprobs * batch["loss_weights"], "advantages": advantages}
    _, gradient, metrics = loss_and_gradient(PolicyObjective(EPS, beta, TEMPERATURE), params, on_policy)
    normalised = (REWARDS[0] - 0.5) / (np.sqrt(1 / 3) + 1e-6)  # the sample deviation of two ones and two zeros
    coefficients = {
        "grpo": lambda i, t: normalised[i] + BETA * (np.exp(batch["ref_logprobs"][i, t] - logprobs[i, t]) - 1),
        "online_rft": lambda i, t: float(REWARDS[0, i] == 1),
    }
    expected = np.zeros_like(params["hidden"])
    for i, t in places(batch):
        expected[i, t] = coefficients[name](i, t) * slopes[i, t] / LENGTHS[i] / GROUP
    np.testing.assert_allclose(-gradient["hidden"], expected, atol=1e-13)
    assert np.abs(expected).max() > 0.05
    assert metrics["ratio_error"] < 1e-14
    assert metrics["clip_fraction"] == 0.0


def test_the_last_token_of_a_completion_has_its_share(params: dict, batch: dict) -> None:
    """EOS is part of the completion: it has a gradient and counts in the length."""
    _, gradient, _ = loss_and_gradient(PolicyObjective(1e9, BETA, TEMPERATURE), params, batch)
    moved = np.abs(gradient["hidden"]).sum(axis=-1) > 1e-9
    np.testing.assert_array_equal(moved, batch["loss_weights"] > 0)


@pytest.mark.parametrize("parts", [[[0], [1], [2], [3]], [[3, 0], [1, 2]], [[0, 1, 2], [3]]], ids=str)
def test_sums_add_up_over_any_micro_batches(params: dict, batch: dict, parts: list[list[int]]) -> None:
    objective = PolicyObjective(EPS, BETA, TEMPERATURE)
    whole = objective(FreePolicy(), params, batch)
    pieces = [objective(FreePolicy(), params, {name: x[part] for name, x in batch.items()}) for part in parts]
    summed = jax.tree.map(lambda *xs: sum(xs), *pieces)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(summed), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_what_lies_outside_the_completions_cannot_spoil_the_loss(params: dict, batch: dict) -> None:
    outside = batch["loss_weights"] == 0
    wild = params | {"hidden": np.where(outside[..., None], 1e6 * params["hidden"], params["hidden"])}
    objective = PolicyObjective(EPS, BETA, TEMPERATURE)
    (plain, gradient, _), (spoilt, other, _) = (loss_and_gradient(objective, p, batch) for p in (params, wild))
    assert plain == spoilt
    np.testing.assert_array_equal(gradient["hidden"], other["hidden"])


def test_a_row_without_a_completion_counts_for_nothing(params: dict, batch: dict) -> None:
    empty = batch | {"loss_weights": batch["loss_weights"] * np.array([[1], [1], [0], [1]])}
    (loss, weight), _ = PolicyObjective(EPS, BETA, TEMPERATURE)(FreePolicy(), params, empty)
    assert weight == 3
    assert np.isfinite(loss)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope", "was_clipped"),
    [
        (1.5, 2.0, 2.4, 0.0, 1),  # better and already likelier: no further
        (1.5, -2.0, -3.0, -3.0, 0),  # worse and likelier: the full slope back
        (0.5, 2.0, 1.0, 1.0, 0),  # better and less likely: the full slope back
        (0.5, -2.0, -1.6, 0.0, 1),  # worse and already less likely: no further
        (1.1, 2.0, 2.2, 2.2, 0),
        (0.9, -2.0, -1.8, -1.8, 0),
    ],
)
def test_clipping_in_every_quadrant(
    ratio: float, advantage: float, value: float, slope: float, was_clipped: int
) -> None:
    old = np.array([[-1.3]])

    def gain(logprobs: jax.Array) -> tuple[jax.Array, jax.Array]:
        gains, flags = clipped(logprobs, old, np.array([[advantage]]), 0.2)
        return jnp.sum(gains), flags

    (found, flags), gradient = jax.value_and_grad(gain, has_aux=True)(old + np.log(ratio))
    assert float(found) == pytest.approx(value, abs=1e-12)
    assert float(gradient[0, 0]) == pytest.approx(slope, abs=1e-12)
    assert flags.tolist() == [[was_clipped]]


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_k3_is_never_negative_and_zero_where_the_policies_agree(logprob: float, reference: float) -> None:
    with jax.enable_x64(True):
        value = float(k3(np.array([[logprob]]), np.array([[reference]]))[0, 0])
        same = float(k3(np.array([[logprob]]), np.array([[logprob]]))[0, 0])
    assert value >= -1e-12 * max(1.0, np.exp(reference - logprob))
    assert same == 0.0
    if abs(logprob - reference) > 1e-3:
        assert value > 0.0


def test_k3_is_the_kl_divergence_on_average() -> None:
    noise = np.random.default_rng(0)
    pi, reference = noise.dirichlet(np.ones(6), size=2)
    expected = np.sum(pi * np.log(pi / reference))
    assert float(np.sum(pi * k3(np.log(pi), np.log(reference)))) == pytest.approx(expected, abs=1e-12)
