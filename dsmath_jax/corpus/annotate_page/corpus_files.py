"""Reads a finished corpus stage for the annotation page, one host at a time."""

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

HOST_PAGES = 100_000  # samples come from the first pages of a host, in the order of reading
HOSTS_KEPT = 2
PREFIX_COLUMNS = ["prefix", "pages", "collected"]
PAGE_COLUMNS = ["id", "url", "language", "tokens", "score", "iteration"]


@dataclasses.dataclass(frozen=True)
class PathTree:
    """The prefixes of one host, sorted, so that the prefixes below one follow it; arrays are [prefixes].

    `depth` counts slashes: 1 for the prefix of the host itself.
    """

    prefixes: pa.Array
    pages: np.ndarray
    collected: np.ndarray
    depth: np.ndarray

    def below(self, prefix: str) -> slice:
        """Returns the rows whose prefix starts with `prefix`, which need not be a row itself."""
        return slice(self._index(prefix), self._index(prefix + "\U0010ffff"))

    def contains(self, prefix: str) -> bool:
        """Returns whether a prefix is in the tree."""
        index = self._index(prefix)
        return index < len(self.prefixes) and self.prefixes[index].as_py() == prefix

    def counts(self, prefix: str) -> tuple[int, int]:
        """Counts pages and collected pages below any prefix of a path, even one that ends within a name."""
        rows = self.below(prefix)
        top = self.depth[rows] == prefix.count("/") + (not prefix.endswith("/"))
        return int(self.pages[rows][top].sum()), int(self.collected[rows][top].sum())

    def children(self, prefix: str, offset: int, limit: int) -> dict:
        """Returns one level below `prefix` ("" for the roots), most pages first.

        Returns:
          {"rows": [{"prefix", "pages", "collected", "children"}], "left": the number of further rows}.
        """
        rows = self.below(prefix)
        level = np.flatnonzero(self.depth[rows] == prefix.count("/") + 1) + rows.start
        ordered = level[np.argsort(-self.pages[level], kind="stable")]
        shown = ordered[offset : offset + limit].tolist()
        return {"rows": [self._row(index) for index in shown], "left": len(ordered) - offset - len(shown)}

    def _row(self, index: int) -> dict:
        prefix = self.prefixes[index].as_py()
        children = self.depth[self.below(prefix)] == self.depth[index] + 1
        return {
            "prefix": prefix,
            "pages": int(self.pages[index]),
            "collected": int(self.collected[index]),
            "children": int(children.sum()),
        }

    def _index(self, prefix: str) -> int:
        return bisect_left(range(len(self.prefixes)), prefix, key=lambda index: self.prefixes[index].as_py())


@dataclasses.dataclass(frozen=True)
class HostPages:
    """The candidates of one host; `complete` is False if only its first ones were read."""

    table: pa.Table
    canonical: list[str]
    complete: bool


class CorpusFiles:
    """The files below `workdir/corpus`.

    Attributes:
      domains: math-related hosts, {"host", "pages", "collected", "share"} each, most uncollected pages first.
      tree: a function from a host to its `PathTree`.
      pages: a function from a host to its `HostPages`.

    Raises:
      UserError: the corpus stage has not finished, or a file is missing or invalid.
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
        """Counts the uncollected pages below some canonical prefixes that end at a slash, in one pass over the file."""
        condition = ds.field("prefix").isin(pa.array(prefixes, pa.string()))
        rows = self._prefixes.to_table(columns=PREFIX_COLUMNS, filter=condition).to_pylist()
        return dict.fromkeys(prefixes, 0) | {row["prefix"]: row["pages"] - row["collected"] for row in rows}

    def samples(self, host: str, prefix: str, number: int, size: int) -> dict:
        """Returns sample `number` of the pages below a prefix, half of them collected if there are enough of both.

        The order of the pages depends on the prefix alone; the next number continues in it and wraps around.

        Returns:
          {"collected": [page...], "uncollected": [page...], "pages": the number of pages below the prefix, "read": the
          number of pages of the host that were read, "complete": whether these are all}; a page is {"id", "url",
          "language", "tokens", "score"}.
        """
        pages = self.pages(host)
        below = [index for index, url in enumerate(pages.canonical) if url.startswith(prefix)]
        order = np.random.default_rng(zlib.crc32(prefix.encode())).permutation(below).astype(int)
        collected = pages.table.column("iteration").is_valid().to_numpy()[order]
        hits, misses = order[collected].tolist(), order[~collected].tolist()
        count = min(len(hits), max(size // 2, size - len(misses)))
        return {
            "collected": self._describe(pages, _window(hits, number, count)),
            "uncollected": self._describe(pages, _window(misses, number, min(len(misses), size - count))),
            "pages": len(below),
            "read": len(pages.canonical),
            "complete": pages.complete,
        }

    def text(self, page: str) -> str | None:
        """Returns the text of a page by its id, or None if there is no such page; reads one row group."""
        shard, _, _ = page.rpartition("/")
        path = self.folder / "pages" / f"{shard}.parquet"
        if path.parent != self.folder / "pages" or not path.is_file():
            return None
        rows = ds.dataset(path, format="parquet").to_table(columns=["text"], filter=ds.field("id") == page)
        return rows.column("text")[0].as_py() if len(rows) else None

    def with_scheme(self, host: str, prefix: str) -> str:
        """Returns a canonical prefix as a URL prefix, with the scheme of a page below it.

        Raises:
          UserError: no URL prefix has this canonical form.
        """
        pages = self.pages(host)
        index = next((index for index, url in enumerate(pages.canonical) if url.startswith(prefix)), None)
        first = "https" if index is None else pages.table.column("url")[index].as_py().partition("://")[0].lower()
        for scheme in (first, "https", "http"):
            if urls.canonical_prefix(f"{scheme}://{prefix}") == prefix:
                return f"{scheme}://{prefix}"
        raise UserError(f"{prefix} cannot be written as a URL prefix; mark the folder above it.")

    def _open(self, name: str, columns: list[str]) -> Any:
        path = self.folder / name
        try:
            dataset = ds.dataset(path, format="parquet")
        except (OSError, pa.ArrowInvalid):
            raise UserError(f"{path} is not a valid Parquet file; run the corpus stage again.") from None
        missing = [column for column in columns if column not in dataset.schema.names]
        if missing:
            raise UserError(f"{path} lacks the column '{missing[0]}'; run the corpus stage again.")
        return dataset

    def _read_domains(self) -> list[dict]:
        path = self.folder / "summary.json"
        try:
            rows = [row for row in read_json(path)["domains"] if row["math_related"]]
            names = ("host", "pages", "collected", "share")
            domains = [{name: row[name] for name in names} for row in rows]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{path} has no valid list of domains; run the corpus stage again.") from None
        return sorted(domains, key=lambda row: (row["collected"] - row["pages"], row["host"]))

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
        condition = (ds.field("host") == host) & ds.field("score").is_valid()
        tables = [self._decisions.schema.empty_table().select(PAGE_COLUMNS)]
        rows = 0
        for group in self._groups(ds.field("host") == host):
            tables.append(group.to_table(columns=PAGE_COLUMNS, filter=condition))
            rows += len(tables[-1])
            if rows > HOST_PAGES:
                break
        table = pa.concat_tables(tables).slice(0, HOST_PAGES)
        canonical = [urls.canonical(url) for url in table.column("url").to_pylist()]
        return HostPages(table, canonical, rows <= HOST_PAGES)

    def _groups(self, condition: ds.Expression) -> Iterator[Any]:
        """Yields the row groups of the decisions that have a host; reads only the small column of hosts.

        If the file is sorted by host, its statistics exclude nearly all groups.
        """
        for file in self._decisions.get_fragments(condition):
            yield from (group for group in file.split_by_row_group(condition) if group.count_rows(filter=condition))

    @staticmethod
    def _describe(pages: HostPages, indices: list[int]) -> list[dict]:
        rows = pages.table.select(["id", "url", "language", "tokens", "score"]).take(pa.array(indices, pa.int64()))
        return rows.to_pylist()


def _window(indices: list[int], number: int, size: int) -> list[int]:
    """Returns the `number`-th window of `size` indices, wrapping around."""
    return [indices[(number * size + step) % len(indices)] for step in range(size)]
