"""Compares unsolved conditions by their solutions: equations with equations, inequalities with sets.

Solutions of one condition are searched numerically and tried in the other. One that does not fit disproves equality.
For equations in more than one variable, several that fit at generic points of both count as a proof.
"""

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath

from dsmath_jax.grading.equivalence import sets, values
from dsmath_jax.grading.equivalence.arithmetic import VANISHING, TooLarge, Undefined
from dsmath_jax.grading.equivalence.expressions import Tree, is_complex, symbols
from dsmath_jax.grading.equivalence.normalization import split_with_separators
from dsmath_jax.grading.equivalence.parser import parse
from dsmath_jax.grading.equivalence.tokenizer import ParseError
from dsmath_jax.grading.grades import Verdict

TRIED = 6  # points near which a solution is searched
ENOUGH = 3  # solutions of each equation
NEAR = mpmath.mpf(10) ** -12
_DIRECTION = {"<": ">", "\\le": "\\ge"}

Link = tuple[Tree, str]


def links(text: str) -> list[Link] | None:
    """Splits a normalized chain of inequalities into (tree, relation to zero) pairs; None for other texts."""
    terms, signs = split_with_separators(text, sets.RELATION)
    if not signs or not set(signs) <= {"<", ">", "\\le", "\\ge", "\\ne"}:
        return None
    try:
        trees = [parse(term) for term in terms]
    except ParseError:
        return None
    return [
        (("+", *((right, ("-", left)) if sign in _DIRECTION else (left, ("-", right)))), _DIRECTION.get(sign, sign))
        for left, sign, right in zip(trees, signs, trees[1:], strict=False)
    ]


def same_link(one: Link, other: Link) -> bool:
    """Returns whether two inequalities are equal up to a positive factor."""
    factor = values.proportional(one[0], other[0]) if one[1] == other[1] else None
    return factor is not None and bool(factor > 0 or one[1] == "\\ne")


def variables(chain: list[Link]) -> set[str]:
    """Returns the variables of a chain of inequalities."""
    return set().union(*(symbols(tree) for tree, _ in chain))


def solved_by(chain: list[Link], real: sets.RealSet) -> bool | None:
    """Returns whether inequalities in one variable hold exactly in a set; tests its ends, and near and between them."""
    names = variables(chain)
    if len(names) != 1 or (real.variable and {real.variable} != names):
        return None
    (name,) = names
    ends = sorted(
        {
            float(values.to_mpmath(end.at))
            for piece in real.pieces
            for end in piece
            if not mpmath.isinf(values.to_mpmath(end.at))
        }
    )
    exact = [end.at for piece in real.pieces for end in piece if not mpmath.isinf(values.to_mpmath(end.at))]
    spread = [Fraction(n, 7) for n in range(-150, 151, 9)]
    near = [end + sign * Fraction(1, 10**k) for end in map(Fraction, ends) for sign in (-1, 1) for k in (1, 4, 8)]
    between = [(Fraction(a) + Fraction(b)) / 2 for a, b in itertools.pairwise(ends)]
    return all(_holds(chain, name, at) == sets.contains(real, at) for at in [*exact, *spread, *near, *between])


def _holds(chain: list[Link], name: str, at: Any) -> bool:
    for tree, sign in chain:
        try:
            value = values.to_mpmath(values.value(tree, {name: at}))
        except Undefined:
            return False
        zero = abs(value) < VANISHING
        if not {">": value > 0 and not zero, "\\ge": value > 0 or zero, "\\ne": not zero}[sign]:
            return False
    return True


def same_equation(one: Tree, other: Tree) -> bool | None:
    """Returns whether two formulas of the same variables have the same zeros; None where too few are found."""
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
    return lambda at: values.to_mpmath(values.value(tree, {**point, name: at}, real=False))


def _root(tree: Tree, point: values.Point, name: str) -> Any | None:
    """Returns a real or complex zero along one variable, or None."""
    start = values.to_mpmath(point[name])
    with mpmath.workdps(values.DIGITS):
        try:
            starts = (start, start + mpmath.mpc(1, 1) / 3, start - 1)
            return mpmath.findroot(_along(tree, point, name), starts, solver="muller", maxsteps=40)
        except (ValueError, ZeroDivisionError, Undefined, TooLarge):
            return None


def _is_zero(tree: Tree, point: dict[str, Any], name: str) -> bool | None:
    """Returns whether a formula is zero at a point relative to its value nearby; None where it has no value."""
    with mpmath.workdps(values.DIGITS):
        try:
            at, nearby = (_along(tree, point, name)(point[name] + shift) for shift in (0, mpmath.mpf(1) / 1000))
        except (Undefined, TooLarge):
            return None
        return bool(abs(at) <= NEAR * abs(nearby))


def compare_sets(gold: str, answer: str) -> Verdict | None:
    """Compares sets of real numbers, of which at least one can be nothing else; None for other answers."""
    if not (sets.looks_like(gold) or sets.looks_like(answer)):
        return None
    wanted, given = sets.real_set(gold), sets.real_set(answer)
    for real, text in ((wanted, answer), (given, gold)):
        if real is not None and (chain := links(text)) is not None and None in (wanted, given):
            equal = solved_by(chain, real)
            return None if equal is None else Verdict.of(equal, "solutions of the inequality")
    if wanted is None or given is None:
        return None
    if wanted.variable and given.variable and wanted.variable != given.variable:
        return Verdict(False, "another variable")
    return Verdict.of(sets.same(wanted, given), "set of real numbers")
