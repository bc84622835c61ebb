"""The thin grader: what it takes out of a completion, what it holds equal, and what it knowingly gets wrong."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.grading.answers import correct, equal, extract, number

# What an answer may be made of; plain random text would hardly ever hold a number.
ANSWERS = st.lists(st.sampled_from([*"0123456789", ",", ".", "/", "-", "+", "$", " ", "%", "a", "x"]), max_size=9).map(
    "".join
)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("3 + 4 = 7\nThe answer is 7.", "7"),
        ("the answer is: 7", "7"),
        ("The answer is $1,234.50.", "1,234.50"),
        ("The answer is 5 apples。", "5 apples"),
        ("The answer is 3. No, wait.\nThe answer is 4.\nDone", "4"),
        ("The answer is 3.5", "3.5"),
        ("The answer is\n12.", "12"),
        ("The answer is $\\frac{1}{2}$.", "\\frac{1}{2}$"),
        ("The answer is .", None),
        ("The answer is ", None),
        ("It is 7.", None),
        ("", None),
    ],
)
def test_the_last_stated_answer_is_taken(completion: str, answer: str | None) -> None:
    assert extract(completion) == answer


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("1,234,567", 1234567), ("1,234.50", Fraction(2469, 2)), ("3/4", Fraction(3, 4)), ("-$12", -12), ("$-12", -12),
        ("+5", 5), (".5", Fraction(1, 2)), ("-.25", Fraction(-1, 4)), ("1.5/2", Fraction(3, 4)), ("1/.5", 2),
        ("1,000/3", Fraction(1000, 3)), ("5 apples", 5), ("007", 7), ("40%", 40), ("no.5", 5),
        ("1/0", None), ("1/2/3", None), ("3 or 4", None), ("1.2.3", None), ("12,34", None), ("", None), ("x", None),
        ("9" * 5000, None),
    ],
)  # fmt: skip
def test_a_number_is_exact_or_none(answer: str, value: Fraction | None) -> None:
    assert number(answer) == value


@pytest.mark.parametrize(
    ("one", "other"),
    [("1,024", "1024"), ("$18.00", "18"), ("0.75", "3/4"), ("6/8", "3/4"), (" yes ", "yes"), (".5", "0.5")],
)
def test_the_same_number_in_other_writing_is_equal(one: str, other: str) -> None:
    assert equal(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("5", "-5"),
        ("5", ".5"),
        ("5", "6"),
        ("0.333", "1/3"),
        ("10000000000000001", "10000000000000000"),
        ("3 or 4", "3"),
    ],
)
def test_another_number_is_not(one: str, other: str) -> None:
    assert not equal(one, other)


@given(ANSWERS, ANSWERS, ANSWERS)
def test_equality_is_an_equivalence(one: str, other: str, third: str) -> None:
    assert equal(one, one)
    assert equal(one, other) == equal(other, one)
    if equal(one, other) and equal(other, third):
        assert equal(one, third)


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
def test_integers_and_fractions_are_read_exactly(above: int, below: int) -> None:
    assert number(str(above)) == number(f"{above:,}") == number(f"${above:,}") == above
    assert number(f"{above}/{below}") == Fraction(above, below)


def test_a_completion_is_right_or_wrong() -> None:
    assert correct("3 * 4 = 12\nThe answer is 12.", "12")
    assert not correct("3 * 4 = 12\nThe answer is 13.", "12")
    assert not correct("12", "12")
    assert not correct("", "")


@pytest.mark.parametrize(
    ("one", "other"),
    [("\\frac{1}{2}", "1/2"), ("50%", "0.5"), ("1e3", "1000"), ("1 1/2", "1.5"), ("\u22125", "-5"), ("five", "5")],
)
def test_known_limits_equal_values_that_it_tells_apart(one: str, other: str) -> None:
    """It knows no LaTeX, per cent, powers, mixed numbers, typographic minus or words."""
    assert not equal(one, other)


@pytest.mark.parametrize(("one", "other"), [("5 apples", "5 pears"), ("x^2", "2"), ("50%", "50"), ("\u22125", "5")])
def test_known_limits_other_values_that_it_takes_for_equal(one: str, other: str) -> None:
    """Whatever stands around the one number of an answer is not looked at."""
    assert equal(one, other)
