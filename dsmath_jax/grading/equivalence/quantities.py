r"""Numbers with or without a unit, exactly: "1,234.50", "3 1/2", "\frac{3}{4}", "1.2\times10^{3}", "$18", "5 cm".

Only quotients, mixed numbers and powers of ten are evaluated here.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from dsmath_jax.grading.equivalence import units
from dsmath_jax.grading.equivalence.normalization import words
from dsmath_jax.grading.grades import Verdict

LARGEST_POWER = 5000  # the largest exponent of ten that is expanded
MANY_DIGITS = 3000  # of a number; Python's own limit is 4,300
SIGNIFICANT, DECIMALS = 5, 6  # digits from which a decimal may be a rounded value
FLOAT_DIGITS = 15  # digits from which a decimal may be a float, with rounding error


class Number(NamedTuple):
    """An exact number, and how it was written.

    Attributes:
      value: its exact value.
      decimals: digits after the decimal point (fewer by a power of ten that follows); None for integers and quotients.
      significant: digits without leading zeros.
    """

    value: Fraction
    decimals: int | None = None
    significant: int = 0


class Quantity(NamedTuple):
    """A number and the name of its unit ("" where it has none)."""

    number: Number
    unit: str = ""


_UNSIGNED = r"(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"
_SPACED = r"[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?"
_REPEATING = r"\d*\.\d*(?:\\overline\s*\{\d+\}|\\dot\s*\{?\d\}?)"
_SIGN = r"(?:[-+]\s*)?"
_TEN = r"\s*(?:\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?\s*\d+)\s*\}|\(\s*([-+]?\d+)\s*\)|([-+]?\d+))"
_DECIMAL = re.compile(rf"({_SIGN})({_SPACED}|{_UNSIGNED})(?:[eE]([-+]?\d+)|{_TEN})?")
_POWER_OF_TEN = re.compile(rf"({_SIGN})10\s*\^\s*(?:\{{\s*([-+]?\s*\d+)\s*\}}|([-+]?\d+))")
_PERIODIC = re.compile(rf"({_SIGN})({_REPEATING})")
_INNER = rf"\s*(-?\s*(?:{_UNSIGNED}))\s*"
_QUOTIENT = re.compile(
    rf"({_SIGN})(?:({_UNSIGNED})\s*/\s*(-?(?:{_UNSIGNED}))|\\frac\s*(?:\{{{_INNER}\}}|(\d))\s*(?:\{{{_INNER}\}}|(\d))"
    rf"|\{{{_INNER}\\over{_INNER}\}})"
)
_MIXED = re.compile(
    rf"({_SIGN})(\d+)\s*"
    r"(?:\s(?:and\s+)?(\d+)\s*/\s*(\d+)|\\frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d)))"
)
_CURRENCY = "$€£¥₹"
_AROUND = re.compile(r"^\(([^,]*)\)$|^\{([^,]*)\}$")


def number(text: str) -> Number | None:
    """Parses a normalized text that is a number; None for other texts."""
    if len(text) > MANY_DIGITS:
        return None
    if (match := _DECIMAL.fullmatch(text)) is not None:
        return _decimal(match)
    if (match := _MIXED.fullmatch(text)) is not None:
        whole, numerator, denominator = (int(part) for part in match.groups()[1:] if part is not None)
        if numerator >= denominator:
            return None  # 11 7/6 is not a mixed number
        return Number(_signed(match[1], whole + Fraction(numerator, denominator)))
    if (match := _QUOTIENT.fullmatch(text)) is not None:
        above, below = (_plain(part) for part in match.groups()[1:] if part is not None)
        return Number(_signed(match[1], above / below)) if below else None
    if (match := _POWER_OF_TEN.fullmatch(text)) is not None:
        power = int((match[2] or match[3]).replace(" ", ""))
        return Number(_signed(match[1], Fraction(10) ** power)) if abs(power) <= LARGEST_POWER else None
    if (match := _PERIODIC.fullmatch(text)) is not None:
        return Number(_signed(match[1], periodic(match[2])))
    if (match := _AROUND.fullmatch(text)) is not None:
        return number((match[1] or match[2] or "").strip())
    return None


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign.startswith("-") else value


def _plain(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").rstrip("."))


def _decimal(match: re.Match[str]) -> Number | None:
    sign, digits = match[1], match[2]
    power = int(next((part for part in match.groups()[2:] if part is not None), "0").replace(" ", ""))
    if abs(power) > LARGEST_POWER:
        return None
    value = _signed(sign, _plain(digits) * Fraction(10) ** power)
    if "." not in digits and power >= 0:
        return Number(value)
    decimals = len(digits.partition(".")[2]) - power
    return Number(value, decimals, len(re.sub(r"\D", "", digits).lstrip("0")))


def periodic(digits: str) -> Fraction:
    r"""Returns the value of a repeating decimal: 0.1\overline{6} is 1/6."""
    match = re.fullmatch(r"(\d*)\.(\d*)(?:\\overline\s*\{(\d+)\}|\\dot\s*\{?(\d)\}?)", digits)
    assert match is not None
    whole, once, again = match[1], match[2], match[3] or match[4]
    return Fraction(whole or 0) + (Fraction(once or 0) + Fraction(int(again), 10 ** len(again) - 1)) / 10 ** len(once)


def close(one: Number, other: Number) -> bool:
    """Returns whether two numbers are equal.

    They must be exactly equal, with two exceptions: a decimal of at least six places equals a value that it is rounded
    or cut from (0.333333 and 1/3), and a decimal of fifteen digits or more may have the error of a float
    (0.30000000000000004 and 0.3).
    """
    if one.value == other.value:
        return True
    short, long = sorted((one, other), key=lambda n: n.decimals if n.decimals is not None else 10**9)
    if short.decimals is None:
        return False
    if short.decimals >= DECIMALS and short.significant >= SIGNIFICANT and short.decimals != long.decimals:
        unit = Fraction(10) ** -short.decimals
        if -unit < abs(short.value) - abs(long.value) <= unit / 2 and short.value * long.value > 0:
            return True
    float_like = [n for n in (one, other) if n.decimals is not None and n.significant >= FLOAT_DIGITS]
    return bool(float_like) and abs(one.value - other.value) <= Fraction(1, 10**13) * abs(other.value)


_LEADING = re.compile(rf"^({_SIGN})([{_CURRENCY}])\s*(.*)$")
_NUMERIC = rf"{_SIGN}(?:{_MIXED.pattern}|{_QUOTIENT.pattern}|{_PERIODIC.pattern}|{_DECIMAL.pattern})"
_UNIT_NAME = re.compile(
    r"(?:%|\^\\circ|[$€£¥₹¢]|[A-Za-z\u4e00-\u9fff])"
    r"(?:[A-Za-z\u4e00-\u9fff ./%'$-]|\^\s*\{?-?\d\}?|\\cdot|\\circ|\^\\circ)*"
)
_START = re.compile(_NUMERIC)


def quantity(text: str) -> Quantity | None:
    """Parses a normalized text that is a number with or without a unit; None for other texts.

    The unit is the words after the number, or the currency before it. Words that may be factors of a product (single
    letters that are not units) or contain mathematics are not units.
    """
    text = words(text)
    sign, currency = "", ""
    if (leading := _LEADING.match(text)) is not None:
        sign, currency, text = leading.groups()
    plain = number(sign + text)
    if plain is not None:
        return Quantity(plain, currency)
    parts = _parts(sign + text)
    if not parts:
        return None
    (first, name), others = parts[0], parts[1:]
    if not others:
        if currency and not re.match(r"(?:/|per\b|an?\b|each\b|in\b|of\b)", name):
            name = currency if units.unit(name).dimension == units.unit(currency).dimension else f"{currency} {name}"
        elif currency:
            name = currency
        return Quantity(first, name)
    return _sum(parts)


def _sum(parts: list[tuple[Number, str]]) -> Quantity | None:
    """Adds 2 hours 30 minutes in the unit of the first part; None where the parts make no sum."""
    first = units.unit(parts[0][1])
    total, sizes = Fraction(0), []
    for part, name in parts:
        size = units.ratio(units.unit(name), first)
        if size is None or not units.known(name):
            return None
        total += part.value * size
        sizes.append(size)
    if sizes != sorted(sizes, reverse=True) or len(set(sizes)) < len(sizes):
        return None
    return Quantity(Number(total), parts[0][1])


def _parts(text: str) -> list[tuple[Number, str]]:
    """Splits a text into numbers with their units; empty where it is anything else."""
    parts: list[tuple[Number, str]] = []
    text = text.replace("分", "分钟") if re.search(r"(?:时|小时)\d+分$", text) else text
    while text:
        match = _START.match(text)
        # The longest prefix that is a number: a mixed number before its whole part.
        if match is None or (value := number(match[0].strip())) is None:
            return []
        rest = text[match.end() :].strip()
        name_match = _UNIT_NAME.match(rest)
        name = name_match[0].strip().removesuffix(" and") if name_match else ""
        if name_match is None or not _is_name(name, text[match.end() : match.end() + 1]):
            return []
        parts.append((value, name))
        text = rest[name_match.end() :].strip(" ,")
        if len(parts) > 4:
            return []
    return parts


def _is_name(name: str, before: str) -> bool:
    """Returns whether letters after a number name a unit or a noun, not variables of a product."""
    if units.known(name):
        return True
    return bool(re.search(r"[A-Za-z]{3}|[\u4e00-\u9fff]", name)) and (before == " " or not name[0].isascii())


def compare(gold: str, answer: str) -> Verdict | None:
    """Compares two numbers with or without units; None where one is something else."""
    wanted, given = quantity(gold), quantity(answer)
    if wanted is None or given is None:
        return None
    size = units.factor_between(wanted.unit, given.unit)
    if size is None:
        return Verdict(False, "another unit")
    if {"%", ""} == {units.symbol(wanted.unit), units.symbol(given.unit)}:
        # The percent sign is missing, or the percentage is written as a number.
        percent, plain = (wanted, given) if units.symbol(wanted.unit) == "%" else (given, wanted)
        hundredth = percent.number._replace(value=percent.number.value / 100)
        equal = any(close(one, plain.number) for one in (percent.number, hundredth))
        return Verdict.of(equal, "percentage")
    scaled = Number(given.number.value / size) if size != 1 else given.number
    return Verdict.of(close(wanted.number, scaled), "number")


def compare_decimal_comma(gold: str, answer: str) -> Verdict | None:
    """Compares 1000,99 with a decimal as 1000.99; None for other texts, so that 1,2 is a list."""
    for one, other in ((gold, answer), (answer, gold)):
        if re.fullmatch(r"-?(?:\d+,\d{2}|0,\d+)", one) and re.fullmatch(r"-?\d+\.\d+", other):
            return compare(one.replace(",", "."), other)
    return None
