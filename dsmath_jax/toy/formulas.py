"""Writes formulas in the markups of real pages: bare TeX, MathJax scripts, KaTeX output, MathML.

Supports the TeX of school mathematics: numbers, letters, signs, powers and indices, fractions, roots and text.
"""

import functools
import html
import re
from collections.abc import Callable

_TOKEN = re.compile(r"\\text\{[^}]*\}|\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|\S")
_SIGNS = {
    r"\times": "×", r"\div": "÷", r"\cdot": "⋅", r"\pm": "±", r"\le": "≤", r"\ge": "≥", r"\ne": "≠", r"\lt": "<",
    r"\gt": ">", r"\to": "→", r"\infty": "∞", r"\int": "∫", r"\sum": "∑", r"\equiv": "≡", r"\mid": "∣", r"\circ": "∘",
    r"\angle": "∠", r"\quad": " ", r"\,": " ", r"\Rightarrow": "⇒", r"\approx": "≈", r"\binom": "C",
}  # fmt: skip
_LETTERS = {r"\pi": "π", r"\alpha": "α", r"\beta": "β", r"\theta": "θ", r"\Delta": "Δ", r"\lambda": "λ"}
_NAMES = (r"\sin", r"\cos", r"\lim", r"\gcd", r"\bmod", r"\log", r"\ln", r"\max", r"\min")

Node = tuple[str, "str | list[Node]"]
Markup = Callable[[str, bool], str]  # (TeX, is it displayed) -> HTML


@functools.lru_cache(maxsize=4096)
def parse(tex: str) -> Node:
    """Parses a formula to a tree of MathML elements: (element, text or children)."""
    return "mrow", _row(_TOKEN.findall(tex))


def _row(tokens: list[str]) -> list[Node]:
    """Parses and removes `tokens` up to the closing brace or the end."""
    row: list[Node] = []
    while tokens and tokens[0] != "}":
        if tokens[0] in "^_" and row:
            script = tokens.pop(0)
            base, argument = row.pop(), _argument(tokens)
            element = "msup" if script == "^" else "msub"
            if base[0] == "msub" and element == "msup":
                row.append(("msubsup", [*base[1], argument]))
            else:
                row.append((element, [base, argument]))
        else:
            row.append(_argument(tokens))
    return row


def _argument(tokens: list[str]) -> Node:
    token = tokens.pop(0)
    if token == "{":
        row = _row(tokens)
        tokens.pop(0)
        return row[0] if len(row) == 1 else ("mrow", row)
    if token == r"\frac":
        return "mfrac", [_argument(tokens), _argument(tokens)]
    if token == r"\sqrt":
        return "msqrt", [_argument(tokens)]
    if token.startswith(r"\text{"):
        return "mtext", token[6:-1]
    if token in _NAMES:
        return "mi", token[1:]
    if token in _LETTERS:
        return "mi", _LETTERS[token]
    if token[0].isdigit():
        return "mn", token
    if token.isalpha():
        return "mi", token
    return "mo", _SIGNS.get(token, token)


def dollar(tex: str, display: bool) -> str:
    """Delimits TeX by dollar signs."""
    return f"$${html.escape(tex)}$$" if display else f"${html.escape(tex)}$"


def paren(tex: str, display: bool) -> str:
    """Delimits TeX by backslash brackets."""
    return rf"\[{html.escape(tex)}\]" if display else rf"\({html.escape(tex)}\)"


def script(tex: str, display: bool) -> str:
    """Writes the script element of MathJax 2."""
    mode = "; mode=display" if display else ""
    return f'<script type="math/tex{mode}">{tex}</script>'


def mathml(tex: str, display: bool) -> str:
    """Writes MathML without the TeX source."""
    return _math(_element(parse(tex)), display)


def mathml_annotated(tex: str, display: bool) -> str:
    """Writes MathML with the TeX source in an annotation."""
    source = f'<annotation encoding="application/x-tex">{html.escape(tex)}</annotation>'
    return _math(f"<semantics>{_element(parse(tex))}{source}</semantics>", display)


def _math(body: str, display: bool) -> str:
    block = ' display="block"' if display else ""
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML"{block}>{body}</math>'


def _element(node: Node) -> str:
    name, content = node
    inner = html.escape(content) if isinstance(content, str) else "".join(map(_element, content))
    return f"<{name}>{inner}</{name}>"


def _katex_visual(node: Node) -> str:
    """Returns the visible spans of KaTeX, which repeat the characters of the formula."""
    name, content = node
    if isinstance(content, str):
        kind = {"mi": "mord mathnormal", "mn": "mord", "mtext": "mord text"}.get(name, "mbin")
        return f'<span class="{kind}">{html.escape(content)}</span>'
    parts = [_katex_visual(child) for child in content]
    if name == "mfrac":
        parts = [f'<span class="mfrac">{part}</span>' for part in parts]
    elif name in ("msup", "msub", "msubsup"):
        parts[1:] = [f'<span class="msupsub"><span class="vlist">{part}</span></span>' for part in parts[1:]]
    return "".join(parts)


def katex(tex: str, display: bool) -> str:
    """Writes the output of KaTeX."""
    visual = f'<span class="base"><span class="strut" style="height:0.73em;"></span>{_katex_visual(parse(tex))}</span>'
    inline = (
        f'<span class="katex"><span class="katex-mathml">{mathml_annotated(tex, display)}</span>'
        f'<span class="katex-html" aria-hidden="true">{visual}</span></span>'
    )
    return f'<span class="katex-display">{inline}</span>' if display else inline
