"""Advantages of groups, against a plain loop."""

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dsmath_jax.rl.advantages import group_normalised, reward_itself

REWARDS = hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 6)), elements=st.floats(-5, 5, width=16))


@given(REWARDS)
def test_every_group_is_normalised_by_its_own_sample_deviation(rewards: np.ndarray) -> None:
    found = group_normalised(rewards)
    for group, normalised in zip(rewards.tolist(), found, strict=True):
        mean, deviation = statistics.fmean(group), statistics.stdev(group)
        expected = [0.0] * len(group) if len(set(group)) == 1 else [(r - mean) / (deviation + 1e-6) for r in group]
        np.testing.assert_allclose(normalised, expected, atol=1e-9)


def test_population_deviation_and_epsilon_are_settings() -> None:
    rewards = np.array([[0.0, 1.0, 1.0, 0.0]])
    np.testing.assert_allclose(group_normalised(rewards, ddof=0, epsilon=0.0), [[-1, 1, 1, -1]])
    np.testing.assert_allclose(group_normalised(rewards, ddof=0, epsilon=0.5), [[-0.5, 0.5, 0.5, -0.5]])


@pytest.mark.parametrize("reward", [0.1, 1.0, -3.7, 1e-30, 1e9])
def test_equal_rewards_give_exactly_zero(reward: float) -> None:
    """Also where their floating-point mean is not quite them."""
    assert (group_normalised(np.full((2, 7), reward)) == 0.0).all()


def test_a_group_without_spread_does_not_touch_the_others() -> None:
    found = group_normalised(np.array([[1.0, 1.0], [0.0, 1.0]]))
    np.testing.assert_allclose(found, [[0, 0], [-(0.5**0.5), 0.5**0.5]], atol=2e-6)


def test_reward_itself() -> None:
    assert reward_itself(np.array([[1, 0]])).tolist() == [[1.0, 0.0]]
