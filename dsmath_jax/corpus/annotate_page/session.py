"""One session of the annotation page: the corpus, the marks, the visited domains."""

import re
from collections import defaultdict
from typing import Any

from dsmath_jax.corpus.annotate_page.corpus_files import CorpusFiles
from dsmath_jax.corpus.annotations import Line, Store, outermost
from dsmath_jax.mathml import parts

TREE_ROWS = 50
SAMPLE_PAGES = 8
EXCERPT, WHOLE = (1_200, 16), (100_000, 10_000)  # characters and lines of a page that are sent at most
WORD_END = re.compile(r"\s+\S*\Z")


class Unknown(Exception):
    """A request for a domain, prefix or page that the corpus does not have."""


class Session:
    """Answers the requests of the page with values that JSON can represent."""

    def __init__(self, corpus: CorpusFiles, store: Store):
        self.corpus = corpus
        self.store = store
        self._domains = {row["host"]: row for row in corpus.domains}
        self._opened: set[str] = set()
        self._uncollected: dict[str, int] = {}

    def changes(self) -> dict:
        """Returns the version of the annotation file and the errors of its invalid lines."""
        return {"errors": self.store.errors(), "version": self.store.version, "undo": self.store.can_undo()}

    def domains(self) -> dict:
        """Returns all math-related domains; `undecided` counts uncollected pages below no annotated prefix."""
        marks = self._marks_by_host()
        self._count({prefix: host for host in marks for prefix in outermost(marks[host])})
        return {
            "file": str(self.store.path),
            "domains": [self._domain(row, marks.get(row["host"], {})) for row in self._domains.values()],
            **self.changes(),
        }

    def domain(self, host: str) -> dict:
        """Returns the marks of a domain and the roots of its path tree; marks the domain as visited."""
        self._check(host)
        self._opened.add(host)
        return {**self._state(host), "tree": self.corpus.tree(host).children("", 0, TREE_ROWS)}

    def tree(self, host: str, prefix: str, offset: int) -> dict:
        """Returns the children of a prefix from `offset` on."""
        self._check(host, prefix)
        return self.corpus.tree(host).children(prefix, offset, TREE_ROWS)

    def samples(self, host: str, prefix: str, number: int) -> dict:
        """Returns sample pages below a prefix, each with the beginning of its text."""
        self._check(host, prefix)
        sample = self.corpus.samples(host, prefix, number, SAMPLE_PAGES)
        for kind in ("uncollected", "collected"):
            sample[kind] = [{**page, **self._body(page["id"], EXCERPT)} for page in sample[kind]]
        return sample

    def page(self, page: str) -> dict:
        """Returns the text of a page, up to a limit."""
        return self._body(page, WHOLE)

    def mark(self, host: str, prefix: str, math: bool | None, note: str | None) -> dict:
        """Saves a mark; returns the new state of its domain.

        Raises:
          UserError: the mark could not be saved.
        """
        self._check(host, prefix)
        line = self.store.marks().get(prefix)
        self.store.mark(line.row["prefix"] if line and line.row else self.corpus.with_scheme(host, prefix), math, note)
        return self._state(host)

    def undo(self) -> dict:
        """Reverts the last mark; returns the state of its domain, and its prefix.

        Raises:
          UserError: there is nothing to undo, or the file could not be saved.
        """
        change = self.store.undo()
        return {**self._state(change.host), "prefix": change.prefix}

    def _state(self, host: str) -> dict:
        marks = self._marks_by_host().get(host, {})
        self._count(dict.fromkeys(outermost(marks), host))
        return {
            "host": host,
            "domain": self._domain(self._domains[host], marks) if host in self._domains else None,
            "marks": [
                {"prefix": prefix, "math": line.annotation.math, "note": line.note}
                for prefix, line in marks.items()
                if line.annotation
            ],
            **self.changes(),
        }

    def _domain(self, row: dict, marks: dict[str, Line]) -> dict[str, Any]:
        uncollected = row["pages"] - row["collected"]
        decided = sum(self._uncollected[prefix] for prefix in outermost(marks))
        looked = bool(marks) or row["host"] in self._opened
        return {**row, "undecided": max(0, uncollected - decided), "marks": len(marks), "looked": looked}

    def _marks_by_host(self) -> dict[str, dict[str, Line]]:
        """Returns the marks on math-related domains, by host and canonical prefix."""
        marks: dict[str, dict[str, Line]] = defaultdict(dict)
        for prefix, line in self.store.marks().items():
            if line.host in self._domains:
                marks[line.host][prefix] = line
        return marks

    def _count(self, hosts: dict[str, str]) -> None:
        """Counts the uncollected pages below prefixes (given with their hosts) that are not counted yet."""
        new = {prefix: host for prefix, host in hosts.items() if prefix not in self._uncollected}
        folders = sorted(prefix for prefix in new if prefix.endswith("/"))
        if folders:
            self._uncollected |= self.corpus.uncollected(folders)
        for prefix in new.keys() - set(folders):
            pages, collected = self.corpus.tree(new[prefix]).counts(prefix)
            self._uncollected[prefix] = pages - collected

    def _body(self, page: str, limits: tuple[int, int]) -> dict:
        text = self.corpus.text(page)
        if text is None:
            raise Unknown(f"The corpus has no page {page}; reload the annotation page.")
        characters, lines = limits
        cut = text if len(text) <= characters else WORD_END.sub("", text[:characters])
        cut = "\n".join(cut.split("\n")[:lines])
        return {"text": parts(cut), "left": len(text) - len(cut)}

    def _check(self, host: str, prefix: str | None = None) -> None:
        if host not in self._domains:
            raise Unknown(f"'{host}' is not a math-related domain of this corpus; reload the annotation page.")
        if prefix is not None and not self.corpus.tree(host).contains(prefix):
            raise Unknown(f"No page of {host} is below '{prefix}'; reload the annotation page.")
