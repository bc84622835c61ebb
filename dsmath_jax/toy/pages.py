"""Composes the text of toy pages from the grammars of a style, and renders it in the style's HTML.

The text of a page is a list of blocks; a block is a list of lines with this markup:

    # heading      - list item      > line of a calculation or program      anything else: a paragraph
    «tex» formula in the line    ⟪tex⟫ displayed formula    ⟨strong text⟩    ␤ line break
"""

import dataclasses
import html
import itertools
import random
import re
import string
from collections.abc import Callable, Iterator
from typing import TypeVar

from dsmath_jax.toy.formulas import Markup, dollar, paren, script
from dsmath_jax.toy.grammar import Grammar, polish
from dsmath_jax.toy.held_out import HeldOutNgrams
from dsmath_jax.toy.quantities import TOPICS
from dsmath_jax.toy.templates import Host, Section, Skeleton, Style

Piece = TypeVar("Piece")
ATTEMPTS = 100
# Target characters of main text; one Chinese character is worth several Latin ones.
MATH_LENGTHS = {"en": (1300, 2500), "zh": (500, 1100)}
OTHER_LENGTHS = {"en": (700, 2000), "zh": (400, 900)}
MATHJAX = (
    "<script>window.MathJax = {tex: {inlineMath: [['$', '$'], ['\\\\(', '\\\\)']]}};</script>"
    '<script async src="https://cdn.example/mathjax/tex-mml-chtml.js"></script>'
)
_FORMULA = re.compile(r"«([^»]*)»|⟪([^⟫]*)⟫")
_PIECE = re.compile(r"[^\s，。？]+[\s，。？]*")  # a word with the separator after it


@dataclasses.dataclass(frozen=True)
class Text:
    """The text of a page: its title and its blocks, each a list of marked-up lines."""

    topic: str
    title: str
    blocks: tuple[tuple[str, ...], ...]

    def plain(self) -> str:
        """Returns title and lines as one string."""
        return "\n".join([self.title, *(line for block in self.blocks for line in block)])


def compose(style: Style, language: str, topic: str, ngrams: HeldOutNgrams, rng: random.Random) -> Text:
    """Composes a page about `topic`: a mathematical one (a key of `quantities.TOPICS`) or another one of the grammar.

    Neither a block nor the whole page has one of the n-grams.
    """
    return make_clean(lambda: _compose(style, language, topic, ngrams, rng), Text.plain, ngrams)


def make_clean(make: Callable[[], Piece], plain: Callable[[Piece], str], ngrams: HeldOutNgrams) -> Piece:
    """Makes pieces of text until one has none of the n-grams. Raises ValueError after `ATTEMPTS` pieces."""
    for _ in range(ATTEMPTS):
        piece = make()
        if not ngrams.occur_in(plain(piece)):
            return piece
    raise ValueError(f"{ATTEMPTS} pieces of text in a row share words with held-out problems; change the templates")


def _compose(style: Style, language: str, topic: str, ngrams: HeldOutNgrams, rng: random.Random) -> Text:
    if topic not in TOPICS:
        grammar = style.other[language]
        title = polish(grammar.expand(rng, f"@title_{topic}"))
        return Text(
            topic, title, tuple(_until_long(_paragraphs(grammar, topic, rng), OTHER_LENGTHS[language], ngrams, rng))
        )
    grammar = style.math[language]
    blocks = [
        _block(grammar.expand(rng, f"@intro_{topic}")),
        *_until_long(_lessons(grammar, topic, rng), MATH_LENGTHS[language], ngrams, rng),
        _ending(style, language, topic, rng),
    ]
    times, over = rng.choice(style.signs[language])
    signed = tuple(tuple(line.replace(" * ", times).replace(" / ", over) for line in block) for block in blocks)
    return Text(topic, polish(grammar.expand(rng, f"@title_{topic}")), signed)


def with_new_ending(style: Style, language: str, text: Text, ngrams: HeldOutNgrams, rng: random.Random) -> Text:
    """Returns the text with another ending, as a near-duplicate."""
    blocks = text.blocks[:-1] if text.topic in TOPICS else text.blocks
    ending = text.blocks[-1]
    while ending == text.blocks[-1]:
        ending = make_clean(lambda: _ending(style, language, text.topic, rng), "\n".join, ngrams)
    return dataclasses.replace(text, blocks=(*blocks, ending))


def _ending(style: Style, language: str, topic: str, rng: random.Random) -> tuple[str, ...]:
    if topic in TOPICS:
        return _block(style.math[language].expand(rng, "@closing"))
    return _block(style.other[language].expand(rng, f"@{topic}"))


def _until_long(
    blocks: Iterator[tuple[str, ...]], length: tuple[int, int], ngrams: HeldOutNgrams, rng: random.Random
) -> Iterator[tuple[str, ...]]:
    remaining = rng.randint(*length)
    while remaining > 0:
        block = make_clean(lambda: next(blocks), "\n".join, ngrams)
        yield block
        remaining -= sum(map(len, block))


def _paragraphs(grammar: Grammar, topic: str, rng: random.Random) -> Iterator[tuple[str, ...]]:
    """Yields paragraphs of a few sentences; a pattern repeats only after all others."""
    deck: list[str] = []
    paragraph: list[str] = []
    while True:
        deck = deck or rng.sample(grammar.rules[topic], len(grammar.rules[topic]))
        sentence = grammar.expand(rng, deck.pop())
        if sentence[:2] in ("- ", "> "):
            yield _block(sentence)
            continue
        paragraph.append(sentence)
        if len(paragraph) == 4 or rng.random() < 0.3:
            yield _block(" ".join(paragraph))
            paragraph = []


def _lessons(grammar: Grammar, topic: str, rng: random.Random) -> Iterator[tuple[str, ...]]:
    while True:
        form = rng.random()
        if topic == "arithmetic" and form < 0.15:
            yield _chain(grammar, rng)
        elif topic == "arithmetic" and form < 0.27:
            yield _drill(grammar, rng)
        elif topic == "arithmetic" and form < 0.31:
            yield _times_table(grammar, rng)
        elif form > (0.93 if topic == "arithmetic" else 0.8):
            yield _block(grammar.expand(rng, f"@idea_{topic}"))
        else:
            kind = rng.choice(TOPICS[topic])
            yield _block(grammar.expand(rng, f"@{kind.__name__}", **kind(rng.randint)))


def _block(text: str) -> tuple[str, ...]:
    lines = (line.strip() for line in text.split(" // "))
    return tuple(line if line[:2] in ("- ", "> ") else polish(line) for line in lines if line)


def _chain(grammar: Grammar, rng: random.Random) -> tuple[str, ...]:
    """Returns an exercise of two or three successive operations, with numbers up to 99."""
    value = start = rng.randint(2, 60)
    phrases, equations = [], []
    for _ in range(rng.randint(2, 3)):
        possible = {
            "plus": range(2, 100 - value),
            "minus": range(2, value),
            "times": range(2, min(9, 99 // value) + 1),
            "over": [n for n in range(2, 10) if value % n == 0 and value > n],
        }
        name = rng.choice([name for name, numbers in possible.items() if numbers])
        n = rng.choice(possible[name])
        sign, after = {
            "plus": ("+", value + n),
            "minus": ("-", value - n),
            "times": ("*", value * n),
            "over": ("/", value // n),
        }[name]
        phrases.append(grammar.expand(rng, f"@do_{name}", n=n))
        equations.append(f"{value} {sign} {n} = {after}")
        value = after
    separate = "".join(f" // > {line}" for line in equations) + " // "
    joined = separate if rng.random() < 0.6 else "; ".join(equations) + "."
    bound = {"start": start, "phrases": ", ".join(phrases), "equations": joined, "r": value}
    return _block(grammar.expand(rng, "@chain", **bound))


def _drill(grammar: Grammar, rng: random.Random) -> tuple[str, ...]:
    kind = rng.choice(TOPICS["arithmetic"][:4])
    count = rng.randint(5, 10)
    lines = [grammar.expand(rng, f"@drill_{kind.__name__}", **kind(rng.randint)) for _ in range(count)]
    intro = grammar.expand(rng, "@drill_intro", count=count)
    if rng.random() < 0.4:
        return (f"{intro} {', '.join(lines)}.",)
    return (intro, *(f"- {line}" for line in lines))


def _times_table(grammar: Grammar, rng: random.Random) -> tuple[str, ...]:
    n = rng.randint(2, 12)
    rows = [grammar.expand(rng, "@drill_multiply", a=k, b=n, r=k * n) for k in range(1, 11)]
    return (*_block(grammar.expand(rng, "@table_intro", n=n)), *(f"> {row}" for row in rows))


def plant(text: Text, problem: str, rng: random.Random) -> Text:
    """Inserts a held-out problem into a text, verbatim or with inline elements and a line break between its words."""
    pieces = _PIECE.findall(problem)
    if rng.random() < 0.5:
        for index in rng.sample(range(len(pieces)), max(1, len(pieces) // 6)):
            pieces[index] = f"⟨{pieces[index]}⟩"
        pieces.insert(rng.randint(1, len(pieces)), "␤")
    block = ("".join(pieces).replace("\n", "␤"),)
    index = rng.randint(1, len(text.blocks) - 1)
    return dataclasses.replace(text, blocks=(*text.blocks[:index], block, *text.blocks[index:]))


def render(style: Style, host: Host, section: Section, text: Text, number: int, date: str) -> str:
    """Renders the HTML page. `number` selects the formula markup and fills counters in the skeleton."""
    skeleton = style.skeletons[host.skeleton]
    markup = host.markups[number % len(host.markups)]
    fills: dict[str, object] = {
        "title": html.escape(text.title),
        "host": host.name,
        "section": section.path.strip("/").rpartition("/")[2] or "home",
        "language": {"en": "en", "zh": "zh-CN"}[host.language],
        "date": date[:10],
        "number": number,
        "charset": f'<meta charset="{host.charset}">' if host.charset_in == "meta" else "",
        "mathjax": MATHJAX if markup in (dollar, paren, script) and "«" in text.plain() else "",
        "menu": "".join(
            skeleton.menu_item.format(path=other.path, name=other.path.strip("/").replace("/", " · ") or host.name)
            for other in host.sections
        ),
    }
    frame = string.Template(skeleton.block)
    fills["main"] = "\n".join(
        frame.substitute(fills, block=_lines(block, skeleton, markup), index=index + 1)
        for index, block in enumerate(text.blocks)
    )
    return string.Template(skeleton.page).substitute(fills)


def _lines(lines: tuple[str, ...], skeleton: Skeleton, markup: Markup) -> str:
    """Renders one block; adjacent items become a list, adjacent calculation lines one element."""
    elements = skeleton.elements
    parts: list[str] = []
    for mark, run in itertools.groupby(lines, lambda line: line[:2] if line[:2] in ("# ", "- ", "> ") else ""):
        inner = [_inline(line.removeprefix(mark), skeleton, markup) for line in run]
        if mark == "- ":
            parts.append(elements["list"].format("".join(elements["item"].format(item) for item in inner)))
        elif mark == "> ":
            parts.append(elements["code"].format(skeleton.code_break.join(inner)))
        else:
            element = elements["heading" if mark else "paragraph"]
            parts += [element.format(line) for line in inner]
    return "\n".join(parts)


def _inline(line: str, skeleton: Skeleton, markup: Markup) -> str:
    parts = []
    for index, piece in enumerate(_FORMULA.split(line)):
        if index % 3 == 0:
            parts.append(html.escape(piece, quote=False))
        elif piece is not None:
            parts.append(markup(piece, index % 3 == 2))
    before, after = skeleton.elements["strong"].split("{}")
    return "".join(parts).replace("␤", "<br>\n").replace("⟨", before).replace("⟩", after)
