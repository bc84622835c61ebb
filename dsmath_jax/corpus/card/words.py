"""Numbers of the data card as text."""

from collections.abc import Mapping
from typing import Any

from dsmath_jax.formatting import interval, number, percent


def score(value: float | None) -> str:
    """Formats a classifier's score with four decimals, since many are close to 1; a dash for None."""
    return "–" if value is None else f"{value:.4f}"


def numbers_of(row: Mapping[str, Any], names: str) -> list[str]:
    """Formats the fields of a row whose names are in `names`, separated by spaces."""
    return [number(row[name]) for name in names.split()]


def measure(row: Mapping[str, Any], name: str) -> str:
    """Formats a fraction of a row with its 95 % interval, if it has one."""
    ends = row.get(f"{name}_interval")
    return percent(row.get(name)) + (f" ({interval(ends, spec='.0f')})" if ends else "")
