"""The pieces of the RL losses: clipping in every quadrant, estimators of the KL, bounded ratios."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.rl.losses import KL_ESTIMATORS, LOG_RATIO_LIMIT, Tokens, clip, log_ratio

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope", "low", "high"),
    [
        (1.5, 2.0, 2.4, 0.0, 0, 1),  # better and already likelier: no further
        (1.5, -2.0, -3.0, -3.0, 0, 0),  # worse and likelier: the full slope back
        (0.5, 2.0, 1.0, 1.0, 0, 0),  # better and less likely: the full slope back
        (0.5, -2.0, -1.6, 0.0, 1, 0),  # worse and already less likely: no further
        (1.1, 2.0, 2.2, 2.2, 0, 0),
        (0.9, -2.0, -1.8, -1.8, 0, 0),
        (1.0, 2.0, 2.0, 2.0, 0, 0),
    ],
)
def test_clipping_in_every_quadrant(
    ratio: float, advantage: float, value: float, slope: float, low: int, high: int
) -> None:
    def gain(log_ratios: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        tokens = Tokens(log_ratios, log_ratios, jnp.array([[advantage]]), jnp.array([[True]]), jnp.array([[1]]))
        gains, metrics = clip(tokens, 0.8, 1.2)
        return jnp.sum(gains), (metrics["clip_low"], metrics["clip_high"])

    (found, flags), gradient = jax.value_and_grad(gain, has_aux=True)(jnp.log(jnp.array([[ratio]])))
    assert float(found) == pytest.approx(value, abs=1e-12)
    assert float(gradient[0, 0]) == pytest.approx(slope, abs=1e-12)
    assert [float(flag[0, 0]) for flag in flags] == [low, high]


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_k3_is_never_negative_and_zero_where_the_policies_agree(logprob: float, reference: float) -> None:
    with jax.enable_x64(True):
        value = float(KL_ESTIMATORS["k3"](jnp.array(reference - logprob)))
        same = float(KL_ESTIMATORS["k3"](jnp.array(0.0)))
    assert value >= 0.0
    assert same == 0.0
    if abs(logprob - reference) > 1e-3:
        assert value > 0.0


@pytest.mark.parametrize("difference", [1e-2, 1e-3, 1e-4, -1e-4])
def test_k3_keeps_its_digits_in_float32_where_policies_are_close(difference: float) -> None:
    """As policies are after the first update: exp(d) - d - 1 as written would be rounding alone."""
    found = float(KL_ESTIMATORS["k3"](jnp.float32(difference)))
    assert found == pytest.approx(difference**2 / 2 + difference**3 / 6, rel=2e-3 + 1e-7 / abs(difference))


@pytest.mark.parametrize(("kl", "expected"), [("k1", "kl"), ("k3", "kl"), ("k2", "half the mean square")])
def test_estimators_on_average(kl: str, expected: str) -> None:
    pi, reference = np.random.default_rng(0).dirichlet(np.ones(6), size=2)
    d = np.log(reference / pi)
    means = {"kl": -(pi * d).sum(), "half the mean square": (pi * d**2).sum() / 2}
    assert float(np.sum(pi * KL_ESTIMATORS[kl](d))) == pytest.approx(means[expected], abs=1e-12)


def test_ratios_are_clipped_before_float32_overflows() -> None:
    others = jnp.array([[-200.0, -19.0, 0.0, 0.0]])
    mask = jnp.array([[True, True, True, False]])

    def held(logprobs: jax.Array) -> jax.Array:
        return jnp.sum(jnp.exp(log_ratio(logprobs, others, mask)))

    found, slopes = jax.value_and_grad(held)(jnp.array([[0.0, 0.0, -200.0, jnp.nan]]))
    assert float(found) == pytest.approx(np.exp(LOG_RATIO_LIMIT) + np.exp(19.0) + np.exp(-LOG_RATIO_LIMIT) + 1)
    np.testing.assert_allclose(slopes, [[0.0, np.exp(19.0), 0.0, 0.0]])
