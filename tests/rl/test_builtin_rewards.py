"""The built-in reward functions: values from their papers, and what they are given of a completion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.data.datasets import Record
from dsmath_jax.rl.builtin_rewards import BUILT_IN, Overlong, length, soft_overlong, think_format, well_formed
from dsmath_jax.rl.rewards import RewardFunctions, RewardInput
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.workdir import UserError

CORRECT, INCORRECT = "3 + 4 = 7\nThe answer is 7.", "The answer is 8."
RECORD = Record("toy/train/0", "How many apples are there?", "", "7", kind="number")


@pytest.mark.parametrize(
    ("text", "finished", "worth"),
    [
        (CORRECT, True, 1.0),
        ("So the answer is 8", True, 1.0),  # the format does not depend on correctness
        (f"{CORRECT}\n\n", True, 1.0),
        (CORRECT, False, 0.0),  # cut at the limit: it had not said that it was done
        (f"{CORRECT}\n3 + 4 = 7", True, 0.0),
        ("The answer is .", True, 0.0),
        (f"<think>7?</think>{CORRECT}", True, 1.0),
        (f"<think>{CORRECT}", True, 0.0),
        ("7", True, 0.0),
        ("", True, 0.0),
        ("\n", True, 0.0),
    ],
)
def test_format_wants_the_answer_at_the_end_that_the_model_chose(text: str, finished: bool, worth: float) -> None:
    assert well_formed(text, finished) == worth


@pytest.mark.parametrize(
    ("text", "finished", "worth"),
    [
        ("<think>3 + 4</think>7", True, 1.0),
        ("\n<think>\n3 + 4\n</think>\n\nThe answer is 7.\n", True, 1.0),
        ("<think>3 + 4</think>7", False, 0.0),  # cut at the limit
        ("<think>3 + 4</think> \n", True, 0.0),  # no answer
        ("<think>\n\n</think>7", True, 0.0),  # no thought
        ("Well. <think>3 + 4</think>7", True, 0.0),
        ("<think>3 + 4</think>7<think>or</think>8", True, 0.0),
        ("<think>3 <think>+</think> 4</think>7", True, 0.0),
        ("<think>3 + 4</think>7</think>", True, 0.0),
        ("<think>3 + 4", True, 0.0),
        ("3 + 4</think>7", True, 0.0),
        ("7", True, 0.0),
        ("", True, 0.0),
    ],
)
def test_think_format_wants_one_thought_and_an_answer(text: str, finished: bool, worth: float) -> None:
    assert think_format(text, finished) == worth


def test_soft_overlong_has_the_values_of_dapo() -> None:
    """Of its experiments: 16,384 tokens are expected, 4,096 more are the cache, 20,480 are the limit."""
    dapo = RLSettings(max_new_tokens=20_480).overlong
    assert dapo == RLSettings(max_new_tokens=20_480, overlong_cache_tokens=4096).overlong == Overlong(20_480, 4096)
    lengths = {1: 0.0, 16_384: 0.0, 17_408: -0.25, 18_432: -0.5, 20_479: -4095 / 4096, 20_480: -1.0, 30_000: -1.0}
    assert {tokens: soft_overlong(tokens, dapo) for tokens in lengths} == lengths


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 120))
def test_soft_overlong_falls_from_zero_to_minus_one(limit: int, cache: int, tokens: int) -> None:
    overlong = Overlong(limit, min(cache, limit))
    here, after = (soft_overlong(number, overlong) for number in (tokens, tokens + 1))
    assert -1 <= after <= here <= 0
    assert (here == 0) == (tokens <= limit - overlong.cache_tokens)
    assert (here == -1) == (tokens >= limit)


def test_the_cache_of_soft_overlong_fits_the_length_limit() -> None:
    assert RLSettings(max_new_tokens=3).overlong == Overlong(3, 1)
    assert RLSettings(max_new_tokens=9, overlong_cache_tokens=9).overlong == Overlong(9, 9)
    message = r"^overlong_cache_tokens is 10; it must be at most max_new_tokens=9\.$"
    with pytest.raises(UserError, match=message):
        RLSettings(max_new_tokens=9, overlong_cache_tokens=10)


def test_length_has_the_values_of_kimi() -> None:
    assert length([10, 20, 30, 50], [True] * 4) == [0.5, 0.25, 0.0, -0.5]
    assert length([10, 20, 30, 50], [False] * 4) == [0.0, 0.0, 0.0, -0.5]  # a short error is no success
    assert length([10, 10, 10], [True, False, True]) == [0.0] * 3


@pytest.mark.parametrize("kind", ["number", "math"])
def test_an_answer_in_a_thought_does_not_count(kind: str) -> None:
    texts = [
        f"<think>{INCORRECT}</think>{CORRECT}",
        f"<think>{CORRECT}</think>{INCORRECT}",
        f"<think>{CORRECT}</think>So it is.",  # states none
        f"<think>{CORRECT}",  # never closed: it was cut off
        f"<think>a</think>{INCORRECT}<think>b</think>{CORRECT}",
    ]
    record = Record("toy/0", "How many?", "", "7", kind=kind)  # type: ignore[arg-type]
    with RewardFunctions((("correct", 1.0),), 60.0, 1) as reward:
        assert reward.score([RewardInput(text, record) for text in texts]).total.tolist() == [1.0, 0.0, 0.0, 0.0, 1.0]


def test_each_completion_has_the_sum_of_all_built_in_functions() -> None:
    """Two groups of three; `length` compares within each."""
    texts = [CORRECT, INCORRECT, f"<think>7?</think>{CORRECT}", CORRECT, CORRECT, "7"]
    tokens, finished = [10, 20, 30, 8, 6, 10], [True, True, True, False, True, True]
    given = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    inputs = [
        RewardInput(text, RECORD, *rest, environment_reward=reward)
        for text, *rest, reward in zip(texts, finished, tokens, given, strict=True)
    ]
    expected = {
        "correct": [1.0, 0.0, 1.0, 1.0, 1.0, 0.0],
        "format": [1.0, 1.0, 1.0, 0.0, 1.0, 0.0],
        "think_format": [0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
        "soft_overlong": [0.0, -0.5, -1.0, 0.0, 0.0, 0.0],
        "length": [0.5, 0.0, -0.5, 0.0, 0.5, -0.5],
        "environment": given,
    }
    weights = {name: 2.0**i for i, name in enumerate(BUILT_IN)}
    with RewardFunctions(tuple(weights.items()), 60.0, 1, Overlong(25, 10)) as reward:
        rewards = reward.score(inputs, group_size=3)
    assert {name: values.tolist() for name, values in rewards.by_function.items()} == expected
    assert rewards.total.tolist() == [sum(weights[name] * expected[name][i] for name in BUILT_IN) for i in range(6)]
    assert rewards.means == {name: np.mean(values) for name, values in expected.items()}


def test_a_completion_that_cannot_be_graded_has_no_length_reward_and_the_others_have_theirs() -> None:
    """Its length counts: the group has it."""
    program = Record("toy/1", "Write f.", answer="assert f()", kind="program")  # is run, not read
    inputs = [RewardInput(CORRECT, record, num_tokens=n) for record, n in ((RECORD, 10), (program, 30), (RECORD, 20))]
    with RewardFunctions((("length", 1.0),), 60.0, 1) as reward:
        rewards = reward.score(inputs, group_size=3)
    np.testing.assert_array_equal(rewards.total, [0.5, np.nan, 0.0])
    assert rewards.errors["raised"] == 1
