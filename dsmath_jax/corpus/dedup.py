"""De-duplication: keeps one page per URL, then one page per group of near-duplicates (MinHash with banding).

Groups are connected components, found by the alternating algorithm of Kiveris et al. 2014 (large-star, small-star) on
dataframes, so that neither the pages nor the groups need to fit into the memory of one machine.
"""

from functools import lru_cache

import daft
import numpy as np
from daft import DataFrame, Window, col
from daft.functions import coalesce, row_number, when

from dsmath_jax.corpus.normalize import Spans, mix

BLOCK = 512  # shingles that are hashed at a time: they fit into a CPU's cache
COLUMNS = ("number", "canonical_url", "date", "tokens", "bands")


@lru_cache
def _hash_functions(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns odd multipliers and offsets, uint32 [count, 1], of a fixed family of hash functions."""
    numbers = np.arange(1, count + 1, dtype=np.uint64)[:, None]
    factors, offsets = (
        (mix(part) >> np.uint64(32)).astype(np.uint32) for part in (numbers, numbers + np.uint64(10_000))
    )
    return factors | np.uint32(1), offsets


def bands(spans: Spans, bands: int = 14, rows: int = 8, shingle: int = 5) -> np.ndarray:
    """Returns uint64 [bands]: one bucket per band of `rows` MinHash values; [0] for a page without text.

    Two pages with Jaccard similarity s share a bucket with probability 1 - (1 - s**rows)**bands: for 14 x 8 that is
    0.99 at 0.85 and 0.05 at 0.5. Different bands share no bucket. A text shorter than a shingle is one shingle.
    """
    if not len(spans):
        return np.zeros(0, np.uint64)
    shingles = (spans.hashes(min(shingle, len(spans))) >> np.uint64(32)).astype(np.uint32)
    factors, offsets = _hash_functions(bands * rows)
    minima = np.full(bands * rows, 2**32 - 1, np.uint32)
    for start in range(0, len(shingles), BLOCK):
        part = factors * shingles[start : start + BLOCK]
        part += offsets
        np.minimum(minima, part.min(1), out=minima)
    buckets = np.arange(bands, dtype=np.uint64)
    for row in minima.reshape(bands, rows).T.astype(np.uint64):
        buckets = mix(buckets ^ row)
    return buckets


def duplicates(pages: DataFrame) -> DataFrame:
    """Finds the duplicates among pages. Of a group the newest page is kept, then the longest, then the first read.

    Args:
      pages: the columns of `COLUMNS`.

    Returns:
      number of each duplicate, kept (the number of the page that is kept instead) and same_url (bool: a duplicate of
      another page under its URL; else a near-duplicate).
    """
    newest = _newest(pages, "canonical_url").collect()
    by_url = (
        pages.join(newest, on="canonical_url")
        .where(col("number") != col("kept"))
        .select("number", "kept", daft.lit(True).alias("same_url"))
    )
    unique = pages.join(by_url, on="number", how="anti").where(col("bands").length() > 0)
    grouped = unique.select("number", "date", "tokens").join(components(_edges(unique)), on="number").collect()
    near = (
        grouped.join(_newest(grouped, "root"), on="root")
        .where(col("number") != col("kept"))
        .select("number", "kept", daft.lit(False).alias("same_url"))
        .collect()
    )
    # A page that is kept for its URL may itself be a near-duplicate.
    further = near.select(col("number").alias("kept"), col("kept").alias("last"))
    by_url = by_url.join(further, on="kept", how="left").select(
        "number", coalesce(col("last"), col("kept")).alias("kept"), "same_url"
    )
    return by_url.concat(near).sort("number")


def _newest(pages: DataFrame, group: str) -> DataFrame:
    """Returns each group and `kept`, the number of its newest, then longest, then first page."""
    window = Window().partition_by(group).order_by("date", "tokens", "number", desc=[True, True, False])
    ranked = pages.select(group, "date", "tokens", "number").with_column("rank", row_number().over(window))
    return ranked.where(col("rank") == 1).select(group, col("number").alias("kept"))


def _edges(pages: DataFrame) -> DataFrame:
    """Returns high, low: each page and the first page that shares a bucket with it."""
    members = pages.select("number", col("bands").alias("bucket")).explode("bucket")
    lowest = members.groupby("bucket").agg(col("number").min().alias("low"))
    shared = members.join(lowest, on="bucket").where(col("low") < col("number"))
    return shared.select(col("number").alias("high"), "low").distinct()


def components(edges: DataFrame) -> DataFrame:
    """Computes the connected components of a graph.

    Args:
      edges: high, low (node numbers, low < high).

    Returns:
      number, root (the smallest number in the node's component) of all nodes that have an edge.
    """
    edges = edges.collect()
    while True:
        before = edges
        edges = _small_star(_large_star(edges)).collect()
        if len(edges) == len(before) == len(edges.intersect(before).collect()):
            break
    roots = edges.select(col("low").alias("number"), col("low").alias("root")).distinct()
    return edges.select(col("high").alias("number"), col("low").alias("root")).concat(roots)


def _large_star(edges: DataFrame) -> DataFrame:
    """Connects each node's larger neighbors to the smallest of it and its neighbors."""
    both = edges.select(col("high").alias("node"), col("low").alias("other")).concat(
        edges.select(col("low").alias("node"), col("high").alias("other"))
    )
    lowest = both.groupby("node").agg(col("other").min().alias("least"))
    larger = both.join(lowest, on="node").where(col("other") > col("node"))
    least = when(col("least") < col("node"), col("least")).otherwise(col("node"))
    return larger.select(col("other").alias("high"), least.alias("low")).distinct()


def _small_star(edges: DataFrame) -> DataFrame:
    """Connects each node and its smaller neighbors to the smallest of these."""
    lowest = edges.groupby("high").agg(col("low").min().alias("least"))
    tied = edges.join(lowest, on="high").where(col("low") != col("least"))
    moved = tied.select(col("low").alias("high"), col("least").alias("low"))
    return moved.concat(lowest.select("high", col("least").alias("low"))).distinct()
