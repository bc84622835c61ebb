"""HTML to plain text that keeps formulas as LaTeX and drops what frames a page: menus, banners, footers.

Formulas reach a page in many ways; each becomes `$...$` (display: `$$...$$`), once (`formulas`). What MathJax would
find in the text itself stays as it stands (`delimited`).
"""

import re
from typing import Any

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from dsmath_jax.corpus.text.definitions import drop_definitions
from dsmath_jax.corpus.text.delimited import mend_delimited
from dsmath_jax.corpus.text.depth import limit_depth
from dsmath_jax.corpus.text.dom import select
from dsmath_jax.corpus.text.formulas import Formulas, replace_formulas
from dsmath_jax.corpus.text.frame import drop_frame
from dsmath_jax.corpus.text.scripts import write_scripts

# XML's empty elements, which an HTML parser would leave open (an open <script> swallows the page).
XML_START = re.compile(r"\s*<\?xml\b")
EMPTY_ELEMENT = re.compile(
    r"<(?!(?:area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr)\b)([\w:]+)((?:\s[^<>]*)?)/>", re.IGNORECASE
)
MATHML_PREFIX = re.compile(r"(</?)(?:mml|m|mathml):(?=[a-z])")
# A "<" that a formula means and an HTML parser takes for a tag: a name is followed by what follows no tag's name.
LESS_THAN = re.compile(r"<(?=[a-zA-Z]\w*(?:[\\$^_={}()+,|&<]|\s+[\\$^_=+&]))")
LESS_THAN_OR_SCRIPT = re.compile(
    rf"<(?:script|style)\b.*?(?:</(?:script|style)|\Z)|<!--.*?(?:-->|\Z)|{LESS_THAN.pattern}", re.I | re.S
)
# Around preformatted text, whose white space is no layout. (Noncharacters, as in `formulas`.)
PRE_START, PRE_END = "\ufdd2", "\ufdd3"
PREFORMATTED = re.compile(f"{PRE_START}(.*?)(?:{PRE_END}|\\Z)", re.DOTALL)
CELLS = re.compile(r"[ ]*\t\t[ ]*")
EDGE_BARS = re.compile(r"^[ |]*\|[ ]*$|^(?:[ ]*\|)+[ ]*|(?:[ ]*\|)+[ ]*$", re.MULTILINE)
BLANK_LINES = re.compile(r"\n[ \t\n]*\n")


def html_to_text(html: str) -> str:
    """Returns the visible text of a page, "" where it has none; blocks are parted by line breaks."""
    html = _repaired(html)
    tree = HTMLTree.parse(html)
    if tree.body is None:
        return ""
    formulas = Formulas()
    replace_formulas(tree, html, formulas)
    drop_frame(tree, html)
    mend_delimited(tree, html, formulas)
    write_scripts(tree, html)
    _flatten_cells(tree)
    _mark_preformatted(tree)
    # Without "alternative texts" the library passes over whole figures, without "form fields" over labels.
    text = extract_plain_text(tree, preserve_formatting=True, alt_texts=True, form_fields=True)
    return drop_definitions(formulas.restore(_laid_out(text))).strip()


def _repaired(html: str) -> str:
    """The source with what an HTML parser would misread put right."""
    if "\r" in html:
        html = html.replace("\r\n", "\n").replace("\r", "\n")
    if XML_START.match(html):
        html = EMPTY_ELEMENT.sub(r"<\1\2></\1>", html)
    if "ml:math" in html or "<m:math" in html:
        html = MATHML_PREFIX.sub(r"\1", html)
    if ("$" in html or "\\" in html) and LESS_THAN.search(html):
        html = LESS_THAN_OR_SCRIPT.sub(lambda found: "&lt;" if found[0] == "<" else found[0], html)
    return limit_depth(html)


def _flatten_cells(tree: Any) -> None:
    """Takes a cell's only block away from around its text, so that the cell stays in its row."""
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
    """Text with table cells parted by bars and with single blank lines, preformatted text as it is."""
    pieces, place = [], 0
    for block in PREFORMATTED.finditer(text):
        pieces += [_tidy(text[place : block.start()]).strip("\n"), block[1].strip("\n")]
        place = block.end()
    pieces.append(_tidy(text[place:]).strip("\n"))
    return "\n\n".join(piece for piece in pieces if piece.strip())


def _tidy(text: str) -> str:
    if "\t\t" in text:
        text = EDGE_BARS.sub("", CELLS.sub(" | ", text))
    return BLANK_LINES.sub("\n\n", text)
