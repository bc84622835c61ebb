"""Arithmetic and elementary functions on exact fractions and on mpmath numbers of 60 digits.

Callers set mpmath's precision (`values`).
"""

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath

VANISHING = mpmath.mpf(10) ** -45  # rounding error of a difference that is zero
LARGEST_BITS = 10**6  # of the largest number that is computed
EXACT_BITS = 20_000  # of the largest number that is computed exactly

Value = Any  # Fraction where exact, else mpmath.mpf or mpmath.mpc


class TooLarge(ValueError):
    """The number has too many digits to compute."""


class Undefined(ValueError):
    """The expression has no value at this point, or no real one where it must be real."""


def to_mpmath(number: Value) -> Any:
    """Converts a value to an mpmath number."""
    return mpmath.mpf(number.numerator) / number.denominator if isinstance(number, Fraction) else number


def _simple(number: Any, real: bool) -> Value:
    """Converts a complex number without an imaginary part to a real one."""
    if isinstance(number, mpmath.mpc):
        if abs(number.imag) <= VANISHING * max(1, abs(number.real)):
            number = number.real
        elif real:
            raise Undefined
    if not mpmath.isfinite(number):
        raise Undefined
    return number


def _arithmetic(exact: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def wrapped(one: Value, other: Value) -> Value:
        if isinstance(one, Fraction) and isinstance(other, Fraction):
            return exact(one, other)
        return exact(to_mpmath(one), to_mpmath(other))

    return wrapped


def divide(one: Value, other: Value) -> Value:
    """Returns the quotient of two values; raises Undefined for a divisor of 0."""
    if other == 0:
        raise Undefined
    return _arithmetic(lambda a, b: a / b)(one, other)


_EXACT: dict[str, Callable[..., Any]] = {
    "+": _arithmetic(lambda a, b: a + b),
    "*": _arithmetic(lambda a, b: a * b),
    "/": divide,
    "-": lambda a: -a,
    "abs": abs,
    "degrees": lambda a: to_mpmath(a) * mpmath.pi / 180,
}


def _bits(number: Fraction) -> int:
    return max(number.numerator.bit_length(), number.denominator.bit_length())


def _power(base: Value, exponent: Value) -> Value:
    if base == 0:
        if isinstance(exponent, mpmath.mpc) or exponent <= 0:
            raise Undefined
        return Fraction(0)
    size = abs(mpmath.log(abs(to_mpmath(base)), 2)) * abs(to_mpmath(exponent))
    if size > LARGEST_BITS:
        raise TooLarge
    if isinstance(exponent, Fraction) and isinstance(base, Fraction):
        if exponent.denominator == 1 and size <= EXACT_BITS:
            return base**exponent.numerator
        root = _exact_root(base, exponent.denominator)
        if root is not None and size <= EXACT_BITS:
            return root**exponent.numerator
    lifted = to_mpmath(base)
    if isinstance(exponent, Fraction) and exponent.denominator % 2 and isinstance(lifted, mpmath.mpf) and lifted < 0:
        # The odd root of a negative number is taken to be the real one.
        sign = -1 if exponent.numerator % 2 else 1
        return sign * mpmath.power(-lifted, to_mpmath(exponent))
    return mpmath.power(lifted, to_mpmath(exponent))


def _exact_root(base: Fraction, degree: int) -> Fraction | None:
    """Returns the rational root of a rational number, or None where it is irrational."""
    if degree == 1:
        return base
    if degree > 64 or _bits(base) > 2000 or (base < 0 and degree % 2 == 0):
        return None
    parts = []
    for part in (abs(base.numerator), base.denominator):
        guess = int(mpmath.nint(mpmath.root(part, degree))) if part.bit_length() < 150 else 0
        if guess**degree != part:
            return None
        parts.append(guess)
    return Fraction(parts[0] if base >= 0 else -parts[0], parts[1])


def _factorial(number: Value) -> Value:
    if isinstance(number, Fraction) and number.denominator == 1:
        if number < 0:
            raise Undefined
        if number <= 1000:
            return Fraction(functools.reduce(lambda a, b: a * b, range(1, int(number) + 1), 1))
    if abs(to_mpmath(number)) > 50_000:
        raise TooLarge
    return mpmath.factorial(to_mpmath(number))


def _double_factorial(number: Value) -> Value:
    if not isinstance(number, Fraction) or number.denominator != 1 or not 0 <= number <= 1000:
        raise TooLarge
    return Fraction(functools.reduce(lambda a, b: a * b, range(int(number), 0, -2), 1))


def _binomial(above: Value, below: Value) -> Value:
    if abs(to_mpmath(above)) > 50_000 or abs(to_mpmath(below)) > 50_000:
        raise TooLarge
    return mpmath.binomial(to_mpmath(above), to_mpmath(below))


def _rounded(function: Callable[[Any], Any]) -> Callable[[Value], Value]:
    def wrapped(number: Value) -> Value:
        if isinstance(number, mpmath.mpc):
            raise Undefined
        return Fraction(int(function(to_mpmath(number))))

    return wrapped


def _logarithm(number: Value, base: Value | None = None) -> Value:
    if number == 0 or (base is not None and base in (0, 1)):
        raise Undefined
    return mpmath.log(to_mpmath(number)) / mpmath.log(10 if base is None else to_mpmath(base))


def _exponential(number: Value) -> Value:
    if abs(to_mpmath(number)) > LARGEST_BITS:
        raise TooLarge
    return mpmath.exp(to_mpmath(number))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "^": _power,
    "root": lambda index, radicand: _power(radicand, divide(Fraction(1), index)),
    "!": _factorial, "!!": _double_factorial, "binom": _binomial,
    "floor": _rounded(mpmath.floor), "ceil": _rounded(mpmath.ceil),
    "log": _logarithm, "lg": _logarithm, "exp": _exponential,
    "ln": lambda a: mpmath.log(to_mpmath(a)),
    "arcsin": mpmath.asin, "arccos": mpmath.acos, "arctan": mpmath.atan, "arccot": mpmath.acot, "arcsec": mpmath.asec,
    "arccsc": mpmath.acsc,
    **{name: getattr(mpmath, name) for name in "sin cos tan cot sec csc sinh cosh tanh coth sech csch".split()},
}  # fmt: skip
_LIFTED = {name for name in _FUNCTIONS if name[:3] in ("sin", "cos", "tan", "cot", "sec", "csc", "arc", "sec")}


def apply(kind: str, parts: list[Value], real: bool) -> Value:
    """Applies an operator or function of an expression tree to its operands.

    Args:
      kind: its name in the tree, such as "+" or "arcsin".
      parts: the operands.
      real: whether a complex result is an error.

    Raises:
      TooLarge, Undefined: there is no value, or none that is computed.
    """
    if kind in _EXACT:
        return _EXACT[kind](*parts)
    function = _FUNCTIONS[kind]
    try:
        result = function(*(map(to_mpmath, parts) if kind in _LIFTED else parts))
    except (ZeroDivisionError, OverflowError) as error:
        raise Undefined from error
    except ValueError as error:
        if isinstance(error, (TooLarge, Undefined)):
            raise
        raise Undefined from error
    return result if isinstance(result, Fraction) else _simple(result, real)
