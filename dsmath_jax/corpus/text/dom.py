"""Two ways to collect the nodes of a parsed page, both found once and in document order."""

from typing import Any


def select(node: Any, selectors: str) -> list[Any]:
    """What matches below `node`: a list, since the library's own collections look anew at every access."""
    return node.query_selector_all(selectors).values()


def outermost(nodes: list[Any]) -> list[Any]:
    """Those of a document's nodes (in document order) that lie in no other of them."""
    kept: list[Any] = []
    for node in nodes:
        if not (kept and kept[-1].contains(node)):
            kept.append(node)
    return kept
