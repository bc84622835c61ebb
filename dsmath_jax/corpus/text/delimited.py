"""Delimited formulas in a page's text (`delimiters`, and AsciiMath's backticks) that markup runs through.

Such formulas need nothing as long as they are plain text. But a Markdown processor that knows no mathematics turns
underscores into <em>, line ends into <br> and addresses into links; here the characters come back.
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
# What a page says somewhere (in lower case) that loads AsciiMath, and one that loads TeX (beside which AsciiMath is
# mostly unused).
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
# Elements whose text is no running text: they end a formula.
OPAQUE = frozenset(
    "code pre script style textarea svg math select button option kbd samp iframe noscript template".split()
)
MARKS = {"em": "_", "strong": "**"}


@dataclass
class Run:
    """The text of neighbouring inline nodes, with the places where it changes node and where markup begins or ends."""

    pieces: list[str] = field(default_factory=list)
    length: int = 0
    leaves: list[tuple[int, Any]] = field(default_factory=list)  # where each text node or <br> begins
    marks: list[tuple[int, str]] = field(default_factory=list)  # what Markdown may have had at a place

    def add(self, text: str, node: Any = None) -> None:
        if node is not None:
            self.leaves.append((self.length, node))
        self.pieces.append(text)
        self.length += len(text)


def mend_delimited(tree: Any, html: str, formulas: Formulas) -> None:
    """Puts tokens in the place of delimited formulas that markup runs through, and of AsciiMath if a page loads it."""
    source = html.lower() if "`" in html else ""
    backticks = any(name in source for name in ASCIIMATH_PAGE)
    if not backticks and not _has_markup_inside(html):
        return
    doubtful = any(name in source for name in TEX_PAGE)
    for run in list(_runs(tree.body)):  # collected before anything changes
        _mend(run, formulas, backticks, doubtful)


def _has_markup_inside(html: str) -> bool:
    """Whether an inline element begins anywhere in the text in which a formula may have begun before."""
    before = ""
    for piece in html.split("<"):
        if ("$" in before or "\\" in before) and INLINE_TAG.match(piece) and OPENING.search(before):
            return True
        before = piece
    return False


def _runs(root: Any) -> Iterator[Run]:
    run = Run()
    emphasis: list[str] = []  # the sign of each <em> or <strong> that is open
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
    """Every node below `root` twice: when it begins and when it ends; what is opaque is not entered."""
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


def _mend(run: Run, formulas: Formulas, backticks: bool, doubtful: bool) -> None:
    text = "".join(run.pieces)
    starts, places = [start for start, _ in run.leaves], [place for place, _ in run.marks]
    spans: list[tuple[int, int, str]] = []
    for start, end, *_ in find_formulas(text):
        inside = run.marks[bisect_right(places, start) : bisect_left(places, end)]
        if inside or bisect_right(starts, start) != bisect_right(starts, end - 1):
            spans.append((start, end, formulas.token(_with_marks(text, start, end, inside))))
    if backticks:
        for match in BACKTICKS.finditer(text):
            if not any(find_formulas(match[1])) and (not doubtful or asciimath.plausible(match[1])):
                spans.append((*match.span(), formulas.token(f"${asciimath.to_latex(match[1])}$")))
    if spans:
        _rewrite(run, text, sorted(spans))


def _with_marks(text: str, start: int, end: int, marks: list[tuple[int, str]]) -> str:
    pieces = []
    for place, mark in marks:
        pieces += [text[start:place], mark]
        start = place
    return "".join([*pieces, text[start:end]])


def _rewrite(run: Run, text: str, spans: list[tuple[int, int, str]]) -> None:
    """Takes the formulas out of the leaves that they run through; the first one gets the token."""
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
        pieces, place = [], start
        for left, right, token in touching:
            pieces += [text[place : max(left, start)], token if left >= start else ""]
            place = min(right, end)
        node.value = "".join([*pieces, text[place:end]])
