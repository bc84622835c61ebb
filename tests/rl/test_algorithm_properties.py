"""Properties of every loss: micro-batches add up, masked places and rows never matter, nothing overflows."""

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmath_jax.rl.algorithms import DPO, GRPO, PPO, Algorithm, Likelihood
from dsmath_jax.rl.losses import SURROGATES
from dsmath_jax.rl.methods import METHODS

from .free_policy import (
    GROUP,
    LENGTH,
    WIDTH,
    GivenLogprobs,
    free_batch,
    free_pairs,
    free_params,
    mean_loss,
)
from .free_policy import (
    given as given_logprobs,
)

ALGORITHMS: dict[str, Algorithm] = {
    "grpo": GRPO(),
    "grpo, a mean over tokens": GRPO(normalize="token", clip_eps_high=0.28),
    "grpo, a constant": GRPO(normalize="constant", max_new_tokens=9, kl="k1"),
    "grpo, k2": GRPO(kl="k2"),
    "grpo without kl": GRPO(kl_coef=0.0),
    "grpo, bounded kl, an entropy bonus, masked tokens": GRPO(
        kl_clip=0.5, entropy_coef=0.1, sampler_correction="mask", normalize="sum"
    ),
    "gspo": GRPO(loss="sequence_clip", clip_eps=0.1),
    "cispo": GRPO(loss="cispo", sampler_correction="truncate"),
    "distill": GRPO(advantage="teacher"),
    "likelihood": Likelihood(),
    "likelihood, a mean over correct ones": Likelihood(normalize_by_correct=True),
    "dpo": DPO(),
    "dpo, sums": DPO(length_normalized=False),
    "ppo": PPO(),
    "ppo without value clip": PPO(value_clip=0.0),
}
EACH = pytest.mark.parametrize("name", ALGORITHMS)
pytestmark = pytest.mark.usefixtures("float64")


def params_of(name: str) -> Any:
    length = 2 * LENGTH if name.startswith("dpo") else LENGTH
    logprobs = {"hidden": -np.random.default_rng(0).exponential(1.5, (GROUP, length)), "head": np.zeros((1, 1))}
    if name.startswith("ppo"):
        reward = {"kernel": np.full((WIDTH, 1), 0.7), "bias": np.array([0.2])}
        return {"policy": logprobs, "value": {"model": free_params(5), "reward": reward}}
    return logprobs


def batch_of(name: str) -> dict[str, np.ndarray]:
    return free_pairs() if name.startswith("dpo") else free_batch() | {"entropy_coef": np.full((GROUP, LENGTH), 0.1)}


def everything(name: str, params: Any, batch: dict) -> list[np.ndarray]:
    """Loss, weight, metrics and the gradient of the loss, as sums."""

    def sums(params: Any) -> tuple[jax.Array, Any]:
        (loss, weight), metrics = ALGORITHMS[name].objective(GivenLogprobs(), params, batch)
        return loss, (weight, metrics)

    return [np.asarray(x) for x in jax.tree.leaves(jax.value_and_grad(sums, has_aux=True)(params))]


def test_every_algorithm_of_a_method_is_among_them() -> None:
    names = {type(algorithm).__name__ for algorithm in ALGORITHMS.values()}
    assert names == {method.algorithm.__name__ for method in METHODS.values()}
    assert {getattr(algorithm, "loss", "clip") for algorithm in ALGORITHMS.values()} == {*SURROGATES}


@EACH
def test_sums_add_up_over_micro_batches_of_any_size(name: str) -> None:
    params, batch = params_of(name), batch_of(name)
    whole = everything(name, params, batch)
    pieces = [everything(name, params, {n: x[part] for n, x in batch.items()}) for part in ([2, 0, 3], [1])]
    for one, *others in zip(whole, *pieces, strict=True):
        np.testing.assert_allclose(one, sum(others), atol=1e-12)
    assert any(np.abs(x).max() > 0.01 for x in whole)


@EACH
@pytest.mark.parametrize("wild", [np.nan, np.inf])
def test_values_outside_completions_never_matter(name: str, wild: float) -> None:
    params, batch = params_of(name), batch_of(name)
    spoilt = {
        field: np.where(batch["loss_weights"] > 0, x, wild) if x.dtype.kind == "f" and field != "loss_weights" else x
        for field, x in batch.items()
    }
    for plain, other in zip(everything(name, params, batch), everything(name, params, spoilt), strict=True):
        np.testing.assert_array_equal(plain, other)


@EACH
def test_a_row_without_weight_gives_no_gradient_even_where_it_is_not_a_number(name: str) -> None:
    """As a completion without a reward."""
    params, batch = params_of(name), batch_of(name)
    last = np.arange(GROUP)[:, None] == GROUP - 1
    spoilt = {n: x if x.dtype.kind == "i" else np.where(last, np.nan, x) for n, x in batch.items()}
    spoilt["loss_weights"] = np.where(last, 0.0, batch["loss_weights"])
    shorter = {n: x[:-1] for n, x in batch.items()}
    for plain, other in zip(everything(name, params, shorter), everything(name, params, spoilt), strict=True):
        np.testing.assert_allclose(plain, other, atol=1e-13)


@EACH
def test_a_batch_without_any_weight_gives_zeros(name: str) -> None:
    batch = batch_of(name)
    batch["loss_weights"] = np.zeros_like(batch["loss_weights"])
    assert all((x == 0).all() for x in everything(name, params_of(name), batch))


@settings(max_examples=20)
@given(
    gap=st.sampled_from([0.0, 1.0, -1.0, 50.0, -50.0, 500.0, -500.0]),
    ref_gap=st.sampled_from([0.0, 1.0, -1.0, 50.0, -50.0, 500.0, -500.0]),
    advantage=st.sampled_from([-3.0, 0.0, 3.0]),
    options=st.sampled_from([{}, {"kl": "k1"}, {"kl": "k2"}, {"normalize": "token"}]),
)
def test_policies_far_apart_leave_float32_finite(gap: float, ref_gap: float, advantage: float, options: dict) -> None:
    """Whatever the sampling policy and the reference said: loss, gradient and its square are numbers."""
    mask = np.ones((2, 3), np.float32)
    logprobs = np.full((2, 3), -600.0, np.float32)
    fields = {
        "advantages": np.array([[advantage], [1.0]], np.float32) * mask,
        "old_logprobs": logprobs - gap,
        "ref_logprobs": logprobs - ref_gap,
    }
    with jax.enable_x64(False):
        params, batch = given_logprobs(logprobs, mask, **{n: np.float32(x) for n, x in fields.items()})
        loss, gradient, metrics = mean_loss(GRPO(**options), params, batch, GivenLogprobs())
    assert np.isfinite([loss, *metrics.values()]).all()
    assert gradient["hidden"].dtype == np.float32
    assert np.isfinite(np.sum(gradient["hidden"] ** 2, dtype=np.float32))
