"""Repairs delimited formulas (`delimiters`, and AsciiMath's backticks) that have markup inside.

Markdown processors without support for mathematics turn underscores into <em>, line ends into <br> and URLs into
links; this module restores the characters. Formulas of plain text need no repair.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dsmath_jax.corpus.text import asciimath
from dsmath_jax.corpus.text.delimiters import BARRIER, find_formulas
from dsmath_jax.corpus.text.formulas import Formulas

INLINE = "em|i|b|strong|br|a|sub|sup|wbr|span|u|s|del|small|mark|font|var|abbr|tt|big|nobr|q|cite"
INLINE_TAG = re.compile(rf"(?:{INLINE})\b", re.IGNORECASE)
OPENING = re.compile(r"\$|\\[(\[]|\\begin\{")
# Strings (in lower case) of pages that load AsciiMath, and of pages that load TeX (which mostly do not use AsciiMath).
ASCIIMATH_PAGE = (
    "am_chtml",
    "am_svg",
    "am_htmlormml",
    "asciimath2jax",
    "input/asciimath",
    "asciimath.js",
    "asciimathml.js",
)
TEX_PAGE = ("tex-ams", "tex-mml", "tex2jax", "input/tex")
BACKTICKS = re.compile(r"(?<![\\`])`([^`\0]{1,300})`(?!`)")
INLINE_TAGS = frozenset(INLINE.split("|"))
# Elements without running text: they end a formula.
OPAQUE = frozenset(
    "code pre script style textarea svg math select button option kbd samp iframe noscript template".split()
)
MARKS = {"em": "_", "strong": "**"}


@dataclass
class Run:
    """The text of adjacent inline nodes, with the positions of node boundaries and of markup."""

    pieces: list[str] = field(default_factory=list)
    length: int = 0
    leaves: list[tuple[int, Any]] = field(default_factory=list)  # the start of each text node or <br>
    marks: list[tuple[int, str]] = field(default_factory=list)  # position and Markdown source of markup

    def add(self, text: str, node: Any = None) -> None:
        """Appends the text of a node."""
        if node is not None:
            self.leaves.append((self.length, node))
        self.pieces.append(text)
        self.length += len(text)


def repair_delimited(tree: Any, html: str, formulas: Formulas) -> None:
    """Replaces delimited formulas with markup inside, and AsciiMath if a page loads it, by tokens."""
    source = html.lower() if "`" in html else ""
    backticks = any(name in source for name in ASCIIMATH_PAGE)
    if not backticks and not _has_markup_inside(html):
        return
    has_tex = any(name in source for name in TEX_PAGE)
    for run in list(_runs(tree.body)):  # a list, since the tree changes
        _repair(run, formulas, backticks, has_tex)


def _has_markup_inside(html: str) -> bool:
    """Returns whether an inline element may begin within a delimited formula."""
    before = ""
    for piece in html.split("<"):
        if ("$" in before or "\\" in before) and INLINE_TAG.match(piece) and OPENING.search(before):
            return True
        before = piece
    return False


def _runs(root: Any) -> Iterator[Run]:
    run = Run()
    emphasis: list[str] = []  # the Markdown source of each open <em> or <strong>
    for node, entering in _events(root):
        tag = node.tag or "#"
        if tag == "#text" or tag == "br":
            if entering:
                run.add("\n" if tag == "br" else node.value or "", node)
        elif tag in MARKS or tag in ("sub", "sup"):
            run.marks.append((run.length, _mark(tag, entering, run, emphasis)))
        elif tag in OPAQUE:
            run.add(BARRIER)
        elif tag not in INLINE_TAGS and not tag.startswith("#"):  # a block begins or ends
            if run.length:
                yield run
            run = Run()
    yield run


def _events(root: Any) -> Iterator[tuple[Any, bool]]:
    """Yields every node below `root` when it begins (True) and when it ends (False); skips the content of `OPAQUE`."""
    node, depth = root.first_child, 1
    while node is not None:
        yield node, True
        child = node.first_child if node.tag not in OPAQUE else None
        if child is not None:
            node, depth = child, depth + 1
            continue
        yield node, False
        following = node.next
        while following is None:
            node, depth = node.parent, depth - 1
            if depth == 0:
                return
            yield node, False
            following = node.next
        node = following


def _mark(tag: str, entering: bool, run: Run, emphasis: list[str]) -> str:
    if tag in ("sub", "sup"):
        return ("_{" if tag == "sub" else "^{") if entering else "}"
    if not entering:
        return emphasis.pop() if emphasis else ""
    before = run.pieces[-1][-1:] if run.pieces else ""
    emphasis.append("*" if tag == "em" and before == "^" else MARKS[tag])
    return emphasis[-1]


def _repair(run: Run, formulas: Formulas, backticks: bool, has_tex: bool) -> None:
    text = "".join(run.pieces)
    starts, positions = [start for start, _ in run.leaves], [position for position, _ in run.marks]
    spans: list[tuple[int, int, str]] = []
    for start, end, *_ in find_formulas(text):
        inside = run.marks[bisect_right(positions, start) : bisect_left(positions, end)]
        if inside or bisect_right(starts, start) != bisect_right(starts, end - 1):
            spans.append((start, end, formulas.token(_with_marks(text, start, end, inside))))
    if backticks:
        for match in BACKTICKS.finditer(text):
            if not any(find_formulas(match[1])) and (not has_tex or asciimath.plausible(match[1])):
                spans.append((*match.span(), formulas.token(f"${asciimath.to_latex(match[1])}$")))
    if spans:
        _rewrite(run, text, sorted(spans))


def _with_marks(text: str, start: int, end: int, marks: list[tuple[int, str]]) -> str:
    pieces = []
    for position, mark in marks:
        pieces += [text[start:position], mark]
        start = position
    return "".join([*pieces, text[start:end]])


def _rewrite(run: Run, text: str, spans: list[tuple[int, int, str]]) -> None:
    """Removes formulas from their leaves; the first leaf of each gets its token."""
    first = 0
    for start, node in run.leaves:
        end = start + (1 if node.tag == "br" else len(node.value or ""))
        while first < len(spans) and spans[first][1] <= start:
            first += 1
        touching = spans[first : bisect_left(spans, (end,), lo=first)]
        if not touching:
            continue
        if node.tag == "br":
            node.remove()
            continue
        pieces, position = [], start
        for left, right, token in touching:
            pieces += [text[position : max(left, start)], token if left >= start else ""]
            position = min(right, end)
        node.value = "".join([*pieces, text[position:end]])
