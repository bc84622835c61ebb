"""Formats fractions, counts and durations as text for tables, pages and the command line."""

from collections.abc import Sequence

DAY = 86_400  # seconds


def points(fraction: float, spec: str = ".1f") -> str:
    """Returns a fraction in percentage points, without a unit; `spec="+.1f"` gives differences their sign."""
    return format(100 * fraction, spec)


def percent(fraction: float | None, unknown: str = "not measured") -> str:
    return unknown if fraction is None else f"{points(fraction)} %"


def interval(ends: Sequence[float], to: str = " to ", spec: str = ".1f") -> str:
    """Returns both ends of an interval of fractions in percentage points, without a unit."""
    return f"{points(ends[0], spec)}{to}{points(ends[1], spec)}"


def number(value: float | None) -> str:
    """Returns a count with thousands separators, another number with three significant digits."""
    if value is None:
        return "not measured"
    return f"{value:,d}" if isinstance(value, int) else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Returns `34.5 s`, `1 min 15 s`, `2 h 30 min` or, from two days on, `10.3 days`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole >= 2 * DAY:
        return f"{seconds / DAY:.1f} days"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
