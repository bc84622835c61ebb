"""HTML to plain text that keeps formulas as LaTeX and drops what frames a page: menus, banners, footers.

Formulas reach a page in many ways; each is replaced by `$...$` (display: `$$...$$`) before the text is taken, so that
no formula comes twice or as loose letters. What MathJax would find in the text itself stays as it stands.
"""

import re
from collections.abc import Iterator
from typing import Any

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree
from resiliparse.parse.lang import detect_fast

from dsmath_jax.corpus.mathml import to_latex

# Every element that stands for one formula; of nested ones the outermost is replaced.
FORMULAS = (
    ".katex-display, .katex, .mwe-math-element, mjx-container, math, script[type^='math/'], "
    "img[src*='codecogs.com'], img[src*='latex.php'], img.latex, img.tex, img[class*='math']"
)
# What MathJax 2 adds beside its source script for the eye.
RENDERED = ".MathJax_Preview, .MathJax, .MathJax_Display, .MathJax_SVG, .MathJax_SVG_Display, .MathJax_CHTML"
FRAME = (
    "nav, aside, footer, dialog, template, noscript, iframe, button, select, "
    "[role=navigation], [role=banner], [role=contentinfo], [role=search], [role=complementary], [role=dialog]"
)
FRAME_NAME = re.compile(
    r"(?:\w+[-_])?(?:nav|navbar|navigation|menu|sidebar|sphinxsidebar|breadcrumbs?|footer|masthead|cookies?|consent|toc|"
    r"tableofcontents|comments?|disqus|share|sharing|social|related|pagination|pager|advertisement|ads?|newsletter|"
    r"subscribe|popup|modal|skip-?link|headerlink)(?:[-_](?:inner|wrap|wrapper|container|area|list|item|thread|links?|"
    r"bar|box|section|widget|banner|notice|overlay))?",
    re.IGNORECASE,
)
# What a removed block must not hold.
CONTENT = "h1, main, article"
# A list of at least so many links, whose text lies in them for the most part, is a menu, whatever it is called.
MENU_LINKS, MENU_LINK_SHARE = 4, 0.8
LARGEST_FRAME_SHARE = 0.5
# XML's empty elements, which an HTML parser would leave open (an open <script> swallows the page).
XML_START = re.compile(r"\s*<\?xml\b")
EMPTY_ELEMENT = re.compile(
    r"<(?!(?:area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr)\b)([\w:]+)((?:\s[^<>]*)?)/>", re.IGNORECASE
)
DISPLAY_STYLE = re.compile(r"\{\\displaystyle (.*)\}")  # how MediaWiki wraps every formula
FORMULA_TEXT = re.compile(
    r"\$\$.*?\$\$|\$[^$\n]*\$|\\\(.*?\\\)|\\\[.*?\\\]|\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.DOTALL
)
BLANK_LINES = re.compile(r"\n\s*\n")
HAN, KANA, LETTER = re.compile(r"[\u3400-\u9fff]"), re.compile(r"[\u3040-\u30ff]"), re.compile(r"[^\W\d_]")
LANGUAGE_SAMPLE = 10_000
LARGEST_LANGUAGE_RANK = 1200


def html_to_text(html: str) -> str:
    """Returns the visible text of a page, "" where it has none; blocks are parted by line breaks."""
    tree = HTMLTree.parse(EMPTY_ELEMENT.sub(r"<\1\2></\1>", html) if XML_START.match(html) else html)
    if tree.body is None:
        return ""
    _replace_formulas(tree)
    _drop_frame(tree)
    text = extract_plain_text(tree, preserve_formatting=True, alt_texts=False)
    return BLANK_LINES.sub("\n\n", text).strip()


def language(text: str) -> str:
    """The ISO 639-1 code of a text's language, formulas apart; "unknown" where that cannot be told."""
    sample = FORMULA_TEXT.sub(" ", text[: 4 * LANGUAGE_SAMPLE])[:LANGUAGE_SAMPLE]
    letters, han, kana = (len(kind.findall(sample)) for kind in (LETTER, HAN, KANA))
    if han + kana > 0.3 * letters:
        return "zh" if han > 10 * kana else "ja"
    code, _ = detect_fast(sample, cutoff=LARGEST_LANGUAGE_RANK)
    return code if letters else "unknown"


def _replace_formulas(tree: Any) -> None:
    """Puts a text node with the LaTeX source in the place of every formula element that tells it."""
    for latex, display, node in list(_formulas(tree)):
        text = f" $${latex}$$ " if display else f"${latex}$"
        node.parent.replace_child(tree.create_text_node(text), node)


def _formulas(tree: Any) -> Iterator[tuple[str, bool, Any]]:
    """Yields LaTeX, whether it is displayed, and the node; drops what was rendered beside a source."""
    if tree.body.query_selector("script[type^='math/']"):
        for node in _outermost(_select(tree.body, RENDERED)):
            node.remove()
    for node in _outermost(_select(tree.body, FORMULAS)):
        latex = _latex(node)
        if latex:
            yield latex, _is_display(node), node


def _select(node: Any, selectors: str) -> list[Any]:
    """What matches below `node`, in document order, found once: the library's collections look anew at every access."""
    return node.query_selector_all(selectors).values()


def _outermost(nodes: list[Any]) -> list[Any]:
    """Those of a document's nodes (in document order) that lie in no other of them."""
    kept: list[Any] = []
    for node in nodes:
        if not (kept and kept[-1].contains(node)):
            kept.append(node)
    return kept


def _latex(node: Any) -> str:
    """The source of one formula element, "" where it tells none."""
    if node.tag == "img":
        return _one_line(node.getattr("alt"))
    if node.tag == "script":
        return _one_line(node.text)
    annotation = node.query_selector("annotation[encoding*='tex' i]")
    if annotation is not None:
        return _one_line(annotation.text)
    math = node if node.tag == "math" else node.query_selector("math")
    source = (math.getattr("alttext") if math is not None else "") or node.getattr("data-latex") or ""
    return _one_line(source or (to_latex(math) if math is not None else ""))


def _one_line(latex: str | None) -> str:
    line = " ".join((latex or "").split()).strip("$ ")
    wrapped = DISPLAY_STYLE.fullmatch(line)
    return wrapped[1].strip() if wrapped else line


def _is_display(node: Any) -> bool:
    inner = node if node.tag == "math" else node.query_selector("math")
    return (
        "mode=display" in (node.getattr("type") or "").replace(" ", "")
        or "katex-display" in (node.getattr("class") or "")
        or node.getattr("display") == "true"
        or (inner is not None and inner.getattr("display") == "block")
    )


def _drop_frame(tree: Any) -> None:
    """Removes what frames the content: by element and role, and, with more care, by name and by being all links."""
    for node in _select(tree.body, f"script, style, {FRAME}"):
        node.remove()
    whole = len(tree.body.text)
    doubtful = _select(tree.body, "header, form")
    doubtful += [node for node in _select(tree.body, "[class], [id]") if _has_frame_name(node)]
    doubtful += [node for node in _select(tree.body, "ul, ol") if _is_menu(node)]
    doomed = [node for node in doubtful if len(node.text) < LARGEST_FRAME_SHARE * whole and not _select(node, CONTENT)]
    for node in doomed:
        node.remove()


def _has_frame_name(node: Any) -> bool:
    names = f"{node.getattr('class') or ''} {node.getattr('id') or ''}".split()
    return node.tag not in ("body", "main", "article", "h1") and any(FRAME_NAME.fullmatch(name) for name in names)


def _is_menu(block: Any) -> bool:
    links = _select(block, "a")
    length = len(_squeeze(block.text))
    linked = sum(len(_squeeze(link.text)) for link in links)
    return len(links) >= MENU_LINKS and linked > MENU_LINK_SHARE * length


def _squeeze(text: str) -> str:
    return "".join(text.split())
