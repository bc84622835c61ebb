r"""Whether two answers are the same, by their form: what a list, a pair, a set, a matrix or an equation is made of.

Each rule knows one form. It decides, or leaves the two answers to the rules after it; the last ones compare formulas by
their values, and leave what they cannot read to computer algebra.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from dsmath_jax.grading.equivalence import pairs, quantities, sets, shapes, solutions, units, values, wording
from dsmath_jax.grading.equivalence.expressions import Tree, Unreadable, read, symbols
from dsmath_jax.grading.equivalence.normal import ended, split
from dsmath_jax.grading.grades import Verdict

_CUPS = re.compile(r"\s*\\cup(?![A-Za-z])\s*")
_FUNCTION = re.compile(r"^(?:y|[fghFGH]\s*\(.*\)|[fgh])$")
_INFINITE = re.compile(r"^\+?\s*(-?)\s*(?:\\infty|inf(?:inity)?|oo)$", re.IGNORECASE)
_CONDITION = re.compile(
    r"[\s,(]*\b[a-zA-Z]\s*(?:\\in|属于)\s*(?:\\mathbb\s*\{?[ZN]\}?|\\mathbf\{[ZN]\}|[ZN])(?:\^\S+|_\S+)?\s*\)?$"
    r"|\s*(?:\\p?mod\s*(?:\{[^{}]*\}|\d+)|\(\s*\\?mod\s*\w+\s*\))$"
)
_CIRCLED = re.compile("^[①-⑳,和 ]+$")


def _said(condition: bool, what: str) -> Verdict:
    return Verdict(condition, f"same {what}" if condition else f"not the same {what}")


def same(gold: str, answer: str) -> Verdict:
    """Whether two normalised answers are the same.

    Symmetric but for equations: an answer "x + 2z = 7" ends in the gold answer 7, a gold one is an equation.
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
    """Text without blanks, but for those between digits: 3 1/2 is not 31/2."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


# Numbers and what is made of two of them.


def _blanks(gold: str, answer: str) -> Verdict | None:
    """Several blanks of one question, parted by semicolons: in their order."""
    wanted, given = split(gold, shapes.BLANKS), split(answer, shapes.BLANKS)
    if len(wanted) == 1:
        return None
    if len(given) == 1:
        elements = shapes.braces(answer)
        if elements is not None:
            return _said(_matched(wanted, elements, _equal), "set")
        given = shapes.listed(answer)
    return _each(wanted, given, "answers in the blanks")


def _each(wanted: Sequence[str], given: Sequence[str], what: str) -> Verdict:
    if len(wanted) != len(given):
        return Verdict(False, f"not as many {what}")
    for one, other in zip(wanted, given, strict=True):
        verdict = same(one, other)
        if not verdict.equal:
            return Verdict(False, f"{what}: {verdict.rule}")
    return Verdict(True, f"same {what}")


def numbers(gold: str, answer: str) -> Verdict | None:
    """Two numbers, with units or without."""
    wanted, given = quantities.quantity(gold), quantities.quantity(answer)
    if wanted is None or given is None:
        return None
    return _quantities(wanted, given)


def _quantities(wanted: quantities.Quantity, given: quantities.Quantity) -> Verdict:
    size = units.factor_between(wanted.unit, given.unit)
    if size is None:
        return Verdict(False, "another unit")
    if {"%", ""} == {units.symbol(wanted.unit), units.symbol(given.unit)}:
        # Per cent left out, or written as the number it is.
        percent, plain = (wanted, given) if units.symbol(wanted.unit) == "%" else (given, wanted)
        hundredth = percent.number._replace(value=percent.number.value / 100)
        equal = any(quantities.close(one, plain.number) for one in (percent.number, hundredth))
        return _said(equal, "percentage")
    scaled = quantities.Number(given.number.value / size) if size != 1 else given.number
    return _said(quantities.close(wanted.number, scaled), "number")


def _decimal_comma(gold: str, answer: str) -> Verdict | None:
    """1000,99 is 1000.99 where the other answer is a decimal; 1,2 is a list."""
    for one, other in ((gold, answer), (answer, gold)):
        if re.fullmatch(r"-?(?:\d+,\d{2}|0,\d+)", one) and re.fullmatch(r"-?\d+\.\d+", other):
            return numbers(one.replace(",", "."), other)
    return None


def _pairs(gold: str, answer: str) -> Verdict | None:
    """Times, ratios, quotients with remainder, numbers in a base."""
    if (wanted_base := pairs.based(gold)) and (given_base := pairs.based(answer)):
        one, other = pairs.base_value(*wanted_base), pairs.base_value(*given_base)
        return _said(one is not None and one == other, "number in its base")
    for based, plain in ((pairs.based(gold), answer), (pairs.based(answer), gold)):
        if based is not None and re.fullmatch(r"-?[0-9A-Za-z]+", plain):
            return _said(based[0] == plain.upper(), "digits, with the base left out")
    wanted_time, given_time = pairs.time(gold), pairs.time(answer)
    if wanted_time and given_time:
        return _said(pairs.same_time(wanted_time, given_time), "time")
    for moment, text in ((wanted_time, answer), (given_time, gold)):
        hour = quantities.number(text)
        if moment and hour is not None:
            return _said(moment.minute == 0 and hour.value in (moment.hour, moment.hour % 12 or 12), "hour")
    wanted_pair, given_pair = pairs.remainder(gold), pairs.remainder(answer)
    if wanted_pair and given_pair:
        return _said(wanted_pair == given_pair, "quotient and remainder")
    wanted_ratio, given_ratio = pairs.ratio(gold), pairs.ratio(answer)
    if wanted_ratio and given_ratio:
        return _said(wanted_ratio == given_ratio, "ratio")
    for ratio, text in ((wanted_ratio, answer), (given_ratio, gold)):
        quotient = quantities.number(text)
        if ratio is not None and len(ratio) == 2 and quotient is not None:
            return _said(ratio[0] == quotient.value and quotient.value.denominator > 1, "ratio")
    return None


# Words.


def _words(gold: str, answer: str) -> Verdict | None:
    """Two answers in words, or one in words and one in mathematics."""
    if wording.folded(gold) == wording.folded(answer) and (
        wording.is_words(gold)
        or wording.is_words(answer)
        or wording.folded(gold) in wording.SAME_WORDS.values()
        or wording.same_letter(gold, answer)
    ):
        return Verdict(True, "same words")
    if _CIRCLED.match(gold) and _CIRCLED.match(answer):
        return _said(set(re.findall("[①-⑳]", gold)) == set(re.findall("[①-⑳]", answer)), "numbers")
    if wording.is_words(gold) and wording.is_words(answer):
        lists = [[wording.folded(item) for item in shapes.listed(text)] for text in (gold, answer)]
        return _said(len(lists[0]) > 1 and sorted(lists[0]) == sorted(lists[1]), "words")
    return None


# Relations.


def _no_variables(text: str) -> bool:
    return shapes.readable(text) and not symbols(read(text))


def _equations(gold: str, answer: str) -> Verdict | None:
    """Equations with each other, and what names a value with the value."""
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
        difference = [("+", read(left), ("-", read(right))) for left, right in (wanted, given)]
        if values.proportional(*difference) is not None:
            return Verdict(True, "same equation")
    except (Unreadable, values.TooLarge):
        difference = []
    names = [side[0] for side in (wanted, given)]
    named = all(map(shapes.is_name, names))
    if (named and _head(names[0]) == _head(names[1])) or _name_says_nothing(*names):
        return same(wanted[1], given[1])
    if difference and symbols(difference[0]) == symbols(difference[1]):
        found = solutions.same_equation(*difference)
        return symbolic(gold, answer) if found is None else _said(found, "equation")
    return symbolic(gold, answer) if not (difference or named) else Verdict(False, "another variable")


def _head(name: str) -> str:
    """W of W(n)."""
    return re.sub(r"\s*\([^()]*\)$", "", name)


def _name_says_nothing(one: str, other: str) -> bool:
    """Whether what equations name does not matter: words, sums that were worked out, y and f(x)."""
    in_words = any(len(name.strip("\\")) > 3 and wording.is_words(name) for name in (one, other))
    return in_words or any(map(_no_variables, (one, other))) or all(map(_FUNCTION.match, (one, other)))


def _inequalities(gold: str, answer: str) -> Verdict | None:
    """Chains of inequalities with the same links, each up to a positive factor; or one of them solved."""
    wanted, given = solutions.links(gold), solutions.links(answer)
    if wanted is None or given is None:
        return None
    if _matched(wanted, given, solutions.same_link):
        return Verdict(True, "same inequalities")
    if solutions.variables(wanted) != solutions.variables(given):
        return Verdict(False, "another variable")
    if len(solutions.variables(wanted)) > 1:
        return Verdict(False, "not the same inequalities")
    return symbolic(gold, answer)


def _real_sets(gold: str, answer: str) -> Verdict | None:
    """Sets of real numbers, of which at least one can be nothing else."""
    if not (sets.looks_like(gold) or sets.looks_like(answer)):
        return None
    wanted, given = sets.real_set(gold), sets.real_set(answer)
    for real, text in ((wanted, answer), (given, gold)):
        if real is not None and (links := solutions.links(text)) is not None and None in (wanted, given):
            found = solutions.solved_by(links, real)
            return None if found is None else _said(found, "solutions of the inequality")
    if wanted is None or given is None:
        return None
    if wanted.variable and given.variable and wanted.variable != given.variable:
        return Verdict(False, "another variable")
    return _said(sets.same(wanted, given), "set of real numbers")


def _symbolic_unions(gold: str, answer: str) -> Verdict | None:
    """Unions whose ends have parameters, piece by piece."""
    wanted, given = split(gold, _CUPS), split(answer, _CUPS)
    if max(len(wanted), len(given)) == 1:
        return None
    if _matched(wanted, given, _equal):
        return Verdict(True, "same pieces of the union")
    return Verdict(False, "not the same union") if min(len(wanted), len(given)) > 1 else None


def _membership(gold: str, answer: str) -> Verdict | None:
    """x in a set, which is not one of real numbers that are read above, with the set."""
    found = [re.match(r"^[A-Za-z]\s*\\in(?![A-Za-z])\s*(.*)$", text) for text in (gold, answer)]
    if not any(found):
        return None
    return same(*(each[1] if each else text for each, text in zip(found, (gold, answer), strict=True)))


def _conditions(gold: str, answer: str) -> Verdict | None:
    """What is said to hold for all integers k, or modulo a number, with or without these words."""
    bare = [_CONDITION.sub("", text).strip() for text in (gold, answer)]
    return same(*bare) if bare != [gold, answer] and all(bare) else None


# Collections.


def _equal(one: str, other: str) -> bool:
    return same(one, other).equal


def _matched(ones: Sequence[Any], others: Sequence[Any], equal: Callable[[Any, Any], bool]) -> bool:
    """Whether the elements of two collections are equal in some order."""
    if len(ones) != len(others):
        return False
    left = list(others)
    for one in ones:
        place = next((i for i, other in enumerate(left) if equal(one, other)), None)
        if place is None:
            return False
        left.pop(place)
    return True


def _distinct(items: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for item in items:
        if not any(_equal(other, item) for other in kept):
            kept.append(item)
    return kept


def _collections(gold: str, answer: str) -> Verdict | None:
    """Sets and lists, in any order; pairs and points, in theirs."""
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
        return _said(_matched(one, other, _equal), "set")
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
        for point, place in ((wanted_tuple, 0), (given_tuple, 1)):
            if point is not None and len(point[1]) == 1 and point[0] == "()":
                texts = [gold, answer]
                texts[place] = ended(point[1][0])
                return same(*texts)
        return None
    if (shapes.sides(gold) is not None and len(wanted) == 1) or (shapes.sides(answer) is not None and len(given) == 1):
        return None
    if len(wanted) != len(given):  # a solution that is named twice
        wanted, given = _distinct(wanted), _distinct(given)
    return _said(_matched(wanted, given, _equal), "list")


def _unnamed(text: str, other: str) -> str:
    """The point of "(x, y) = (1, 2)" where the other answer is a list of equations, "x = 1, y = 2"."""
    sides = shapes.sides(text)
    named = sides is not None and shapes.is_name(sides[0]) and shapes.tuple_of(sides[1]) is not None
    return sides[1] if sides and named and len(shapes.listed(other)) > 1 and not shapes.tuple_of(other) else text


def _by_name(items: Sequence[str]) -> list[str]:
    """Items in the order of the variables where each is the value of one: y = 2, x = 1."""
    sides = [shapes.sides(item) for item in items]
    names = [side[0] for side in sides if side is not None]
    if len(names) == len(items) == len(set(names)):
        return [right for _, right in sorted(side for side in sides if side is not None)]
    return list(items)


def _matrices(gold: str, answer: str) -> Verdict | None:
    """Matrices and vectors, cell by cell."""
    if "\\begin" not in gold + answer:
        return None
    wanted, given = shapes.rows(gold), shapes.rows(answer)
    if wanted is None or given is None:
        return None
    if [len(row) for row in wanted] != [len(row) for row in given]:
        return Verdict(False, "not the same shape")
    return _each([c for row in wanted for c in row], [c for row in given for c in row], "matrix entries")


# Formulas.


def _units(gold: str, answer: str) -> Verdict | None:
    """Formulas of which at least one has a unit."""
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
        return _formulas(*converted) or verdict
    return verdict


def _formulas(gold: str, answer: str) -> Verdict | None:
    """Formulas by their values."""
    infinite = [_INFINITE.match(text) for text in (gold, answer)]
    if any(infinite):
        ends = ["-" if each and each[1] else "+" if each else "" for each in infinite]
        return _said(ends[0] == ends[1], "value") if all(ends) or any(map(shapes.readable, (gold, answer))) else None
    try:
        one, other = read(gold), read(answer)
        equal = values.equal(one, other)
        if not equal and not (symbols(one) or symbols(other)):
            equal = _rounded(gold, answer, one, other)
    except Unreadable:
        return None
    except values.TooLarge:
        return Verdict(False, "too large to compare")
    return None if equal is None else _said(equal, "value")


def _rounded(gold: str, answer: str, one: Tree, other: Tree) -> bool | None:
    """Whether one is a decimal of at least six places that the other one, irrational, is rounded to."""
    for text, tree in ((gold, other), (answer, one)):
        decimal = quantities.number(text)
        if decimal is None or decimal.decimals is None:
            continue
        try:
            exact = values.value(tree)
        except values.Undefined:
            continue
        if not values.is_real(exact):
            return False
        return quantities.close(decimal, quantities.Number(values.rational(exact)))
    return False


def symbolic(gold: str, answer: str) -> Verdict:
    """What only computer algebra decides."""
    # Takes seconds to import, and most answers do not need it.
    from dsmath_jax.grading.equivalence import symbolic as algebra

    equal = algebra.equal(gold, answer)
    return Verdict(equal, "symbolically equal" if equal else "not symbolically equal")


def _last(gold: str, answer: str) -> Verdict:
    if wording.is_words(gold) or wording.is_words(answer):
        return Verdict(False, "other words")
    if any(shapes.readable(text) for text in (gold, answer)) and any(
        shapes.tuple_of(text) or shapes.braces(text) or shapes.rows(text) or sets.looks_like(text)
        for text in (gold, answer)
    ):
        return Verdict(False, "another form")
    return symbolic(gold, answer)


RULES: tuple[Callable[[str, str], Verdict | None], ...] = (
    numbers, _blanks, _decimal_comma, _pairs, _conditions, _words, _matrices, _real_sets, _membership, _collections,
    _equations, _inequalities, _symbolic_unions, _units, _formulas, _last,
)  # fmt: skip
