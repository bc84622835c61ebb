"""LaTeX of mathematical characters, for MathML, rendered formulas and formulas in plain HTML."""

import unicodedata
from functools import lru_cache

# Pairs of a character and the name of its LaTeX command.
_COMMANDS = """
× times ÷ div ± pm ∓ mp · cdot ⋅ cdot ∗ ast ⋆ star ∘ circ • bullet ⊕ oplus ⊖ ominus ⊗ otimes ⊙ odot ⊘ oslash
≤ le ≥ ge ≦ leqq ≧ geqq ⩽ leqslant ⩾ geqslant ≠ ne ≈ approx ≡ equiv ∼ sim ≃ simeq ≅ cong ≍ asymp ∝ propto ≪ ll ≫ gg
≺ prec ≻ succ ⪯ preceq ⪰ succeq ≐ doteq ≜ triangleq ⊨ models ⊢ vdash ⊣ dashv ⊥ perp ∥ parallel ∣ mid ∤ nmid ∦ nparallel
∈ in ∉ notin ∋ ni ⊂ subset ⊆ subseteq ⊊ subsetneq ⊃ supset ⊇ supseteq ⊋ supsetneq ⊄ nsubset ⊈ nsubseteq
∪ cup ∩ cap ∖ setminus ⊔ sqcup ⊓ sqcap ⊎ uplus ∅ emptyset ∧ wedge ∨ vee ¬ neg ∀ forall ∃ exists ∄ nexists ⊤ top
→ to ← leftarrow ↔ leftrightarrow ⇒ Rightarrow ⇐ Leftarrow ⇔ Leftrightarrow ↦ mapsto ⟶ longrightarrow ⟵ longleftarrow
⟹ Longrightarrow ⟸ Longleftarrow ⟺ iff ⟷ longleftrightarrow ⟼ longmapsto ↑ uparrow ↓ downarrow ⇑ Uparrow ⇓ Downarrow
↪ hookrightarrow ↩ hookleftarrow ↠ twoheadrightarrow ⇀ rightharpoonup ⇌ rightleftharpoons ↗ nearrow ↘ searrow ⇝ leadsto
∑ sum ∏ prod ∐ coprod ∫ int ∬ iint ∭ iiint ∮ oint ⋃ bigcup ⋂ bigcap ⋁ bigvee ⋀ bigwedge ⨁ bigoplus ⨂ bigotimes
∂ partial ∇ nabla ∞ infty √ surd ∠ angle △ triangle ▵ triangle □ square ◻ square ◇ diamond ⋄ diamond ∎ blacksquare
… dots ⋯ cdots ⋮ vdots ⋱ ddots ∴ therefore ∵ because ′ prime ℏ hbar ℓ ell ℘ wp ℜ Re ℑ Im ℵ aleph ℶ beth ð eth
⟨ langle ⟩ rangle 〈 langle 〉 rangle ⌈ lceil ⌉ rceil ⌊ lfloor ⌋ rfloor ‖ | ∥ parallel † dagger ‡ ddagger ◦ circ ° circ
α alpha β beta γ gamma δ delta ε varepsilon ϵ epsilon ζ zeta η eta θ theta ϑ vartheta ι iota κ kappa ϰ varkappa λ lambda
μ mu µ mu ν nu ξ xi π pi ϖ varpi ρ rho ϱ varrho σ sigma ς varsigma τ tau υ upsilon φ varphi ϕ phi χ chi ψ psi ω omega
Γ Gamma Δ Delta Θ Theta Λ Lambda Ξ Xi Π Pi Σ Sigma Υ Upsilon Φ Phi Ψ Psi Ω Omega ∆ Delta Ω Omega ı imath ȷ jmath
{ { } } % % # # & & $ $ \\ backslash
""".split()
# Characters that LaTeX writes in ASCII, or not at all.
_PLAIN = {
    "−": "-", "‐": "-", "–": "-", "⁄": "/", "∕": "/", "∶": ":", "≔": ":=", "⩵": "==", "‴": "'''", "″": "''", "’": "'",
    "\u2062": "", "\u2061": "", "\u2063": "", "\u2064": "", "\u200b": "", "\u2060": "", "\ufe00": "", "\ufeff": "",
    "\xa0": " ", "\u2009": " ", "\u200a": " ",
    "\u2003": r"\quad ", "ℎ": "h", "ⅆ": "d", "ⅇ": "e", "ⅈ": "i", "°": r"^\circ ", "^": r"\wedge ", "~": r"\sim ",
}  # fmt: skip
SYMBOLS = {
    character: f"\\{name}" + " " * name.isalpha() for character, name in zip(*[iter(_COMMANDS)] * 2, strict=True)
}
SYMBOLS |= _PLAIN
# Unicode's names of mathematical alphabets, longest first, and the LaTeX command of each.
_ALPHABETS = {
    "SANS-SERIF BOLD ITALIC": "boldsymbol", "SANS-SERIF BOLD": "mathbf", "SANS-SERIF ITALIC": "mathsf",
    "BOLD SCRIPT": "mathcal", "BOLD FRAKTUR": "mathfrak", "BOLD ITALIC": "boldsymbol", "DOUBLE-STRUCK": "mathbb",
    "SANS-SERIF": "mathsf", "MONOSPACE": "mathtt", "FRAKTUR": "mathfrak", "BLACK-LETTER": "mathfrak",
    "SCRIPT": "mathcal", "BOLD": "mathbf", "ITALIC": "",
}  # fmt: skip
# The names of the same alphabets in MathML's attribute `mathvariant`.
VARIANTS = {
    "bold": "mathbf", "double-struck": "mathbb", "script": "mathcal", "bold-script": "mathcal", "fraktur": "mathfrak",
    "bold-fraktur": "mathfrak", "sans-serif": "mathsf", "bold-sans-serif": "mathbf", "monospace": "mathtt",
    "bold-italic": "boldsymbol", "normal": "mathrm", "sans-serif-italic": "mathsf", "-tex-calligraphic": "mathcal",
}  # fmt: skip
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan log ln lg exp lim liminf limsup max min sup inf "
    "det dim gcd arg ker deg hom Pr".split()
)


def latex_of(text: str) -> str:
    """Returns the LaTeX of the characters of a formula; unknown characters stay as they are."""
    if text.isascii() and text.isalnum():
        return text
    return "".join(_character(character) for character in text)


@lru_cache(4096)
def _character(character: str) -> str:
    if character in SYMBOLS:
        return SYMBOLS[character]
    if character.isascii():
        return character
    if "\u2100" <= character <= "\u214f" or "\U0001d400" <= character <= "\U0001d7ff":
        plain = unicodedata.normalize("NFKC", character)
        name = unicodedata.name(character, "")
        command = next((command for alphabet, command in _ALPHABETS.items() if alphabet in name), "")
        letter = SYMBOLS.get(plain, plain)
        return f"\\{command}{{{letter.strip()}}}" if command else letter
    return character


def join(parts: list[str]) -> str:
    """Joins pieces of LaTeX, with a space only between a command and a letter."""
    text = ""
    for part in parts:
        if part[:1].isalpha() and _ends_in_command(text):
            text += " "
        text += part
    return text


def _ends_in_command(text: str) -> bool:
    start = text.rfind("\\")
    return start >= 0 and text[start + 1 :].isalpha() and text[start + 1 :].isascii()
