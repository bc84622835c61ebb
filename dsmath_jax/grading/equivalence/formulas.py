"""Compares formulas: by their values, else by computer algebra."""

import re

from dsmath_jax.grading.equivalence import arithmetic, quantities, shapes, values
from dsmath_jax.grading.equivalence.expressions import Tree, symbols
from dsmath_jax.grading.equivalence.parser import parse
from dsmath_jax.grading.equivalence.tokenizer import ParseError
from dsmath_jax.grading.grades import Verdict

_INFINITE = re.compile(r"^\+?\s*(-?)\s*(?:\\infty|inf(?:inity)?|oo)$", re.IGNORECASE)


def compare(gold: str, answer: str) -> Verdict | None:
    """Compares formulas by their values; None where one cannot be parsed or has none."""
    infinite = [_INFINITE.match(text) for text in (gold, answer)]
    if any(infinite):
        ends = ["-" if each and each[1] else "+" if each else "" for each in infinite]
        decided = all(ends) or any(map(shapes.readable, (gold, answer)))
        return Verdict.of(ends[0] == ends[1], "value") if decided else None
    try:
        one, other = parse(gold), parse(answer)
        equal = values.equal(one, other)
        if not equal and not (symbols(one) or symbols(other)):
            equal = _rounded(gold, answer, one, other)
    except ParseError:
        return None
    except arithmetic.TooLarge:
        return Verdict(False, "too large to compare")
    return None if equal is None else Verdict.of(equal, "value")


def _rounded(gold: str, answer: str, one: Tree, other: Tree) -> bool | None:
    """Returns whether one is an irrational number and the other its value rounded to at least six decimal places."""
    for text, tree in ((gold, other), (answer, one)):
        decimal = quantities.number(text)
        if decimal is None or decimal.decimals is None:
            continue
        try:
            exact = values.value(tree)
        except arithmetic.Undefined:
            continue
        if not values.is_real(exact):
            return False
        return quantities.close(decimal, quantities.Number(values.rational(exact)))
    return False


def symbolic(gold: str, answer: str) -> Verdict:
    """Compares answers by computer algebra."""
    # It takes seconds to import, and most answers do not need it.
    from dsmath_jax.grading.equivalence import symbolic as algebra

    equal = algebra.equal(gold, answer)
    return Verdict(equal, "symbolically equal" if equal else "not symbolically equal")
