"""Compares answers that several numbers make: times of day, ratios, quotients with remainder, numbers in a base."""

import re
from fractions import Fraction
from typing import NamedTuple

from dsmath_jax.grading.equivalence.normalization import split, words
from dsmath_jax.grading.equivalence.quantities import number
from dsmath_jax.grading.grades import Verdict


class Time(NamedTuple):
    """A time of day; `half` is "a" or "p", None where a.m. or p.m. is not stated."""

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
    """Parses 8:30, 8:30 p.m., 3 pm, 8时30分; None for other texts."""
    text = words(text)
    if (match := _TIME.fullmatch(text)) is not None:
        hour, minute, half = int(match[1]), int(match[2] or match[3]), match[4]
    elif (match := _HOUR.fullmatch(text)) is not None:
        hour, minute, half = int(match[1]), 0, match[2]
    else:
        return None
    if hour > 24 or minute > 59:
        return None
    if half is None:
        return Time(hour, minute, None)
    return Time(hour % 12 + (12 if half.lower() == "p" else 0), minute, half.lower())


def same_time(one: Time, other: Time) -> bool:
    """Returns whether two times are equal; one without a.m. or p.m. equals both."""
    if one.minute != other.minute:
        return False
    if (one.half is None) == (other.half is None):
        return one.hour == other.hour
    return one.hour == other.hour or (
        one.hour % 12 == other.hour % 12 and (one if one.half is None else other).hour <= 12
    )


def ratio(text: str) -> tuple[Fraction, ...] | None:
    """Parses a ratio as multiples of its last term, so that 3:4 equals 6:8; None for other texts."""
    terms = [number(part) for part in split(words(text), re.compile(r"\s*:\s*|\s+to\s+|\s*比\s*"))]
    known = [term.value for term in terms if term is not None]
    if len(terms) < 2 or len(known) < len(terms) or not known[-1]:
        return None
    return tuple(term / known[-1] for term in known)


def remainder(text: str) -> tuple[int, int] | None:
    """Parses the quotient and remainder of "6……2", "6 R 2", "6余2"; None for other texts."""
    match = _REMAINDER.fullmatch(words(text))
    return (int(match[1]), int(match[2])) if match is not None else None


def based(text: str) -> tuple[str, int] | None:
    """Parses the digits and the base of 1012_3; None for other texts."""
    match = _BASED.fullmatch(words(text).replace(" ", ""))
    if match is None or not re.search(r"\d", match[1]):
        return None
    return match[1].upper(), int(_BASES.get(match[2], match[2]))


def base_value(digits: str, base: int) -> int | None:
    """Returns the number of digits in a base; None where the base has no such digits."""
    try:
        return int(digits, base)
    except ValueError:
        return None


def compare(gold: str, answer: str) -> Verdict | None:
    """Compares times, ratios, quotients with remainder, and numbers in a base; None for other answers."""
    if (wanted_base := based(gold)) and (given_base := based(answer)):
        one, other = base_value(*wanted_base), base_value(*given_base)
        return Verdict.of(one is not None and one == other, "number in its base")
    for number_in_base, plain in ((based(gold), answer), (based(answer), gold)):
        if number_in_base is not None and re.fullmatch(r"-?[0-9A-Za-z]+", plain):
            return Verdict.of(number_in_base[0] == plain.upper(), "digits, with the base left out")
    wanted_time, given_time = time(gold), time(answer)
    if wanted_time and given_time:
        return Verdict.of(same_time(wanted_time, given_time), "time")
    for moment, text in ((wanted_time, answer), (given_time, gold)):
        hour = number(text)
        if moment and hour is not None:
            return Verdict.of(moment.minute == 0 and hour.value in (moment.hour, moment.hour % 12 or 12), "hour")
    wanted_pair, given_pair = remainder(gold), remainder(answer)
    if wanted_pair and given_pair:
        return Verdict.of(wanted_pair == given_pair, "quotient and remainder")
    wanted_ratio, given_ratio = ratio(gold), ratio(answer)
    if wanted_ratio and given_ratio:
        return Verdict.of(wanted_ratio == given_ratio, "ratio")
    for terms, text in ((wanted_ratio, answer), (given_ratio, gold)):
        quotient = number(text)
        if terms is not None and len(terms) == 2 and quotient is not None:
            return Verdict.of(terms[0] == quotient.value and quotient.value.denominator > 1, "ratio")
    return None
