"""What the annotation page reads of a finished corpus stage: one host at a time, never the whole corpus."""

import dataclasses
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from dsmath_jax.corpus import urls
from dsmath_jax.workdir import UserError, read_json

# Of a host with more pages than this, samples come from the first ones in order of reading.
HOST_PAGES = 100_000
HOSTS_KEPT = 2
PREFIX_COLUMNS = ["prefix", "pages", "collected"]
PAGE_COLUMNS = ["id", "url", "language", "tokens", "score", "iteration"]


@dataclasses.dataclass(frozen=True)
class PathTree:
    """The prefixes of one host, sorted, so that what lies below one follows it; arrays are [prefixes].

    depth counts slashes: 1 for the host's own prefix.
    """

    prefixes: pa.Array
    pages: np.ndarray
    collected: np.ndarray
    depth: np.ndarray

    def below(self, prefix: str) -> slice:
        """The rows whose prefix starts with `prefix`, which need not be a row itself."""
        return slice(self._place(prefix), self._place(prefix + "\U0010ffff"))

    def knows(self, prefix: str) -> bool:
        place = self._place(prefix)
        return place < len(self.prefixes) and self.prefixes[place].as_py() == prefix

    def counts(self, prefix: str) -> tuple[int, int]:
        """Pages and collected pages below any prefix of a path, also one that ends within a name."""
        rows = self.below(prefix)
        top = self.depth[rows] == prefix.count("/") + (not prefix.endswith("/"))
        return int(self.pages[rows][top].sum()), int(self.collected[rows][top].sum())

    def children(self, prefix: str, offset: int, limit: int) -> dict:
        """One level below `prefix` ("" for the roots), most pages first.

        Returns:
          {"rows": [{"prefix", "pages", "collected", "children"}], "left": how many come after these}.
        """
        rows = self.below(prefix)
        found = np.flatnonzero(self.depth[rows] == prefix.count("/") + 1) + rows.start
        ordered = found[np.argsort(-self.pages[found], kind="stable")]
        shown = ordered[offset : offset + limit].tolist()
        return {"rows": [self._row(place) for place in shown], "left": len(ordered) - offset - len(shown)}

    def _row(self, place: int) -> dict:
        prefix = self.prefixes[place].as_py()
        children = self.depth[self.below(prefix)] == self.depth[place] + 1
        return {
            "prefix": prefix,
            "pages": int(self.pages[place]),
            "collected": int(self.collected[place]),
            "children": int(children.sum()),
        }

    def _place(self, prefix: str) -> int:
        return bisect_left(range(len(self.prefixes)), prefix, key=lambda place: self.prefixes[place].as_py())


@dataclasses.dataclass(frozen=True)
class HostPages:
    """The pages of one host that may be collected; `complete` is false where only its first ones were read."""

    table: pa.Table
    canonical: list[str]
    complete: bool


class CorpusFiles:
    """The files below `workdir/corpus`.

    Attributes:
      domains: math-related hosts, {"host", "pages", "collected", "share"} each, most uncollected pages first.
      tree: the `PathTree` of a host.
      pages: the `HostPages` of a host.

    Raises:
      UserError: the corpus stage has not finished, or is of a version without the files needed.
    """

    def __init__(self, workdir: Path):
        self.folder = workdir / "corpus"
        for name in ("prefixes.parquet", "decisions.parquet", "summary.json", "pages"):
            if not (self.folder / name).exists():
                raise UserError(
                    f"{self.folder / name} is missing; run the corpus stage first: "
                    f"python -m dsmath_jax.main --config=CONFIG --workdir={workdir} --stages=corpus."
                )
        self._prefixes = self._open("prefixes.parquet", ["host", *PREFIX_COLUMNS])
        self._decisions = self._open("decisions.parquet", ["host", *PAGE_COLUMNS])
        self.domains = self._read_domains()
        self.tree = lru_cache(HOSTS_KEPT)(self._read_tree)
        self.pages = lru_cache(HOSTS_KEPT)(self._read_pages)

    def uncollected(self, prefixes: Sequence[str]) -> dict[str, int]:
        """Uncollected pages below each of some canonical prefixes that end at a slash, in one pass over the file."""
        chosen = ds.field("prefix").isin(pa.array(prefixes, pa.string()))
        rows = self._prefixes.to_table(columns=PREFIX_COLUMNS, filter=chosen).to_pylist()
        return dict.fromkeys(prefixes, 0) | {row["prefix"]: row["pages"] - row["collected"] for row in rows}

    def samples(self, host: str, prefix: str, number: int, size: int) -> dict:
        """Sample `number` of the pages below a prefix, half of them collected where there are enough of both.

        The pages come in an order that depends on the prefix alone; the next number goes on in it and begins anew
        at its end.

        Returns:
          {"collected": [page...], "uncollected": [page...], "pages": how many to choose from,
          "read": of how many pages of the host, "complete": whether these are all}; a page is
          {"id", "url", "language", "tokens", "score"}.
        """
        pages = self.pages(host)
        below = [place for place, url in enumerate(pages.canonical) if url.startswith(prefix)]
        order = np.random.default_rng(zlib.crc32(prefix.encode())).permutation(below).astype(int)
        collected = pages.table.column("iteration").is_valid().to_numpy()[order]
        hits, misses = order[collected].tolist(), order[~collected].tolist()
        wanted = min(len(hits), max(size // 2, size - len(misses)))
        return {
            "collected": self._describe(pages, _window(hits, number, wanted)),
            "uncollected": self._describe(pages, _window(misses, number, min(len(misses), size - wanted))),
            "pages": len(below),
            "read": len(pages.canonical),
            "complete": pages.complete,
        }

    def text(self, page: str) -> str | None:
        """The text of a page by its id, None where there is no such page; reads one row group."""
        shard, _, _ = page.rpartition("/")
        path = self.folder / "pages" / f"{shard}.parquet"
        if path.parent != self.folder / "pages" or not path.is_file():
            return None
        found = ds.dataset(path, format="parquet").to_table(columns=["text"], filter=ds.field("id") == page)
        return found.column("text")[0].as_py() if len(found) else None

    def with_scheme(self, host: str, prefix: str) -> str:
        """A canonical prefix as a URL prefix, with the scheme of a page below it.

        Raises:
          UserError: no URL prefix has this canonical form.
        """
        pages = self.pages(host)
        place = next((place for place, url in enumerate(pages.canonical) if url.startswith(prefix)), None)
        found = "https" if place is None else pages.table.column("url")[place].as_py().partition("://")[0].lower()
        for scheme in (found, "https", "http"):
            if urls.canonical_prefix(f"{scheme}://{prefix}") == prefix:
                return f"{scheme}://{prefix}"
        raise UserError(f"{prefix} cannot be written as a URL prefix; mark the folder above it.")

    def _open(self, name: str, columns: list[str]) -> Any:
        path = self.folder / name
        try:
            dataset = ds.dataset(path, format="parquet")
        except (OSError, pa.ArrowInvalid):
            raise UserError(f"{path} is no readable Parquet file; run the corpus stage again.") from None
        missing = [column for column in columns if column not in dataset.schema.names]
        if missing:
            raise UserError(f"{path} lacks the column '{missing[0]}'; run the corpus stage again.")
        return dataset

    def _read_domains(self) -> list[dict]:
        path = self.folder / "summary.json"
        try:
            rows = [row for row in read_json(path)["domains"] if row["math_related"]]
            names = ("host", "pages", "collected", "share")
            found = [{name: row[name] for name in names} for row in rows]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{path} lists no domains that can be read; run the corpus stage again.") from None
        return sorted(found, key=lambda row: (row["collected"] - row["pages"], row["host"]))

    def _read_tree(self, host: str) -> PathTree:
        table = self._prefixes.to_table(columns=PREFIX_COLUMNS, filter=ds.field("host") == host).sort_by("prefix")
        prefixes = table.column("prefix").combine_chunks()
        return PathTree(
            prefixes,
            table.column("pages").to_numpy(),
            table.column("collected").to_numpy(),
            pc.count_substring(prefixes, "/").to_numpy(),
        )

    def _read_pages(self, host: str) -> HostPages:
        chosen = (ds.field("host") == host) & ds.field("score").is_valid()
        tables = [self._decisions.schema.empty_table().select(PAGE_COLUMNS)]
        rows = 0
        for group in self._groups(ds.field("host") == host):
            tables.append(group.to_table(columns=PAGE_COLUMNS, filter=chosen))
            rows += len(tables[-1])
            if rows > HOST_PAGES:
                break
        table = pa.concat_tables(tables).slice(0, HOST_PAGES)
        canonical = [urls.canonical(url) for url in table.column("url").to_pylist()]
        return HostPages(table, canonical, rows <= HOST_PAGES)

    def _groups(self, chosen: ds.Expression) -> Iterator[Any]:
        """The row groups of the decisions that hold a host, found by its column alone, a small one.

        Where the file is sorted by host, its statistics rule nearly all groups out unread.
        """
        for file in self._decisions.get_fragments(chosen):
            yield from (group for group in file.split_by_row_group(chosen) if group.count_rows(filter=chosen))

    @staticmethod
    def _describe(pages: HostPages, places: list[int]) -> list[dict]:
        rows = pages.table.select(["id", "url", "language", "tokens", "score"]).take(pa.array(places, pa.int64()))
        return rows.to_pylist()


def _window(places: list[int], number: int, size: int) -> list[int]:
    """`size` of the places from the number-th such stretch on, in a circle."""
    return [places[(number * size + step) % len(places)] for step in range(size)]
