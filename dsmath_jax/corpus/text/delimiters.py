"""Formulas between LaTeX's delimiters in running text: `$…$`, `$$…$$`, `\\(…\\)`, `\\[…\\]` and environments."""

import re
from collections.abc import Iterator
from typing import NamedTuple

START = re.compile(r"\$\$?|\\[(\[]|\\begin\{(\w+\*?)\}|\\.", re.DOTALL)
CLOSING = {"$$": "$$", "$": "$", "\\(": "\\)", "\\[": "\\]"}
# How far a delimiter may be from the one that closes it; prose with dollar signs comes apart sooner.
LONGEST = {"$$": 5_000, "$": 600, "\\(": 3_000, "\\[": 5_000}
LONGEST_ENVIRONMENT = 10_000
BARRIER = "\0"  # no formula goes over what stands for code and the like


class Span(NamedTuple):
    """Where a formula stands in a text, and where what is between its delimiters does."""

    start: int
    end: int
    inner_start: int
    inner_end: int


def find_formulas(text: str) -> Iterator[Span]:
    """Yields the delimited formulas of a text, in time linear in its length.

    A single dollar sign opens a formula by Pandoc's rule: no blank after the first and before the second one, no letter
    or digit outside next to them, all in one paragraph.
    """
    place = 0
    while opening := START.search(text, place):
        place = opening.end()
        mark = opening[0]
        if opening[1]:
            closing, limit = f"\\end{{{opening[1]}}}", LONGEST_ENVIRONMENT
        elif mark in CLOSING:
            closing, limit = CLOSING[mark], LONGEST[mark]
        else:
            continue  # an escaped character
        end = _dollar(text, opening.start(), place) if mark == "$" else text.find(closing, place, place + limit)
        if end < 0 or text.find(BARRIER, place, end) >= 0 or not text[place:end].strip():
            continue
        span = Span(opening.start(), end + len(closing), place, end)
        yield span if not opening[1] else Span(span.start, span.end, span.start, span.end)
        place = span.end


def _dollar(text: str, start: int, place: int) -> int:
    """Where the single dollar sign is that closes the one at `start`, -1 where that one opens no formula."""
    if text[place : place + 1].isspace() or (start and text[start - 1].isalnum() and text[start - 1].isascii()):
        return -1
    end = place - 1
    limit = min(len(text), place + LONGEST["$"])
    blank = re.compile(r"\n\s*\n").search(text, place, limit)
    limit = blank.start() if blank else limit
    while (end := text.find("$", end + 1, limit)) >= 0:
        if text[end - 1] != "\\":
            after = text[end + 1 : end + 2]
            return -1 if text[end - 1].isspace() or (after.isdigit() and after.isascii()) else end
    return -1
