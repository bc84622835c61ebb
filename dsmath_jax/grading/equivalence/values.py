"""Whether two formulas have the same value for all values of their variables.

Rational values are compared exactly. Others are computed to 60 digits, and formulas with variables at several points of
fixed pseudo-random numbers: two that agree there to 25 digits are the same (Schwartz, 1980; Zippel, 1979), two that
differ at one are not. A point at which a step leaves the real numbers lies outside of the formula's domain, unless
the formula is a complex one.
"""

import functools
import zlib
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath

from dsmath_jax.grading.equivalence.expressions import Tree, is_complex, symbols

DIGITS = 60
AGREEING = mpmath.mpf(10) ** -25  # relative
VANISHING = mpmath.mpf(10) ** -45  # the error of a difference that is zero
POINTS, ENOUGH = 12, 4  # points that are tried, and that decide
LARGEST_BITS = 10**6  # of a number that is computed at all
EXACT_BITS = 20_000  # of a number that is computed exactly

Value = Any  # Fraction where exact, else mpmath.mpf or mpmath.mpc
Point = dict[str, Fraction]


class TooLarge(ValueError):
    """A number that has too many digits to be computed."""


class Undefined(ValueError):
    """No value at this point."""


class NotReal(Undefined):
    """No real value at this point."""


def value(tree: Tree, point: Point | None = None, real: bool = True) -> Value:
    """The value of a formula at a point.

    Raises:
      TooLarge, Undefined; NotReal where a step is not real, if it has to be.
    """
    with mpmath.workdps(DIGITS):
        return _value(tree, point or {}, real)


def same(one: Value, other: Value) -> bool:
    """Whether two values are the same number."""
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    with mpmath.workdps(DIGITS):
        left, right = _lifted(one), _lifted(other)
        largest = max(abs(left), abs(right))
        return bool(abs(left - right) <= AGREEING * largest or largest < VANISHING)


def points(names: set[str]) -> list[Point]:
    """Points at which formulas of these variables are compared; of both signs, from the second half on all positive."""
    return [
        {name: _drawn(f"{name} {number}", signed=number < POINTS // 2) for name in sorted(names)}
        for number in range(POINTS)
    ]


def _drawn(seed: str, signed: bool) -> Fraction:
    drawn = zlib.crc32(seed.encode())
    size = Fraction(drawn % 9973 + 1500, drawn // 9973 % 4001 + 2000)
    return -size if signed and drawn % 3 == 0 else size


def sampled(trees: list[Tree]) -> list[list[Value]]:
    """The values of several formulas at points where all have one: at most `ENOUGH`, or one without variables."""
    names = set().union(*(symbols(tree) for tree in trees))
    real = not any(is_complex(tree) for tree in trees)
    found: list[list[Value]] = []
    for as_real in [True, False] if real else [False]:
        for point in points(names) if names else [{}]:
            try:
                found.append([value(tree, point, as_real) for tree in trees])
            except Undefined:
                continue
            if len(found) >= ENOUGH:
                return found
        if found:
            return found
    return found


def equal(one: Tree, other: Tree) -> bool | None:
    """Whether two formulas are the same; None where neither has a value at any point. Raises TooLarge."""
    found = sampled([one, other])
    return all(same(left, right) for left, right in found) if found else None


def proportional(one: Tree, other: Tree) -> Fraction | Any | None:
    """The real number by which one formula is the other's multiple everywhere; None where there is none but zero."""
    found = [pair for pair in sampled([one, other]) if not same(pair[1], Fraction(0))]
    if len(found) < 2:  # of constants each is a multiple of each
        return None
    with mpmath.workdps(DIGITS):
        ratios = [_divided(left, right) for left, right in found]
        first = ratios[0]
        if same(first, Fraction(0)) or not all(same(ratio, first) for ratio in ratios):
            return None
        return first if isinstance(first, (Fraction, mpmath.mpf)) else None


def lifted(number: Value) -> Any:
    """A value as mpmath's number, to all digits."""
    with mpmath.workdps(DIGITS):
        return _lifted(number)


def _lifted(number: Value) -> Any:
    return mpmath.mpf(number.numerator) / number.denominator if isinstance(number, Fraction) else number


def _simple(number: Any, real: bool) -> Value:
    """A complex number without imaginary part as a real one."""
    if isinstance(number, mpmath.mpc):
        if abs(number.imag) <= VANISHING * max(1, abs(number.real)):
            number = number.real
        elif real:
            raise NotReal
    if not mpmath.isfinite(number):
        raise Undefined
    return number


def _value(tree: Tree, point: Point, real: bool) -> Value:
    kind = tree[0]
    if kind == "num":
        return tree[1]
    if kind == "sym":
        if tree[1] == "infty" or tree[1] not in point:
            raise Undefined
        return point[tree[1]]
    if kind == "const":
        return {"e": +mpmath.e, "pi": +mpmath.pi, "i": mpmath.mpc(0, 1)}[tree[1]]
    if kind == "unknown":
        arguments = [_value(part, point, real) for part in tree[2:]]
        shown = " ".join(mpmath.nstr(_lifted(argument), 20) for argument in arguments)
        return _drawn(f"{tree[1]}({shown}) {point.get(f'{tree[1]}()')}", signed=False)
    parts = [_value(part, point, real) for part in tree[1:]]
    return _EXACT[kind](*parts) if kind in _EXACT else _function(kind, parts, real)


def _arithmetic(exact: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def applied(one: Value, other: Value) -> Value:
        if isinstance(one, Fraction) and isinstance(other, Fraction):
            return exact(one, other)
        return exact(_lifted(one), _lifted(other))

    return applied


def _divided(one: Value, other: Value) -> Value:
    if other == 0:
        raise Undefined
    return _arithmetic(lambda a, b: a / b)(one, other)


_EXACT: dict[str, Callable[..., Any]] = {
    "+": _arithmetic(lambda a, b: a + b),
    "*": _arithmetic(lambda a, b: a * b),
    "/": _divided,
    "-": lambda a: -a,
    "abs": abs,
    "degrees": lambda a: _lifted(a) * mpmath.pi / 180,
}


def _bits(number: Fraction) -> int:
    return max(number.numerator.bit_length(), number.denominator.bit_length())


def _power(base: Value, exponent: Value) -> Value:
    if base == 0:
        if isinstance(exponent, mpmath.mpc) or exponent <= 0:
            raise Undefined
        return Fraction(0)
    size = abs(mpmath.log(abs(_lifted(base)), 2)) * abs(_lifted(exponent))
    if size > LARGEST_BITS:
        raise TooLarge
    if isinstance(exponent, Fraction) and isinstance(base, Fraction):
        if exponent.denominator == 1 and size <= EXACT_BITS:
            return base**exponent.numerator
        root = _exact_root(base, exponent.denominator)
        if root is not None and size <= EXACT_BITS:
            return root**exponent.numerator
    lifted = _lifted(base)
    if isinstance(exponent, Fraction) and exponent.denominator % 2 and isinstance(lifted, mpmath.mpf) and lifted < 0:
        # An odd root of a negative number is the real one.
        sign = -1 if exponent.numerator % 2 else 1
        return sign * mpmath.power(-lifted, _lifted(exponent))
    return mpmath.power(lifted, _lifted(exponent))


def _exact_root(base: Fraction, degree: int) -> Fraction | None:
    """The rational root of a rational number where it has one."""
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
    if abs(_lifted(number)) > 50_000:
        raise TooLarge
    return mpmath.factorial(_lifted(number))


def _double_factorial(number: Value) -> Value:
    if not isinstance(number, Fraction) or number.denominator != 1 or not 0 <= number <= 1000:
        raise TooLarge
    return Fraction(functools.reduce(lambda a, b: a * b, range(int(number), 0, -2), 1))


def _binomial(above: Value, below: Value) -> Value:
    if abs(_lifted(above)) > 50_000 or abs(_lifted(below)) > 50_000:
        raise TooLarge
    return mpmath.binomial(_lifted(above), _lifted(below))


def _rounded(function: Callable[[Any], Any]) -> Callable[[Value], Value]:
    def applied(number: Value) -> Value:
        if isinstance(number, mpmath.mpc):
            raise Undefined
        return Fraction(int(function(_lifted(number))))

    return applied


def _logarithm(number: Value, base: Value | None = None) -> Value:
    if number == 0 or (base is not None and base in (0, 1)):
        raise Undefined
    return mpmath.log(_lifted(number)) / mpmath.log(10 if base is None else _lifted(base))


def _exponential(number: Value) -> Value:
    if abs(_lifted(number)) > LARGEST_BITS:
        raise TooLarge
    return mpmath.exp(_lifted(number))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "^": _power,
    "root": lambda index, radicand: _power(radicand, _divided(Fraction(1), index)),
    "!": _factorial, "!!": _double_factorial, "binom": _binomial,
    "floor": _rounded(mpmath.floor), "ceil": _rounded(mpmath.ceil),
    "log": _logarithm, "lg": _logarithm, "exp": _exponential,
    "ln": lambda a: mpmath.log(_lifted(a)),
    "arcsin": mpmath.asin, "arccos": mpmath.acos, "arctan": mpmath.atan, "arccot": mpmath.acot, "arcsec": mpmath.asec,
    "arccsc": mpmath.acsc,
    **{name: getattr(mpmath, name) for name in "sin cos tan cot sec csc sinh cosh tanh coth sech csch".split()},
}  # fmt: skip
_LIFTED = {name for name in _FUNCTIONS if name[:3] in ("sin", "cos", "tan", "cot", "sec", "csc", "arc", "sec")}


def _function(kind: str, parts: list[Value], real: bool) -> Value:
    function = _FUNCTIONS[kind]
    try:
        found = function(*(map(_lifted, parts) if kind in _LIFTED else parts))
    except (ZeroDivisionError, OverflowError) as error:
        raise Undefined from error
    except ValueError as error:
        if isinstance(error, (TooLarge, Undefined)):
            raise
        raise Undefined from error
    return found if isinstance(found, Fraction) else _simple(found, real)


def is_real(number: Value) -> bool:
    return not isinstance(number, mpmath.mpc)


def rational(number: Value) -> Fraction:
    """A real number as a quotient, exact to its digits."""
    if isinstance(number, Fraction):
        return number
    mantissa, exponent = mpmath.frexp(number)
    return Fraction(int(mpmath.ldexp(mantissa, 250))) * Fraction(2) ** (int(exponent) - 250)
