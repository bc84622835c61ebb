"""Converts MathML to LaTeX, for formulas without a LaTeX source (content elements: `content_mathml`)."""

import re
from collections.abc import Callable, Iterable, Iterator

from dsmath_jax.corpus.text.content_mathml import CONTENT, content_latex
from dsmath_jax.corpus.text.math_element import TOKENS, Element
from dsmath_jax.corpus.text.symbols import FUNCTIONS, VARIANTS, join, latex_of


def to_latex(element: Element) -> str:
    """Returns the LaTeX of an element; unknown elements give the LaTeX of their parts."""
    return re.sub(r"\s+", " ", _latex(element)).strip()


SKIPPED = frozenset("annotation annotation-xml maligngroup malignmark none mprescripts mstruts script style".split())
OPEN, CLOSE = frozenset("( [ { | ‖ ∥ ⟨ ⌈ ⌊ 〈 ∣".split()), frozenset(") ] } | ‖ ∥ ⟩ ⌉ ⌋ 〉 ∣".split())
SPACED = frozenset("= + - − < > ≤ ≥ ≠ ≈ ≡ ∼ ≃ ≅ ∝ ∈ ∉ ⊂ ⊆ ⊃ ⊇ → ← ↔ ⇒ ⇐ ⇔ ↦ ± ∪ ∩ ∧ ∨ := ≔ ≪ ≫ ⟶ ⟹ ⟺ × ⋅ · , ;".split())
LIMITS = frozenset("∑ ∏ ∐ ∫ ∬ ∭ ∮ ⋃ ⋂ ⋁ ⋀ ⨁ ⨂ lim max min sup inf limsup liminf argmax argmin det gcd Pr".split())
ARROWS = {"→": "xrightarrow", "⟶": "xrightarrow", "←": "xleftarrow", "⟵": "xleftarrow"}
# Accent characters above and below; the second command is for more than one letter.
ABOVE = {
    "¯": ("bar", "overline"), "‾": ("bar", "overline"), "_": ("bar", "overline"), "―": ("bar", "overline"),
    "\u0304": ("bar", "overline"), "^": ("hat", "widehat"), "ˆ": ("hat", "widehat"), "\u0302": ("hat", "widehat"),
    "~": ("tilde", "widetilde"), "˜": ("tilde", "widetilde"), "∼": ("tilde", "widetilde"),
    "\u0303": ("tilde", "widetilde"),
    "→": ("vec", "overrightarrow"), "⃗": ("vec", "overrightarrow"), "⇀": ("vec", "overrightarrow"),
    "←": ("overleftarrow", "overleftarrow"), "↔": ("overleftrightarrow", "overleftrightarrow"), "˙": ("dot", "dot"),
    ".": ("dot", "dot"), "¨": ("ddot", "ddot"), "..": ("ddot", "ddot"), "⃛": ("dddot", "dddot"),
    "ˇ": ("check", "check"),
    "˘": ("breve", "breve"), "´": ("acute", "acute"), "`": ("grave", "grave"), "⏞": ("overbrace", "overbrace"),
    "︷": ("overbrace", "overbrace"), "⏠": ("overbrace", "overbrace"),
}  # fmt: skip
BELOW = {
    "_": "underline",
    "¯": "underline",
    "‾": "underline",
    "\u0332": "underline",
    "⏟": "underbrace",
    "︸": "underbrace",
}
ENCLOSED = {
    "box": "boxed", "roundedbox": "boxed", "circle": "boxed", "radical": "sqrt", "top": "overline",
    "bottom": "underline",
    "updiagonalstrike": "cancel", "downdiagonalstrike": "bcancel", "horizontalstrike": "not", "actuarial": "overline",
}  # fmt: skip
MATRICES = {
    ("(", ")"): "pmatrix",
    ("[", "]"): "bmatrix",
    ("{", "}"): "Bmatrix",
    ("|", "|"): "vmatrix",
    ("‖", "‖"): "Vmatrix",
}
TEXT_SPECIAL = re.compile(r"[%#&_{}$]")


def _latex(element: Element) -> str:
    if element.tag in SKIPPED:
        return ""
    if element.tag in TOKENS and not element.parts:
        return _token(element)
    writer = WRITERS.get(element.tag)
    if writer is not None and element.parts:
        return writer(element)
    if element.tag in CONTENT:
        return content_latex(element, _latex)
    if element.tag == "mspace":
        return _space(element.attributes)
    if not element.parts:
        return latex_of(element.text).strip()
    return _row(element.parts)


def _each(parts: Iterable[Element]) -> Iterator[str]:
    return (_latex(part).strip() for part in parts)


def _token(element: Element) -> str:
    tag, text = element.tag, element.text.strip()
    if tag in ("mtext", "ms"):
        if not text.strip("\xa0\u2009\u200a\u200b"):
            return " "
        return rf"\text{{{TEXT_SPECIAL.sub(lambda special: chr(92) + special[0], element.text)}}}"
    if tag == "mo":
        return latex_of(text).strip() if text not in FUNCTIONS else f"\\{text}"
    command = VARIANTS.get(element.attributes.get("mathvariant", ""))
    if len(text) > 1 and text.isascii() and text.isalpha() and tag in ("mi", "ci", "csymbol"):
        return f"\\{text}" if text in FUNCTIONS else f"\\{command or 'mathrm'}{{{text}}}"
    latex = latex_of(text).strip()
    return (
        f"\\{command}{{{latex}}}" if command and text.isalnum() and not (tag == "mn" and command == "mathrm") else latex
    )


def _space(attributes: dict[str, str]) -> str:
    if attributes.get("linebreak") == "newline":
        return r" \\ "
    width = re.match(r"([\d.]+)em", attributes.get("width", ""))
    return r"\quad " if width and float("0" + width[1].rstrip(".")) >= 1 else " "


def _row(parts: list[Element]) -> str:
    """Converts a sequence of parts; a matrix includes its fences, and relations get spaces."""
    pieces: list[str] = []
    position = 0
    while position < len(parts):
        matrix, used = _fenced_table(parts[position : position + 3], at_end=position + 2 == len(parts))
        part = parts[position]
        operator = part.tag == "mo" and part.text.strip() in SPACED and 0 < position < len(parts) - 1
        pieces.append(matrix or (f" {_latex(part)} " if operator else _latex(part)))
        position += used
    return join(pieces).replace(" ,", ",").replace(" ;", ";").replace("  ", " ")


def _fenced_table(parts: list[Element], at_end: bool) -> tuple[str, int]:
    """Converts a table with fences around it; returns its LaTeX and number of parts, or "" and 1 for none."""
    opening = parts[0].text.strip() if parts[0].tag == "mo" else ""
    table = _only_table(parts[1]) if opening and len(parts) > 1 else None
    if table is None:
        return "", 1
    closing = parts[2].text.strip() if len(parts) == 3 and parts[2].tag == "mo" else ""
    if opening == "{" and (at_end or closing == ""):
        return _table(table, "cases"), 3 if len(parts) == 3 and parts[2].tag == "mo" else 2
    environment = MATRICES.get((opening, closing))
    return (_table(table, environment), 3) if environment else ("", 1)


def _only_table(element: Element) -> Element | None:
    while element.tag in ("mrow", "mstyle", "mpadded") and len(element.parts) == 1:
        element = element.parts[0]
    return element if element.tag == "mtable" else None


def _table(table: Element, environment: str = "") -> str:
    if not environment:
        alignment = table.attributes.get("columnalign", "")
        environment = "aligned" if "right" in alignment and "left" in alignment else "matrix"
    rows = []
    for row in table.parts:
        if row.tag == "mlabeledtr":
            cells = [*_each(row.parts[1:])]
            tag = _latex(row.parts[0]).strip().removeprefix(r"\text{").removesuffix("}") if row.parts else ""
            rows.append(" & ".join(cells) + (rf" \tag{{{tag.strip('()')}}}" if tag else ""))
        else:
            rows.append(" & ".join(_each(row.parts)) if row.tag == "mtr" else _latex(row).strip())
    return rf"\begin{{{environment}}}" + " " + r" \\ ".join(rows) + rf" \end{{{environment}}}"


def _base(element: Element) -> str:
    """Converts the base of a script, in braces if the script would apply to its last letter only."""
    latex = _latex(element).strip()
    alone = element.tag in TOKENS or element.tag in ("mover", "munder", "munderover", "mfenced", "msqrt", "mroot")
    inner = element.parts[-1] if element.tag in ("mrow", "mstyle") and len(element.parts) == 1 else element
    bracketed = element.tag == "mrow" and element.parts and element.parts[-1].text.strip() in CLOSE
    if alone or inner.tag in TOKENS or bracketed or len(latex) <= 1 or latex.startswith((r"\begin", r"\operatorname")):
        return latex
    return f"{{{latex}}}"


def _script(mark: str, element: Element) -> str:
    """Converts a subscript or superscript, "" if it is empty; primes need no mark."""
    latex = _latex(element).strip()
    if mark == "^" and re.fullmatch(r"(\\prime|')( ?\\prime|')*", latex):
        return "'" * (latex.count("prime") + latex.count("'"))
    return f"{mark}{{{latex}}}" if latex else ""


def _scripts(element: Element) -> str:
    base, *scripts = element.parts
    marks = {"msub": "_", "msup": "^", "msubsup": "_^"}[element.tag]
    return _base(base) + "".join(_script(mark, part) for mark, part in zip(marks, scripts, strict=False))


def _limits(element: Element) -> str:
    """Converts accents, braces, limits of large operators, and other parts above or below a base."""
    base, *others = element.parts
    below = others[0] if element.tag != "mover" and others else None
    above = others[-1] if element.tag == "mover" and others else others[1] if len(others) > 1 else None
    name = _text(base).replace("\u2009", "").replace(" ", "")
    if name in LIMITS or base.tag in ("munder", "mover"):
        return _base(base) + "".join(_script(mark, part) for mark, part in (("_", below), ("^", above)) if part)
    latex = _latex(base).strip()
    long = len(name) > 1
    if above is not None and name in ARROWS:
        return rf"\{ARROWS[name]}{{{_latex(above).strip()}}}"
    for part, accents, stack in ((below, BELOW, "underset"), (above, ABOVE, "overset")):
        if part is None or not _text(part):
            continue
        accent = accents.get(_text(part))
        if accent is not None:
            latex = f"\\{accent if isinstance(accent, str) else accent[long]}{{{latex}}}"
        else:
            latex = rf"\{stack}{{{_latex(part).strip()}}}{{{latex}}}"
    return latex


def _text(element: Element) -> str:
    return (element.text or "".join(_text(part) for part in element.parts)).strip()


def _multiscripts(element: Element) -> str:
    base, *others = element.parts
    split = next((number for number, part in enumerate(others) if part.tag == "mprescripts"), len(others))
    after, before = others[:split], others[split + 1 :]

    def pairs(scripts: list[Element]) -> str:
        return "".join(_script("_^"[number % 2], part) for number, part in enumerate(scripts))

    return ("{}" + pairs(before) if before else "") + _base(base) + pairs(after)


def _fenced(element: Element) -> str:
    opening, closing = element.attributes.get("open", "("), element.attributes.get("close", ")")
    table = _only_table(element.parts[0]) if len(element.parts) == 1 else None
    if table is not None and (
        environment := "cases" if (opening, closing) == ("{", "") else MATRICES.get((opening, closing))
    ):
        return _table(table, environment)
    marks = element.attributes.get("separators", ",").replace(" ", "") or " "
    pieces = [_row([part]) for part in element.parts]
    marked = [piece + marks[min(number, len(marks) - 1)] for number, piece in enumerate(pieces[:-1])]
    return join([latex_of(opening).strip(), *marked, *pieces[-1:], latex_of(closing).strip()])


def _enclosed(element: Element) -> str:
    inside = _row(element.parts)
    for name in element.attributes.get("notation", "longdiv").split():
        if name in ENCLOSED:
            return rf"\{ENCLOSED[name]}{{{inside}}}"
    return inside


def _wrapped(before: str, after: str = "}") -> Callable[[Element], str]:
    return lambda element: f"{before}{_row(element.parts).strip()}{after}"


def _root(element: Element) -> str:
    radicand, *index = _each(element.parts)
    return (rf"\sqrt[{index[0]}]" if index else r"\sqrt") + f"{{{radicand}}}"


def _fraction(element: Element) -> str:
    if len(element.parts) != 2:
        return _row(element.parts)
    above, below = _each(element.parts)
    if re.fullmatch(r"0(\.0*)?\w*", element.attributes.get("linethickness", "")):
        return rf"{{{above} \atop {below}}}"
    return rf"\frac{{{above}}}{{{below}}}"


WRITERS: dict[str, Callable[[Element], str]] = {
    "mfrac": _fraction,
    "mroot": _root,
    "msub": _scripts,
    "msup": _scripts,
    "msubsup": _scripts,
    "munder": _limits,
    "mover": _limits,
    "munderover": _limits,
    "mmultiscripts": _multiscripts,
    "mtable": _table,
    "mfenced": _fenced,
    "menclose": _enclosed,
    "msqrt": _wrapped(r"\sqrt{"),
    "mphantom": _wrapped(r"\phantom{"),
    "semantics": lambda element: _latex(element.parts[0]),
    "maction": lambda element: _latex(element.parts[0]),
}
