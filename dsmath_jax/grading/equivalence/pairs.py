"""Answers of two numbers that are no pair: times of day, ratios, quotients with remainder, numbers in a base."""

import re
from fractions import Fraction
from typing import NamedTuple

from dsmath_jax.grading.equivalence.normal import split, words
from dsmath_jax.grading.equivalence.quantities import number


class Time(NamedTuple):
    """A time of day; the half is None where it is not said and the hour does not tell it."""

    hour: int
    minute: int
    half: str | None


_TIME = re.compile(
    r"(\d{1,2})\s*(?::|时|点)\s*(?:(\d{2})\s*分?|(\d{1,2})\s*分)\s*([ap])?\.?\s*(?:m\b)?\.?", re.IGNORECASE
)
_HOUR = re.compile(r"(\d{1,2})\s*(?:o'clock\s*)?([ap])\.?\s*m\b\.?", re.IGNORECASE)
_REMAINDER = re.compile(r"(-?\d+)\s*,?\s*(?:\\ldots|\bR|\br|\bremainder|\brem\b|余数?)\s*(?:is|of|是|为)?\s*(\d+)")
_BASED = re.compile(r"\(?(-?[0-9A-Za-z.]+?)\)?_\s*\{?\s*(\d+|two|three|eight|ten)\s*\}?")
_BASES = {"two": 2, "three": 3, "eight": 8, "ten": 10}


def time(text: str) -> Time | None:
    """8:30, 8:30 p.m., 3 pm, 8时30分; None for what is no time of day."""
    text = words(text)
    if (found := _TIME.fullmatch(text)) is not None:
        hour, minute, half = int(found[1]), int(found[2] or found[3]), found[4]
    elif (found := _HOUR.fullmatch(text)) is not None:
        hour, minute, half = int(found[1]), 0, found[2]
    else:
        return None
    if hour > 24 or minute > 59:
        return None
    if half is None:
        return Time(hour, minute, None)
    return Time(hour % 12 + (12 if half.lower() == "p" else 0), minute, half.lower())


def same_time(one: Time, other: Time) -> bool:
    """Whether two times are the same; one that does not say its half of the day is the same as both."""
    if one.minute != other.minute:
        return False
    if (one.half is None) == (other.half is None):
        return one.hour == other.hour
    return one.hour == other.hour or (
        one.hour % 12 == other.hour % 12 and (one if one.half is None else other).hour <= 12
    )


def ratio(text: str) -> tuple[Fraction, ...] | None:
    """The terms of a ratio as multiples of its last: 3:4 is 6:8. None for what is none."""
    terms = [number(part) for part in split(words(text), re.compile(r"\s*:\s*|\s+to\s+|\s*比\s*"))]
    known = [term.value for term in terms if term is not None]
    if len(terms) < 2 or len(known) < len(terms) or not known[-1]:
        return None
    return tuple(term / known[-1] for term in known)


def remainder(text: str) -> tuple[int, int] | None:
    """The quotient and the remainder of "6……2", "6 R 2", "6余2"; None for anything else."""
    found = _REMAINDER.fullmatch(words(text))
    return (int(found[1]), int(found[2])) if found is not None else None


def based(text: str) -> tuple[str, int] | None:
    """The digits and the base of 1012_3; None for anything else."""
    found = _BASED.fullmatch(words(text).replace(" ", ""))
    if found is None or not re.search(r"\d", found[1]):
        return None
    return found[1].upper(), int(_BASES.get(found[2], found[2]))


def base_value(digits: str, base: int) -> int | None:
    """The number that digits say in a base; None where they do not."""
    try:
        return int(digits, base)
    except ValueError:  # no such base, a digit that it has not, a point
        return None
