"""Copies of a crawl under other hosts: as large and varied, without near-duplicates of the original pages."""

import gzip
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from dsmath_jax.corpus.reading.warc import Page, read_pages

# Text between tags; a script or a style sheet has a brace or semicolon sooner or later, and stays whole.
TEXT = re.compile(r">([^<>{};]{2,})<")
WORD = re.compile(r"(?<![\\&\w])[a-z]{3,}\b|[\u4e00-\u9fff]")
HOST = re.compile(r"(?<=://)")
SHARE = 1 / 4  # of the words is exchanged. A quarter of the runs of 5 stays, so two copies share about 1 in 20.


def write_copy(sources: Sequence[str], number: int, target: Path) -> None:
    """Writes the pages of some WARC files as one file, each under another host and with some words exchanged.

    The words come from the same page, so that the vocabulary does not grow with the number of copies.
    """
    with open(target, "wb") as file:
        for source in sources:
            for page in read_pages(source, Counter()):
                file.write(gzip.compress(_record(page, number), 1, mtime=0))


def copy_url(url: str, number: int) -> str:
    """Returns the URL of a copy of a page, or the prefix of copies of the pages below a URL prefix."""
    return HOST.sub(f"copy{number}.", url, count=1)


def _record(page: Page, number: int) -> bytes:
    random = Random(f"{number} {page.url}")
    body = exchange(page.body, random).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body
    fields = {
        "WARC-Type": "response",
        "WARC-Target-URI": copy_url(page.url, number),
        "WARC-Date": page.date,
        "Content-Type": "application/http; msgtype=response",
        "Content-Length": len(answer),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"WARC/1.0\r\n{head}\r\n".encode() + answer + b"\r\n\r\n"


def exchange(html: str, random: Random) -> str:
    """Replaces some words of the visible text by other words of it."""
    words = list(_words(html))

    def other(word: re.Match[str]) -> str:
        return random.choice(words) if random.random() < SHARE else word[0]

    return TEXT.sub(lambda text: f">{WORD.sub(other, text[1])}<", html)


def _words(html: str) -> Iterator[str]:
    for text in TEXT.finditer(html):
        yield from WORD.findall(text[1])
