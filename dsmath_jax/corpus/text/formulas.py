"""Replaces the formula elements of a page (MathJax, KaTeX, MathML, MediaWiki, images, attributes) by their LaTeX, once.

A token stands for a formula in the page and becomes LaTeX in the finished text, so that no step in between (white
space, markup, layout) changes its characters.
"""

import html as entities
import re
from collections.abc import Iterator
from typing import Any

from resiliparse.parse.html import HTMLTree

from dsmath_jax.corpus.text import asciimath, mathjax, mathml
from dsmath_jax.corpus.text.dom import outermost, select
from dsmath_jax.corpus.text.images import LATEX_LIKE, image_latex
from dsmath_jax.corpus.text.math_element import of_node
from dsmath_jax.corpus.text.symbols import latex_of

# Noncharacters of Unicode, which pages do not use, around the number of a formula.
TOKEN_START, TOKEN_END = "\ufdd0", "\ufdd1"
TOKEN = re.compile(f"{TOKEN_START}(\\d+){TOKEN_END}")
# Selectors of elements that are one formula, each with a string that every page with such elements contains.
ELEMENTS = (
    ("katex", ".katex-display, .katex, .katex-error"),
    ("mwe-math", ".mwe-math-element"),
    ("mjx-", "mjx-container"),
    ("<math", "math"),
    ("math/", "script[type^='math/']"),
    ("data-math", "[data-math], [data-mathml]"),
    ("data-expr", "[data-expr]"),
    ("data-tex", "[data-tex]"),
    ("data-latex", "[data-latex]"),
    ("data-formula", "[data-formula]"),
    ("data-equation", "[data-equation]"),
    ("texhtml", ".texhtml"),
    ("math", "span.math, div.math, span.mathjax, d-math, tex-math, .js-render-math, code.language-math"),
    ("tex", "span.tex, span.latex, div.latex, tex, latex"),
    ("<img", "img"),
)
ATTRIBUTES = ("data-tex", "data-latex", "data-expr", "data-math", "data-formula", "data-equation")
NO_FORMULA = re.compile(
    r"(?:true|false|yes|no|none|auto|inline|block|display|\d+(?:px|em|%)|[\w-]+(?:\.[\w-]+)+|/.*)?", re.I
)
# The rendered output of MathJax 2, next to its source script or alone.
RENDERED = (
    ".MathJax_Preview, .MathJax_Display, .MathJax_SVG_Display, .MathJax:not(mjx-container), .MathJax_SVG, "
    ".MathJax_CHTML, .mjx-chtml"
)
CDATA = re.compile(r"%?\s*<!\[CDATA\[|%?\s*\]\]>")
DISPLAY_STYLE = re.compile(
    r"\{\\(?:displaystyle|textstyle) (.*)\}", re.DOTALL
)  # the wrapper of every MediaWiki formula
DELIMITERS = re.compile(r"(\$\$?|\\\(|\\\[)(.*?)(\$\$?|\\\)|\\\])", re.DOTALL)
DELIMITED = re.compile(r"\$|\\[(\[]|\\begin\s*\{")
MAX_INLINE_CHARS = 2_000


class Formulas:
    """The formulas of one page and their tokens in the tree."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def token(self, text: str) -> str:
        """Stores a formula (with its delimiters) and returns its token."""
        self._texts.append(text)
        return f"{TOKEN_START}{len(self._texts) - 1}{TOKEN_END}"

    def restore(self, text: str) -> str:
        """Replaces the tokens in a text by their formulas."""

        def formula(token: re.Match[str]) -> str:
            number = int(token[1])
            return self._texts[number] if number < len(self._texts) else ""

        return TOKEN.sub(formula, text).replace(TOKEN_START, "").replace(TOKEN_END, "")


def replace_formulas(tree: Any, html: str, formulas: Formulas) -> None:
    """Replaces all formula elements of a parsed page by tokens; removes rendered output that has a source.

    Args:
      tree: the page.
      html: its source, for fast checks.
      formulas: receives the formulas.
    """
    if "MathJax" in html or "mjx-" in html:
        rendered = outermost(select(tree.body, RENDERED))
        has_source = tree.body.query_selector("script[type^='math/']") is not None
        for node in rendered:
            latex = "" if has_source else _from_mathml(node)
            if latex:
                _replace(tree, node, _delimit(latex, "Display" in (node.getattr("class") or "")), formulas)
            elif has_source or "MathJax_Preview" in (node.getattr("class") or ""):
                node.remove()
    selector = ", ".join(selectors for needle, selectors in ELEMENTS if needle in html)
    for node in outermost(select(tree.body, selector)) if selector else []:
        latex = _latex(node)
        if latex:
            _replace(tree, node, _delimit(latex, _is_display(node)), formulas)


def _replace(tree: Any, node: Any, text: str, formulas: Formulas) -> None:
    token = formulas.token(text)
    node.parent.replace_child(tree.create_text_node(f" {token} " if text.startswith(("$$", "\\[")) else token), node)


def _delimit(latex: str, display: bool) -> str:
    """Adds delimiters to a formula: dollar signs, unless it has some itself."""
    bare = latex.rstrip("\\")
    space = " " if (len(latex) - len(bare)) % 2 else ""  # a trailing control space must not escape the delimiter
    if "$" in latex.replace(r"\$", ""):
        return rf"\[{latex}{space}\]" if display else rf"\({latex}{space}\)"
    return f"$${latex}{space}$$" if display else f"${latex}{space}$"


def _latex(node: Any) -> str:
    """Returns the LaTeX of one formula element, "" if it has none."""
    tag = node.tag
    if tag == "img":
        return _clean(image_latex(node))
    if tag == "script":
        return _from_script(node)
    for source in _sources(node):
        latex = _clean(source)
        if latex:
            return latex
    return ""


def _sources(node: Any) -> Iterator[str]:
    """Yields possible sources of a formula element, the most reliable first."""
    classes = (node.getattr("class") or "").split()
    math = node if node.tag == "math" else node.query_selector("math")
    if math is not None or "katex" in classes or "katex-display" in classes:
        annotation = node.query_selector("annotation[encoding*='tex' i]")
        yield annotation.text or "" if annotation is not None else ""
        yield math.getattr("alttext") or "" if math is not None else ""
    for name in ATTRIBUTES:
        value = (node.getattr(name) or "").strip()
        if value and not NO_FORMULA.fullmatch(value) and len(node.text or "") < 40 * len(value) + 200:
            yield value
    if node.tag == "mjx-container":
        inner = node.query_selector("mjx-math[data-latex], [data-mml-node='math'][data-latex], math[data-latex]")
        yield inner.getattr("data-latex") or "" if inner is not None else ""
    if "mwe-math-element" in classes:
        image = node.query_selector("img")
        yield image.getattr("alt") or "" if image is not None else ""
    yield _from_mathml(node)
    if node.tag == "mjx-container":
        drawn = mathjax.of_output(node)
        yield mathml.to_latex(drawn) if drawn is not None else ""
    elif "katex" in classes or "katex-display" in classes:
        yield _from_katex_text(node)
    elif "texhtml" in classes:
        yield _from_plain_html(node)
    elif math is None and not any(node.hasattr(name) for name in ATTRIBUTES):
        yield _from_marked_text(node, classes)


def _from_mathml(node: Any) -> str:
    """Converts the MathML within an element, or within the attribute of MathJax 2."""
    math = node if node.tag == "math" else node.query_selector("math")
    if math is None:
        holder = node if node.hasattr("data-mathml") else node.query_selector("[data-mathml]")
        source = holder.getattr("data-mathml") or "" if holder is not None else ""
        math = _parse_math(source) if "<math" in source else None
    return mathml.to_latex(of_node(math)) if math is not None else ""


def _parse_math(source: str) -> Any:
    body = HTMLTree.parse(f"<body>{source}").body
    return body.query_selector("math") if body is not None else None


def _from_script(node: Any) -> str:
    source = node.text or ""
    kind = (node.getattr("type") or "").lower()
    if kind.startswith("math/mml"):
        math = _parse_math(source)
        return mathml.to_latex(of_node(math)) if math is not None else ""
    if kind.startswith("math/asciimath"):
        return asciimath.to_latex(entities.unescape(source)[:MAX_INLINE_CHARS])
    source = CDATA.sub("", source)
    return _clean(source.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def _from_katex_text(node: Any) -> str:
    """Reads KaTeX without annotation: the last line of its hidden text, else the rendered characters."""
    hidden = node.query_selector(".katex-mathml")
    lines = [line.strip() for line in (hidden.text or "").splitlines() if line.strip()] if hidden is not None else []
    visible = node.query_selector(".katex-html")
    return lines[-1] if lines else latex_of(visible.text or "").replace("\u200b", "") if visible is not None else ""


def _from_marked_text(node: Any, classes: list[str]) -> str:
    """Reads the text of an element that is named as a formula, unless the text has delimiters."""
    text = node.text or ""
    if (
        node.first_element_child is not None
        or len(text) > MAX_INLINE_CHARS
        or DELIMITED.search(text)
        or TOKEN_START in text
    ):
        return ""
    sure = node.tag in ("d-math", "tex-math", "tex") or bool(
        {"inline", "display", "js-render-math", "katex-error"} & {*classes}
    )
    return text if sure or LATEX_LIKE.search(text) else ""


def _from_plain_html(node: Any) -> str:
    """Converts a formula in HTML (`<i>x</i><sup>2</sup>`)."""
    pieces = []
    for child in node.child_nodes.values():
        classes = (child.getattr("class") or "") if hasattr(child, "getattr") else ""
        inner = _from_plain_html(child) if child.tag in INLINE_HTML and child.first_element_child is not None else ""
        text = inner or latex_of(child.text or "")
        if child.tag in ("sup", "sub"):
            text = f"{'^' if child.tag == 'sup' else '_'}{{{text.strip()}}}"
        elif "sr-only" in classes.split():
            text = "/"
        pieces.append(text)
    return "".join(pieces)


INLINE_HTML = frozenset("i b em strong span sup sub var a big small".split())


def _clean(latex: str) -> str:
    """Removes delimiters and wrappers, and line breaks where possible."""
    line = latex.strip() if "%" in latex or "\\\\" in latex else " ".join(latex.split())
    line = re.sub(r"\n\s*\n", "\n", line)
    for _ in range(2):
        wrapped = DISPLAY_STYLE.fullmatch(line) or None
        delimited = DELIMITERS.fullmatch(line)
        if wrapped and _balanced(wrapped[1]):
            line = wrapped[1].strip()
        elif delimited:
            line = delimited[2].strip()
    return line


def _balanced(latex: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", latex):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


def _is_display(node: Any) -> bool:
    inner = node if node.tag == "math" else node.query_selector("math")
    classes = node.getattr("class") or ""
    return (
        "mode=display" in (node.getattr("type") or "").replace(" ", "")
        or "display" in classes
        or node.getattr("display") in ("true", "block")
        or (inner is not None and "block" in (inner.getattr("display"), inner.getattr("mode")))
        or (inner is not None and inner.getattr("mode") == "display")
        or (node.tag == "d-math" and node.hasattr("block"))
        or (node.tag == "div" and bool({"math", "latex"} & {*classes.split()}))
    )
