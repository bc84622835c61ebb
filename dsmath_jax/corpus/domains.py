"""Domain statistics, and which uncollected pages they add to the seeds of the next iteration (paper section 2.1)."""

from collections.abc import Sequence
from typing import Any

import daft
from daft import DataFrame, DataType, col

from dsmath_jax.corpus import urls
from dsmath_jax.corpus.annotations import Annotation, annotated_pages

# The automatic rule takes a folder of at least so many pages as mathematics where at least so much of it was collected.
FOLDER_PAGES, FOLDER_SHARE = 3, 0.8
RULES = {
    True: "annotations",
    False: f"automatic: folders of {FOLDER_PAGES} pages or more of which {FOLDER_SHARE:.0%} or more were collected",
}


@daft.func.batch(return_dtype=DataType.list(DataType.string()))
def _folders(canonical_urls: Any) -> list[list[str]]:
    return [urls.folders(url) for url in canonical_urls.to_pylist()]


def hosts(scored: DataFrame, math_share: float) -> DataFrame:
    """Pages, collected pages and their share by host; math-related are those of which more than `math_share` is.

    Args:
      scored: host, collected (bool) of all candidates.

    Returns:
      host, pages, collected, share, math_related; most collected first, ties by host.
    """
    counts = scored.groupby("host").agg(
        col("collected").count().alias("pages"), col("collected").cast(DataType.int64()).sum().alias("collected")
    )
    return counts.select(
        "host",
        "pages",
        "collected",
        (col("collected") / col("pages")).alias("share"),
        (col("collected") > math_share * col("pages")).alias("math_related"),
    ).sort(["collected", "host"], desc=[True, False])


def prefixes(scored: DataFrame, by_host: DataFrame) -> DataFrame:
    """Pages and collected pages below each URL prefix that ends at a slash, on hosts of which something was collected.

    Args:
      scored: host, canonical_url, collected (bool) of all candidates.
      by_host: of `hosts`.

    Returns:
      host, prefix, pages, collected; sorted by host and prefix.
    """
    known = by_host.where(col("collected") > 0).select("host")
    below = scored.join(known, on="host").select("host", "collected", _folders(col("canonical_url")).alias("prefix"))
    return (
        below.explode("prefix")
        .groupby("host", "prefix")
        .agg(col("collected").count().alias("pages"), col("collected").cast(DataType.int64()).sum().alias("collected"))
        .select("host", "prefix", "pages", "collected")
        .sort(["host", "prefix"])
    )


def joining(
    scored: DataFrame, by_host: DataFrame, by_prefix: DataFrame, annotations: Sequence[Annotation] | None
) -> DataFrame:
    """The uncollected pages that join the seeds: number.

    With annotations those below a prefix that a person judged to be mathematics, on whatever domain: which domains are
    math-related tells the person where to look. Without them those of `majority` on math-related domains.
    """
    left = scored.where(~col("collected")).select("number", "host", "canonical_url")
    if annotations is None:
        return majority(left.join(by_host.where(col("math_related")).select("host"), on="host"), by_prefix)

    @daft.func.batch(return_dtype=DataType.bool())
    def annotated(canonical_urls: Any) -> list[bool]:
        return annotated_pages(canonical_urls.to_pylist(), annotations).tolist()

    return left.where(annotated(col("canonical_url"))).select("number")


def majority(left: DataFrame, by_prefix: DataFrame) -> DataFrame:
    """Pages in a folder most of whose pages were collected: the automatic rule in a person's place.

    A math-related domain may hold much else, so that its uncollected pages cannot all be taken. A folder, at any depth,
    with a majority of collected pages speaks for the rest of its pages.
    """
    enough = (col("pages") >= FOLDER_PAGES) & (col("collected") >= FOLDER_SHARE * col("pages"))
    folders = by_prefix.where(enough).select("prefix")
    below = left.select("number", _folders(col("canonical_url")).alias("prefix")).explode("prefix")
    return below.join(folders, on="prefix").select("number").distinct()
