"""Normalizes text for fastText, MinHash and decontamination.

A normalized text is a line of tokens separated by single spaces. A token is a word, a number, a single Chinese or
Japanese character, a LaTeX command or one of `= + < >`. Mathematical characters become commands. Punctuation, `$` and
commands that only set type (`\\left`, `\\,`, `\\mathrm`) are dropped, so that texts that differ in layout or in the
spelling of formulas are equal.
"""

import re
import unicodedata

import numpy as np

from dsmath_jax.corpus.text.symbols import SYMBOLS

IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
SAME_COMMAND = {
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\leq": "\\le", "\\geq": "\\ge", "\\neq": "\\ne", "\\lt": "<",
    "\\gt": ">", "\\rightarrow": "\\to", "\\longrightarrow": "\\to", "\\implies": "\\to", "\\varepsilon": "\\epsilon",
}  # fmt: skip
TYPOGRAPHY = "•…⋯†‡◦□◻∎′∗·"  # bullets, notes and ellipses in running text
COMMANDS = {
    sign: SAME_COMMAND.get(name.strip().lower(), name.strip().lower())
    for sign, name in SYMBOLS.items()
    if re.fullmatch(r"\\[A-Za-z]+ ", name) and sign not in TYPOGRAPHY
}
SAME = COMMANDS | SAME_COMMAND
OPERATORS = "".join(sign for sign in COMMANDS if not sign.isalnum() and not sign.isascii())
TOKEN = re.compile(rf"\\[a-z]+|\d+(?:\.\d+)?|[{IDEOGRAPHS}]|[^\W\d_{IDEOGRAPHS}]+|[=+<>{re.escape(OPERATORS)}]")
# Fast path: most words are ASCII letters alone.
WORD_OR_TOKEN = re.compile(rf"[a-z]+(?![^\W\d_{IDEOGRAPHS}])|{TOKEN.pattern}")
COMMA = re.compile(r",\d{3}")
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
TYPESETTING = frozenset(
    "\\left \\right \\big \\bigg \\bigl \\bigr \\biggl \\biggr \\middle \\limits \\nolimits \\displaystyle \\textstyle "
    "\\quad \\qquad \\text \\textbf \\textrm \\mbox \\mathrm \\mathbf \\mathit \\boldsymbol \\operatorname \\hspace "
    "\\label".split()
)
RARE = TYPESETTING | SAME.keys()
# Odd, hence invertible modulo 2**64: prefix sums give the hash of every span of a text.
BASE = 0x9E3779B97F4A7C15
BASE_INVERSE = pow(BASE, -1, 2**64)


def normalize(text: str) -> str:
    """Returns the normalized text: its tokens, separated by single spaces."""
    text = unicodedata.normalize("NFKC", text).lower()
    if COMMA.search(text):
        text = THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    tokens = WORD_OR_TOKEN.findall(text)
    if not RARE.isdisjoint(tokens):
        tokens = [SAME.get(token, token) for token in tokens if token not in TYPESETTING]
    return " ".join(tokens)


def token_bounds(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Returns the byte offsets, int64 [tokens], of the starts and the ends of tokens in an encoded normalized text."""
    if not data:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    spaces = np.flatnonzero(np.frombuffer(data, np.uint8) == ord(" "))
    return np.concatenate([[0], spaces + 1]), np.concatenate([spaces, [len(data)]])


class Spans:
    """Hashes of the n-grams of one normalized text, for any n; the same in every process and on every machine."""

    def __init__(self, normal: str):
        self.data = normal.encode()
        self.starts, self.ends = token_bounds(self.data)
        powers = np.full(len(self.data) + 1, BASE, np.uint64)
        powers[0] = 1
        terms = np.frombuffer(self.data, np.uint8).astype(np.uint64) * np.cumprod(powers)[:-1]
        self.prefix = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
        powers[1:] = BASE_INVERSE
        self.unshift = np.cumprod(powers)

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.starts)

    def hashes(self, n: int) -> np.ndarray:
        """Returns uint64 [max(tokens - n + 1, 0)]: the hash of each n-gram, in order."""
        starts, ends = self.starts[: max(len(self) - n + 1, 0)], self.ends[n - 1 :]
        return mix((self.prefix[ends] - self.prefix[starts]) * self.unshift[starts])

    def ngram(self, position: int, n: int) -> str:
        """Returns the n-gram that begins at token `position`."""
        return self.data[self.starts[position] : self.ends[position + n - 1]].decode()


def mix(values: np.ndarray) -> np.ndarray:
    """Mixes the bits of uint64 values by a bijection (the finalizer of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
