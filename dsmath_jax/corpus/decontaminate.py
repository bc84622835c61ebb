"""Finds benchmark texts in pages: by an exact n-gram of theirs, or, where they are shorter, by the whole text."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from dsmath_jax.corpus.normalize import Spans, normalize
from dsmath_jax.data.benchmarks import Record


@dataclasses.dataclass(frozen=True)
class Match:
    """Where a page repeats a benchmark: the record's id and the n-gram in normal form."""

    record: str
    ngram: str


class Benchmarks:
    """The n-grams of benchmark questions and worked solutions; never of bare answers, which any page may hold.

    Texts of at least `ngram` tokens count by each run of `ngram` tokens, shorter ones by the whole text, and those of
    fewer than `min_ngram` tokens not at all. (English by word, Chinese by character: see `normalize`.)
    """

    def __init__(self, records: Iterable[Record], ngram: int = 10, min_ngram: int = 3):
        grams: dict[int, dict[int, Match]] = defaultdict(dict)
        for record in records:
            for text in (record.question, record.solution):
                spans = Spans(normalize(text))
                n = min(ngram, len(spans))
                if n >= min_ngram:
                    for position, key in enumerate(spans.hashes(n).tolist()):
                        grams[n].setdefault(key, Match(record.id, spans.ngram(position, n)))
        self.grams = {n: grams[n] for n in sorted(grams, reverse=True)}
        self.keys = {n: np.sort(np.fromiter(grams[n], np.uint64, len(grams[n]))) for n in self.grams}

    def find(self, normal: str) -> Match | None:
        """The first match in a page's normal form, the longest n-grams before shorter ones; None where it is clean."""
        return next(self._matches(Spans(normal)), None)

    def _matches(self, spans: Spans) -> Iterator[Match]:
        for n, keys in self.keys.items():
            hashes = spans.hashes(n)
            near = np.minimum(np.searchsorted(keys, hashes), len(keys) - 1)
            for position in np.flatnonzero(keys[near] == hashes).tolist():
                match = self.grams[n][int(hashes[position])]
                if match.ngram == spans.ngram(position, n):  # equal hashes of other words are no match
                    yield match
