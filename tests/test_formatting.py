"""Formatting of fractions, counts and durations."""

import pytest

from dsmath_jax.formatting import duration, interval, number, percent, points


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.34, "0.3 s"), (59.7, "1 min 00 s"), (75, "1 min 15 s"), (3599.6, "1 h 00 min"), (9000, "2 h 30 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234567, "1,234,567"), (0.41834, "0.418"), (99.97, "100"), (1234.5, "1,234"), (None, "not measured")],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_fractions() -> None:
    assert points(0.6546) == "65.5"
    assert (percent(0.6546), percent(None), percent(None, "–")) == ("65.5 %", "not measured", "–")
    assert interval((-0.012, 0.3)) == "-1.2 to 30.0"
    assert interval((-0.012, 0.3), "–", "+.0f") == "-1–+30"
