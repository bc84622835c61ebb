"""Collects the nodes of a parsed page, in document order."""

from typing import Any


def select(node: Any, selectors: str) -> list[Any]:
    """Returns the matches below `node` as a list, since the library's collections search again at every access."""
    return node.query_selector_all(selectors).values()


def outermost(nodes: list[Any]) -> list[Any]:
    """Returns the nodes (given in document order) that are within no other of them."""
    result: list[Any] = []
    for node in nodes:
        if not (result and result[-1].contains(node)):
            result.append(node)
    return result
