"""Expression trees of formulas."""

from typing import Any

Tree = tuple[Any, ...]  # ("num", Fraction), ("sym", name), (operator or function, tree, …)


def symbols(tree: Tree) -> set[str]:
    """Returns the names of the variables in a tree; an unknown function counts as one, "f()"."""
    if tree[0] == "sym":
        return {tree[1]}
    if tree[0] == "unknown":
        return {f"{tree[1]}()"}.union(*(symbols(part) for part in tree[2:]))
    return set().union(*(symbols(part) for part in tree[1:] if isinstance(part, tuple)))


def is_complex(tree: Tree) -> bool:
    """Returns whether a tree contains the imaginary unit."""
    return tree == ("const", "i") or any(is_complex(part) for part in tree[1:] if isinstance(part, tuple))
