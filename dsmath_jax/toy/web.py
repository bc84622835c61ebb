"""Generates a synthetic web from a seed: WARC files, seed prefixes and the label of every page."""

import dataclasses
import datetime
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dsmath_jax.toy.held_out import NGRAM, HeldOutNgrams, words
from dsmath_jax.toy.pages import Text, compose, plant, render, with_new_ending
from dsmath_jax.toy.quantities import TOPICS
from dsmath_jax.toy.templates import Host, Section, Style
from dsmath_jax.toy.templates_default import STYLE
from dsmath_jax.toy.warc import Capture, write_warc
from dsmath_jax.workdir import atomic_write, write_jsonl

CONTAMINATED_SHARE = 0.05  # of the distinct mathematical pages
DUPLICATE_SHARE = 0.07  # of all pages: the same bytes under another URL, captured earlier
NEAR_DUPLICATE_SHARE = 0.04  # of all pages: different only in the last block
NON_PAGE_SHARE = 0.1  # redirects, errors and files other than HTML, in addition to the pages
PAGES_PER_FILE = 400
FIRST_NUMBER = 1001
FIRST_DAY = datetime.datetime(2024, 3, 1)
DAYS = 120


@dataclasses.dataclass(frozen=True)
class Page:
    """One HTML page of the crawl with its label. `written` is the date that the page shows."""

    host: Host
    section: Section
    text: Text
    url: str
    number: int
    written: str
    captured: str
    contaminated: bool = False

    @property
    def label(self) -> str:
        """The label of the page: math or other."""
        return "math" if self.text.topic in TOPICS else "other"


def write_web(folder: Path, seed: int, held_out: Sequence[str], pages: int, style: Style = STYLE) -> None:
    """Writes `crawl/toy-*.warc.gz`, `crawl/seeds.txt` and `crawl/labels.jsonl` below `folder`.

    Args:
      folder: the data folder.
      seed: the same arguments write the same bytes.
      held_out: texts of held-out problems, questions and worked solutions separately. About 5 % of the mathematical
        pages contain one of those with at least 10 words; no other page shares 10 consecutive words with any of them,
        or contains a whole one of 3 to 9 words.
      pages: HTML pages with status 200, duplicates included. Redirects, errors and other files are in addition.
      style: the hosts, HTML skeletons and grammars that the pages are made from.

    Raises:
      ValueError: every text that the grammar writes shares words with `held_out`.
    """
    rng = random.Random(f"web {style.name} {seed}")
    written = make_pages(style, held_out, pages, rng)
    captures = [_capture(style, page, rng) for page in written]
    captures += [_non_page(style, number, rng) for number in range(round(NON_PAGE_SHARE * pages))]
    rng.shuffle(captures)
    files = max(2, -(-len(captures) // PAGES_PER_FILE))
    for index in range(files):
        write_warc(folder / "crawl" / f"toy-{index:05}.warc.gz", captures[index::files], rng)
    with atomic_write(folder / "crawl" / "seeds.txt") as file:
        for host, section in style.sections():
            if section.seeded:
                file.write(f"https://{host.name}{section.path}\n")
    write_jsonl(
        folder / "crawl" / "labels.jsonl",
        ({"url": page.url, "label": page.label, "contaminated": page.contaminated} for page in written),
    )


def make_pages(style: Style, held_out: Sequence[str], count: int, rng: random.Random) -> list[Page]:
    """Generates `count` pages: unique ones (some with a held-out problem), near-duplicates and duplicates."""
    ngrams = HeldOutNgrams(held_out)
    near, same = round(NEAR_DUPLICATE_SHARE * count), round(DUPLICATE_SHARE * count)
    pages = [
        _new_page(style, host, section, number, ngrams, rng)
        for number, (host, section) in enumerate(_assign_sections(style, count - near - same), FIRST_NUMBER)
    ]
    _plant(pages, [text for text in held_out if len(words(text)) >= NGRAM], rng)
    for page in rng.sample(pages, near):
        pages.append(_near_duplicate(style, page, FIRST_NUMBER + len(pages), ngrams, rng))
    pages += [_duplicate(page, rng) for page in rng.sample(pages, same)]
    return pages


def _assign_sections(style: Style, count: int) -> Iterator[tuple[Host, Section]]:
    """Yields the section of each of `count` pages, by the sections' shares (largest-remainder rounding)."""
    sections = style.sections()
    total = sum(section.share for _, section in sections)
    exact = [count * section.share / total for _, section in sections]
    counts = [int(share) for share in exact]
    by_fraction = sorted(range(len(exact)), key=lambda index: (counts[index] - exact[index], index))
    for index in by_fraction[: count - sum(counts)]:
        counts[index] += 1
    for section, number in zip(sections, counts, strict=True):
        yield from itertools.repeat(section, number)


def _new_page(
    style: Style, host: Host, section: Section, number: int, ngrams: HeldOutNgrams, rng: random.Random
) -> Page:
    topic = rng.choices(list(section.topics), list(section.topics.values()))[0]
    text = compose(style, host.language, topic, ngrams, rng)
    captured = FIRST_DAY + datetime.timedelta(seconds=rng.randrange(DAYS * 86_400))
    written = captured - datetime.timedelta(days=rng.randint(1, 900))
    return Page(
        host, section, text, _url(host, section, text, number), number, _timestamp(written), _timestamp(captured)
    )


def _plant(pages: list[Page], problems: Sequence[str], rng: random.Random) -> None:
    """Inserts a held-out problem into some of the English mathematical pages."""
    if not problems:
        return
    mathematical = [index for index, page in enumerate(pages) if page.label == "math"]
    english = [index for index in mathematical if pages[index].host.language == "en"]
    for index in rng.sample(english, min(len(english), max(1, round(CONTAMINATED_SHARE * len(mathematical))))):
        text = plant(pages[index].text, rng.choice(problems), rng)
        pages[index] = dataclasses.replace(pages[index], text=text, contaminated=True)


def _near_duplicate(style: Style, page: Page, number: int, ngrams: HeldOutNgrams, rng: random.Random) -> Page:
    """Returns another page of the same section with a new ending, captured earlier."""
    text = with_new_ending(style, page.host.language, page.text, ngrams, rng)
    url = _url(page.host, page.section, text, number)
    return dataclasses.replace(page, text=text, url=url, number=number, captured=_earlier(page.captured, rng))


def _duplicate(page: Page, rng: random.Random) -> Page:
    """Returns the same page under another URL, captured earlier."""
    urls = [
        f"{page.url}?utm_source=feed{rng.randint(1, 9)}&utm_medium=social",
        f"{page.url}#part-{rng.randint(2, 9)}",
        page.url.replace("https://", "http://"),
        page.url.replace(page.host.name, page.host.name.upper()),
    ]
    if page.url.endswith("/"):
        urls.append(f"{page.url}index.html")
    return dataclasses.replace(page, url=rng.choice(urls), captured=_earlier(page.captured, rng))


def _url(host: Host, section: Section, text: Text, number: int) -> str:
    slug = "-".join(re.findall(r"[a-z]+", text.title.lower())[:5]) or "page"
    return f"https://{host.name}{section.path}" + host.slug.format(words=slug, number=number)


def _timestamp(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _earlier(stamp: str, rng: random.Random) -> str:
    moment = datetime.datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")
    return _timestamp(moment - datetime.timedelta(days=rng.randint(20, 400), seconds=rng.randint(1, 86_000)))


def _capture(style: Style, page: Page, rng: random.Random) -> Capture:
    source = render(style, page.host, page.section, page.text, page.number, page.written)
    charset = page.host.charset
    declared = f"; charset={charset}" if page.host.charset_in == "header" else ""
    headers = (("Content-Type", f"text/html{declared}"), ("Server", "nginx"))
    coding = rng.choices(("identity", "gzip", "chunked"), (70, 15, 15))[0]
    return Capture(page.url, page.captured, 200, headers, source.encode(charset, "xmlcharrefreplace"), coding)


def _non_page(style: Style, number: int, rng: random.Random) -> Capture:
    """Returns a redirect, an error page, or a file other than HTML."""
    host = rng.choice(style.hosts)
    base = f"https://{host.name}{rng.choice(host.sections).path}"
    date = _timestamp(FIRST_DAY + datetime.timedelta(seconds=rng.randrange(DAYS * 86_400)))
    moved = f'<html><body>Moved: <a href="{base}">here</a></body></html>'.encode()
    gone = b"<html><head><title>404</title></head><body><h1>Not found</h1><p>Nothing is here.</p></body></html>"
    html = "text/html; charset=utf-8"
    status, name, kind, body = rng.choice(
        (
            (301, f"old-{number}", html, moved),
            (302, f"go?to={number}", html, moved),
            (404, f"missing-{number}.html", html, gone),
            (200, f"picture-{number}.png", "image/png", b"\x89PNG\r\n\x1a\n" + rng.randbytes(200)),
            (200, f"paper-{number}.pdf", "application/pdf", b"%PDF-1.4\n" + rng.randbytes(300)),
            (200, f"feed-{number}.json", "application/json", b'{"items": [1, 2, 3], "answer": 6}'),
            (200, f"notes-{number}.txt", "text/plain; charset=utf-8", b"12 + 30 = 42, a plain note.\n"),
        )
    )
    location = (("Location", base),) if status in (301, 302) else ()
    return Capture(f"{base}{name}", date, status, (("Content-Type", kind), *location), body)
