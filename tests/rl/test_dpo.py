"""DPO in float64: the paper's length-normalized form and the original one, by a loop."""

import numpy as np
import pytest

from dsmath_jax.rl.algorithms import DPO

from .free_policy import GROUP, LENGTH, TEMPERATURE, FreePolicy, free_pairs, free_params, mean_loss, policy

BETA = 0.3
pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def params() -> dict[str, np.ndarray]:
    return free_params(length=2 * LENGTH)


SIDES = {"chosen": slice(0, LENGTH), "rejected": slice(LENGTH, 2 * LENGTH)}


def side(params: dict, pairs: dict, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Log-ratios with the reference at the completion's tokens, and its length, by hand."""
    logprobs, _, _ = policy(params, pairs)
    mask = pairs["loss_weights"][:, SIDES[name]]
    return (logprobs - pairs["ref_logprobs"])[:, SIDES[name]] * mask, mask.sum(axis=1)


@pytest.mark.parametrize("length_normalized", [True, False])
def test_loss_and_metrics_are_equation_12(params: dict, length_normalized: bool) -> None:
    pairs = free_pairs()
    (plus, plus_length), (minus, minus_length) = (side(params, pairs, name) for name in ("chosen", "rejected"))
    assert (plus_length != minus_length).any()
    deltas = [plus.sum(axis=1), minus.sum(axis=1)]
    if length_normalized:
        deltas = [deltas[0] / plus_length, deltas[1] / minus_length]
    margins = BETA * (deltas[0] - deltas[1])
    loss, _, metrics = mean_loss(
        DPO(beta=BETA, length_normalized=length_normalized, temperature=TEMPERATURE), params, pairs
    )
    assert loss == pytest.approx(np.log1p(np.exp(-margins)).mean(), abs=1e-12)
    assert metrics["margin"] == pytest.approx(margins.mean(), abs=1e-12)
    assert metrics["accuracy"] == np.mean(margins > 0)
    assert metrics["chosen_reward"] == pytest.approx(BETA * deltas[0].mean(), abs=1e-12)
    assert metrics["rejected_reward"] == pytest.approx(BETA * deltas[1].mean(), abs=1e-12)
    assert 0 < metrics["entropy"] < np.log(5)


def test_the_papers_form_is_the_default(params: dict) -> None:
    pairs = free_pairs()
    losses = [mean_loss(algorithm, params, pairs)[0] for algorithm in (DPO(), DPO(length_normalized=False))]
    assert losses[0] == mean_loss(DPO(length_normalized=True), params, pairs)[0]
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize("name", SIDES)
def test_a_pair_with_an_empty_side_counts_for_nothing(params: dict, name: str) -> None:
    pairs = free_pairs()
    dropped = {n: x[1:] for n, x in pairs.items()}
    empty = pairs["loss_weights"].copy()
    empty[0, SIDES[name]] = 0
    spoilt = pairs["ref_logprobs"].copy()
    spoilt[0, SIDES[name]] = np.nan
    spoilt[0] = np.where(empty[0] > 0, spoilt[0], np.nan)
    found, expected = (
        mean_loss(DPO(beta=BETA), params, batch)
        for batch in (pairs | {"loss_weights": empty, "ref_logprobs": spoilt}, dropped)
    )
    assert found[0] == pytest.approx(expected[0], abs=1e-14)
    np.testing.assert_allclose(found[1]["hidden"], expected[1]["hidden"], atol=1e-14)
    assert found[2] == pytest.approx(expected[2], abs=1e-12)


def test_margins_of_any_size_leave_loss_and_gradient_finite(params: dict) -> None:
    pairs = free_pairs()
    for sign in (1e4, -1e4):
        reference = pairs["ref_logprobs"].copy()
        reference[:, SIDES["chosen"]] = sign
        loss, gradient, _ = mean_loss(DPO(beta=1.0), params, pairs | {"ref_logprobs": reference})
        assert loss == pytest.approx(max(sign, 0), rel=1e-3, abs=1e-6)
        assert np.isfinite(gradient["hidden"]).all()


def test_pairs_are_counted(params: dict) -> None:
    (_, weight), _ = DPO().objective(FreePolicy(), params, free_pairs())
    assert weight == GROUP
