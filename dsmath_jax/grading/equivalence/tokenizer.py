"""Splits formulas into tokens: LaTeX as data sets and models write it, and the notation of calculators and programs."""

import re

FUNCTIONS = (
    "arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch sin cos tan cot sec csc "
    "ln lg log exp cis asin acos atan"
).split()
_NAMES = "|".join([*FUNCTIONS, "sqrt", "cbrt", "pi", "abs", "floor", "ceil"])
_PLAIN = re.compile(rf"(?<![\\A-Za-z])(?:np\.|math\.|sp\.|sympy\.|numpy\.)?({_NAMES})(?![A-Za-z])")
_TOKEN = re.compile(
    r"(?P<num>\d*\.\d*(?:\\overline\s*\{\d+\}|\\dot\s*\{?\d\}?)|[1-9]\d{0,2}(?:,\d{3})+(?![\d,])(?:\.\d+)?|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    r"|(?P<cmd>\\[A-Za-z]+|\\[{}|])|(?P<letter>[A-Za-z])|(?P<op>\*\*|[-+*/^_()\[\]{}|!'%=<>,&$:])|(?P<other>\S)"
)  # fmt: skip


class ParseError(ValueError):
    """The parser does not know this notation."""


def tokenize(text: str) -> list[tuple[str, str]]:
    """Returns (kind, token) pairs; the kinds are "num", "cmd", "letter" and "op". Raises ParseError."""
    text = _PLAIN.sub(lambda match: f"\\{match[1]} ", text)
    tokens = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "other"
        if kind == "other":
            raise ParseError(match[0])
        tokens.append((kind, match[0]))
    return tokens
