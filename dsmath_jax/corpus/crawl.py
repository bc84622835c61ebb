"""The pages of all shards as one table of numbers, with their duplicates found and their labels beside them."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsmath_jax.corpus import dedup, pages
from dsmath_jax.workdir import UserError


@dataclasses.dataclass(frozen=True)
class Crawl:
    """All pages read, in input order; arrays are [pages].

    by_url and kept are page numbers: which page stands for the URL, and which for the group of near-duplicates.
    candidate marks the pages that mining is about: those that stand for themselves and have text.
    math is 1 for a candidate labelled as mathematics, 0 for one labelled as other, -1 for all other pages.
    planted marks pages labelled as contaminated.
    """

    shards: list[Path]
    index: pa.Table
    by_url: np.ndarray
    kept: np.ndarray
    tokens: np.ndarray
    candidate: np.ndarray
    math: np.ndarray
    planted: np.ndarray

    def column(self, name: str) -> list:
        return self.index.column(name).to_pylist()

    def shard_bodies(self, shard: int, name: str, wanted: np.ndarray) -> list[tuple[int, str]]:
        """Page number and body (`text` or `normal`) of the pages of one shard with wanted[page]."""
        rows = pages.shard_rows(self.shards)[shard]
        numbers = np.flatnonzero(wanted[rows])
        column = pq.read_table(self.shards[shard], columns=[name]).column(name).take(numbers)
        return list(zip((rows.start + numbers).tolist(), column.to_pylist(), strict=True))

    def bodies(self, name: str, wanted: np.ndarray) -> Iterator[tuple[int, str]]:
        """The bodies of all shards in input order, one shard in memory at a time."""
        for shard in range(len(self.shards)):
            yield from self.shard_bodies(shard, name, wanted)


def read_crawl(sources: list[Path], labels: dict[str, dict], folder: Path) -> Crawl:
    """Reads the WARC files to shards below `folder`, finds the duplicates among their pages and looks labels up.

    Raises:
      UserError: a file is no WARC, none holds an HTML page, or no labelled page is among those read.
    """
    shards = pages.write_shards(sources, folder)
    index = pages.read_index(shards)
    if not len(index):
        raise UserError(f"The {len(sources)} WARC file(s), {sources[0]} first, hold no HTML page; give other input.")
    urls = index.column("canonical_url").to_pylist()
    tokens = index.column("tokens").to_numpy()
    page_bands = [np.array(bands, np.uint64) for bands in index.column("bands").to_pylist()]
    by_url, kept = dedup.find_duplicates(np.array(urls), page_bands, np.array(index.column("date").to_pylist()), tokens)
    candidate = (kept == np.arange(len(index))) & np.array([len(bands) > 0 for bands in page_bands])
    if labels and not any(url in labels for url in urls):
        raise UserError("None of the labelled URLs is among the pages read; mend --config.corpus.labels.")
    math = np.full(len(urls), -1)
    for page in np.flatnonzero(candidate).tolist():
        if urls[page] in labels:
            math[page] = labels[urls[page]]["label"] == "math"
    planted = np.array([bool(labels.get(url, {}).get("contaminated")) for url in urls])
    return Crawl(shards, index, by_url, kept, tokens, candidate, math, planted)
