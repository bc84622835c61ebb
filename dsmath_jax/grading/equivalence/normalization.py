r"""Normalizes answers: removes markup and typographic variants, resolves aliases of LaTeX.

The meaning of an answer does not change: no unit, comma of a list, sign or word is dropped.
"""

import re
import unicodedata

OPENING, CLOSING = "([{", ")]}"
MAX_CHARS = 2000  # characters; longer answers are compared as text only

# Unicode characters for which LaTeX has commands.
_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ",
        "÷": "\\div ",
        "π": "\\pi ", "√": "\\sqrt ", "∞": "\\infty ", "≤": "\\le ", "≦": "\\le ", "⩽": "\\le ", "≥": "\\ge ",
        "≧": "\\ge ", "⩾": "\\ge ", "≠": "\\ne ", "≈": "\\approx ", "±": "\\pm ", "∓": "\\mp ", "∪": "\\cup ",
        "∩": "\\cap ", "∈": "\\in ", "∅": "\\emptyset ", "°": "^\\circ ", "º": "^\\circ ", "′": "'", "″": "''",
        "‘": "'", "’": "'", "“": '"', "”": '"', "「": '"', "」": '"', "，": ",", "。": ".", "；": ";", "：": ":",
        "（": "(",
        "）": ")", "【": "[", "】": "]", "！": "!", "？": "?", "％": "%", "＝": "=", "〈": "\\langle ",
        "〉": "\\rangle ",
        "⟨": "\\langle ", "⟩": "\\rangle ", "α": "\\alpha ", "β": "\\beta ", "γ": "\\gamma ", "θ": "\\theta ",
        "λ": "\\lambda ", "μ": "\\mu ", "σ": "\\sigma ", "ω": "\\omega ", "φ": "\\phi ", "ℝ": "\\mathbb{R}",
        "ℤ": "\\mathbb{Z}",
        "￥": "¥", "…": "\\ldots ", "⋯": "\\ldots ", "、": ",", "∶": ":", "～": "~", "\u00a0": " ", "\u200b": "",
        "\ufeff": "",
    }
)  # fmt: skip
_SUPERSCRIPTS = {ord(mark): digit for mark, digit in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True)}
_SUBSCRIPTS = {ord(mark): digit for mark, digit in zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)}
_FRACTIONS = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5),
    "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8),
}  # fmt: skip
_CIRCLED = {str(number): chr(0x245F + number) for number in range(1, 21)}

_TEXT = (
    r"text|textnormal|textrm|textbf|textit|textsf|texttt|mbox|hbox|mathrm|mathbf|mathit|mathsf|boldsymbol|bm|rm|bf|it"
)
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\\\(?=[A-Za-z])(?!.*(?:matrix|array|cases))", r"\\"),
        (r"\\(?:left|right)\s*\.(?!\d)", ""),
        (r"\\(?:m?left|m?right|middle|[bB]igg?[lrm]?|(?:display|text|script)style|limits|nolimits)(?![A-Za-z])\s*", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\dbinom|\\tbinom", r"\\binom"),
        (r"(?:\{\})?_\{?(\d+)\}?\s*(?:\\mathrm\{C\}|C)_\{?(\d+)\}?", r"\\binom{\1}{\2}"),
        (r"(?:\\mathrm\{C\}|C)_\{?(\d+)\}?\^\{?(\d+)\}?", r"\\binom{\1}{\2}"),
        (r"\\(?:leqslant|leq)(?![A-Za-z])|\\lt(?![A-Za-z])=", r"\\le "),
        (r"\\(?:geqslant|geq)(?![A-Za-z])|\\gt(?![A-Za-z])=", r"\\ge "),
        (r"<=|=<", r"\\le "), (r">=", r"\\ge "), (r"!=|\\neq(?![A-Za-z])|\\not\s*=", r"\\ne "),
        (r"\\lt(?![A-Za-z])", "<"), (r"\\gt(?![A-Za-z])", ">"),
        (r"~=|\\(?:thickapprox|simeq|doteq)(?![A-Za-z])", r"\\approx "),
        (r"\\(?:lbrace)(?![A-Za-z])", r"\\{"), (r"\\(?:rbrace)(?![A-Za-z])", r"\\}"),
        (r"\\(?:lbrack)(?![A-Za-z])", "["), (r"\\(?:rbrack)(?![A-Za-z])", "]"),
        (r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])", "|"),
        (r"\\(?:varnothing|empty)(?![A-Za-z])", r"\\emptyset "),
        (r"\\(?:R|reals)(?![A-Za-z])|\\mathbf\{R\}|\\mathbb\s*R(?![A-Za-z])", r"\\mathbb{R}"),
        (r"(?:(?:\\(?:l?dots[cmbo]?|cdots|hdots)(?![A-Za-z])|\.\.\.+)\s*)+", r"\\ldots "),
        (r"\\(?:ast)(?![A-Za-z])", "*"),
        (r"\\backslash(?![A-Za-z])", r"\\setminus "),
        (r"\\(?:bigcup)(?![A-Za-z])", r"\\cup "),
        (r"\\(?:overline|bar)\s*(?=\d)(\d)", r"\\overline{\1}"),
        (r"\\%", "%"), (r"\\#", "#"), (r"\\&", "&"), (r"\\_(?=\d)", "_"),
        (r"\\(?:mathrm|text|rm)\s*\{\s*([ei])\s*\}", r"\1"),
        (r"\\(?:imath)(?![A-Za-z])", "i"),
        (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])|\\degree(?:s)?(?![A-Za-z])", r"^\\circ "),
        (r"\^\s*\{\s*\\prime\s*\\prime\s*\}", "''"), (r"\^\s*\{\s*\\prime\s*\}|\^\s*\\prime", "'"),
        (r"\\prime(?![A-Za-z])", "'"),
        (r"\\(?:operatorname|text|mathrm|rm)\s*\{\s*cis\s*\}|(?<![\\A-Za-z])cis(?![A-Za-z])", r"\\cis "),
        (r"\\(?:operatorname|mathop)\*?\s*\{\s*([a-z]+)\s*\}", r"\\\1 "),
        (r"(?<=\d)\s*\^?\s*\{?\s*\\(?:text|textrm|mathrm|mbox|rm)\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}?", ""),
        (r"(?<=\d)(?:\^\{?)?(?:st|nd|rd|th)(?![A-Za-z])\}?", ""),
        (r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
        (r"\{\s*,\s*\}", "{,}"), (r",\s*\\!\s*", "{,}"), (r"\\!\s*", ""),
        (r"\\(?:phantom|hspace|vspace|label|tag)\*?\s*\{[^{}]*\}", " "),
        (r"\\(?:q?quad|enspace|thinspace|medspace|thickspace|newline|noindent|nobreakspace)(?![A-Za-z])", " "),
        (r"\\[,;:>]|(?<!\\)\\ |~", " "),
    ]
)  # fmt: skip
_TEXT_FORMULA = re.compile(rf"^\\(?:{_TEXT})\s*\{{([^{{}}]*(?:[=<>+^,]|\band\b)[^{{}}]*)\}}$")
_FONT = re.compile(r"^\\(?:mathbf|boldsymbol|bm|textbf|mathrm|mathit)\s*(?=\{)")
_MONEY = re.compile(r"\\\$")
_MARKDOWN = re.compile(r"\*\*(.+?)\*\*|__(.+?)__|`([^`]+)`", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox|colorbox\{[^{}]*\}|color\{[^{}]*\}|textcolor\{[^{}]*\}|bf|rm)\s*(?=\{)")
_DERIVATIVE = re.compile(
    r"\\frac\s*\{\s*d\s*(?:\^\{?(\d)\}?)?\s*([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
    r"\s*\{\s*d\s*([A-Za-z]|\\[a-z]+)\s*(?:\^\{?\d\}?)?\s*\}"
)
_DISPLAY = re.compile(r"\\(?:begin|end)\{(?:align|equation|gather|math|displaymath)\*?\}")
_WIDE = re.compile(
    "[\uff01-\uffee\U0001d400-\U0001d7ff]+"
)  # full-width signs and digits, letters in mathematical fonts
_THOUSANDS = re.compile(r"(?<=\d)\{,\}(?=\d)")


def normalize(text: str) -> str:
    """Returns an answer without markup, in one notation.

    Args:
      text: an answer as a data set or a model wrote it, with or without dollars or a box around it.
    """
    text = text.strip()
    if len(text) > MAX_CHARS:
        return text
    text = _unicode(text)
    text = _MARKDOWN.sub(lambda match: match[1] or match[2] or match[3], text)
    text = without_delimiters(text)
    text = text.replace("\\mathrm{d}", "d").replace("{\\rm d}", "d")
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = re.sub(r"\\textcircled\s*\{?\s*(\d+)\s*\}?", lambda match: _CIRCLED.get(match[1], match[1]), text)
    text = _THOUSANDS.sub("", text)
    text = _DERIVATIVE.sub(r"D_{\1\2/\3}", text)
    text = _TEXT_FORMULA.sub(r"\1", re.sub(r"\s+", " ", text).strip())
    return strip_ending(text)


def _unicode(text: str) -> str:
    text = text.translate(_CHARACTERS)
    for mark, (above, below) in _FRACTIONS.items():
        text = re.sub(rf"(?<=\d)\s*{mark}", f"\\\\frac{{{above}}}{{{below}}}", text)
        text = text.replace(mark, f"\\frac{{{above}}}{{{below}}}")
    text = re.sub("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda match: f"^{{{match[0].translate(_SUPERSCRIPTS)}}}", text)
    text = re.sub("[₀-₉]+", lambda match: f"_{{{match[0].translate(_SUBSCRIPTS)}}}", text)
    text = _WIDE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    return re.sub(r"\\sqrt\s+(?=[\d(A-Za-z]|\\frac)(\d+(?:\.\d+)?)", r"\\sqrt{\1}", text)


def without_delimiters(text: str) -> str:
    r"""Removes the dollars, \(…\), \[…\] and boxes that delimit formulas; money keeps its dollar."""
    text = re.sub(r"\\\(|\\\)|(?<!\\)\\\[|(?<!\\)\\\]", " ", text)
    text = _BOX.sub("", text)
    text = _DISPLAY.sub(" ", text)
    if len(re.findall(r"(?<!\\)\$", text)) % 2 == 0:
        text = re.sub(r"(?<!\\)\$", "", text)
    else:  # one dollar is money, or the other delimiter was cut off
        text = re.sub(r"(?<!\\)\$(?!\s*[-+.]?\d)", "", text)
    return _MONEY.sub("$", text).strip()


def strip_ending(text: str) -> str:
    """Removes the punctuation at the end of a sentence, and braces, quotes or a font command around all of it."""
    while True:
        before = text
        if not text.endswith("\\ldots"):
            text = re.sub(r"(?<!\\)[\s.,;:?]+$|(?<=[a-z]{2})!+$", "", text)  # n! is a factorial
        text = re.sub(r"^[\s:,;]+", "", text)
        if (
            (font := _FONT.match(text))
            and matching(text, font.end()) == len(text) - 1
            and re.search(r"[\d\\(]", text[1:])
        ):
            text = text[font.end() :]
        if len(text) > 1 and text[0] in "{\"'" and matching(text, 0) == len(text) - 1:
            text = text[1:-1].strip()
        if text == before:
            return text


def matching(text: str, start: int) -> int:
    """Returns the index of the bracket or quote that closes the one at `start`, or -1.

    The brackets of an interval need not be of one kind.
    """
    if text[start] in "\"'":
        return text.find(text[start], start + 1)
    depth = 0
    for position in range(start, len(text)):
        character = text[position]
        if character in OPENING:
            depth += 1
        elif character in CLOSING:
            depth -= 1
            if depth == 0:
                return position
    return -1


def words(text: str) -> str:
    r"""Removes LaTeX's text commands: \text{Monday} becomes Monday."""
    before = None
    while before != text:
        before = text
        text = re.sub(rf"\\(?:{_TEXT})\s*\{{([^{{}}]*)\}}", r" \1 ", text)
    return re.sub(r"\s+", " ", text).strip()


def split(text: str, separator: re.Pattern[str]) -> list[str]:
    """Splits a normalized text at the separators outside all brackets and environments."""
    return split_with_separators(text, separator)[0]


def split_with_separators(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Splits as `split` does, and returns the separators as well, one fewer than the parts.

    Args:
      text: normalized text.
      separator: a pattern that matches no opening bracket.
    """
    parts: list[str] = []
    separators: list[str] = []
    depth = begin = position = 0
    while position < len(text):
        if depth <= 0 and (match := separator.match(text, position)) and match.end() > position:
            parts.append(text[begin:position].strip())
            separators.append(match[0].strip())
            begin = position = match.end()
            continue
        if text.startswith(("\\begin", "\\langle"), position) or text[position] in OPENING:
            depth += 1
        elif text.startswith(("\\end", "\\rangle"), position) or text[position] in CLOSING:
            depth -= 1
        position += 1
    return [*parts, text[begin:].strip()], separators
