"""Numbers of the data card as text."""

from collections.abc import Mapping
from typing import Any


def number(value: float | None) -> str:
    """Formats counts with thousands separators, other numbers with three significant digits."""
    if value is None:
        return "not measured"
    return f"{value:,d}" if isinstance(value, int) else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def score(value: float | None) -> str:
    """Formats a classifier's score with four decimals, since many are close to 1; a dash for None."""
    return "–" if value is None else f"{value:.4f}"


def numbers_of(row: Mapping[str, Any], names: str) -> list[str]:
    """Formats the fields of a row whose names are in `names`, separated by spaces."""
    return [number(row[name]) for name in names.split()]


def percent(fraction: float | None) -> str:
    return "not measured" if fraction is None else f"{100 * fraction:.1f} %"


def measure(row: Mapping[str, Any], name: str) -> str:
    """Formats a fraction of a row with its 95 % interval, if it has one."""
    interval = row.get(f"{name}_interval")
    return percent(row.get(name)) + (f" ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})" if interval else "")
