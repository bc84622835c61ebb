"""Finds formulas between LaTeX's delimiters in running text: `$…$`, `$$…$$`, `\\(…\\)`, `\\[…\\]` and environments."""

import re
from collections.abc import Iterator
from typing import NamedTuple

START = re.compile(r"\$\$?|\\[(\[]|\\begin\{(\w+\*?)\}|\\.", re.DOTALL)
CLOSING = {"$$": "$$", "$": "$", "\\(": "\\)", "\\[": "\\]"}
# Maximum characters between two delimiters; the smallest for dollar signs, which prose has too.
MAX_CHARS = {"$$": 5_000, "$": 600, "\\(": 3_000, "\\[": 5_000}
MAX_ENVIRONMENT_CHARS = 10_000
BARRIER = "\0"  # a placeholder for code and the like, which no formula spans


class Span(NamedTuple):
    """The position of a formula in a text, with and without its delimiters."""

    start: int
    end: int
    inner_start: int
    inner_end: int


def find_formulas(text: str) -> Iterator[Span]:
    """Yields the delimited formulas of a text, in linear time.

    Single dollar signs follow Pandoc's rule: no blank after the first and before the second one, no letter or digit
    outside next to them, both in one paragraph.
    """
    position = 0
    while opening := START.search(text, position):
        position = opening.end()
        mark = opening[0]
        if opening[1]:
            closing, limit = f"\\end{{{opening[1]}}}", MAX_ENVIRONMENT_CHARS
        elif mark in CLOSING:
            closing, limit = CLOSING[mark], MAX_CHARS[mark]
        else:
            continue  # an escaped character
        end = (
            _dollar(text, opening.start(), position) if mark == "$" else text.find(closing, position, position + limit)
        )
        if end < 0 or text.find(BARRIER, position, end) >= 0 or not text[position:end].strip():
            continue
        span = Span(opening.start(), end + len(closing), position, end)
        yield span if not opening[1] else Span(span.start, span.end, span.start, span.end)
        position = span.end


def _dollar(text: str, start: int, position: int) -> int:
    """Returns the index of the dollar sign that closes the one at `start`, or -1 if that one opens no formula."""
    if text[position : position + 1].isspace() or (start and text[start - 1].isalnum() and text[start - 1].isascii()):
        return -1
    end = position - 1
    limit = min(len(text), position + MAX_CHARS["$"])
    blank = re.compile(r"\n\s*\n").search(text, position, limit)
    limit = blank.start() if blank else limit
    while (end := text.find("$", end + 1, limit)) >= 0:
        if text[end - 1] != "\\":
            after = text[end + 1 : end + 2]
            return -1 if text[end - 1].isspace() or (after.isdigit() and after.isascii()) else end
    return -1
