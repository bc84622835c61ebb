"""MathML without a LaTeX annotation to LaTeX: the presentation elements that pages really use."""

from typing import Any

SYMBOLS = {
    "−": "-", "⁢": "", "⁡": "", "⁣": "", "⁤": "", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ",
    "±": r"\pm ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ", "∈": r"\in ",
    "∉": r"\notin ", "⊂": r"\subset ", "⊆": r"\subseteq ", "∪": r"\cup ", "∩": r"\cap ", "∞": r"\infty ",
    "→": r"\to ", "⇒": r"\Rightarrow ", "⇔": r"\Leftrightarrow ", "∀": r"\forall ", "∃": r"\exists ", "∂": r"\partial ",
    "∇": r"\nabla ", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "√": r"\surd ", "…": r"\dots ", "⋯": r"\cdots ",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "ε": r"\epsilon ", "ϵ": r"\epsilon ",
    "ζ": r"\zeta ", "η": r"\eta ", "θ": r"\theta ", "κ": r"\kappa ", "λ": r"\lambda ", "μ": r"\mu ", "ν": r"\nu ",
    "ξ": r"\xi ", "π": r"\pi ", "ρ": r"\rho ", "σ": r"\sigma ", "τ": r"\tau ", "φ": r"\phi ", "ϕ": r"\phi ",
    "χ": r"\chi ", "ψ": r"\psi ", "ω": r"\omega ", "Γ": r"\Gamma ", "Δ": r"\Delta ", "Θ": r"\Theta ", "Λ": r"\Lambda ",
    "Π": r"\Pi ", "Σ": r"\Sigma ", "Φ": r"\Phi ", "Ψ": r"\Psi ", "Ω": r"\Omega ", "{": r"\{", "}": r"\}", "%": r"\%",
}  # fmt: skip
# How an element with a fixed number of parts is written: that number, and the form around the parts' LaTeX.
PATTERNS = {
    "mfrac": (2, r"\frac{{{0}}}{{{1}}}"),
    "msup": (2, "{0}^{{{1}}}"),
    "msub": (2, "{0}_{{{1}}}"),
    "msubsup": (3, "{0}_{{{1}}}^{{{2}}}"),
    "munder": (2, "{0}_{{{1}}}"),
    "mover": (2, "{0}^{{{1}}}"),
    "munderover": (3, "{0}_{{{1}}}^{{{2}}}"),
    "mroot": (2, r"\sqrt[{1}]{{{0}}}"),
}
NAMED_FUNCTIONS = frozenset("sin cos tan cot sec csc log ln exp lim max min sup inf det dim gcd arg ker".split())
ACCENTS = {
    "¯": r"\bar", "‾": r"\bar", "^": r"\hat", "ˆ": r"\hat", "~": r"\tilde", "˜": r"\tilde", "→": r"\vec", "˙": r"\dot",
}  # fmt: skip


def to_latex(node: Any) -> str:
    """Returns the LaTeX of a MathML element (a resiliparse node); what is unknown gives the LaTeX of its parts."""
    tag = (node.tag or "").rpartition(":")[2]
    if tag in ("mi", "mn", "mo", "mtext", "ms"):
        return _leaf(tag, " ".join((node.text or "").split()))
    parts = node.children.values() if hasattr(node, "children") else []
    parts = [part for part in parts if part.tag not in ("annotation", "annotation-xml")]
    if tag == "mtable":
        rows = (" & ".join(to_latex(cell) for cell in row.children.values()) for row in parts)
        return r"\begin{matrix} " + r" \\ ".join(rows) + r" \end{matrix}"
    if tag == "mover" and len(parts) == 2 and (accent := ACCENTS.get((parts[1].text or "").strip())):
        return f"{accent}{{{to_latex(parts[0])}}}"
    latex = [to_latex(part).strip() for part in parts]
    number, pattern = PATTERNS.get(tag, (-1, ""))
    if len(latex) == number:
        return pattern.format(*latex)
    inside = " ".join(part for part in latex if part)
    return rf"\sqrt{{{inside}}}" if tag == "msqrt" else f"({inside})" if tag == "mfenced" else inside


def _leaf(tag: str, text: str) -> str:
    if tag in ("mtext", "ms"):
        return rf"\text{{{text}}}" if text else ""
    if tag == "mi" and len(text) > 1 and text.isalpha() and text.isascii():
        return "\\" + text if text in NAMED_FUNCTIONS else rf"\mathrm{{{text}}}"
    return "".join(SYMBOLS.get(letter, letter) for letter in text).strip()
