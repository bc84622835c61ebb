"""Advantages against plain loops: groups, pools of step rewards, rewards to go, generalized advantage estimates."""

import statistics
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.rl.advantages import (
    ScoredRollout,
    Scores,
    distillation,
    gae,
    group_relative,
    leave_one_out,
    outcome_scores,
    ppo_token_rewards,
    rewards_to_go,
    signed_rewards,
    whitened_group_centered,
    whitened_returns,
    zero_std_groups,
)
from dsmath_jax.rl.algorithms import GRPO, PPO, Likelihood

NAN = float("nan")


@st.composite
def scored(draw: Callable) -> tuple[Scores, int, list[int]]:
    """Step rewards of P groups of G completions; some end before their last token does, some have a NaN."""
    group_size, groups = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    ends, rewards, lengths = [], [], []
    for _ in range(group_size * groups):
        length = draw(st.integers(1, 8))
        ends.append(np.array(sorted(draw(st.sets(st.integers(0, length - 1), min_size=1)))))
        number = st.floats(-5, 5, width=16) | st.sampled_from([0.0, 1.0, 1.0, NAN])
        rewards.append(np.array(draw(st.lists(number, min_size=len(ends[-1]), max_size=len(ends[-1])))))
        lengths.append(length)
    return Scores(ends, rewards), group_size, lengths


@given(scored(), st.booleans(), st.sampled_from([0, 1]))
def test_process_supervision_is_the_papers_formula(
    case: tuple[Scores, int, list[int]], divide_by_std: bool, ddof: int
) -> None:
    """§4.1.3: pool, normalize, sum over the steps that end at or after the token."""
    scores, group_size, lengths = case
    found = group_relative(scores, group_size, lengths, ddof=ddof, divide_by_std=divide_by_std)
    for start in range(0, len(lengths), group_size):
        members = range(start, start + group_size)
        graded = [i for i in members if not any(np.isnan(scores.rewards[i]))]
        pool = [float(r) for i in graded for r in scores.rewards[i]]
        for i in members:
            assert found[i].shape == (lengths[i],)
            if i not in graded:
                assert np.isnan(found[i]).all()
                continue
            if len(set(pool)) == 1:
                assert (found[i] == 0.0).all()
                continue
            deviation = (statistics.stdev if ddof else statistics.pstdev)(pool) + 1e-6 if divide_by_std else 1.0
            for t in range(lengths[i]):
                later = [r for end, r in zip(scores.ends[i], scores.rewards[i], strict=True) if end >= t]
                expected = sum((float(r) - statistics.fmean(pool)) / deviation for r in later)
                assert found[i][t] == pytest.approx(expected, abs=1e-9)


def test_an_example_of_process_supervision() -> None:
    scores = Scores([np.array([1, 3]), np.array([0])], [np.array([1.0, 0.0]), np.array([2.0])])
    first, second = group_relative(scores, 2, [5, 2], ddof=0, epsilon=0.0)
    spread = np.sqrt(2 / 3)
    np.testing.assert_allclose(first, [-1 / spread, -1 / spread, -1 / spread, -1 / spread, 0.0])
    np.testing.assert_allclose(second, [1 / spread, 0.0])  # tokens after the last step get zero


@given(
    st.lists(st.floats(-5, 5, width=16), min_size=4, max_size=4), st.lists(st.integers(1, 9), min_size=4, max_size=4)
)
def test_outcome_supervision_gives_every_token_the_same(rewards: list[float], lengths: list[int]) -> None:
    found = group_relative(outcome_scores(rewards, lengths), 4, lengths)
    mean, deviation = statistics.fmean(rewards), statistics.stdev(rewards)
    for reward, length, tokens in zip(rewards, lengths, found, strict=True):
        expected = 0.0 if len(set(rewards)) == 1 else (reward - mean) / (deviation + 1e-6)
        np.testing.assert_allclose(tokens, np.full(length, expected), atol=1e-9)


def test_population_deviation_and_epsilon_are_settings() -> None:
    scores = outcome_scores([0.0, 1.0, 1.0, 0.0], [1] * 4)
    for settings, expected in (({"ddof": 0, "epsilon": 0.0}, 1.0), ({"ddof": 0, "epsilon": 0.5}, 0.5)):
        found = np.concatenate(group_relative(scores, 4, [1] * 4, **settings))
        np.testing.assert_allclose(found, [-expected, expected, expected, -expected])


@pytest.mark.parametrize("reward", [0.1, 1.0, -3.7, 1e-30, 1e9])
@pytest.mark.parametrize("divide_by_std", [True, False])
def test_equal_rewards_give_exactly_zero(reward: float, divide_by_std: bool) -> None:
    """Also where their floating-point mean is not quite them."""
    scores = outcome_scores([reward] * 7, [3] * 7)
    assert all((a == 0.0).all() for a in group_relative(scores, 7, [3] * 7, divide_by_std=divide_by_std))
    assert zero_std_groups(scores, 7).tolist() == [True]


ROUNDING = 1e-7  # relative: a step or two of float32


@given(
    st.floats(1e-6, 1e6) | st.floats(-1e6, -1e-6),
    st.lists(st.floats(-ROUNDING, ROUNDING), min_size=2, max_size=8),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_rewards_that_differ_by_rounding_are_equal(
    reward: float, errors: list[float], process: bool, divide_by_std: bool
) -> None:
    rewards = [reward * (1 + error) for error in errors]
    lengths = [3] * len(rewards)
    scores = outcome_scores(rewards, lengths)
    if process:
        scores = Scores([np.array([0, 2])] * len(rewards), [np.array([reward, r]) for r in rewards])
    found = group_relative(scores, len(rewards), lengths, divide_by_std=divide_by_std)
    assert all((advantages == 0.0).all() for advantages in found)
    assert zero_std_groups(scores, len(rewards)).tolist() == [True]


@pytest.mark.parametrize("group_size", [2, 64])
@pytest.mark.parametrize(
    ("one", "other"),
    [(1.0, 1.001), (1.0, 1.00001), (100.001, 100.002), (0.0, 1e-9), (1e-12, -1e-12), (-1e6, -1e6 - 1)],
)
def test_small_differences_count(one: float, other: float, group_size: int) -> None:
    """Also of one completion of many, whose standard deviation is small."""
    rewards = [other] + [one] * (group_size - 1)
    scores = outcome_scores(rewards, [1] * group_size)
    assert zero_std_groups(scores, group_size).tolist() == [False]
    found = np.concatenate(group_relative(scores, group_size, [1] * group_size, epsilon=0.0))
    assert abs(found[0]) == pytest.approx((group_size - 1) / group_size**0.5, rel=1e-2)


def test_a_group_of_equal_or_missing_rewards_does_not_affect_the_others() -> None:
    scores = outcome_scores([1.0, 1.0, 1.0, NAN, 0.0, 1.0, NAN, NAN], [1] * 8)
    with np.errstate(all="raise"):
        found = np.concatenate(group_relative(scores, 2, [1] * 8))
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found, [0, 0, 0, NAN, -half, half, NAN, NAN], atol=2e-6)
    assert zero_std_groups(scores, 2).tolist() == [True, True, False, True]


def test_a_failure_is_left_out_of_the_pool() -> None:
    with_failure = group_relative(outcome_scores([0.0, NAN, 1.0, 1.0], [2] * 4), 4, [2] * 4)
    without = group_relative(outcome_scores([0.0, 1.0, 1.0], [2] * 3), 3, [2] * 3)
    np.testing.assert_array_equal(with_failure, [without[0], np.full(2, NAN), *without[1:]])


def test_an_empty_completion_has_no_advantages_and_counts_in_the_pool() -> None:
    empty, other = group_relative(outcome_scores([0.0, 1.0], [0, 2]), 2, [0, 2])
    assert empty.shape == (0,)
    np.testing.assert_allclose(other, [0.5**0.5] * 2, atol=2e-6)


@given(scored())
def test_rewards_to_go_are_the_advantages_of_likelihood(case: tuple[Scores, int, list[int]]) -> None:
    scores, group_size, lengths = case
    for found in (rewards_to_go(scores, lengths), Likelihood().advantages(ScoredRollout(scores, lengths, group_size))):
        for ends, rewards, length, tokens in zip(*scores, lengths, found, strict=True):
            assert tokens.shape == (length,)
            if np.isnan(rewards).any():
                assert np.isnan(tokens).all()
            else:
                expected = [sum(r for end, r in zip(ends, rewards, strict=True) if end >= t) for t in range(length)]
                np.testing.assert_allclose(tokens, expected, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"ddof": 0}, {"epsilon": 0.5}, {"divide_by_std": False}])
def test_grpo_normalizes_within_groups_by_its_own_settings(options: dict) -> None:
    lengths = [2, 1, 3, 1]
    scores = outcome_scores([1.0, 0.25, -2.0, 0.0], lengths)
    found = GRPO(**options).advantages(ScoredRollout(scores, lengths, 2))
    for tokens, expected in zip(found, group_relative(scores, 2, lengths, **options), strict=True):
        np.testing.assert_array_equal(tokens, expected)
    pools = [[1.0, 0.25], [-2.0, 0.0]]
    defaults = {"ddof": 1, "epsilon": 1e-6, "divide_by_std": True} | options
    for i, tokens in enumerate(found):
        pool = pools[i // 2]
        deviation = np.std(pool, ddof=defaults["ddof"]) + defaults["epsilon"] if defaults["divide_by_std"] else 1.0
        np.testing.assert_allclose(tokens, (pool[i % 2] - np.mean(pool)) / deviation)


def test_ppo_estimates_advantages_by_its_own_settings() -> None:
    lengths, noise = [3, 1], np.random.default_rng(0)
    old, reference, values = ([noise.normal(size=n) for n in lengths] for _ in range(3))
    scores = outcome_scores([1.0, -0.5], lengths)
    rollout = ScoredRollout(scores, lengths, 2, old, reference, values)
    found = PPO(gamma=0.9, lam=0.8, kl_coef=0.3).advantages(rollout)
    rewards = ppo_token_rewards(scores, old, reference, 0.3)
    for tokens, reward, value in zip(found, rewards, values, strict=True):
        np.testing.assert_array_equal(tokens, gae(reward, value, 0.9, 0.8))


def test_ppo_without_a_reference_rewards_the_score_alone() -> None:
    values = [np.array([0.5, 0.25]), np.array([1.0])]
    rollout = ScoredRollout(outcome_scores([1.0, NAN], [2, 1]), [2, 1], 2, [np.array([-1.0, -2.0]), np.array([-1.0])])
    first, second = PPO(kl_coef=0.0, gamma=1.0, lam=1.0).advantages(rollout._replace(old_values=values))
    np.testing.assert_allclose(first, [0.5, 0.75])
    assert np.isnan(second).all()  # no reward


def test_ppo_rewards_hold_the_kl_of_every_token_and_the_score_at_its_end() -> None:
    """Eq. 2, by hand."""
    scores = Scores(
        [np.array([2]), np.array([0, 1]), np.array([0])], [np.array([1.5]), np.array([1.0, -2.0]), np.array([NAN])]
    )
    logprobs = [np.array([-1.0, -2.0, -3.0]), np.array([-1.0, -1.0]), np.array([-1.0])]
    references = [np.array([-1.5, -2.0, -1.0]), np.array([-2.0, 0.0]), np.array([-1.0])]
    found = ppo_token_rewards(scores, logprobs, references, 0.1)
    for tokens, expected in zip(found, [[-0.05, 0.0, 1.7], [0.9, -1.9], [NAN]], strict=True):
        np.testing.assert_allclose(tokens, expected, atol=1e-12)


@given(st.integers(1, 8), st.floats(0, 1), st.floats(0, 1), st.integers(0, 3))
def test_gae_is_the_discounted_sum_of_td_errors(length: int, gamma: float, lam: float, filled: int) -> None:
    noise = np.random.default_rng(length)
    rewards, values = noise.normal(size=(2, length))
    following = [*values[1:], 0.0]
    surprises = [r + gamma * v_next - v for r, v, v_next in zip(rewards, values, following, strict=True)]
    expected = [sum((gamma * lam) ** k * s for k, s in enumerate(surprises[t:])) for t in range(length)]
    np.testing.assert_allclose(gae(rewards, values, gamma, lam), expected, atol=1e-12)
    rows = [np.tile(np.append(x, np.zeros(filled)), (2, 1)) for x in (rewards, values)]
    np.testing.assert_allclose(gae(*rows, gamma, lam)[:, :length], [expected] * 2, atol=1e-12)


def test_gae_without_discount_and_decay_is_the_return_less_the_value() -> None:
    rewards, values = np.array([0.0, 1.0, 2.0]), np.array([0.5, 0.25, 1.0])
    np.testing.assert_allclose(gae(rewards, values) + values, [3.0, 3.0, 2.0])
    assert gae(np.empty(0), np.empty(0)).shape == (0,)


def test_distillation_is_the_teachers_log_ratio() -> None:
    """G-OPD: the teacher's part, relative to a reference model, is scaled."""
    student, teacher, reference = [np.array([-1.0, -2.0])], [np.array([-0.5, -4.0])], [np.array([-1.5, -1.0])]
    rollout = ScoredRollout(outcome_scores([0.0], [2]), [2], 1, student, reference, (), teacher)
    np.testing.assert_allclose(distillation(rollout, 1.0), [[0.5, -2.0]])
    np.testing.assert_allclose(distillation(rollout._replace(ref_logprobs=()), 1.0), [[0.5, -2.0]])
    np.testing.assert_allclose(distillation(rollout, 2.0), [[2 * 1.0 - 0.5, 2 * -3.0 + 1.0]])


def test_the_baselines_of_rloo_leave_completions_without_a_reward_out() -> None:
    scores = outcome_scores([1.0, np.nan, 0.0, 0.5, np.nan, np.nan], [1] * 6)
    found = np.concatenate(leave_one_out(scores, 3, [1] * 6))
    np.testing.assert_allclose(found, [1.0, np.nan, -1.0, 0.0, np.nan, np.nan])


def test_equal_rewards_are_whitened_to_zero() -> None:
    scores = outcome_scores([0.1 + 0.2, 0.3, np.nan], [2, 1, 1])
    assert [x.tolist() for x in whitened_returns(scores, [2, 1, 1])[:2]] == [[0.0, 0.0], [0.0]]
    assert np.isnan(whitened_group_centered(scores, 3, [2, 1, 1])[2]).all()


@pytest.mark.parametrize("advantages", [leave_one_out, whitened_group_centered])
def test_rounding_is_no_difference_of_rewards(advantages: Callable) -> None:
    scores = outcome_scores([5.0, 5.0 + 2e-6, 5.0, 5.0 - 2e-6], [1] * 4)
    assert zero_std_groups(scores, 4).all()
    assert [x.tolist() for x in advantages(scores, 4, [1] * 4)] == [[0.0]] * 4


def test_signed_rewards() -> None:
    assert np.concatenate(signed_rewards(outcome_scores([1.0, 0.0], [2, 1]), [2, 1])).tolist() == [1.0, 1.0, -1.0]
