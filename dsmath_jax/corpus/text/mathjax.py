"""Reads the output of MathJax 3 and 4 (HTML or SVG) as MathML, for formulas whose source is not on the page.

Both outputs keep the tree of the MathML: HTML in the names of its elements (`mjx-mfrac`), SVG in the attribute
`data-mml-node`; both name characters by their code points.
"""

import re
from typing import Any

from dsmath_jax.corpus.text.math_element import MAX_DEPTH, TOKENS, Element

CODE = re.compile(r"\bmjx-c([0-9A-F]{2,5})\b")
HEX = re.compile(r"[0-9A-F]{2,5}")
HEIGHT = re.compile(r"translate\([^,)]*,\s*(-?[\d.]+)")
NAMED = frozenset(
    "math mrow mi mn mo mtext ms mfrac msqrt mroot msub msup msubsup munder mover munderover mtable mtr mtd mlabeledtr "
    "mstyle mpadded menclose mphantom mspace TeXAtom texatom mmultiscripts".split()
)
RADICAL_SIGN = "√"


def of_output(container: Any) -> Element | None:
    """Returns the formula in a `mjx-container` (a resiliparse node), None if it has no named element."""
    parts = _parts(container, 0)
    return Element("mrow", "", parts) if parts else None


def _name(node: Any) -> str:
    tag = node.tag or ""
    name = node.getattr("data-mml-node") or (tag[4:] if tag.startswith("mjx-") else "")
    return name if name in NAMED else ""


def _parts(node: Any, depth: int) -> list[Element]:
    """Returns the nearest named elements below a node, skipping wrappers."""
    parts: list[Element] = []
    if depth > 2 * MAX_DEPTH:
        return parts
    for child in node.children.values():
        if child.tag in ("mjx-assistive-mml", "mjx-surd", "mjx-root", "mjx-stretchy-v", "mjx-stretchy-h"):
            continue
        name = _name(child)
        parts += [_element(child, name, depth + 1)] if name else _parts(child, depth + 1)
    return parts


def _element(node: Any, name: str, depth: int) -> Element:
    if name in TOKENS:
        return Element(name, _characters(node))
    parts = _parts(node, depth)
    if name in ("msqrt", "mroot"):
        parts = [part for part in parts if part.text != RADICAL_SIGN] or [Element("mi")]
        index = node.query_selector("mjx-root")
        parts += _parts(index, depth) if index is not None and name == "mroot" else []
    elif name in ("msubsup", "munderover") and len(parts) == 3:
        parts = _ordered(node, parts)
    elif name in ("mover", "munder") and len(parts) == 2 and _first_zone(node) in ("mjx-over", "mjx-under"):
        parts.reverse()
    return Element({"TeXAtom": "mrow", "texatom": "mrow"}.get(name, name), "", parts)


def _ordered(node: Any, parts: list[Element]) -> list[Element]:
    """Returns base, lower and upper script; the output mostly has the upper one before the lower one."""
    if _first_zone(node) == "mjx-over":  # HTML: above, base, below
        return [parts[1], parts[2], parts[0]]
    heights = [HEIGHT.search(child.getattr("transform") or "") for child in node.children.values()]
    if len(heights) == 3 and heights[1] and heights[2]:
        lower_first = float(heights[1][1]) < float(heights[2][1])
        return parts if lower_first else [parts[0], parts[2], parts[1]]
    return [parts[0], parts[2], parts[1]]


def _first_zone(node: Any) -> str:
    first = node.first_element_child
    return first.tag or "" if first is not None else ""


def _characters(node: Any) -> str:
    text = " ".join((node.text or "").split())
    if text:
        return text
    codes = []
    for part in node.query_selector_all("mjx-c, [data-c]").values():
        match = CODE.search(part.getattr("class") or "") or HEX.fullmatch(part.getattr("data-c") or "")
        codes += [match[match.re.groups]] if match else []
    return "".join(chr(int(code, 16)) for code in codes if int(code, 16) < 0x110000)
