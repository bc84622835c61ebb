"""The common tree of all forms of MathML, which is converted to LaTeX."""

import re
from dataclasses import dataclass, field
from typing import Any

MAX_DEPTH = 60  # deeper elements give only their text
ATTRIBUTES = frozenset(
    "mathvariant open close separators notation columnalign accent width linebreak displaystyle type base "
    "linethickness".split()
)
TOKENS = frozenset("mi mn mo ms mtext ci cn csymbol".split())
BLANKS = re.compile(r"[ \t\r\n\f]+")  # without the no-break spaces of <mtext>


@dataclass(slots=True)
class Element:
    """One MathML element: its name without prefix, its own text, its child elements."""

    tag: str
    text: str = ""
    parts: list["Element"] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)


def of_node(node: Any, depth: int = 0) -> Element:
    """Copies a MathML element of a page (a resiliparse node)."""
    tag = (node.tag or "").rpartition(":")[2].lower()
    names = [name for name in node.attrs if name in ATTRIBUTES]
    attributes = {name: node.getattr(name) or "" for name in names}
    children = node.children.values()
    if not children or depth > MAX_DEPTH:
        return Element(tag, BLANKS.sub(" ", node.text or "").strip(" "), [], attributes)
    if tag in TOKENS:  # HTML inside <mtext>, <sep> inside <cn>
        pieces = [(child.text or "").strip() for child in node.child_nodes.values()]
        return Element(tag, " ".join(piece for piece in pieces if piece), [], attributes)
    return Element(tag, "", [of_node(child, depth + 1) for child in children], attributes)
