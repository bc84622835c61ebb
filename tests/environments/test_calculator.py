"""The calculator computes exactly, and nothing but arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.environments.calculator import Calculator, value
from dsmath_jax.environments.protocol import Step, TextTurn


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("48 / 2", "24"), ("0.1 + 0.2", "0.3"), ("1 / 3", "1/3"), ("-7 // 2", "-4"), ("7 % 4", "3"), ("2 ^ 10", "1024"),
        ("2 ** -2", "0.25"), ("(1 + 2) * 3", "9"), ("1 / 0", "error"), ("2 ** 0.5", "error"), ("9 ** 9 ** 9", "error"),
        ("len('a')", "error"), ("__import__('os')", "error"), ("True + 1", "error"), ("", "error"), ("1 +", "error"),
        ("10 ** 100 ** 2", "error"), ("1,000 + 1", "error"), ("(" * 500 + "1" + ")" * 500, "error"), ("1e400", "error"),
        ("(((1/3)^100)^1000)^1000", "error"), ("9^1000*9^1000*9^1000*9^1000*9^1000", "error"),
        ("123456789012345678901/10", "12345678901234567890.1"), ("-1 / 8", "-0.125"),
    ],
)  # fmt: skip
def test_values_are_exact(expression: str, expected: str) -> None:
    assert value(expression) == expected


def test_an_expression_that_python_cannot_parse_is_an_error() -> None:
    assert value("-" * 200_000 + "1") == "error"


@given(st.integers(-999, 999), st.sampled_from("+-*"), st.integers(-999, 999))
def test_values_are_those_of_python(x: int, operator: str, y: int) -> None:
    assert value(f"{x} {operator} {y}") == str(eval(f"{x} {operator} {y}"))


@given(st.text(max_size=30))
def test_any_text_has_a_value_or_an_error(text: str) -> None:
    assert value(text)


def test_a_call_is_answered_and_the_end_is_an_end() -> None:
    assert Calculator().step(TextTurn("He has <<2 * 3>>", "stop", False)) == Step("6")
    assert Calculator().step(TextTurn("2 * 3>>", "stop", False)) == Step("error")
    assert Calculator().step(TextTurn("The answer is 6.", "eos", False)) == Step()
