"""Converts AsciiMath, the notation between backticks on pages that load its script, to LaTeX."""

import re

from dsmath_jax.corpus.text.symbols import join

# Pairs of AsciiMath and LaTeX.
_CONSTANTS = """
* \\cdot ** \\ast *** \\star // / \\\\\\\\ \\setminus xx \\times -: \\div @ \\circ o+ \\oplus ox \\otimes o. \\odot
sum \\sum prod \\prod
^^ \\wedge ^^^ \\bigwedge vv \\vee vvv \\bigvee nn \\cap nnn \\bigcap uu \\cup uuu \\bigcup != \\ne := := lt < <=
\\le lt= \\le gt >
>= \\ge gt= \\ge -< \\prec >- \\succ in \\in !in \\notin sub \\subset sup \\supset sube \\subseteq supe \\supseteq -=
\\equiv ~= \\cong
~~ \\approx prop \\propto and \\text{and} or \\text{or} if \\text{if} not \\neg => \\Rightarrow <=> \\Leftrightarrow
AA \\forall EE \\exists
_|_ \\bot TT \\top |-- \\vdash |== \\models int \\int oint \\oint del \\partial grad \\nabla +- \\pm O/ \\emptyset oo
\\infty aleph \\aleph
:. \\therefore :' \\because /_ \\angle ... \\dots cdots \\cdots vdots \\vdots ddots \\ddots quad \\quad diamond
\\diamond square \\square
CC \\mathbb{C} NN \\mathbb{N} QQ \\mathbb{Q} RR \\mathbb{R} ZZ \\mathbb{Z} uarr \\uparrow darr \\downarrow rarr \\to
-> \\to larr \\leftarrow
harr \\leftrightarrow rArr \\Rightarrow lArr \\Leftarrow hArr \\Leftrightarrow |-> \\mapsto >-> \\rightarrowtail dx
dx dy dy dz dz dt dt
alpha \\alpha beta \\beta gamma \\gamma Gamma \\Gamma delta \\delta Delta \\Delta epsilon \\epsilon varepsilon
\\varepsilon zeta \\zeta
eta \\eta theta \\theta Theta \\Theta vartheta \\vartheta iota \\iota kappa \\kappa lambda \\lambda Lambda \\Lambda
mu \\mu nu \\nu xi \\xi
Xi \\Xi pi \\pi Pi \\Pi rho \\rho sigma \\sigma Sigma \\Sigma tau \\tau upsilon \\upsilon phi \\phi varphi \\varphi
Phi \\Phi chi \\chi
psi \\psi Psi \\Psi omega \\omega Omega \\Omega lim \\lim Lim \\lim sin \\sin cos \\cos tan \\tan sinh \\sinh cosh
\\cosh tanh \\tanh
cot \\cot sec \\sec csc \\csc arcsin \\arcsin arccos \\arccos arctan \\arctan coth \\coth exp \\exp log \\log ln \\ln
det \\det dim \\dim
mod \\bmod gcd \\gcd lcm \\operatorname{lcm} min \\min max \\max prime '
""".split()
CONSTANTS = dict(zip(_CONSTANTS[::2], _CONSTANTS[1::2], strict=True))
UNARY = {
    "sqrt": r"\sqrt{%s}", "abs": r"\left|%s\right|", "norm": r"\left\|%s\right\|",
    "floor": r"\lfloor %s\rfloor", "ceil": r"\lceil %s\rceil", "hat": r"\hat{%s}", "bar": r"\overline{%s}",
    "vec": r"\vec{%s}",
    "dot": r"\dot{%s}", "ddot": r"\ddot{%s}", "tilde": r"\tilde{%s}", "ul": r"\underline{%s}",
    "ubrace": r"\underbrace{%s}",
    "obrace": r"\overbrace{%s}", "cancel": r"\cancel{%s}", "bb": r"\mathbf{%s}", "bbb": r"\mathbb{%s}",
    "cc": r"\mathcal{%s}",
    "tt": r"\mathtt{%s}", "fr": r"\mathfrak{%s}", "sf": r"\mathsf{%s}", "overline": r"\overline{%s}",
    "underline": r"\underline{%s}",
}  # fmt: skip
BINARY = {
    "frac": r"\frac{%s}{%s}", "root": r"\sqrt[%s]{%s}", "stackrel": r"\overset{%s}{%s}", "overset": r"\overset{%s}{%s}",
    "underset": r"\underset{%s}{%s}",
}  # fmt: skip
OPEN = {"(": "(", "[": "[", "{": r"\{", "(:": r"\langle", "<<": r"\langle", "{:": ""}
CLOSE = {")": ")", "]": "]", "}": r"\}", ":)": r"\rangle", ">>": r"\rangle", ":}": ""}
_WORDS = sorted({*CONSTANTS, *UNARY, *BINARY, *OPEN, *CLOSE}, key=len, reverse=True)
_WORD = "|".join(map(re.escape, _WORDS))
TOKEN = re.compile(rf'"[^"]*"|(?:text|mbox)\([^)]*\)|\d+(?:\.\d+)?|{_WORD}|\\?\S')
KNOWN = re.compile(f"(?:{_WORD})+")
MATRICES = {("[", "]"): "bmatrix", ("(", ")"): "pmatrix", ("{", ""): "cases", (r"\{", ""): "cases"}
MAX_DEPTH, MAX_MATRIX_DEPTH = 40, 3
# A word that AsciiMath does not know means code or prose.
LONG_WORD = re.compile(r"[A-Za-z]{3,}")


def plausible(source: str) -> bool:
    """Returns whether the text between backticks looks like AsciiMath and not like code or prose."""
    quoted = re.sub(r'"[^"]*"|text\([^)]*\)', "", source)
    unknown = [word for word in LONG_WORD.findall(quoted) if not KNOWN.fullmatch(word)]
    return bool(source.strip()) and not unknown and not re.search(r"[;$&`]|\w\.\w*\(|==|::|--", source)


def to_latex(source: str) -> str:
    """Returns the LaTeX of AsciiMath; never fails, since unknown characters stay as they are."""
    return _latex(TOKEN.findall(source), 0)


def _latex(tokens: list[str], depth: int) -> str:
    parser = _Parser(tokens, depth)
    pieces = []
    while parser.more():
        pieces.append(parser.expression())
        if parser.more():
            pieces.append(CLOSE.get(stray := parser.take(), stray))
    return join(pieces)


class _Parser:
    """A recursive-descent parser over AsciiMath's tokens."""

    def __init__(self, tokens: list[str], depth: int) -> None:
        self.tokens, self.position, self.depth = tokens, 0, depth

    def more(self) -> bool:
        return self.position < len(self.tokens)

    def peek(self) -> str:
        return self.tokens[self.position] if self.more() else ""

    def take(self) -> str:
        self.position += 1
        return self.tokens[self.position - 1]

    def expression(self) -> str:
        """Parses everything up to a closing bracket."""
        pieces: list[str] = []
        while self.more() and self.peek() not in CLOSE:
            pieces.append(self.fraction())
        return join(pieces)

    def fraction(self) -> str:
        above = self.scripted()
        if self.peek() == "/" and self.position + 1 < len(self.tokens):
            self.take()
            return rf"\frac{{{_bare(above)}}}{{{_bare(self.scripted())}}}"
        return above

    def scripted(self) -> str:
        base = self.simple()
        for mark in "_^":
            if self.peek() == mark and self.position + 1 < len(self.tokens):
                self.take()
                base += f"{mark}{{{_bare(self.simple())}}}"
        return base

    def simple(self) -> str:
        token = self.take() if self.more() else ""
        if token in OPEN and self.depth < MAX_DEPTH:
            return self.bracketed(token)
        if token.startswith(('"', "text(", "mbox(")):
            return rf"\text{{{token.removeprefix('text(').removeprefix('mbox(').strip(chr(34)).removesuffix(')')}}}"
        if token in UNARY and self.more() and self.depth < MAX_DEPTH:
            return UNARY[token] % self.argument()
        if token in BINARY and self.more() and self.depth < MAX_DEPTH:
            return BINARY[token] % (self.argument(), self.argument())
        return CONSTANTS.get(token, token)

    def argument(self) -> str:
        self.depth += 1
        inner = self.simple()
        self.depth -= 1
        return _bare(inner)

    def bracketed(self, opening: str) -> str:
        self.depth += 1
        start = self.position
        inner = self.expression()
        self.depth -= 1
        closing = CLOSE[self.take()] if self.more() and self.peek() in CLOSE else ""
        rows = _rows(self.tokens[start : self.position - 1]) if self.depth < MAX_MATRIX_DEPTH else []
        if rows:
            environment = MATRICES.get((OPEN[opening], closing), "matrix")
            cells = r" \\ ".join(" & ".join(_latex(cell, MAX_MATRIX_DEPTH) for cell in row) for row in rows)
            return rf"\begin{{{environment}}} {cells} \end{{{environment}}}"
        return join([OPEN[opening], inner, closing])


def _rows(tokens: list[str]) -> list[list[list[str]]]:
    """Returns the cells of a matrix `[[a, b], [c, d]]` (without its outer brackets), or [] if it is none."""
    rows: list[list[list[str]]] = []
    depth = 0
    for token in tokens:
        depth += (token in OPEN) - (token in CLOSE)
        if token in OPEN and depth == 1:
            rows.append([[]])
        elif depth == 0 and token not in CLOSE and token != ",":
            return []
        elif depth == 1 and token == ",":
            rows[-1].append([])
        elif depth >= 1 and rows:
            rows[-1][-1].append(token)
    return rows if len(rows) > 1 and len({len(row) for row in rows}) == 1 else []


def _bare(latex: str) -> str:
    """Removes the brackets that only group an argument."""
    for opening, closing in (("(", ")"), ("[", "]"), (r"\{", r"\}")):
        if latex.startswith(opening) and latex.endswith(closing) and len(latex) > len(opening):
            inside = latex[len(opening) : -len(closing)]
            return inside.strip() if _closes_last(inside, opening, closing) else latex
    return latex


def _closes_last(inside: str, opening: str, closing: str) -> bool:
    """Returns whether every bracket that closes within `inside` also opens there."""
    depth = 0
    for mark in re.findall(f"{re.escape(opening)}|{re.escape(closing)}", inside):
        depth += 1 if mark == opening else -1
        if depth < 0:
            return False
    return True
