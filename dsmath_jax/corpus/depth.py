"""Bounds how deep the elements of a page are nested, so that broken or hostile pages take no more time than others."""

import re

DEEPEST = 150
# A page that is not short of end tags and never closes many elements in a row cannot be deep.
MANY_UNCLOSED = 300
MANY_CLOSED = re.compile(r"(?:</\w+>\s*){50}")
TAG = re.compile(r"<(/?)([a-zA-Z][\w:-]*)([^<>]*)>|<(script|style|!--)")
RAW_END = {"script": "</script", "style": "</style", "!--": "-->"}
VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())


def limit_depth(html: str) -> str:
    """Returns the source without the tags of elements that are nested deeper than any page needs; their text stays."""
    unclosed = html.count("<") - 2 * html.count("</")
    if unclosed < MANY_UNCLOSED and not MANY_CLOSED.search(html):
        return html
    pieces: list[str] = []
    place = depth = 0
    for tag in TAG.finditer(html):
        name = (tag[2] or "").lower()
        if tag.start() < place or name in VOID or (tag[3] or "").endswith("/"):
            continue
        if name in ("script", "style"):
            continue
        if tag[1]:
            depth = max(depth - 1, 0)
            deep = depth >= DEEPEST
        else:
            deep = depth >= DEEPEST
            depth += 1
        if deep:
            pieces.append(html[place : tag.start()])
            place = tag.end()
    return "".join([*pieces, html[place:]]) if pieces else html
