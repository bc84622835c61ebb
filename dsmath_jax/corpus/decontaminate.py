"""Finds benchmark texts in pages by exact n-gram match; shorter texts match as a whole (paper section 2.1)."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from dsmath_jax.corpus.normalize import Spans, normalize
from dsmath_jax.data.datasets import Record

SIEVE_BITS = 22
SIGNS = re.compile(r"[=+<>] ")
WORDLESS = re.compile(r"(?:(?:[a-z]|[\d.]+)(?: |$))*")


def words(normal: str) -> str:
    """Removes `= + < >` from a normalized text: pages lose them with formulas as pictures or without punctuation."""
    return SIGNS.sub("", f"{normal} ").rstrip()


@dataclasses.dataclass(frozen=True)
class Gram:
    """A normalized n-gram and the first benchmark record that has it."""

    record: str
    ngram: str


@dataclasses.dataclass(frozen=True)
class Match:
    """An n-gram that a page shares with a benchmark: the tokens `start` to `stop` of its `words`."""

    gram: Gram
    start: int
    stop: int


class Benchmarks:
    """The n-grams of benchmark questions and worked solutions. Bare answers are left out: any page may have them.

    Texts of at least `ngram` tokens give each n-gram of `ngram` tokens, shorter ones the whole text, and those of fewer
    than `min_ngram` tokens nothing. (English by word, Chinese by character: see `normalize`.) N-grams of bare numbers
    and single letters are left out: any page may have 1 to 10, or x_1 to x_5.
    """

    def __init__(self, records: Iterable[Record], ngram: int = 10, min_ngram: int = 3):
        grams: dict[int, dict[int, Gram]] = defaultdict(dict)
        for record in records:
            for text in (record.question, record.solution):
                spans = Spans(words(normalize(text)))
                n = min(ngram, len(spans))
                if n >= min_ngram:
                    for position, key in enumerate(spans.hashes(n).tolist()):
                        if key not in grams[n] and not WORDLESS.fullmatch(gram := spans.ngram(position, n)):
                            grams[n][key] = Gram(record.id, gram)
        self.grams = {n: grams[n] for n in sorted(grams, reverse=True)}
        # A bitmap of hash prefixes rejects almost every n-gram of a clean page before the exact look-up.
        self.sieves = {n: np.zeros(1 << SIEVE_BITS, bool) for n in self.grams}
        for n, sieve in self.sieves.items():
            sieve[np.fromiter(self.grams[n], np.uint64, len(self.grams[n])) >> np.uint64(64 - SIEVE_BITS)] = True

    def matches(self, normal: str) -> Iterator[Match]:
        """Yields all matches in a page's normalized text, longer n-grams before shorter ones."""
        spans = Spans(words(normal))
        for n, sieve in self.sieves.items():
            hashes = spans.hashes(n)
            for position in np.flatnonzero(sieve[hashes >> np.uint64(64 - SIEVE_BITS)]).tolist():
                gram = self.grams[n].get(int(hashes[position]))
                if gram and gram.ngram == spans.ngram(position, n):  # the hashes of different n-grams may be equal
                    yield Match(gram, position, position + n)


def remove_matches(text: str, matches: Iterable[Match]) -> str:
    """Returns a page's text without the lines that overlap a match."""
    lines = text.split("\n")
    lengths = [len(words(normalize(line)).split()) for line in lines]
    ends = np.cumsum(lengths)
    hit = np.zeros(len(lines), bool)
    for match in matches:
        hit |= (ends > match.start) & (ends - lengths < match.stop)
    return "\n".join(line for line, is_hit in zip(lines, hit.tolist(), strict=True) if not is_hit).strip()
