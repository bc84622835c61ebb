r"""Compares answers by their form: lists, pairs, sets, matrices, equations, formulas.

Each rule knows one form. It decides, or leaves the two answers to the next rule; the last rules compare formulas by
their values, and by computer algebra what they cannot parse.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from dsmath_jax.grading.equivalence import formulas, pairs, quantities, sets, shapes, solutions, units, values, wording
from dsmath_jax.grading.equivalence.arithmetic import TooLarge
from dsmath_jax.grading.equivalence.expressions import symbols
from dsmath_jax.grading.equivalence.normalization import split, strip_ending
from dsmath_jax.grading.equivalence.parser import parse
from dsmath_jax.grading.equivalence.tokenizer import ParseError
from dsmath_jax.grading.grades import Verdict

_CUPS = re.compile(r"\s*\\cup(?![A-Za-z])\s*")
_FUNCTION = re.compile(r"^(?:y|[fghFGH]\s*\(.*\)|[fgh])$")
_CONDITION = re.compile(
    r"[\s,(]*\b[a-zA-Z]\s*(?:\\in|属于)\s*(?:\\mathbb\s*\{?[ZN]\}?|\\mathbf\{[ZN]\}|[ZN])(?:\^\S+|_\S+)?\s*\)?$"
    r"|\s*(?:\\p?mod\s*(?:\{[^{}]*\}|\d+)|\(\s*\\?mod\s*\w+\s*\))$"
)
_CIRCLED = re.compile("^[①-⑳,和 ]+$")


def same(gold: str, answer: str) -> Verdict:
    """Compares two normalized answers.

    Symmetric except for equations: the answer "x + 2z = 7" equals the gold answer 7, but 7 does not equal a gold
    equation.
    """
    if _squeezed(gold) == _squeezed(answer):
        return Verdict(True, "same text")
    if not gold or not answer:
        return Verdict(False, "no answer")
    for rule in RULES:
        verdict = rule(gold, answer)
        if verdict is not None:
            return verdict
    return Verdict(False, "not comparable")


def _squeezed(text: str) -> str:
    """Removes blanks, except between digits: 3 1/2 is not 31/2."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def _equal(one: str, other: str) -> bool:
    return same(one, other).equal


def _each(wanted: Sequence[str], given: Sequence[str], what: str) -> Verdict:
    """Compares two sequences element by element."""
    if len(wanted) != len(given):
        return Verdict(False, f"not as many {what}")
    for one, other in zip(wanted, given, strict=True):
        verdict = same(one, other)
        if not verdict.equal:
            return Verdict(False, f"{what}: {verdict.rule}")
    return Verdict(True, f"same {what}")


def _matched(ones: Sequence[Any], others: Sequence[Any], equal: Callable[[Any, Any], bool]) -> bool:
    """Returns whether the elements of two collections are equal in some order."""
    if len(ones) != len(others):
        return False
    left = list(others)
    for one in ones:
        index = next((i for i, other in enumerate(left) if equal(one, other)), None)
        if index is None:
            return False
        left.pop(index)
    return True


def _distinct(items: Sequence[str]) -> list[str]:
    unique: list[str] = []
    for item in items:
        if not any(_equal(other, item) for other in unique):
            unique.append(item)
    return unique


# --- words, lists, sets, tuples, matrices ---


def _blanks(gold: str, answer: str) -> Verdict | None:
    """Compares the blanks of one question, separated by semicolons, in order."""
    wanted, given = split(gold, shapes.BLANKS), split(answer, shapes.BLANKS)
    if len(wanted) == 1:
        return None
    if len(given) == 1:
        elements = shapes.braces(answer)
        if elements is not None:
            return Verdict.of(_matched(wanted, elements, _equal), "set")
        given = shapes.listed(answer)
    return _each(wanted, given, "answers in the blanks")


def _words(gold: str, answer: str) -> Verdict | None:
    """Compares two answers in words, or one in words with one in mathematics."""
    if wording.folded(gold) == wording.folded(answer) and (
        wording.is_words(gold)
        or wording.is_words(answer)
        or wording.folded(gold) in wording.SAME_WORDS.values()
        or wording.same_letter(gold, answer)
    ):
        return Verdict(True, "same words")
    if _CIRCLED.match(gold) and _CIRCLED.match(answer):
        return Verdict.of(set(re.findall("[①-⑳]", gold)) == set(re.findall("[①-⑳]", answer)), "numbers")
    if wording.is_words(gold) and wording.is_words(answer):
        lists = [[wording.folded(item) for item in shapes.listed(text)] for text in (gold, answer)]
        return Verdict.of(len(lists[0]) > 1 and sorted(lists[0]) == sorted(lists[1]), "words")
    return None


def _collections(gold: str, answer: str) -> Verdict | None:
    """Compares sets and lists in any order, and tuples in order."""
    gold, answer = _unnamed(gold, answer), _unnamed(answer, gold)
    wanted_tuple, given_tuple = shapes.tuple_of(gold), shapes.tuple_of(answer)
    wanted_set, given_set = shapes.braces(gold), shapes.braces(answer)
    if wanted_tuple and given_tuple and max(len(wanted_tuple[1]), len(given_tuple[1])) > 1:
        if wanted_tuple[0] != given_tuple[0] and max(len(wanted_tuple[1]), len(given_tuple[1])) == 2:
            return Verdict(False, "not the same interval")
        return _each(wanted_tuple[1], given_tuple[1], "coordinates")
    if wanted_set is not None or given_set is not None:
        one, other = (
            _distinct(elements if elements is not None else [text] if point else shapes.listed(text))
            for elements, point, text in ((wanted_set, wanted_tuple, gold), (given_set, given_tuple, answer))
        )
        return Verdict.of(_matched(one, other, _equal), "set")
    wanted, given = shapes.listed(gold), shapes.listed(answer)
    for point, items in ((wanted_tuple, given), (given_tuple, wanted)):
        if (
            point is not None
            and point[0] == "()"
            and 1 < len(point[1]) == len(items)
            and not any(map(shapes.tuple_of, items))
        ):
            return _each(point[1], _by_name(items), "coordinates")
    if max(len(wanted), len(given)) == 1:
        for point, index in ((wanted_tuple, 0), (given_tuple, 1)):
            if point is not None and len(point[1]) == 1 and point[0] == "()":
                texts = [gold, answer]
                texts[index] = strip_ending(point[1][0])
                return same(*texts)
        return None
    if (shapes.sides(gold) is not None and len(wanted) == 1) or (shapes.sides(answer) is not None and len(given) == 1):
        return None
    if len(wanted) != len(given):  # a solution may be listed twice
        wanted, given = _distinct(wanted), _distinct(given)
    return Verdict.of(_matched(wanted, given, _equal), "list")


def _unnamed(text: str, other: str) -> str:
    """Returns the point of "(x, y) = (1, 2)" where the other answer is a list of equations, "x = 1, y = 2"."""
    sides = shapes.sides(text)
    named = sides is not None and shapes.is_name(sides[0]) and shapes.tuple_of(sides[1]) is not None
    return sides[1] if sides and named and len(shapes.listed(other)) > 1 and not shapes.tuple_of(other) else text


def _by_name(items: Sequence[str]) -> list[str]:
    """Returns the values of "y = 2, x = 1" in the order of their variables; other items as they are."""
    sides = [shapes.sides(item) for item in items]
    names = [side[0] for side in sides if side is not None]
    if len(names) == len(items) == len(set(names)):
        return [right for _, right in sorted(side for side in sides if side is not None)]
    return list(items)


def _matrices(gold: str, answer: str) -> Verdict | None:
    """Compares matrices and vectors cell by cell."""
    if "\\begin" not in gold + answer:
        return None
    wanted, given = shapes.rows(gold), shapes.rows(answer)
    if wanted is None or given is None:
        return None
    if [len(row) for row in wanted] != [len(row) for row in given]:
        return Verdict(False, "not the same shape")
    return _each([c for row in wanted for c in row], [c for row in given for c in row], "matrix entries")


def _symbolic_unions(gold: str, answer: str) -> Verdict | None:
    """Compares unions of intervals whose ends have parameters, piece by piece."""
    wanted, given = split(gold, _CUPS), split(answer, _CUPS)
    if max(len(wanted), len(given)) == 1:
        return None
    if _matched(wanted, given, _equal):
        return Verdict(True, "same pieces of the union")
    return Verdict(False, "not the same union") if min(len(wanted), len(given)) > 1 else None


# --- equations, inequalities, conditions, units ---


def _equations(gold: str, answer: str) -> Verdict | None:
    """Compares equations with each other, and an equation that names a value with the value."""
    wanted, given = shapes.sides(gold), shapes.sides(answer)
    if wanted is None and given is None:
        return None
    if wanted is None:
        assert given is not None
        if given[1] == "0" and not (shapes.is_name(given[0]) or _no_variables(given[0])):
            return Verdict(False, "an equation and no equation")
        return same(gold, given[1])
    if given is None:
        if shapes.is_name(wanted[0]) or (_no_variables(wanted[0]) and _no_variables(wanted[1])):
            return same(wanted[1], answer)
        return Verdict(False, "an equation and no equation")
    if wanted[0] == given[0]:
        verdict = same(wanted[1], given[1])
        if verdict.equal or shapes.is_name(wanted[0]):
            return verdict
    try:
        difference = [("+", parse(left), ("-", parse(right))) for left, right in (wanted, given)]
        if values.proportional(*difference) is not None:
            return Verdict(True, "same equation")
    except (ParseError, TooLarge):
        difference = []
    names = [side[0] for side in (wanted, given)]
    named = all(map(shapes.is_name, names))
    if (named and _head(names[0]) == _head(names[1])) or _names_are_irrelevant(*names):
        return same(wanted[1], given[1])
    if difference and symbols(difference[0]) == symbols(difference[1]):
        equal = solutions.same_equation(*difference)
        return formulas.symbolic(gold, answer) if equal is None else Verdict.of(equal, "equation")
    return formulas.symbolic(gold, answer) if not (difference or named) else Verdict(False, "another variable")


def _no_variables(text: str) -> bool:
    return shapes.readable(text) and not symbols(parse(text))


def _head(name: str) -> str:
    """Returns W of W(n)."""
    return re.sub(r"\s*\([^()]*\)$", "", name)


def _names_are_irrelevant(one: str, other: str) -> bool:
    """Returns whether the left sides of equations do not matter: words, sums that were worked out, y and f(x)."""
    in_words = any(len(name.strip("\\")) > 3 and wording.is_words(name) for name in (one, other))
    return in_words or any(map(_no_variables, (one, other))) or all(map(_FUNCTION.match, (one, other)))


def _inequalities(gold: str, answer: str) -> Verdict | None:
    """Compares chains of inequalities, link by link up to a positive factor, or one with its solution."""
    wanted, given = solutions.links(gold), solutions.links(answer)
    if wanted is None or given is None:
        return None
    if _matched(wanted, given, solutions.same_link):
        return Verdict(True, "same inequalities")
    if solutions.variables(wanted) != solutions.variables(given):
        return Verdict(False, "another variable")
    if len(solutions.variables(wanted)) > 1:
        return Verdict(False, "not the same inequalities")
    return formulas.symbolic(gold, answer)


def _membership(gold: str, answer: str) -> Verdict | None:
    """Compares "x in" a set with the set, where `sets` cannot read it."""
    matches = [re.match(r"^[A-Za-z]\s*\\in(?![A-Za-z])\s*(.*)$", text) for text in (gold, answer)]
    if not any(matches):
        return None
    return same(*(match[1] if match else text for match, text in zip(matches, (gold, answer), strict=True)))


def _conditions(gold: str, answer: str) -> Verdict | None:
    """Compares answers without the words "for integers k" or "modulo m" at their ends."""
    bare = [_CONDITION.sub("", text).strip() for text in (gold, answer)]
    return same(*bare) if bare != [gold, answer] and all(bare) else None


def _units(gold: str, answer: str) -> Verdict | None:
    """Compares formulas of which at least one has a unit."""
    (wanted, wanted_unit), (given, given_unit) = shapes.measured(gold), shapes.measured(answer)
    if not (wanted_unit or given_unit) or not wanted or not given:
        return None
    size = units.factor_between(wanted_unit, given_unit)
    if size is None:
        return Verdict(False, "another unit")
    if size != 1:
        given = f"({given})/({size})"
    verdict = same(wanted, given)
    signs = {units.symbol(wanted_unit), units.symbol(given_unit)}
    if not verdict.equal and signs in ({"^\\circ", ""}, {"%", ""}):  # an angle in radians, a percentage as a number
        written = {"^\\circ": "({})^\\circ", "%": "({})/100", "": "{}"}
        converted = [written[units.symbol(unit)].format(t) for unit, t in ((wanted_unit, wanted), (given_unit, given))]
        return formulas.compare(*converted) or verdict
    return verdict


def _last(gold: str, answer: str) -> Verdict:
    """Decides what no other rule does."""
    if wording.is_words(gold) or wording.is_words(answer):
        return Verdict(False, "other words")
    if any(shapes.readable(text) for text in (gold, answer)) and any(
        shapes.tuple_of(text) or shapes.braces(text) or shapes.rows(text) or sets.looks_like(text)
        for text in (gold, answer)
    ):
        return Verdict(False, "another form")
    return formulas.symbolic(gold, answer)


RULES: tuple[Callable[[str, str], Verdict | None], ...] = (
    quantities.compare, _blanks, quantities.compare_decimal_comma, pairs.compare, _conditions, _words, _matrices,
    solutions.compare_sets, _membership, _collections, _equations, _inequalities, _symbolic_unions, _units,
    formulas.compare, _last,
)  # fmt: skip
