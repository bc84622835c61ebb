"""Finds the formulas that a page holds as elements (MathJax, KaTeX, MathML, MediaWiki, images, attributes) and puts
each one's LaTeX in its place, once.

A formula is put into the page as a token and becomes LaTeX again in the finished text, so that nothing on the way
(white space, markup, layout) can change a letter of it.
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

# Noncharacters of Unicode, which no page has any use for, around the number of a formula.
TOKEN_START, TOKEN_END = "\ufdd0", "\ufdd1"
TOKEN = re.compile(f"{TOKEN_START}(\\d+){TOKEN_END}")
# Elements that stand for one formula, each group with a string that a page which has any of them contains.
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
# What MathJax 2 adds beside its source script for the eye; without a script it is all there is.
RENDERED = (
    ".MathJax_Preview, .MathJax_Display, .MathJax_SVG_Display, .MathJax:not(mjx-container), .MathJax_SVG, "
    ".MathJax_CHTML, .mjx-chtml"
)
CDATA = re.compile(r"%?\s*<!\[CDATA\[|%?\s*\]\]>")
DISPLAY_STYLE = re.compile(r"\{\\(?:displaystyle|textstyle) (.*)\}", re.DOTALL)  # how MediaWiki wraps every formula
SIGNS = re.compile(r"(\$\$?|\\\(|\\\[)(.*?)(\$\$?|\\\)|\\\])", re.DOTALL)
DELIMITED = re.compile(r"\$|\\[(\[]|\\begin\s*\{")
LONGEST_INLINE = 2_000


class Formulas:
    """The formulas of one page, each under the token that stands for it in the tree."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def token(self, text: str) -> str:
        """Returns the token of a formula, which is given with its delimiters."""
        self._texts.append(text)
        return f"{TOKEN_START}{len(self._texts) - 1}{TOKEN_END}"

    def restore(self, text: str) -> str:
        """Puts the formulas in the place of their tokens."""

        def formula(token: re.Match[str]) -> str:
            number = int(token[1])
            return self._texts[number] if number < len(self._texts) else ""

        return TOKEN.sub(formula, text).replace(TOKEN_START, "").replace(TOKEN_END, "")


def replace_formulas(tree: Any, html: str, formulas: Formulas) -> None:
    """Puts tokens in the place of all formula elements of a parsed page; drops what was rendered beside a source.

    Args:
      tree: the page.
      html: its source, which tells quickly what there is to look for.
      formulas: takes the formulas.
    """
    if "MathJax" in html or "mjx-" in html:
        rendered = outermost(select(tree.body, RENDERED))
        has_source = tree.body.query_selector("script[type^='math/']") is not None
        for node in rendered:
            latex = "" if has_source else _of_mathml_inside(node)
            if latex:
                _replace(tree, node, _signed(latex, "Display" in (node.getattr("class") or "")), formulas)
            elif has_source or "MathJax_Preview" in (node.getattr("class") or ""):
                node.remove()
    wanted = ", ".join(selectors for needle, selectors in ELEMENTS if needle in html)
    for node in outermost(select(tree.body, wanted)) if wanted else []:
        latex = _latex(node)
        if latex:
            _replace(tree, node, _signed(latex, _is_display(node)), formulas)


def _replace(tree: Any, node: Any, text: str, formulas: Formulas) -> None:
    token = formulas.token(text)
    node.parent.replace_child(tree.create_text_node(f" {token} " if text.startswith(("$$", "\\[")) else token), node)


def _signed(latex: str, display: bool) -> str:
    """The formula between its delimiters: dollar signs, unless it holds some itself."""
    bare = latex.rstrip("\\")
    room = " " if (len(latex) - len(bare)) % 2 else ""  # a control space at the end must not escape the delimiter
    if "$" in latex.replace(r"\$", ""):
        return rf"\[{latex}{room}\]" if display else rf"\({latex}{room}\)"
    return f"$${latex}{room}$$" if display else f"${latex}{room}$"


def _latex(node: Any) -> str:
    """The source of one formula element, "" where it tells none."""
    tag = node.tag
    if tag == "img":
        return _clean(image_latex(node))
    if tag == "script":
        return _of_script(node)
    for source in _sources(node):
        latex = _clean(source)
        if latex:
            return latex
    return ""


def _sources(node: Any) -> Iterator[str]:
    """What may be the source of a formula element, the most trustworthy first."""
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
    yield _of_mathml_inside(node)
    if node.tag == "mjx-container":
        drawn = mathjax.of_output(node)
        yield mathml.to_latex(drawn) if drawn is not None else ""
    elif "katex" in classes or "katex-display" in classes:
        yield _of_katex_text(node)
    elif "texhtml" in classes:
        yield _of_plain_html(node)
    elif math is None and not any(node.hasattr(name) for name in ATTRIBUTES):
        yield _of_marked_text(node, classes)


def _of_mathml_inside(node: Any) -> str:
    """From MathML in the element, or in the attribute where MathJax 2 keeps it."""
    math = node if node.tag == "math" else node.query_selector("math")
    if math is None:
        holder = node if node.hasattr("data-mathml") else node.query_selector("[data-mathml]")
        source = holder.getattr("data-mathml") or "" if holder is not None else ""
        math = _parse_math(source) if "<math" in source else None
    return mathml.to_latex(of_node(math)) if math is not None else ""


def _parse_math(source: str) -> Any:
    body = HTMLTree.parse(f"<body>{source}").body
    return body.query_selector("math") if body is not None else None


def _of_script(node: Any) -> str:
    source = node.text or ""
    kind = (node.getattr("type") or "").lower()
    if kind.startswith("math/mml"):
        math = _parse_math(source)
        return mathml.to_latex(of_node(math)) if math is not None else ""
    if kind.startswith("math/asciimath"):
        return asciimath.to_latex(entities.unescape(source)[:LONGEST_INLINE])
    source = CDATA.sub("", source)
    return _clean(source.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def _of_katex_text(node: Any) -> str:
    """KaTeX without annotation: the last line of its hidden text where that lost its markup, else what is drawn."""
    hidden = node.query_selector(".katex-mathml")
    lines = [line.strip() for line in (hidden.text or "").splitlines() if line.strip()] if hidden is not None else []
    drawn = node.query_selector(".katex-html")
    return lines[-1] if lines else latex_of(drawn.text or "").replace("\u200b", "") if drawn is not None else ""


def _of_marked_text(node: Any, classes: list[str]) -> str:
    """Text of an element whose name says that it is a formula, unless delimiters in it say so already."""
    text = node.text or ""
    if (
        node.first_element_child is not None
        or len(text) > LONGEST_INLINE
        or DELIMITED.search(text)
        or TOKEN_START in text
    ):
        return ""
    sure = node.tag in ("d-math", "tex-math", "tex") or bool(
        {"inline", "display", "js-render-math", "katex-error"} & {*classes}
    )
    return text if sure or LATEX_LIKE.search(text) else ""


def _of_plain_html(node: Any) -> str:
    """A formula set in HTML (`<i>x</i><sup>2</sup>`)."""
    pieces = []
    for child in node.child_nodes.values():
        classes = (child.getattr("class") or "") if hasattr(child, "getattr") else ""
        inner = _of_plain_html(child) if child.tag in INLINE_HTML and child.first_element_child is not None else ""
        text = inner or latex_of(child.text or "")
        if child.tag in ("sup", "sub"):
            text = f"{'^' if child.tag == 'sup' else '_'}{{{text.strip()}}}"
        elif "sr-only" in classes.split():
            text = "/"
        pieces.append(text)
    return "".join(pieces)


INLINE_HTML = frozenset("i b em strong span sup sub var a big small".split())


def _clean(latex: str) -> str:
    """One line for the most part, without the delimiters and wrappers that sources bring along."""
    line = latex.strip() if "%" in latex or "\\\\" in latex else " ".join(latex.split())
    line = re.sub(r"\n\s*\n", "\n", line)
    for _ in range(2):
        wrapped = DISPLAY_STYLE.fullmatch(line) or None
        signed = SIGNS.fullmatch(line)
        if wrapped and _balanced(wrapped[1]):
            line = wrapped[1].strip()
        elif signed:
            line = signed[2].strip()
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
