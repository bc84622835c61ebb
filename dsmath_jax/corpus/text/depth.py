"""Limits the nesting depth of a page's elements, so that broken or hostile pages take no more time than others."""

import re

MAX_DEPTH = 150
# A page with about as many end tags as start tags that never closes many elements in a row is not deep.
MANY_UNCLOSED = 300
MANY_CLOSED = re.compile(r"</(?:\w++>\s*+</){39}")
TAG = re.compile(
    r"<(?:(?P<raw>script|style|textarea|title)\b.*?(?:</(?P=raw)|\Z)|!--.*?(?:-->|\Z)|(/?)([a-zA-Z][\w:-]*)([^<>]*)>)",
    re.I | re.S,
)
VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())
# Elements with optional end tags: the next one of the same name ends them, within these containers.
ENDED_BY_NEXT = {
    "p": "",
    "li": "ul ol menu",
    "dt": "dl",
    "dd": "dl",
    "option": "select",
    "tr": "table",
    "td": "tr table",
    "th": "tr table",
}
LOOK_BACK = 200


def limit_depth(html: str) -> str:
    """Returns the source without the tags of elements nested deeper than `MAX_DEPTH`; their text stays."""
    if html.count("<") - 2 * html.count("</") < MANY_UNCLOSED and not MANY_CLOSED.search(html):
        return html
    pieces: list[str] = []
    open_names: list[str] = []
    position = 0
    for tag in TAG.finditer(html):
        name = (tag[3] or "").lower()
        if not name or name in VOID or tag[4].endswith("/"):
            continue
        if tag[2]:
            depth = _depth_of(name, open_names)
            deep = depth >= MAX_DEPTH
            del open_names[depth:]
        else:
            if name in ENDED_BY_NEXT:
                del open_names[_depth_of(name, open_names, ENDED_BY_NEXT[name].split()) :]
            deep = len(open_names) >= MAX_DEPTH
            open_names.append(name)
        if deep:
            pieces.append(html[position : tag.start()])
            position = tag.end()
    return " ".join([*pieces, html[position:]])


def _depth_of(name: str, open_names: list[str], within: list[str] | None = None) -> int:
    """Returns the number of elements open outside the innermost one of a name; all of them if there is none nearby."""
    for depth in range(len(open_names) - 1, max(-1, len(open_names) - LOOK_BACK), -1):
        if open_names[depth] == name:
            return depth
        if within and open_names[depth] in within:
            break
    return len(open_names)
