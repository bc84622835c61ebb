"""Whether two conditions that are not solved have the same solutions: equations, and inequalities against a set.

Solutions of one are looked for numerically and tried in the other. One that does not fit refutes; several at generic
points of both that fit are taken for a proof where equations have more than one variable.
"""

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath

from dsmath_jax.grading.equivalence import sets, values
from dsmath_jax.grading.equivalence.expressions import Tree, Unreadable, is_complex, read, symbols
from dsmath_jax.grading.equivalence.normal import parted

TRIED = 6  # points at which a solution is looked for
ENOUGH = 3  # solutions of each equation
NEAR = mpmath.mpf(10) ** -12
_DIRECTION = {"<": ">", "\\le": "\\ge"}

Link = tuple[Tree, str]


def links(text: str) -> list[Link] | None:
    """What a normalised chain of inequalities says of formulas: that they are positive (">") and so on.

    None for what is no such chain.
    """
    terms, signs = parted(text, sets.RELATION)
    if not signs or not set(signs) <= {"<", ">", "\\le", "\\ge", "\\ne"}:
        return None
    try:
        trees = [read(term) for term in terms]
    except Unreadable:
        return None
    return [
        (("+", *((right, ("-", left)) if sign in _DIRECTION else (left, ("-", right)))), _DIRECTION.get(sign, sign))
        for left, sign, right in zip(trees, signs, trees[1:], strict=False)
    ]


def same_link(one: Link, other: Link) -> bool:
    """Whether two inequalities are the same up to a positive factor."""
    factor = values.proportional(one[0], other[0]) if one[1] == other[1] else None
    return factor is not None and bool(factor > 0 or one[1] == "\\ne")


def variables(found: list[Link]) -> set[str]:
    return set().union(*(symbols(tree) for tree, _ in found))


def solved_by(found: list[Link], real: sets.RealSet) -> bool | None:
    """Whether inequalities in one variable hold exactly in a set; tried at its ends, close to them and between them."""
    names = variables(found)
    if len(names) != 1 or (real.variable and {real.variable} != names):
        return None
    (name,) = names
    ends = sorted(
        {
            float(values.lifted(end.at))
            for piece in real.pieces
            for end in piece
            if not mpmath.isinf(values.lifted(end.at))
        }
    )
    exact = [end.at for piece in real.pieces for end in piece if not mpmath.isinf(values.lifted(end.at))]
    spread = [Fraction(n, 7) for n in range(-150, 151, 9)]
    near = [end + sign * Fraction(1, 10**k) for end in map(Fraction, ends) for sign in (-1, 1) for k in (1, 4, 8)]
    between = [(Fraction(a) + Fraction(b)) / 2 for a, b in itertools.pairwise(ends)]
    return all(_holds(found, name, at) == sets.contains(real, at) for at in [*exact, *spread, *near, *between])


def _holds(found: list[Link], name: str, at: Any) -> bool:
    for tree, sign in found:
        try:
            value = values.lifted(values.value(tree, {name: at}))
        except values.Undefined:
            return False
        zero = abs(value) < values.VANISHING
        if not {">": value > 0 and not zero, "\\ge": value > 0 or zero, "\\ne": not zero}[sign]:
            return False
    return True


def same_equation(one: Tree, other: Tree) -> bool | None:
    """Whether two formulas of the same variables are zero at the same points; None where too few are found."""
    names = sorted(symbols(one) | symbols(other))
    if symbols(one) != symbols(other) or is_complex(one) or is_complex(other):
        return None
    fitting = []
    for tree, tried in ((one, other), (other, one)):
        count = 0
        for number, point in enumerate(values.points(set(names))[:TRIED]):
            name = names[number % len(names)]
            root = _root(tree, point, name)
            if root is None:
                continue
            fits = _is_zero(tried, {**point, name: root}, name)
            if fits is False:
                return False
            count += fits is True
        fitting.append(count)
    return True if min(fitting) >= ENOUGH and len(names) > 1 else None


def _along(tree: Tree, point: values.Point, name: str) -> Callable[[Any], Any]:
    return lambda at: values.lifted(values.value(tree, {**point, name: at}, real=False))


def _root(tree: Tree, point: values.Point, name: str) -> Any | None:
    """A zero along one variable, real or complex."""
    start = values.lifted(point[name])
    with mpmath.workdps(values.DIGITS):
        try:
            starts = (start, start + mpmath.mpc(1, 1) / 3, start - 1)
            return mpmath.findroot(_along(tree, point, name), starts, solver="muller", maxsteps=40)
        except (ValueError, ZeroDivisionError, values.Undefined, values.TooLarge):
            return None  # no zero there, or none that is found


def _is_zero(tree: Tree, point: dict[str, Any], name: str) -> bool | None:
    """Whether a formula is zero at a point, beside what it is close to it; None where it has no value."""
    with mpmath.workdps(values.DIGITS):
        try:
            at, beside = (_along(tree, point, name)(point[name] + shift) for shift in (0, mpmath.mpf(1) / 1000))
        except (values.Undefined, values.TooLarge):
            return None
        return bool(abs(at) <= NEAR * abs(beside))
