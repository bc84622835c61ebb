"""Converts HTML to plain text with formulas as LaTeX and without boilerplate (menus, banners, footers).

Every kind of formula element becomes `$...$` (display: `$$...$$`), once (`formulas`). Delimited formulas in the text
stay as they are (`delimited`).
"""

import re
from typing import Any

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from dsmath_jax.corpus.text.boilerplate import remove_boilerplate
from dsmath_jax.corpus.text.definitions import drop_definitions
from dsmath_jax.corpus.text.delimited import repair_delimited
from dsmath_jax.corpus.text.depth import limit_depth
from dsmath_jax.corpus.text.dom import select
from dsmath_jax.corpus.text.formulas import Formulas, replace_formulas
from dsmath_jax.corpus.text.scripts import write_scripts

# XML's empty elements: an HTML parser leaves them open, and an open <script> hides the rest of the page.
XML_START = re.compile(r"\s*<\?xml\b")
EMPTY_ELEMENT = re.compile(
    r"<(?!(?:area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr)\b)([\w:]+)((?:\s[^<>]*)?)/>", re.IGNORECASE
)
MATHML_PREFIX = re.compile(r"(</?)(?:mml|m|mathml):(?=[a-z])")
# A "<" of a formula that an HTML parser would take for a tag: characters follow that cannot follow the name of a tag.
LESS_THAN = re.compile(r"<(?=[a-zA-Z]\w*(?:[\\$^_={}()+,|&<]|\s+[\\$^_=+&]))")
LESS_THAN_OR_SCRIPT = re.compile(
    rf"<(?:script|style)\b.*?(?:</(?:script|style)|\Z)|<!--.*?(?:-->|\Z)|{LESS_THAN.pattern}", re.I | re.S
)
# Around preformatted text, whose white space is kept. (Noncharacters, as in `formulas`.)
PRE_START, PRE_END = "\ufdd2", "\ufdd3"
PREFORMATTED = re.compile(f"{PRE_START}(.*?)(?:{PRE_END}|\\Z)", re.DOTALL)
CELLS = re.compile(r"[ ]*\t\t[ ]*")
EDGE_BARS = re.compile(r"^[ |]*\|[ ]*$|^(?:[ ]*\|)+[ ]*|(?:[ ]*\|)+[ ]*$", re.MULTILINE)
BLANK_LINES = re.compile(r"\n[ \t\n]*\n")


def html_to_text(html: str) -> str:
    """Returns the visible text of a page, "" if it has none; line breaks separate blocks."""
    html = _repaired(html)
    tree = HTMLTree.parse(html)
    if tree.body is None:
        return ""
    formulas = Formulas()
    replace_formulas(tree, html, formulas)
    remove_boilerplate(tree, html)
    repair_delimited(tree, html, formulas)
    write_scripts(tree, html)
    _flatten_cells(tree)
    _mark_preformatted(tree)
    # Without `alt_texts` the library skips whole figures, without `form_fields` labels.
    text = extract_plain_text(tree, preserve_formatting=True, alt_texts=True, form_fields=True)
    return drop_definitions(formulas.restore(_laid_out(text))).strip()


def _repaired(html: str) -> str:
    """Fixes what an HTML parser would misread in the source."""
    if "\r" in html:
        html = html.replace("\r\n", "\n").replace("\r", "\n")
    if XML_START.match(html):
        html = EMPTY_ELEMENT.sub(r"<\1\2></\1>", html)
    if "ml:math" in html or "<m:math" in html:
        html = MATHML_PREFIX.sub(r"\1", html)
    if ("$" in html or "\\" in html) and LESS_THAN.search(html):
        html = LESS_THAN_OR_SCRIPT.sub(lambda match: "&lt;" if match[0] == "<" else match[0], html)
    return limit_depth(html)


def _flatten_cells(tree: Any) -> None:
    """Unwraps a cell's only block, so that the cell stays in its row."""
    for block in select(tree.body, "td > p, th > p, td > div, th > div"):
        cell = block.parent
        if cell.child_element_count == 1 and not select(block, "p, div, pre, table, ul, ol"):
            for node in block.child_nodes.values():
                cell.insert_before(node, block)
            block.remove()


def _mark_preformatted(tree: Any) -> None:
    for node in select(tree.body, "pre"):
        node.prepend(tree.create_text_node(PRE_START))
        node.append(tree.create_text_node(PRE_END))


def _laid_out(text: str) -> str:
    """Separates table cells by bars and collapses blank lines; preformatted text stays as it is."""
    pieces, end = [], 0
    for block in PREFORMATTED.finditer(text):
        pieces += [_tidy(text[end : block.start()]).strip("\n"), block[1].strip("\n")]
        end = block.end()
    pieces.append(_tidy(text[end:]).strip("\n"))
    return "\n\n".join(piece for piece in pieces if piece.strip())


def _tidy(text: str) -> str:
    if "\t\t" in text:
        text = EDGE_BARS.sub("", CELLS.sub(" | ", text))
    return BLANK_LINES.sub("\n\n", text)
