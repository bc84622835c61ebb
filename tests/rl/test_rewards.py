"""Rule rewards: what they are worth, and that no reward function can stop a run or be silently zero."""

import logging
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmath_jax.data.benchmarks import Record
from dsmath_jax.rl.rewards import ERRORS, RuleReward, well_formed
from dsmath_jax.workdir import UserError

USERS = "tests.rl.reward_functions"
RIGHT = "3 + 4 = 7\nThe answer is 7."
NONE = dict.fromkeys(ERRORS, 0)


def record(number: int = 0, answer: str = "7") -> Record:
    return Record(f"toy/train/{number}", "How many apples are there?", "", answer, kind="number")


def score(rules: dict[str, float], texts: list[str], seconds: float = 60.0, workers: int = 1) -> Any:
    with RuleReward(rules, seconds, workers) as reward:
        return reward.score(texts, [record(place) for place in range(len(texts))], [True] * len(texts))


def test_the_right_answer_is_worth_one() -> None:
    rewards, errors = score({"correct": 1.0}, [RIGHT, "The answer is 8.", "7", ""])
    assert rewards.dtype == np.float64
    assert rewards.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert errors == NONE


@pytest.mark.parametrize(
    ("text", "finished", "worth"),
    [
        (RIGHT, True, 1.0),
        ("So the answer is 8", True, 1.0),  # right or wrong is not its business
        (f"{RIGHT}\n\n", True, 1.0),
        (RIGHT, False, 0.0),  # cut at the limit: it had not said that it was done
        (f"{RIGHT}\n3 + 4 = 7", True, 0.0),
        ("The answer is .", True, 0.0),
        ("7", True, 0.0),
        ("", True, 0.0),
        ("\n", True, 0.0),
    ],
)
def test_format_wants_the_answer_at_the_end_that_the_model_chose(text: str, finished: bool, worth: float) -> None:
    assert well_formed(text, finished) == worth


def test_rules_are_summed_with_their_weights() -> None:
    texts = [RIGHT, "The answer is 8.", "7 apples"]
    rules = {"correct": 1.0, "format": 0.5, f"{USERS}:length": -0.01, f"{USERS}:shares_a_word": 10}
    rewards, errors = score(rules, texts)
    expected = [1.0 + 0.5 - 0.01 * len(RIGHT), 0.5 - 0.16, -0.08 + 10]
    np.testing.assert_allclose(rewards, expected, rtol=1e-12)
    assert errors == NONE


def test_finished_comes_to_the_rule_of_its_completion() -> None:
    with RuleReward({"format": 1.0}, 60.0, 1) as reward:
        rewards, _ = reward.score([RIGHT, RIGHT, RIGHT], 3 * [record()], [True, False, True])
    assert rewards.tolist() == [1.0, 0.0, 1.0]


BAD = {
    "raise": "raised", "recurse": "raised", "leave": "raised", "list": "not_finite", "nan": "not_finite",
    "inf": "not_finite",
    "none": "not_finite", "text": "not_finite", "big": "not_finite", "exit": "died", "kill": "died", "memory": "died",
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_what_has_no_reward_is_counted_and_the_others_keep_theirs(bad: str) -> None:
    rewards, errors = score({f"{USERS}:as_told": 2.0}, ["", bad, "fine"])
    assert rewards[[0, 2]].tolist() == [2.0, 2.0]
    assert np.isnan(rewards[1])
    assert errors == NONE | {BAD[bad]: 1}


def test_a_reward_that_hangs_is_late_on_every_thread() -> None:
    found = []
    thread = threading.Thread(
        target=lambda: found.append(score({"correct": 1.0, f"{USERS}:as_told": 1.0}, ["hang", RIGHT], seconds=1.0))
    )
    thread.start()
    thread.join()
    ((rewards, errors),) = found
    assert np.isnan(rewards[0])
    assert rewards[1] == 2.0
    assert errors == NONE | {"timed_out": 1}


def test_an_error_of_one_rule_leaves_no_part_of_the_sum() -> None:
    rewards, errors = score({"correct": 1.0, f"{USERS}:as_told": 0.0}, ["nan", RIGHT])
    assert np.isnan(rewards[0])
    assert rewards[1] == 1.0
    assert errors["not_finite"] == 1


def test_a_sum_that_overflows_is_counted() -> None:
    rewards, errors = score({f"{USERS}:as_told": 1e308, f"{USERS}:length": 1e308}, ["four"])
    assert np.isnan(rewards[0])
    assert errors == NONE | {"not_finite": 1}


def test_the_first_errors_are_told_with_their_record(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _, errors = score({f"{USERS}:as_told": 1.0}, ["fine", *10 * ["raise"], "nan"])
    assert errors == NONE | {"raised": 10, "not_finite": 1}
    told = [line.getMessage() for line in caplog.records]
    assert len(told) == 4
    assert told[0] == (
        f"rl: a completion of toy/train/1 has no reward: {USERS}:as_told raised (KeyError: 'no such field')."
    )
    assert told[2].endswith("; further errors of this kind are only counted.")
    assert "toy/train/11" in told[3]
    assert "returned nan" in told[3]


@given(st.lists(st.sampled_from(["", RIGHT, "The answer is 8.", "raise", "exit", "nan"]), max_size=8))
@settings(max_examples=4)
def test_rewards_do_not_depend_on_the_number_of_workers(texts: list[str]) -> None:
    rules = {"correct": 1.0, f"{USERS}:as_told": 0.25}
    (one, errors), (three, others) = (score(rules, texts, workers=workers) for workers in (1, 3))
    np.testing.assert_array_equal(one, three)
    assert errors == others
    bad = [text in {"raise", "exit", "nan"} for text in texts]
    np.testing.assert_array_equal(np.isnan(one), np.array(bad, bool))


def test_no_completions() -> None:
    rewards, errors = score({"correct": 1.0}, [])
    assert rewards.shape == (0,)
    assert errors == NONE


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({}, "is empty"),
        ({"corect": 1.0}, "Unknown rule 'corect' in rl.rules, did you mean 'correct'"),
        ({"tests.rl.reward_functions.length": 1.0}, "functions of yours as package.module:function"),
        ({"no_such_module:reward": 1.0}, "No module named 'no_such_module'"),
        ({f"{USERS}:no_such_function": 1.0}, "no attribute 'no_such_function'"),
        ({f"{USERS}:NO_FUNCTION": 1.0}, "is no function"),
        ({f"{USERS}:of_one": 1.0}, "too many positional arguments"),
        ({f"{USERS}:of_keywords": 1.0}, "too many positional arguments"),
        ({"correct": float("nan")}, "weight of 'correct' is nan"),
        ({"correct": "much"}, "weight of 'correct' is 'much'"),
    ],
)
def test_rules_that_cannot_be_used_are_refused_before_the_run(rules: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as refused:
        RuleReward(rules, 1.0, 1)
    assert told in str(refused.value)
    assert "rl.rules" in str(refused.value)


@pytest.mark.parametrize(("seconds", "workers"), [(0.0, 1), (float("nan"), 1), (1.0, -1)])
def test_limits_that_make_no_sense_are_refused(seconds: float, workers: int) -> None:
    with pytest.raises(UserError, match=r"rl\.reward_"):
        RuleReward({"correct": 1.0}, seconds, workers)
