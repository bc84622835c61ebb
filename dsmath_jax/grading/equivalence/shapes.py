"""Splits answers into parts: sides of an equation, items of a list, tuple, set or matrix, a formula and its unit.

`forms` compares the parts.
"""

import re

from dsmath_jax.grading.equivalence import sets, units
from dsmath_jax.grading.equivalence.normalization import matching, split, split_with_separators, words
from dsmath_jax.grading.equivalence.parser import parse
from dsmath_jax.grading.equivalence.tokenizer import ParseError
from dsmath_jax.grading.equivalence.wording import folded

BLANKS = re.compile(r"\s*;\s*")
_COMMA = re.compile(r"\s*,\s*")
_LISTED = re.compile(
    r"\s*,?\s*\\text\s*\{\s*(?:and|or)\s*\}\s*|\s*,?\s*(?:(?<![A-Za-z\\])(?:and|or)(?![a-z])|或者?|和|以及|及|与)\s*|\s*[,;]\s*"
)
_TUPLE = re.compile(r"^(?:([(\[])(.*)([)\]])|\\langle(.*)\\rangle)$")
_NAME = re.compile(
    r"^(?:\\?[A-Za-z]+(?:_\{?[^{}=]*\}?)?'*(?:\s*\([^()=]*\))?|\([^()=]*\)|\|[^|]*\||\\(?:angle|triangle|overline|vec|mathrm)\b.*"
    r"|[A-Za-z\u4e00-\u9fff ]+"
    r"|[A-Za-z](?:\^\{-1\})?\([^=]*\)|\\frac\{[A-Z]{1,3}\}\{[A-Z]{1,3}\}|[A-Z]{2}\s*/\s*[A-Z]{2}"
    r"|\\?[A-Za-z]+(?:_\{?\w*\}?)?\s*:\s*\\?[A-Za-z]+(?:_\{?\w*\}?)?)$"
)
_MATRIX = re.compile(
    r"^(.*?)[(\[]?\s*\\begin\{([pbB]?matrix|smallmatrix|array)\}(?:\{[^{}]*\})?(.*?)\\end\{\2\}\s*[)\]]?\s*"
    r"(\^\s*\{?\s*(?:T|\\top|\\mathrm\{T\}|\\intercal)\s*\}?)?$"
)
_UNIT_IN_TEXT = re.compile(
    r"^(.*[\d\w)}\]])\s*\\(?:text|mbox|mathrm|textrm|textbf|textit|rm)\s*\{\s*([^{}]+?)\s*\}"
    r"((?:\s*(?:/|\\cdot)?\s*\\(?:text|mbox|mathrm)\s*\{[^{}]*\})*)\s*(\^\s*\{?-?\d\}?)?$"
)
_UNIT_PLAIN = re.compile(
    r"^(.*[\d)}\]]|.*\\pi)\s+"
    r"((?:(?:square|cubic|sq|cu) )?[A-Za-z]{2,}(?:\s*(?:/|per)\s*[A-Za-z]+)?(?:\s*\^\s*\{?\d\}?)?)$"
)
_ROW_END = re.compile(r"\\\\(?:\[[^\]]*\])?|\\cr\b")
_SIGN_AFTER = re.compile(r"^(?!.*\\(?:sin|cos|tan|cot|sec|csc|cis)(?![a-z]))(.*\S)\s*(%|\^\\circ|\$)$")
_SIGN_BEFORE = re.compile(r"^([$€£¥])\s*(.*)$")


def readable(text: str) -> bool:
    """Returns whether the parser knows the notation of a formula."""
    try:
        parse(text)
    except ParseError:
        return False
    return True


def sides(text: str) -> tuple[str, str] | None:
    """Returns the first and the last exact term of a chain of equations; None for other texts."""
    terms, signs = split_with_separators(text, sets.RELATION)
    if not signs or not set(signs) <= {"=", "\\approx", "\\equiv"}:
        return None
    exact = terms[: signs.index("\\approx") + 1] if "\\approx" in signs else terms
    if len(exact) == 1 and is_name(exact[0]):
        exact = terms[:2]  # there is no exact term
    left, right = exact[0], exact[-1]
    if not left or not right:
        return None
    return (right, left) if is_name(right) and not is_name(left) else (left, right)


def is_name(text: str) -> bool:
    """Returns whether the left side of an equation only names the right one."""
    return bool(_NAME.match(text)) and not re.fullmatch(r"\([^A-Za-z\\]*\)|\|[^A-Za-z\\]*\|", text)


def tuple_of(text: str) -> tuple[str, list[str]] | None:
    """Returns the brackets and the items of (a, b), [a, b], ⟨a, b⟩ and the like; None for other texts."""
    match = _TUPLE.match(text)
    if match is None or (match[1] and matching(text, 0) != len(text) - 1):
        return None
    inside = match[2] if match[1] else match[4]
    items = split(inside, BLANKS if len(split(inside, BLANKS)) > 1 else _COMMA)
    return (match[1] + match[3] if match[1] else "()"), items


def braces(text: str) -> list[str] | None:
    """Returns the elements of a set in braces, or of the empty set; None for other texts."""
    if folded(text) == "no solution":
        return []
    if not (text.startswith("\\{") and text.endswith("\\}") and matching(text, 1) == len(text) - 1):
        return None
    return [item for part in split(text[2:-2].strip(), _COMMA) for item in signs(part) if item]


def signs(text: str) -> list[str]:
    """Returns the two values of a text with a sign ±, else the text itself."""
    if not re.search(r"\\(?:pm|mp)(?![A-Za-z])", text):
        return [text]
    return [
        re.sub(r"^\+\s*", "", re.sub(r"\\pm(?![A-Za-z])", plus, re.sub(r"\\mp(?![A-Za-z])", minus, text)))
        for plus, minus in (("+", "-"), ("-", "+"))
    ]


def listed(text: str) -> list[str]:
    """Returns the items of a list without brackets; both values of an item with a sign ±."""
    return [item for part in split(text, _LISTED) for item in signs(part) if item]


def rows(text: str) -> list[list[str]] | None:
    """Returns the rows of a matrix, or of a tuple as a column; None for other texts."""
    match = _MATRIX.match(text)
    if match is None:
        point = tuple_of(text)
        if point is None or len(point[1]) < 2:
            return None
        inner = [tuple_of(item) for item in point[1]]
        if all(inner):
            return [row[1] for row in inner if row]
        return [[item] for item in point[1]]
    if "\\begin" in match[1] or "\\begin" in match[3]:
        return None
    factor = match[1].strip()
    cells = [[cell.strip() for cell in row.split("&")] for row in _ROW_END.split(match[3]) if row.strip()]
    if factor:
        cells = [[f"{factor}({cell})" for cell in row] for row in cells]
    return [list(column) for column in zip(*cells, strict=False)] if match[4] else cells


def measured(text: str) -> tuple[str, str]:
    """Splits a formula and its unit ("" where it has none)."""
    if (match := _SIGN_BEFORE.match(text)) is not None:
        return match[2], match[1]
    if (match := _SIGN_AFTER.match(text)) is not None:
        return match[1], match[2]
    if (match := _UNIT_IN_TEXT.match(text)) is not None:
        return match[1].strip(), words(match[2] + " " + match[3]).strip() + (match[4] or "")
    if (match := _UNIT_PLAIN.match(text)) is not None and units.known(match[2]):
        return match[1].strip(), match[2]
    return text, ""
