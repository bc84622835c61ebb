"""Converts HTML's sub- and superscripts to LaTeX (`x<sup>2</sup>` to `x^2`), except footnote marks and ordinals."""

import re
from typing import Any

from dsmath_jax.corpus.text.dom import select

MAX_CHARS = 30
NOTE_CLASS = re.compile(r"reference|footnote|note|cite|fn", re.IGNORECASE)
NOTE_TEXT = re.compile(r"\[.*\]|\(\d+\)|[*†‡§¶#]+|(?:\d+\s*,\s*)+\d+")
ORDINAL = re.compile(r"st|nd|rd|th|e|er|re|ème|o|a|º|ª", re.IGNORECASE)
SIGN = re.compile(r"TM|SM|®|©|™|\(R\)|\(TM\)", re.IGNORECASE)
# The text before a script: ends in a symbol, a number, a unit or a bracket, not in a word.
BASE = re.compile(r"(?:(?:^|[^A-Za-z])[A-Za-z]{1,3}|[^\W_A-Za-z]|[)\]}|!′'’∑∏∫])$|\\[A-Za-z]+$")


def write_scripts(tree: Any, html: str) -> None:
    """Replaces scripts of formulas by LaTeX and removes footnote marks."""
    if not any(tag in html for tag in ("<sup", "<sub", "<SUP", "<SUB")):
        return
    for node in reversed(select(tree.body, "sup, sub")):  # inner ones first
        text = " ".join((node.text or "").split())
        if node.tag == "sup" and _is_note(node, text):
            node.remove()
        elif _is_script(node, text):
            mark = "^" if node.tag == "sup" else "_"
            latex = text.replace("−", "-")
            latex = f"{mark}{latex}" if len(latex) == 1 else f"{mark}{{{latex}}}"
            node.parent.replace_child(tree.create_text_node(latex), node)


def _is_note(node: Any, text: str) -> bool:
    names = f"{node.getattr('class') or ''} {node.getattr('id') or ''}"
    linked = node.query_selector("a") is not None or (node.parent is not None and node.parent.tag == "a")
    short_link = linked and len(text) <= 5 and not re.fullmatch(r"[-−+]?[a-z]", text)
    return bool(short_link or NOTE_CLASS.search(names) or NOTE_TEXT.fullmatch(text))


def _is_script(node: Any, text: str) -> bool:
    if not text or len(text) > MAX_CHARS or text[0] in "^_" or SIGN.fullmatch(text) or "\ufdd0" in text:
        return False
    before = _text_before(node)
    if node.tag == "sup" and ORDINAL.fullmatch(text) and (len(text) > 1 or text in "ºª") and before[-1:].isalnum():
        return False
    return BASE.search(before) is not None


def _text_before(node: Any) -> str:
    """Returns the last characters before a node in its line."""
    current = node
    for _ in range(3):
        previous = current.previous_sibling
        while previous is not None:
            text = previous.text or ""
            if text:
                return text[-12:]
            previous = previous.previous_sibling
        current = current.parent
        if current is None or current.tag not in ("i", "em", "b", "span", "var", "a", "strong"):
            return ""
    return ""
