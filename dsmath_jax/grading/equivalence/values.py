"""Compares formulas by their values at several points.

Rational values are compared exactly. Others are computed to 60 digits, and formulas with variables at several points of
fixed pseudo-random numbers: two that agree there to 25 digits are equal (Schwartz, 1980; Zippel, 1979), two that
differ at one are not. A point at which a step leaves the real numbers is outside of the formula's domain, unless
the formula is complex.
"""

import zlib
from fractions import Fraction
from typing import Any

import mpmath

from dsmath_jax.grading.equivalence import arithmetic
from dsmath_jax.grading.equivalence.arithmetic import VANISHING, Undefined, Value, divide
from dsmath_jax.grading.equivalence.expressions import Tree, is_complex, symbols

DIGITS = 60
AGREEING = mpmath.mpf(10) ** -25  # relative
POINTS, ENOUGH = 12, 4  # points to try, and points at which both must be defined

Point = dict[str, Fraction]


def value(tree: Tree, point: Point | None = None, real: bool = True) -> Value:
    """Returns the value of a formula at a point.

    Args:
      tree: the formula.
      point: values by variable.
      real: whether a step that leaves the real numbers is undefined.

    Raises:
      TooLarge, Undefined: there is no value, or none that is computed.
    """
    with mpmath.workdps(DIGITS):
        return _value(tree, point or {}, real)


def same(one: Value, other: Value) -> bool:
    """Returns whether two values are the same number."""
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    with mpmath.workdps(DIGITS):
        left, right = arithmetic.to_mpmath(one), arithmetic.to_mpmath(other)
        largest = max(abs(left), abs(right))
        return bool(abs(left - right) <= AGREEING * largest or largest < VANISHING)


def points(names: set[str]) -> list[Point]:
    """Returns the points at which formulas of these variables are compared; all positive in the second half."""
    return [
        {name: _draw(f"{name} {number}", signed=number < POINTS // 2) for name in sorted(names)}
        for number in range(POINTS)
    ]


def _draw(seed: str, signed: bool) -> Fraction:
    bits = zlib.crc32(seed.encode())
    size = Fraction(bits % 9973 + 1500, bits // 9973 % 4001 + 2000)
    return -size if signed and bits % 3 == 0 else size


def sampled(trees: list[Tree]) -> list[list[Value]]:
    """Returns the values of formulas at up to `ENOUGH` points where all are defined; one point without variables."""
    names = set().union(*(symbols(tree) for tree in trees))
    real = not any(is_complex(tree) for tree in trees)
    rows: list[list[Value]] = []
    for as_real in [True, False] if real else [False]:
        for point in points(names) if names else [{}]:
            try:
                rows.append([value(tree, point, as_real) for tree in trees])
            except Undefined:
                continue
            if len(rows) >= ENOUGH:
                return rows
        if rows:
            return rows
    return rows


def equal(one: Tree, other: Tree) -> bool | None:
    """Returns whether two formulas are equal; None where no point has a value of both. Raises TooLarge."""
    rows = sampled([one, other])
    return all(same(left, right) for left, right in rows) if rows else None


def proportional(one: Tree, other: Tree) -> Fraction | Any | None:
    """Returns the nonzero real constant `one / other`, or None where the quotient is zero or not constant."""
    pairs = [pair for pair in sampled([one, other]) if not same(pair[1], Fraction(0))]
    if len(pairs) < 2:  # every constant is a multiple of every other
        return None
    with mpmath.workdps(DIGITS):
        ratios = [divide(left, right) for left, right in pairs]
        first = ratios[0]
        if same(first, Fraction(0)) or not all(same(ratio, first) for ratio in ratios):
            return None
        return first if isinstance(first, (Fraction, mpmath.mpf)) else None


def to_mpmath(number: Value) -> Any:
    """Converts a value to an mpmath number at full precision."""
    with mpmath.workdps(DIGITS):
        return arithmetic.to_mpmath(number)


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
        listed = " ".join(mpmath.nstr(arithmetic.to_mpmath(argument), 20) for argument in arguments)
        return _draw(f"{tree[1]}({listed}) {point.get(f'{tree[1]}()')}", signed=False)
    parts = [_value(part, point, real) for part in tree[1:]]
    return arithmetic.apply(kind, parts, real)


def is_real(number: Value) -> bool:
    """Returns whether a value is not complex."""
    return not isinstance(number, mpmath.mpc)


def rational(number: Value) -> Fraction:
    """Converts a real value to a fraction that has all of its digits."""
    if isinstance(number, Fraction):
        return number
    mantissa, exponent = mpmath.frexp(number)
    return Fraction(int(mpmath.ldexp(mantissa, 250))) * Fraction(2) ** (int(exponent) - 250)
