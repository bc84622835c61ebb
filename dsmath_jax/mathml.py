"""Splits a text into text and formulas, which become MathML trees of known elements only.

Needs latex2mathml, of the extra `corpus`.
"""

import html
import re
from collections.abc import Callable
from xml.etree.ElementTree import Element

from latex2mathml.converter import Converter

# Delimited formulas; a dollar sign of a price opens none.
FORMULA = re.compile(
    r"\$\$(?P<display>[^$]{1,4000})\$\$"
    r"|(?<!\\)\\\[(?P<bracket>.{1,4000}?)(?<!\\)\\\]"
    r"|(?<!\\)\\\((?P<round>.{1,2000}?)(?<!\\)\\\)"
    r"|(?P<block>\\begin\{(?P<name>[a-z]{3,12}\*?)\}.{1,4000}?\\end\{(?P=name)\})"
    r"|(?<![\\$A-Za-z0-9])\$(?!\s)(?P<inline>(?:[^$\n\\]|\\[^\n]){1,2000}?)(?<!\s)\$(?!\d)",
    re.DOTALL,
)
BLANK_LINE = re.compile(r"\n\s*\n")
# Labels, numbers and wrappers of formulas, and definitions of macros (which are shown by their names).
UNSHOWN = re.compile(
    r"\\(?:label|tag\*?|ref|eqref|require)\s*\{[^{}]*\}|\\(?:nonumber|notag|displaystyle)(?![A-Za-z])"
    r"|\\(?:begin|end)\{(?:equation|displaymath|math|multline|gather)\*?\}|(?<=\})\[[tbc]\]|%\s*(?:<!\[CDATA\[|\]\]>)"
    r"|\\(?:(?:re)?newcommand|DeclareMathOperator)\*?\s*\{?\\[A-Za-z]+\}?\s*(?:\[\d\])?\s*\{(?:[^{}]|\{[^{}]*\})*\}"
)
MACRO = re.compile(r"\\(?:(?:re)?newcommand|def|let|DeclareMathOperator)(?![A-Za-z])")
ELEMENTS = set(
    "math mi mn mo ms mtext mspace mrow mfrac msqrt mroot mstyle msub msup msubsup munder mover munderover "
    "mmultiscripts mprescripts mtable mtr mtd mpadded mphantom".split()
)
ATTRIBUTES = set(
    "display displaystyle scriptlevel mathvariant mathsize stretchy fence separator form lspace rspace minsize maxsize "
    "symmetric largeop movablelimits accent accentunder linethickness width height depth voffset columnalign".split()
)
VALUE = re.compile(r"[\w.%+ -]{1,40}")
MAX_DEPTH = 60

Tree = list  # [element, {attribute: value}, child Tree or text...]


def parts(text: str, convert: Callable[[str, bool], Tree | None] | None = None) -> list[str | dict]:
    """Splits a text into plain strings and formulas, in their order.

    Args:
      text: of a page or a model.
      convert: `mathml`, the default, or that with a cache.

    Returns:
      Strings, and {"latex": the source in the text, "math": a `Tree`, or None if it cannot be converted}.
    """
    pieces: list[str | dict] = []
    end = 0
    for match in FORMULA.finditer(text):
        if BLANK_LINE.search(match[0]):
            continue
        latex = next(match[name] for name in ("display", "bracket", "round", "block", "inline") if match[name])
        inline = match["inline"] or match["round"]
        pieces += [text[end : match.start()], {"latex": match[0], "math": (convert or mathml)(latex, not inline)}]
        end = match.end()
    return [part for part in [*pieces, text[end:]] if part]


def mathml(latex: str, display: bool) -> Tree | None:
    """Converts a formula to a tree of known MathML elements; returns None if it cannot be converted."""
    shown = UNSHOWN.sub(" ", latex)
    if not shown.strip() or MACRO.search(shown):
        return None  # a macro may expand without end
    try:
        return _tree(Converter(display="block" if display else "inline").convert_to_element(shown), 0)
    except Exception:  # the converter raises many kinds of errors; the page then shows the source
        return None


def _tree(element: Element, depth: int) -> Tree:
    """Copies an element; unknown elements become rows, unknown attributes are dropped."""
    if depth > MAX_DEPTH:
        raise ValueError("a formula nested too deeply")
    tag = element.tag if element.tag in ELEMENTS else "mrow"
    attributes = {
        name: value for name, value in element.attrib.items() if name in ATTRIBUTES and VALUE.fullmatch(value)
    }
    tree: Tree = [tag, attributes]
    if element.text:
        tree.append(html.unescape(element.text))  # the converter writes symbols as character references
    tree += [_tree(child, depth + 1) for child in element]
    return tree
