"""Counts the formulas of real pages that survive the conversion to text, with other extractors in the same run.

    python -m benchmarks.formulas --input='crawl/*.warc.gz'

The formulas of a page are listed from its source with another parser than the extractor's (the standard library's) and
other rules. One survives if it occurs in the text, ignoring white space and the like, as often as on the page; one of a
few letters must stand between delimiters. MathML without a source survives if a formula of the text has its letters and
digits. Formulas in menus and the like are not separated: one that is removed with boilerplate counts as lost.
"""

import argparse
import glob
import importlib
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from urllib.parse import unquote, unquote_plus

from resiliparse.extract.html2text import extract_plain_text

from dsmath_jax.corpus.reading.warc import read_pages
from dsmath_jax.corpus.text.html_text import html_to_text
from dsmath_jax.workdir import UserError, exit_code

MIGHT_HAVE = re.compile(r"\$|\\[(\[]|\\begin|<math|math/tex|annotation|latex|\btex\b|data-(?:expr|math|tex)|codecogs")
RENDERERS = re.compile(r"mathjax|katex|\bmath\b", re.IGNORECASE)  # a page with none of these has prices, not formulas
SKIPPED = frozenset("script style code pre textarea kbd samp noscript template select option title head svg tt".split())
VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())
INLINE = frozenset("a b i em strong span sub sup br wbr u s del small mark font var abbr big math-renderer".split())
DATA = ("data-expr", "data-math", "data-tex", "data-latex", "data-formula")
DELIMITED = re.compile(
    r"\$\$(?P<double>[^$]+?)\$\$|\\\((?P<round>.+?)\\\)|\\\[(?P<square>.+?)\\\]|"
    r"(?P<environment>\\begin\{(?P<name>\w+\*?)\}.+?\\end\{(?P=name)\})|(?<![\\$A-Za-z0-9])\$(?P<dollar>[^\s$][^$\n]{0,200}?)(?<![\s\\])\$(?![\d$])",
    re.DOTALL,
)
SCRIPT_TYPE = re.compile(r"math/tex\b")
IMAGE_URL = re.compile(
    r"(?:codecogs\.com/[\w.]+\?|latex\.php\?(?:.*?&)?latex=|[?&](?:tex|chl|math)=|math?tex\.cgi\?)([^&]+)"
)
DEFINITION = re.compile(r"\s*\\(?:re|provide)?(?:newcommand|DeclareMathOperator|def|require|let)\b")
NOISE = re.compile(r"%?\s*<!\[CDATA\[|%?\s*\]\]>|\s+|\\displaystyle|\\textstyle|[{}$]|\\[,;!]")
MARKUP_NOISE = re.compile(r"[_^*~\s{}$\0]|\\[,;!]")
LETTERS = re.compile(r"\\(?:begin|end)\{\w+\}|\\(?!sin|cos|tan|log|ln|exp|lim|max|min)[a-zA-Z]+|[^a-zA-Z0-9]")
SHORT = 5


class Lister(HTMLParser):
    """Lists (kind, formula) of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.formulas: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text: list[str] = []  # of the current block; "\0" in place of markup
        self.source: list[str] | None = None  # text of a script, annotation or <math>
        self.kind, self.listed = "", False  # whether the formula of the open <math> is listed
        self.listed_at = 10**9  # how many elements were open at the last data attribute with a formula

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "script" and SCRIPT_TYPE.match(values.get("type", "")):
            self.source, self.kind = [], "script math/tex"
        elif tag == "annotation" and "tex" in values.get("encoding", "").lower():
            self.source, self.kind, self.listed = [], "annotation", True
        elif tag == "math":
            self.source, self.kind, self.listed = [], "MathML alone", False
            if values.get("alttext"):
                self.formulas.append(("alttext", values["alttext"]))
                self.listed = True
        elif tag == "img":
            url = IMAGE_URL.search(values.get("src", ""))
            named = re.search(r"\b(?:latex|tex|math)\b", values.get("class", ""))
            if url:
                self.formulas.append(("image", (unquote_plus if "latex=" in values["src"] else unquote)(url[1])))
            elif values.get("alt") and named:
                self.formulas.append(("image", values["alt"]))
        within = len(self.open) > self.listed_at  # in an element whose formula is listed
        if tag == "math" and (within or "mjx-container" in self.open):
            self.listed = True
        source = next((values[name] for name in DATA if re.search(r"[\\^_=]", values.get(name, ""))), "")
        if source and not within:
            self.formulas.append(("data attribute", source))
            self.listed_at = self.open.index("mjx-container") if "mjx-container" in self.open else len(self.open)
        if tag not in VOID:
            self.open.append(tag)
        if tag in INLINE:
            self.text.append("\0" if tag != "span" else "")
        elif tag not in ("script", "img"):
            self.end_block()
        if tag in SKIPPED:
            self.text.append("\x01")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("annotation", "script", "math") and self.source is not None:
            source = "".join(self.source)
            if source.strip() and not (self.kind == "MathML alone" and self.listed):
                self.formulas.append((self.kind, source))
            self.source = None
        if tag in self.open:
            while self.open.pop() != tag:
                pass
            self.listed_at = self.listed_at if len(self.open) > self.listed_at else 10**9
        if tag in INLINE:
            self.text.append("\0" if tag != "span" else "")
        elif tag not in ("script", "img"):
            self.end_block()

    def handle_data(self, data: str) -> None:
        if self.source is not None:
            self.source.append(data)
        elif not SKIPPED.intersection(self.open) and "math" not in self.open and "mjx-container" not in self.open:
            self.text.append(data)

    def end_block(self) -> None:
        """Lists the delimited formulas of the text since the start of the block."""
        text, self.text = "".join(self.text), []
        if "$" not in text and "\\" not in text:
            return
        for match in DELIMITED.finditer(text):
            kind = match.lastgroup if match.lastgroup != "name" else "environment"
            formula = match[kind or 0]
            prose = kind == "dollar" and not re.search(r"[\\^_=<>+]", formula) and len(formula.replace("\0", "")) > 2
            if "\x01" in formula or prose or DEFINITION.match(formula) or not formula.strip("\0 \n"):
                continue
            names = {"double": "$$ $$", "round": r"\( \)", "square": r"\[ \]", "dollar": "$ $"}
            self.formulas.append(
                ("markup inside" if "\0" in formula else names.get(kind or "", r"\begin \end"), formula)
            )


def formulas(html: str) -> list[tuple[str, str]]:
    """Returns the formulas of a page's source as (kind, LaTeX), in order; none for a page that renders no formulas."""
    if not MIGHT_HAVE.search(html) or not RENDERERS.search(html):
        return []
    lister = Lister()
    lister.feed(html)
    lister.close()
    lister.end_block()
    return lister.formulas


def survivors(listed: list[tuple[str, str]], text: str) -> Iterator[tuple[str, str, bool]]:
    """Yields kind, formula and whether it is in the text; an occurrence in the text counts for one on the page."""
    plain, unmarked = NOISE.sub("", text), MARKUP_NOISE.sub("", text)
    delimited = [next(filter(None, match.groups())) for match in DELIMITED.finditer(text)]
    short = Counter(NOISE.sub("", formula) for formula in delimited)
    letters = Counter("".join(sorted(LETTERS.sub("", formula))) for formula in delimited)
    used: Counter[str] = Counter()
    for kind, formula in listed:
        if kind == "markup inside":
            key = MARKUP_NOISE.sub("", formula)
            available = unmarked.count(key)
        elif kind == "MathML alone":
            key = "".join(sorted(LETTERS.sub("", formula)))
            available = letters[key]
        else:
            key = NOISE.sub("", formula)
            available = short[key] + plain.count(key) * (len(key) >= SHORT)
        used[kind + key] += 1
        yield kind, formula, used[kind + key] <= available


def extractors() -> dict[str, Callable[[str], str]]:
    """Returns ours and the others that are installed, by name."""
    every = {"dsmath_jax": html_to_text, "resiliparse": lambda html: extract_plain_text(html, main_content=True)}
    try:
        trafilatura = importlib.import_module("trafilatura")
    except ImportError:
        return every
    return {**every, "trafilatura": lambda html: trafilatura.extract(html, include_comments=False) or ""}


def measure(
    pages: list[str], listed: list[list[tuple[str, str]]], extract: Callable[[str], str]
) -> tuple[dict, list[float], float]:
    """Returns counts by kind [pages, formulas, survived], the share of each page with formulas, and CPU seconds."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    shares, seconds = [], 0.0
    for html, on_page in zip(pages, listed, strict=True):
        start = time.process_time()
        text = extract(html)
        seconds += time.process_time() - start
        results = list(survivors(on_page, text))
        for kind in {kind for kind, _ in on_page}:
            survived = [alive for other, _, alive in results if other == kind]
            new = (1, len(survived), sum(survived))
            counts[kind] = [before + more for before, more in zip(counts[kind], new, strict=True)]
        if results:
            shares.append(sum(alive for _, _, alive in results) / len(results))
    return counts, shares, seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table for each extractor.

    Raises:
      UserError: no file matches.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="a glob of WARC files")
    paths = sorted(glob.glob(parser.parse_args(arguments).input))
    if not paths:
        raise UserError("No file matches --input; give a glob of WARC files in quotes.")
    pages = [page.body for path in paths for page in read_pages(path, Counter()) if page.is_html]
    listed = [formulas(html) for html in pages]
    for name, extract in extractors().items():
        counts, shares, seconds = measure(pages, listed, extract)
        print(f"\n{name}: {len(pages) / seconds:.0f} pages/s per core")
        print(f"{'kind':<18}{'pages':>7}{'formulas':>10}{'survived':>10}{'%':>7}")
        total = [len(shares), *(sum(row[column] for row in counts.values()) for column in (1, 2))]
        for kind, row in [*sorted(counts.items()), ("all", total)]:
            print(f"{kind:<18}{row[0]:>7}{row[1]:>10}{row[2]:>10}{100 * row[2] / max(row[1], 1):>7.1f}")
        print(f"{'average of pages':<35}{'':>10}{100 * sum(shares) / max(len(shares), 1):>7.1f}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
