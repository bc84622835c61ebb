"""Domain statistics, and the uncollected pages that join the positives of the next iteration (paper section 2.1)."""

from collections.abc import Sequence
from typing import Any

import daft
from daft import DataFrame, DataType, col

from dsmath_jax.corpus import urls
from dsmath_jax.corpus.annotations import Annotation, annotated_pages

# The automatic rule: folders of at least FOLDER_PAGES pages of which at least FOLDER_SHARE was collected.
FOLDER_PAGES, FOLDER_SHARE = 3, 0.8
RULES = {
    True: "annotations",
    False: f"automatic: folders of {FOLDER_PAGES} pages or more of which {FOLDER_SHARE:.0%} or more were collected",
}


@daft.func.batch(return_dtype=DataType.list(DataType.string()))
def _folders(canonical_urls: Any) -> list[list[str]]:
    return [urls.folders(url) for url in canonical_urls.to_pylist()]


def hosts(scored: DataFrame, math_share: float) -> DataFrame:
    """Counts pages and collected pages by host; a host is math-related above a collected share of `math_share`.

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
    """Counts pages and collected pages below each URL prefix that ends at a slash, on hosts with a collected page.

    Args:
      scored: host, canonical_url, collected (bool) of all candidates.
      by_host: the output of `hosts`.

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


def new_positives(
    scored: DataFrame, by_host: DataFrame, by_prefix: DataFrame, annotations: Sequence[Annotation] | None
) -> DataFrame:
    """Returns the page numbers of the uncollected pages that join the positives.

    With annotations: the pages below a prefix annotated as mathematics, on any domain (the math-related domains show
    the annotator where to look). Without: those of `mostly_collected` on math-related domains.
    """
    uncollected = scored.where(~col("collected")).select("number", "host", "canonical_url")
    if annotations is None:
        return mostly_collected(
            uncollected.join(by_host.where(col("math_related")).select("host"), on="host"), by_prefix
        )

    @daft.func.batch(return_dtype=DataType.bool())
    def annotated(canonical_urls: Any) -> list[bool]:
        return annotated_pages(canonical_urls.to_pylist(), annotations).tolist()

    return uncollected.where(annotated(col("canonical_url"))).select("number")


def mostly_collected(uncollected: DataFrame, by_prefix: DataFrame) -> DataFrame:
    """Returns the pages in mostly collected folders, at any depth: the automatic rule in place of annotations.

    It does not take all uncollected pages of a math-related domain, since much of them may be about something else.
    """
    enough = (col("pages") >= FOLDER_PAGES) & (col("collected") >= FOLDER_SHARE * col("pages"))
    folders = by_prefix.where(enough).select("prefix")
    below = uncollected.select("number", _folders(col("canonical_url")).alias("prefix")).explode("prefix")
    return below.join(folders, on="prefix").select("number").distinct()
