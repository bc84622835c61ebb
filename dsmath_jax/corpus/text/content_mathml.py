"""Converts content MathML (apply, ci, cn, ...: the meaning of a formula) to LaTeX."""

import re
from collections.abc import Callable

from dsmath_jax.corpus.text.math_element import Element
from dsmath_jax.corpus.text.symbols import FUNCTIONS

Latex = Callable[[Element], str]
INFIX = {
    "plus": " + ", "times": " ", "eq": " = ", "neq": r" \ne ", "lt": " < ", "gt": " > ", "leq": r" \le ",
    "geq": r" \ge ",
    "equivalent": r" \equiv ", "approx": r" \approx ", "in": r" \in ", "notin": r" \notin ", "subset": r" \subseteq ",
    "prsubset": r" \subset ", "union": r" \cup ", "intersect": r" \cap ", "setdiff": r" \setminus ", "and": r" \wedge ",
    "or": r" \vee ", "implies": r" \Rightarrow ", "tendsto": r" \to ", "compose": r" \circ ",
    "cartesianproduct": r" \times ",
    "vectorproduct": r" \times ", "scalarproduct": r" \cdot ", "factorof": r" \mid ", "rem": r" \bmod ",
}  # fmt: skip
AROUND = {
    "abs": ("|", "|"), "card": ("|", "|"), "floor": (r"\lfloor ", r" \rfloor"), "ceiling": (r"\lceil ", r" \rceil"),
    "exp": ("e^{", "}"), "root": (r"\sqrt{", "}"), "not": (r"\neg ", ""), "factorial": ("", "!"),
    "transpose": ("", "^T"),
    "conjugate": (r"\overline{", "}"), "inverse": ("", "^{-1}"), "determinant": (r"\det ", ""),
    "grad": (r"\nabla ", ""),
}  # fmt: skip
CONSTANTS = {
    "pi": r"\pi", "infinity": r"\infty", "exponentiale": "e", "imaginaryi": "i", "eulergamma": r"\gamma",
    "true": r"\top",
    "false": r"\bot", "emptyset": r"\emptyset", "reals": r"\mathbb{R}", "integers": r"\mathbb{Z}",
    "rationals": r"\mathbb{Q}",
    "naturalnumbers": r"\mathbb{N}", "complexes": r"\mathbb{C}", "primes": r"\mathbb{P}", "notanumber": r"\mathrm{NaN}",
}  # fmt: skip
LISTS = {"set": (r"\{", r"\}"), "list": ("[", "]"), "vector": ("(", ")"), "interval": ("[", "]")}
LARGE = {
    "sum": r"\sum",
    "product": r"\prod",
    "int": r"\int",
    "limit": r"\lim",
    "forall": r"\forall",
    "exists": r"\exists",
}
CONTENT = frozenset({"apply", "bind", "piecewise", "matrix", "lambda", "diff", *LISTS, *CONSTANTS})


def content_latex(element: Element, latex: Latex) -> str:
    """Returns the LaTeX of an element of `CONTENT`; `latex` converts the elements within it."""
    tag, parts = element.tag, element.parts
    if tag in CONSTANTS:
        return CONSTANTS[tag]
    if tag in LISTS:
        before, after = LISTS[tag]
        return before + ", ".join(latex(part) for part in parts) + after
    if tag == "piecewise":
        rows = [" & ".join(latex(part) for part in piece.parts) for piece in parts]
        return r"\begin{cases} " + r" \\ ".join(rows) + r" \end{cases}"
    if tag == "matrix":
        rows = [" & ".join(latex(part) for part in row.parts) for row in parts]
        return r"\begin{pmatrix} " + r" \\ ".join(rows) + r" \end{pmatrix}"
    if tag == "lambda" or not parts:
        return r" \mapsto ".join(_inside(part, latex) for part in parts)
    return _apply(parts[0], parts[1:], latex)


def _apply(head: Element, rest: list[Element], latex: Latex) -> str:
    bound = {part.tag: _inside(part, latex) for part in rest if part.tag in QUALIFIERS}
    arguments = [part for part in rest if part.tag not in QUALIFIERS]
    name = head.tag if head.tag not in ("ci", "csymbol") else ""
    if name in LARGE:
        return _large(name, bound, " ".join(latex(part) for part in arguments))
    if name in ("diff", "partialdiff") and arguments:
        sign = "d" if name == "diff" else r"\partial "
        return rf"\frac{{{sign}}}{{{sign}{bound.get('bvar', 'x')}}} {_grouped(arguments[0], latex)}"
    if name == "minus" and arguments:
        return "-" * (len(arguments) == 1) + " - ".join(_grouped(part, latex) for part in arguments)
    if name in ("divide", "quotient") and len(arguments) == 2:
        return rf"\frac{{{latex(arguments[0])}}}{{{latex(arguments[1])}}}"
    if name == "power" and len(arguments) == 2:
        return f"{_grouped(arguments[0], latex)}^{{{latex(arguments[1])}}}"
    if name == "root" and "degree" in bound and arguments:
        return rf"\sqrt[{bound['degree']}]{{{latex(arguments[0])}}}"
    if name in AROUND and len(arguments) == 1:
        before, after = AROUND[name]
        return before + (latex if before and after else lambda part: _grouped(part, latex))(arguments[0]) + after
    if name in INFIX:
        loose = name in ("plus", "times", "and", "or", "union", "intersect")
        return INFIX[name].join(
            _grouped(part, latex) if loose and name != "plus" else latex(part) for part in arguments
        )
    function = (f"\\{name}" if name in FUNCTIONS else rf"\mathrm{{{name}}}") if name and not head.parts else latex(head)
    if name == "log" and "logbase" in bound:
        function = rf"\log_{{{bound['logbase']}}}"
    return f"{function}({', '.join(latex(part) for part in arguments)})"


QUALIFIERS = frozenset("bvar lowlimit uplimit degree logbase condition domainofapplication".split())


def _large(name: str, bound: dict[str, str], body: str) -> str:
    variable, low, high = (bound.get(part, "") for part in ("bvar", "lowlimit", "uplimit"))
    condition = bound.get("condition") or bound.get("domainofapplication", "")
    if name in ("forall", "exists"):
        return f"{LARGE[name]} {condition or variable}: {body}"
    if name == "limit":
        low = condition or rf"{variable} \to {low}"
    elif name != "int" and low and variable:
        low = f"{variable} = {low}"
    limits = (f"_{{{low or condition}}}" if low or condition else "") + (f"^{{{high}}}" if high else "")
    return f"{LARGE[name]}{limits} {body}" + (rf" \, d{variable}" if name == "int" and variable else "")


def _inside(element: Element, latex: Latex) -> str:
    return " ".join(latex(part) for part in element.parts) if element.parts else latex(element)


def _grouped(element: Element, latex: Latex) -> str:
    """Converts an argument, in parentheses if it has an infix operator."""
    text = latex(element)
    heads = [part.tag for part in element.parts[:1]] if element.tag == "apply" else []
    return f"({text})" if heads and (heads[0] in INFIX or heads[0] == "minus") and re.search(r"[^\w]", text) else text
