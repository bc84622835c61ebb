"""Reward functions: their values, and that none can stop a run or be silently zero."""

import logging
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmath_jax.data.datasets import Record
from dsmath_jax.rl.rewards import ERRORS, RewardFunctions, RewardInput, RuleRewards
from dsmath_jax.workdir import UserError

USERS = "tests.rl.reward_functions"
CORRECT = "3 + 4 = 7\nThe answer is 7."
NONE = dict.fromkeys(ERRORS, 0)


def record(number: int = 0, answer: str = "7") -> Record:
    return Record(f"toy/train/{number}", "How many apples are there?", "", answer, kind="number")


def score_all(
    reward_fns: dict[str, float], texts: list[str], seconds: float = 60.0, workers: int = 1, group_size: int = 1
) -> RuleRewards:
    inputs = [RewardInput(text, record(place // group_size)) for place, text in enumerate(texts)]
    with RewardFunctions(tuple(reward_fns.items()), seconds, workers) as reward:
        return reward.score(inputs, group_size)


def score(reward_fns: dict[str, float], texts: list[str], **arguments: Any) -> tuple[np.ndarray, dict[str, int]]:
    rewards = score_all(reward_fns, texts, **arguments)
    return rewards.total, rewards.errors


def test_the_correct_answer_is_worth_one() -> None:
    rewards, errors = score({"correct": 1.0}, [CORRECT, "The answer is 8.", "7", ""])
    assert rewards.dtype == np.float64
    assert rewards.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert errors == NONE


def test_rewards_are_summed_with_their_weights() -> None:
    texts = [CORRECT, "The answer is 8.", "7 apples"]
    reward_fns = {"correct": 1.0, "format": 0.5, f"{USERS}:length": -0.01, f"{USERS}:shares_a_word": 10}
    rewards, errors = score(reward_fns, texts)
    expected = [1.0 + 0.5 - 0.01 * len(CORRECT), 0.5 - 0.16, -0.08 + 10]
    np.testing.assert_allclose(rewards, expected, rtol=1e-12)
    assert errors == NONE


def test_the_format_depends_on_how_its_own_completion_finished() -> None:
    with RewardFunctions((("format", 1.0),), 60.0, 1) as reward:
        rewards = reward.score([RewardInput(CORRECT, record(), finished) for finished in (True, False, True)])
    assert rewards.total.tolist() == [1.0, 0.0, 1.0]


BAD = {
    "raise": "raised", "recurse": "raised", "leave": "raised", "list": "not_finite", "nan": "not_finite",
    "inf": "not_finite",
    "text": "not_finite", "big": "not_finite", "exit": "died", "kill": "died", "memory": "died",
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_completions_without_a_reward_are_counted_and_the_others_keep_theirs(bad: str) -> None:
    rewards, errors = score({f"{USERS}:as_asked": 2.0}, ["", bad, "fine"])
    assert rewards[[0, 2]].tolist() == [2.0, 2.0]
    assert np.isnan(rewards[1])
    assert errors == NONE | {BAD[bad]: 1}


def test_a_reward_that_hangs_times_out_on_every_thread() -> None:
    found = []
    thread = threading.Thread(
        target=lambda: found.append(score({"correct": 1.0, f"{USERS}:as_asked": 1.0}, ["hang", CORRECT], seconds=1.0))
    )
    thread.start()
    thread.join()
    ((rewards, errors),) = found
    assert np.isnan(rewards[0])
    assert rewards[1] == 2.0
    assert errors == NONE | {"timed_out": 1}


def test_an_error_of_one_function_removes_the_whole_sum() -> None:
    rewards, errors = score({"correct": 1.0, f"{USERS}:as_asked": 0.0}, ["nan", CORRECT])
    assert np.isnan(rewards[0])
    assert rewards[1] == 1.0
    assert errors["not_finite"] == 1


@pytest.mark.parametrize("order", [1, -1])
def test_a_function_that_returns_none_abstains(order: int) -> None:
    """The others' weights stay as they are; where nobody rewards a completion it has no reward, which is no error."""
    reward_fns = dict([("correct", 1.0), (f"{USERS}:as_asked", 0.5)][::order])
    rewards, errors = score(reward_fns, [CORRECT, "none", "fine"])
    assert rewards.tolist() == [1.5, 0.0, 0.5]
    assert errors == NONE
    rewards, errors = score({f"{USERS}:as_asked": 0.5}, ["fine", "none", "raise"])
    np.testing.assert_array_equal(rewards, [0.5, np.nan, np.nan])
    assert errors == NONE | {"raised": 1}


@given(st.lists(st.lists(st.sampled_from(["none", "nan", "fine"]), min_size=2, max_size=2), min_size=1, max_size=5))
@settings(max_examples=5)
def test_the_reward_is_the_sum_over_those_that_do_not_abstain(words: list[list[str]]) -> None:
    texts = [" ".join(pair) for pair in words]
    rewards, errors = score({f"{USERS}:first_word": 1.0, f"{USERS}:second_word": 10.0}, texts)
    for reward, pair in zip(rewards, words, strict=True):
        given = [weight for word, weight in zip(pair, (1.0, 10.0), strict=True) if word == "fine"]
        assert np.isnan(reward) if "nan" in pair or not given else reward == sum(given)
    assert errors == NONE | {"not_finite": sum("nan" in pair for pair in words)}


def test_a_function_that_abstains_throughout_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """It may lack a return, and nothing else shows that where other functions reward."""
    reward_fns = ((f"{USERS}:as_asked", 1.0), (f"{USERS}:length", 1.0))
    with caplog.at_level(logging.WARNING), RewardFunctions(reward_fns, 60.0, 1) as reward:
        for texts in (["none", "fine"], ["none", "none"], ["none", "none"]):
            reward.score([RewardInput(text, record()) for text in texts])
    [line] = caplog.records
    assert line.getMessage() == f"rl: the reward function {USERS}:as_asked returned None for all 2 completions."


def test_a_sum_that_overflows_is_counted() -> None:
    rewards, errors = score({f"{USERS}:as_asked": 1e308, f"{USERS}:length": 1e308}, ["four"])
    assert np.isnan(rewards[0])
    assert errors == NONE | {"not_finite": 1}


def test_the_first_errors_are_logged_with_their_record(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _, errors = score({f"{USERS}:as_asked": 1.0}, ["fine", *10 * ["raise"], "nan"])
    assert errors == NONE | {"raised": 10, "not_finite": 1}
    messages = [line.getMessage() for line in caplog.records]
    assert len(messages) == 4
    assert messages[0] == (
        f"rl: a completion of toy/train/1 has no reward: {USERS}:as_asked raised (KeyError: 'no such field')."
    )
    assert messages[2].endswith("; further errors of this kind are only counted.")
    assert "toy/train/11" in messages[3]
    assert "returned nan" in messages[3]


@given(st.lists(st.sampled_from(["", CORRECT, "The answer is 8.", "raise", "exit", "nan"]), max_size=8))
@settings(max_examples=2)
def test_rewards_do_not_depend_on_the_number_of_workers(texts: list[str]) -> None:
    reward_fns = {"correct": 1.0, f"{USERS}:as_asked": 0.25}
    (one, errors), (three, others) = (score(reward_fns, texts, workers=workers) for workers in (1, 3))
    np.testing.assert_array_equal(one, three)
    assert errors == others
    bad = [text in {"raise", "exit", "nan"} for text in texts]
    np.testing.assert_array_equal(np.isnan(one), np.array(bad, bool))


def test_no_completions() -> None:
    rewards, errors = score({"correct": 1.0}, [])
    assert rewards.shape == (0,)
    assert errors == NONE


@pytest.mark.parametrize(
    ("reward_fns", "message"),
    [
        ({}, "is empty"),
        ({"corect": 1.0}, "Unknown reward function 'corect' in rl.reward_fns, did you mean 'correct'"),
        ({"tests.rl.reward_functions.length": 1.0}, "your own as package.module:function"),
        ({"no_such_module:reward": 1.0}, "No module named 'no_such_module'"),
        ({f"{USERS}:no_such_function": 1.0}, "no attribute 'no_such_function'"),
        ({f"{USERS}:NO_FUNCTION": 1.0}, "is not a function"),
        ({f"{USERS}:of_one": 1.0}, "too many positional arguments"),
        ({f"{USERS}:of_keywords": 1.0}, "too many positional arguments"),
        ({"correct": float("nan")}, "weight of 'correct' is nan"),
        ({"correct": "much"}, "weight of 'correct' is 'much'"),
    ],
)
def test_functions_that_cannot_be_used_are_refused_before_the_run(reward_fns: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        RewardFunctions(tuple(reward_fns.items()), 1.0, 1)
    assert message in str(refused.value)
    assert "rl.reward_fns" in str(refused.value)


@pytest.mark.parametrize(
    ("seconds", "workers", "message"),
    [
        (0.0, 1, "rl.reward_seconds is 0.0; give a positive number"),
        (float("nan"), 1, "rl.reward_seconds is nan; give a positive number"),
        (1.0, -1, "rl.reward_workers is -1; give 0"),
    ],
)
def test_invalid_limits_are_refused(seconds: float, workers: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        RewardFunctions((("correct", 1.0),), seconds, workers)
