r"""Parses sets of real numbers: intervals, unions, points, and inequalities linear in one variable.

(2,\infty), 2 < x, x > 2 and \{x \mid x > 2\} are one set. Sets with parameters or conditions to solve are not parsed.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import mpmath

from dsmath_jax.grading.equivalence import values
from dsmath_jax.grading.equivalence.arithmetic import TooLarge, Undefined
from dsmath_jax.grading.equivalence.expressions import symbols
from dsmath_jax.grading.equivalence.normalization import split, split_with_separators, words
from dsmath_jax.grading.equivalence.parser import parse
from dsmath_jax.grading.equivalence.tokenizer import ParseError

RELATION = re.compile(r"\\(?:approx|le|ge|ne|in|equiv)(?![A-Za-z])|[=<>]")
# What a set may contain, but no pair or number.
_SIGNS = re.compile(
    r"\\(?:cup|cap|infty|setminus|le|ge|ne|in)(?![A-Za-z])|\\mathbb\{R\}|[<>]|^\[[^\[\]]*\)$|^\([^()]*\]$"
    r"|\binf(?:inity|ty)?\b|\boo\b"
)
_CLOSED = re.compile(r"^\[[^\[\],]*,[^\[\],]*\]$")
_OR = re.compile(r",?\s*(?:\\cup(?![A-Za-z])|\bor\b|或|(?<=[)\]}])\s*[U∪]\s*(?=[(\[\\]))\s*")
_AND = re.compile(r"\s*(?:\\cap(?![A-Za-z])|\band\b|\\land|\\wedge|且|,)\s*")
_BUILDER = re.compile(r"^\\\{\s*[A-Za-z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||:)(.*)\\\}$")
_INTERVAL = re.compile(r"^([(\[])(.*)([)\]])$")
_ALL = re.compile(
    r"^(?:\\mathbb\{R\}|(?:all|any|every) reals?(?: numbers?| values?)?|reals|R|全体实数)$", re.IGNORECASE
)
_NONE = re.compile(r"^(?:\\emptyset|\\\{\s*\\\})$")
_WHOLE = "\\mathbb{R}"


class End(NamedTuple):
    """An end of an interval; infinite ends are open."""

    at: Any
    closed: bool


class Piece(NamedTuple):
    """An interval, or a point as a closed interval of length 0."""

    low: End
    high: End


class RealSet(NamedTuple):
    """Disjoint pieces in ascending order, and the variable if one is named."""

    pieces: list[Piece]
    variable: str | None = None


_EVERYTHING = Piece(End(-mpmath.inf, False), End(mpmath.inf, False))


def looks_like(text: str) -> bool:
    """Returns whether a normalized text can only be a set of real numbers, not a pair of numbers."""
    return bool(_SIGNS.search(text) or _CLOSED.search(text))


def real_set(text: str) -> RealSet | None:
    """Parses a normalized text as a set of real numbers; None where it is none."""
    try:
        return _union(words(text))
    except (ParseError, Undefined, TooLarge):
        return None


def same(one: RealSet, other: RealSet) -> bool:
    """Returns whether two sets have the same elements; names of variables do not matter."""
    return len(one.pieces) == len(other.pieces) and all(
        a.closed == b.closed and _same(a.at, b.at)
        for left, right in zip(one.pieces, other.pieces, strict=True)
        for a, b in zip(left, right, strict=True)
    )


def contains(real: RealSet, at: Any) -> bool:
    """Returns whether a set contains a number."""
    return bool(_intersect(real.pieces, [_point(at)]))


def _infinite(end: Any) -> bool:
    return isinstance(end, mpmath.mpf) and bool(mpmath.isinf(end))


def _same(one: Any, other: Any) -> bool:
    return one == other if _infinite(one) or _infinite(other) else values.same(one, other)


def _union(text: str) -> RealSet:
    builder = _BUILDER.match(text)
    if builder is not None:
        return _union(builder[1].strip())
    parts = [_intersection(part) for part in split(text, _OR)]
    return RealSet(_merged([piece for each in parts for piece in each.pieces]), _variable(parts))


def _intersection(text: str) -> RealSet:
    parts = split(text, _AND)
    operands = [_difference(part) for part in parts]
    pieces = operands[0].pieces
    for each in operands[1:]:
        if RELATION.search(parts[0]) is None and "\\cap" not in text:
            raise ParseError(text)  # (0,1),(2,3) are two intervals or points, not their intersection
        pieces = _intersect(pieces, each.pieces)
    return RealSet(pieces, _variable(operands))


def _difference(text: str) -> RealSet:
    first, *others = split(text, re.compile(r"\s*(?:\\setminus|-(?=\s*\\\{))\s*"))
    result = _single(first)
    for other in others:
        result = RealSet(_intersect(result.pieces, _complement(_union(other).pieces)), result.variable)
    return result


def _variable(real_sets: list[RealSet]) -> str | None:
    names = {each.variable for each in real_sets if each.variable is not None}
    if len(names) > 1:
        raise ParseError("several variables")
    return names.pop() if names else None


def _single(text: str) -> RealSet:
    text = text.strip()
    if _ALL.match(text):
        return RealSet([_EVERYTHING])
    if _NONE.match(text):
        return RealSet([])
    if text.startswith("\\{") and text.endswith("\\}"):
        return RealSet(_merged([_point(_end(part)) for part in split(text[2:-2], re.compile(","))]))
    if RELATION.search(text) and len(split(text, RELATION)) > 1:
        return _relations(text)
    match = _INTERVAL.match(text)
    if match is None:
        raise ParseError(text)
    ends = split(match[2], re.compile(","))
    if len(ends) != 2:
        if len(ends) == 1 and match[1] == "(":
            return _union(ends[0])
        raise ParseError(text)
    low, high = map(_end, ends)
    piece = Piece(
        End(low, match[1] == "[" and not _infinite(low)),
        End(high, match[3] == "]" and not _infinite(high)),
    )
    return RealSet(_merged([piece]))


def _point(at: Any) -> Piece:
    return Piece(End(at, True), End(at, True))


def _end(text: str) -> Any:
    """Parses a finite or infinite end."""
    bare = re.sub(r"\\infty|\binf(?:inity|ty)?\b|\boo\b", "oo", text).replace(" ", "")
    if bare in ("oo", "+oo", "-oo"):
        return -mpmath.inf if bare == "-oo" else +mpmath.inf
    end = values.value(parse(text))
    if isinstance(end, mpmath.mpc):
        raise ParseError(text)
    return end


def _relations(text: str) -> RealSet:
    """Parses an inequality, a chain of inequalities, or "x in" a set."""
    terms, signs = split_with_separators(text, RELATION)
    if signs == ["\\in"] and re.fullmatch(r"[A-Za-z]|\\[a-z]+", terms[0]):
        return _union(terms[1])._replace(variable=terms[0])
    pieces, names = [_EVERYTHING], set[str]()
    for left, sign, right in zip(terms, signs, terms[1:], strict=False):
        if "infty" in left or "infty" in right:
            continue  # x < \infty
        solved, name = _solved(left, sign, right)
        pieces = _intersect(pieces, solved)
        names.add(name)
    if len(names) != 1:
        raise ParseError(text)
    return RealSet(pieces, names.pop())


def _solved(left: str, sign: str, right: str) -> tuple[list[Piece], str]:
    """Solves a relation that is linear in its one variable."""
    tree = ("+", parse(left), ("-", parse(right)))
    names = symbols(tree)
    if len(names) != 1 or sign not in _SOLUTIONS:
        raise ParseError(left)
    (name,) = names
    at = [values.value(tree, {name: Fraction(x)}) for x in _TRIED]
    slope = at[1] - at[0]
    if slope == 0 or not all(values.same(value, at[0] + x * slope) for x, value in zip(_TRIED, at, strict=True)):
        raise ParseError("not linear")
    bound = -at[0] / slope
    return _SOLUTIONS[_FLIPPED.get(sign, sign) if values.to_mpmath(slope) < 0 else sign](bound), name


_TRIED = (0, 1, 2, 5, -1, -3, -40)  # a function that is linear at these points counts as linear
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
_LEAST, _MOST = _EVERYTHING
_SOLUTIONS: dict[str, Callable[[Any], list[Piece]]] = {
    "<": lambda bound: [Piece(_LEAST, End(bound, False))],
    ">": lambda bound: [Piece(End(bound, False), _MOST)],
    "\\le": lambda bound: [Piece(_LEAST, End(bound, True))],
    "\\ge": lambda bound: [Piece(End(bound, True), _MOST)],
    "\\ne": lambda bound: _complement([_point(bound)]),
    "=": lambda bound: [_point(bound)],
}


def _merged(pieces: list[Piece]) -> list[Piece]:
    """Sorts pieces, joins those that touch or overlap, and drops empty ones."""
    merged: list[Piece] = []
    for piece in sorted(
        (p for p in pieces if not _empty(p)), key=lambda p: (values.to_mpmath(p.low.at), not p.low.closed)
    ):
        if merged and _touch(merged[-1].high, piece.low):
            last = merged.pop()
            piece = Piece(last.low, max(last.high, piece.high, key=lambda end: (values.to_mpmath(end.at), end.closed)))
        merged.append(piece)
    return merged


def _touch(high: End, low: End) -> bool:
    if _same(high.at, low.at):
        return high.closed or low.closed
    return bool(values.to_mpmath(low.at) < values.to_mpmath(high.at))


def _empty(piece: Piece) -> bool:
    if _same(piece.low.at, piece.high.at):
        return not (piece.low.closed and piece.high.closed)
    return bool(values.to_mpmath(piece.low.at) > values.to_mpmath(piece.high.at))


def _intersect(ones: list[Piece], others: list[Piece]) -> list[Piece]:
    return _merged(
        [
            Piece(
                max(one.low, other.low, key=lambda end: (values.to_mpmath(end.at), not end.closed)),
                min(one.high, other.high, key=lambda end: (values.to_mpmath(end.at), end.closed)),
            )
            for one in ones
            for other in others
        ]
    )


def _complement(pieces: list[Piece]) -> list[Piece]:
    rest = [_EVERYTHING]
    for piece in pieces:
        outside = [
            Piece(_LEAST, End(piece.low.at, not piece.low.closed)),
            Piece(End(piece.high.at, not piece.high.closed), _MOST),
        ]
        rest = _intersect(rest, [p for p in outside if not (_infinite(p.low.at) and _infinite(p.high.at))])
    return rest
