"""The losses of GRPO and the likelihood in float64 against loops, option by option; what an algorithm trains."""

import numpy as np
import pytest

from dsmath_jax.rl.algorithms import DPO, GRPO, PPO, Algorithm, Likelihood
from dsmath_jax.rl.losses import KL_ESTIMATORS
from dsmath_jax.rl.methods import METHODS
from dsmath_jax.workdir import UserError

from .free_policy import (
    GROUP,
    LENGTHS,
    TEMPERATURE,
    FreePolicy,
    free_batch,
    free_params,
    mean_loss,
    policy,
)

EPS, HIGH, BETA = 0.2, 0.28, 0.04
pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def params() -> dict[str, np.ndarray]:
    return free_params()


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    return free_batch()


def places(batch: dict) -> list[tuple[int, int]]:
    return [(int(i), int(t)) for i, t in np.argwhere(batch["loss_weights"] > 0)]


def estimate(kl: str, logprob: float, reference: float) -> float:
    difference = reference - logprob
    return {"k1": -difference, "k2": difference**2 / 2, "k3": np.exp(difference) - difference - 1}[kl]


@pytest.mark.parametrize("kl", KL_ESTIMATORS)
@pytest.mark.parametrize("normalize", ["completion", "token", "constant"])
@pytest.mark.parametrize("high", [0.0, HIGH])
def test_loss_and_metrics_are_equation_3(params: dict, batch: dict, kl: str, normalize: str, high: float) -> None:
    logprobs, _, entropy = policy(params, batch)
    names = ("loss", "kl", "clip_low", "clip_high", "entropy", "sampler_logprob_diff")
    sums = dict.fromkeys(names, 0.0)
    for i, t in places(batch):
        ratio = np.exp(logprobs[i, t] - batch["old_logprobs"][i, t])
        advantage = batch["advantages"][i, t]
        upper = 1 + (high or EPS)
        gain = min(ratio * advantage, min(max(ratio, 1 - EPS), upper) * advantage)
        divergence = estimate(kl, logprobs[i, t], batch["ref_logprobs"][i, t])
        mean = 1 / sum(LENGTHS) if normalize == "token" else 1 / LENGTHS[i] / GROUP
        sums["loss"] -= (gain - BETA * divergence) * (1 / 11 / GROUP if normalize == "constant" else mean)
        sums["kl"] += divergence * mean
        sums["clip_low"] += (ratio < 1 - EPS and advantage < 0) * mean
        sums["clip_high"] += (ratio > upper and advantage > 0) * mean
        sums["entropy"] += entropy[i, t] * mean
        sums["sampler_logprob_diff"] += abs(logprobs[i, t] - batch["sampler_logprobs"][i, t]) * mean
    grpo = GRPO(
        clip_eps=EPS, clip_eps_high=high, kl_coef=BETA, temperature=TEMPERATURE, kl=kl, normalize=normalize,
        max_new_tokens=11,
    )  # fmt: skip
    loss, gradient, metrics = mean_loss(grpo, params, batch)
    assert gradient["hidden"].dtype == np.float64
    assert {"loss": loss} | metrics == pytest.approx(sums, abs=1e-12)
    assert min(sums["clip_low"], sums["clip_high"]) > 0.05


def test_what_an_option_changes_can_be_seen(params: dict, batch: dict) -> None:
    variants = [{}, {"normalize": "token"}, {"normalize": "constant", "max_new_tokens": 11}, {"clip_eps_high": HIGH}]
    variants += [{"kl": "k1"}, {"kl": "k2"}, {"kl_coef": 0.0}, {"temperature": 1.0}]
    losses = [mean_loss(GRPO(**{"temperature": TEMPERATURE} | v), params, batch)[0] for v in variants]
    assert len({round(loss, 4) for loss in losses}) == len(variants)


def test_without_old_logprobs_the_ratio_is_one_and_has_a_gradient(params: dict, batch: dict) -> None:
    """As if the policy had just drawn the completions."""
    logprobs, _, _ = policy(params, batch)
    absent = {name: x for name, x in batch.items() if name != "old_logprobs"}
    present = batch | {"old_logprobs": logprobs}
    found, expected = (mean_loss(GRPO(temperature=TEMPERATURE), params, b) for b in (absent, present))
    assert found[0] == pytest.approx(expected[0], abs=1e-14)
    np.testing.assert_allclose(found[1]["hidden"], expected[1]["hidden"], atol=1e-14)
    assert np.abs(found[1]["hidden"]).max() > 0.01
    assert found[2]["clip_low"] == found[2]["clip_high"] == 0.0


def test_without_kl_no_reference_is_read(params: dict, batch: dict) -> None:
    del batch["ref_logprobs"]
    _, _, metrics = mean_loss(GRPO(kl_coef=0.0), params, batch)
    assert "kl" not in metrics


def test_the_last_token_of_a_completion_has_its_share(params: dict, batch: dict) -> None:
    """EOS is part of the completion: it has a gradient and counts in the length."""
    _, gradient, _ = mean_loss(GRPO(clip_eps=1e9, temperature=TEMPERATURE), params, batch)
    moved = np.abs(gradient["hidden"]).sum(axis=-1) > 1e-9
    np.testing.assert_array_equal(moved, batch["loss_weights"] > 0)


@pytest.mark.parametrize("normalize_by_correct", [False, True])
def test_likelihood_is_the_mean_of_weighted_logprobs(params: dict, batch: dict, normalize_by_correct: bool) -> None:
    rewards = np.array([1.0, 0.0, 0.0, 1.0])
    logprobs, _, entropy = policy(params, batch)
    mask = batch["loss_weights"]
    per_completion = (logprobs * mask).sum(axis=1) / LENGTHS
    entropies = (entropy * mask).sum(axis=1) / LENGTHS
    one = batch | {"advantages": rewards[:, None] * mask}
    loss, _, metrics = mean_loss(
        Likelihood(temperature=TEMPERATURE, normalize_by_correct=normalize_by_correct), params, one
    )
    assert loss == pytest.approx(-(per_completion * rewards).sum() / (2 if normalize_by_correct else 4), abs=1e-12)
    entropy_of_correct = (entropies * rewards).sum() / 2
    assert metrics["entropy"] == pytest.approx(entropy_of_correct if normalize_by_correct else entropies.mean())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl": "k4"}, "kl must be one of 'k1', 'k2', 'k3'; got 'k4'."),
        ({"normalize": "mean"}, "normalize must be one of 'completion', 'token', 'constant', 'sum'; got 'mean'."),
        ({"normalize": "constant", "max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1."),
    ],
)
def test_invalid_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError) as refused:
        GRPO(**settings)
    assert str(refused.value) == message


def test_a_row_without_a_completion_counts_for_nothing(params: dict, batch: dict) -> None:
    empty = batch | {"loss_weights": batch["loss_weights"] * np.array([[1], [1], [0], [1]])}
    (loss, weight), _ = GRPO().objective(FreePolicy(), params, empty)
    assert weight == 3
    assert np.isfinite(loss)


@pytest.mark.parametrize(
    ("algorithm", "needed"),
    [
        (Likelihood(), False), (DPO(), True), (GRPO(), True), (GRPO(kl_coef=0.0), False), (PPO(), True),
        (PPO(kl_coef=0.0), False),
    ],
)  # fmt: skip
def test_a_reference_is_needed_for_a_kl_or_a_log_ratio(algorithm: Algorithm, needed: bool) -> None:
    assert algorithm.needs_reference == needed


@pytest.mark.parametrize("method", METHODS)
def test_a_value_model_is_trained_with_ppo_alone(method: str) -> None:
    algorithm, reads = METHODS[method].algorithm(), []

    def read() -> dict[str, np.ndarray]:
        reads.append(free_params())
        return reads[-1]

    params = algorithm.initial_params(read, 3)
    assert algorithm.has_values == (method == "ppo")
    assert algorithm.policy(params) is reads[0]
    if algorithm.has_values:
        assert params["value"]["model"] is reads[1]  # read a second time: an update donates its arguments
        assert params["value"]["reward"]["kernel"].shape == (3, 1)
        assert not params["value"]["reward"]["kernel"].any()
    assert len(reads) == 1 + algorithm.has_values


def test_algorithms_other_than_these_have_to_define_a_loss(params: dict, batch: dict) -> None:
    with pytest.raises(NotImplementedError):
        Algorithm().objective(FreePolicy(), params, batch)
