r"""Finds parts of a worked solution: boxes, mathematics between delimiters, sentences, numbers.

Text of models is read with regular expressions whose time is linear in its length; nothing is evaluated.
"""

import collections
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from dsmath_jax.data.dataset_formats import BOXED

MAX_SENTENCE_CHARS = 2000  # characters
MAX_ANSWER_CHARS = 10_000  # characters of a box
MAX_STATEMENTS = 100  # boxes, or other statements, of a completion that are read
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)

# As in Pandoc: an opening dollar has no space after it, a closing one no space before and no digit after it; so "$5 for
# $2" is money. With spaces ("$ 5 $", "$5 . $") there must be no word between the dollars.
MATH = re.compile(
    r"\$\$(?P<display>.{1,2000}?)\$\$|\\\[(?P<brackets>.{1,2000}?)\\\]|\\\((?P<parentheses>.{1,2000}?)\\\)"
    r"|(?<!\\)\$(?P<inline>(?!\s)(?:\\.|[^$\\\n])+?)(?<!\s)\$(?!\d)"
    r"|(?<!\\)\$(?P<spaced>(?!\s*\$)"
    r"(?:\\[A-Za-z]+(?:\{[a-z ]+\})?|\\.|[A-Za-z]{1,2}(?![A-Za-z])|[^$\\\nA-Za-z])+)\$(?!\d)",
    re.DOTALL,
)
ENVIRONMENT = re.compile(r"\\begin\{(\w+\*?)\}.{0,2000}?\\end\{\1\}", re.DOTALL)
ENDED_WITHIN = re.compile(r"\.\s*\$+\Z")  # "$$x = 2.$$ Therefore ..."
NEXT_SENTENCE = re.compile(r"\s+[A-Z]")
SENTENCE_END = re.compile(r"""\n|[。！？]|[.!?](?=[*_"'”’)]*(?:\s|$))""")
CLAUSE = re.compile(
    r"[,，]?\s+(?:because|since|as|so|where|when|which means|i\.e\.)\b|[,，]\s*(?:because|since|so|where|which)\b"
    r"|\s\((?=(?:because|since|as|where|or|i\.e\.|rounded|approximately)\b)"
    r"|[,，;；]?\s*(?:因为|所以|即|也就是|其中)",
)
JOINTS = re.compile(r"\s*(?:[,，、;；]|and|or|和|或|或者|以及)?\s*(?:(?:and|or|和|或|或者)\s*)?")
RELATION = re.compile(r"=|≈|<|>|≤|≥|\\(?:approx|leq?|geq?|[lg]t|in|neq?)(?![A-Za-z])")
EQUALS = re.compile(r"(?<![<>!:=\\])(?:=|≈|\\approx)(?!=)")
UNIT = re.compile(r"\s*(?:\\?[%％°]|(?:[A-Za-z]+(?:[²³]|\^\{?[23]\}?)?|[\u4e00-\u9fff]{1,4})(?:/[A-Za-z]+)?)[.。]?\s*")
PERCENT = re.compile(r"\$?\s*(\\?[%％])")
TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|rm|bf)\s*\{([^{}]*)\}")

SIGN = r"(?:(?<![A-Za-z0-9_^.)\]}])(?<![\d)] )[-+−–]|负|\bnegative\s)?"
CURRENCY = r"(?:\\?[$＄]|[￥¥€£])"
DIGITS = r"(?:\d{1,3}(?:(?:[,，]|\{,\}|,\\!|\\,|[ \u00a0\u2009\u202f])\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
FRACTION = r"\\[dtc]?frac\s*(?:\{[^{}]*\}|\d)\s*(?:\{[^{}]*\}|\d)"
POWER = r"(?:\s*(?:\\times|\\cdot|[×*x])\s*10\s*\^\s*(?:\{\s*[-+−]?\d+\s*\}|[-+−]?\d+)|[eE][-+]?\d+)"
SCALE = r"\s*(?:(?:hundred|thousand|million|billion|trillion)\b|百(?!分)|千(?![米克瓦卡帕焦赫升])|[万亿])"
NUMBER = re.compile(
    rf"(?P<percent>百分之)?(?P<sign>{SIGN})(?:\s?{CURRENCY}(?P<inner>[-−]?))?(?<![A-Za-z0-9_^.])"
    rf"(?P<value>{FRACTION}|(?:{DIGITS})(?:{POWER}|\s*{FRACTION}|\s\d+/\d+|/\d+(?:\.\d+)?(?!\d))?)"
    rf"(?P<scale>{SCALE})?(?P<unit>\s?\\?[%％])?"
)


class Span(NamedTuple):
    """A part of a text: its start and end with markup, and its text without."""

    start: int
    end: int
    text: str


def boxes(text: str) -> Iterator[Span]:
    r"""Yields the contents of outermost `\boxed{...}`, `\fbox{...}` and `\boxed 2`; unclosed boxes are skipped.

    A percent sign after a box belongs to it.
    """
    position = 0
    for match in last_matches(BOXED.finditer(text)):
        if match.start() < position:
            continue  # nested
        start, braced = match.end(), text.startswith("{", match.end())
        end = closing_brace(text, start) if braced else _word_end(text, start)
        if end is None:
            continue
        inner = (text[start + 1 : end - 1] if braced else text[start:end].rstrip(".,;")).strip()
        percent = PERCENT.match(text, end)
        nested = next(boxes(inner), None)
        content = nested.text if nested and nested.start == 0 and nested.end == len(inner) else inner
        yield Span(match.start(), end, content + (percent[1] if percent and content else ""))
        position = end


def last_matches(matches: Iterable[re.Match[str]]) -> Iterable[re.Match[str]]:
    """Returns the last `MAX_STATEMENTS` matches."""
    return collections.deque(matches, maxlen=MAX_STATEMENTS)


def has_unclosed_box(text: str) -> bool:
    """Returns whether the last box of a text is never closed because the text was cut off."""
    starts = [match.end() for match in BOXED.finditer(text)]
    if not starts:
        return False
    rest = text[starts[-1] :]
    return not rest or (rest.startswith("{") and closing_brace(rest, 0) is None)


def closing_brace(text: str, start: int) -> int | None:
    """Returns the index after the brace that closes the one at `start`; None where there is none."""
    depth = 0
    for match in BRACE.finditer(text, start, start + MAX_ANSWER_CHARS):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    return None


def _word_end(text: str, start: int) -> int:
    match = re.compile(r"[^\s$]*").match(text, start)
    assert match is not None
    return match.end()


def formulas(text: str) -> list[Span]:
    """Returns the mathematics between delimiters in a text."""
    return [Span(match.start(), match.end(), _content(match)) for match in MATH.finditer(text)]


def _content(match: re.Match[str]) -> str:
    assert match.lastgroup is not None
    return match[match.lastgroup].strip()


def joins(between: str) -> bool:
    r"""Returns whether the text between two formulas makes them a list: a comma, "and", `\text{ or }`."""
    return JOINTS.fullmatch(re.sub(r"\\[()\[\]]|\\q?quad|\$", " ", TEXT_COMMAND.sub(r" \1 ", between))) is not None


def joined(source: str, pieces: Sequence[Span]) -> str:
    """Joins formulas with the text between them, without delimiters."""
    between = [source[one.end : other.start] for one, other in itertools.pairwise(pieces)]
    return pieces[0].text + "".join(text + piece.text for text, piece in zip(between, pieces[1:], strict=True))


def unit(rest: str) -> str:
    """Returns the rest of a sentence if it is a unit, else ""."""
    return rest if UNIT.fullmatch(rest) else ""


def sides(text: str) -> list[str]:
    """Splits a text at its equals signs outside of braces."""
    parts, start = [], 0
    for match in EQUALS.finditer(text):
        if text.count("{", 0, match.start()) == text.count("}", 0, match.start()):
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def sentence(text: str) -> str:
    """Returns the first sentence or line of a text; full stops within mathematics do not end it."""
    text = text[:MAX_SENTENCE_CHARS]
    position = 0
    while position < len(text):
        if text[position] in "$\\" and (math := MATH.match(text, position) or ENVIRONMENT.match(text, position)):
            position = math.end()
            if ENDED_WITHIN.search(math[0]) and NEXT_SENTENCE.match(text, position):
                break
        elif SENTENCE_END.match(text, position):
            break
        else:
            position += 1
    return text[:position]


def last_sentence(text: str) -> str:
    """Returns the last sentence of the last line of a text."""
    rest = text.strip().split("\n")[-1][-MAX_SENTENCE_CHARS:]
    last = ""
    while rest:
        last = sentence(rest)
        rest = rest[len(last) + 1 :].lstrip(" *_\"')")
    return last


def bare(text: str) -> str:
    """Removes markup around a text: bold, quotes, delimiters of mathematics, a full stop."""
    before = None
    while text != before:
        before = text
        text = text.strip().strip("*`").rstrip(".,;:。，；：").strip()
        if math := MATH.fullmatch(text):
            text = _content(math)
        if len(text) > 1 and (text[0], text[-1]) in {('"', '"'), ("“", "”"), ("'", "'"), ("__", "__"), ("_", "_")}:
            text = text[1:-1]
    return text


def numbers(text: str) -> list[Span]:
    """Returns the numbers of a text without currency signs, with percent signs and words of scale."""
    return [Span(match.start(), match.end(), _number(match)) for match in NUMBER.finditer(text)]


def _number(match: re.Match[str]) -> str:
    unit = "%" if match["percent"] or match["unit"] else ""
    sign = "-" if match["sign"][:1] in ("负", "n") else match["sign"] or match["inner"] or ""
    return sign + match["value"] + (match["scale"] or "") + unit


def plain(text: str) -> str:
    r"""Removes `\text{...}` and the like around words, `\left` and LaTeX's spaces; unescapes `\$` and `\%`."""
    text = TEXT_COMMAND.sub(r" \1 ", text)
    return re.sub(r"\\(?:left|right|displaystyle|quad|[;: ])|~", " ", text).replace(r"\$", "$").replace(r"\%", "%")


def halfwidth(text: str) -> str:
    """Converts full-width characters: Ａ becomes A, （ becomes (."""
    return unicodedata.normalize("NFKC", text)
