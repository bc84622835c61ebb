"""Domain statistics, and which uncollected pages they add to the seeds of the next iteration (paper section 2.1)."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import daft
import numpy as np
import pyarrow as pa

from dsmath_jax.corpus import urls
from dsmath_jax.workdir import UserError, read_jsonl

# The automatic rule takes a folder of at least so many pages as mathematics where at least so much of it was collected.
FOLDER_PAGES, FOLDER_SHARE = 3, 0.8


@dataclasses.dataclass(frozen=True)
class Annotation:
    """A person's judgement of all pages below a URL prefix (canonical form)."""

    prefix: str
    math: bool


def read_annotations(path: Path) -> list[Annotation]:
    """Reads JSON lines with the fields `prefix` and `math`.

    Raises:
      UserError: the file is missing or a line lacks a field.
    """
    annotations = []
    for number, row in enumerate(read_jsonl(path), 1):
        if not urls.host(str(row.get("prefix"))) or not isinstance(row.get("math"), bool):
            raise UserError(
                f"{path}, line {number}: an annotation wants a URL in 'prefix' and true or false in 'math'; mend it."
            )
        annotations.append(Annotation(urls.canonical_prefix(row["prefix"]), row["math"]))
    return annotations


def statistics(hosts: Sequence[str], collected: np.ndarray, math_share: float) -> list[dict]:
    """Pages, collected pages and their share by host; a host is math-related where the share is above `math_share`.

    Returns:
      Rows {"host", "pages", "collected", "share", "math_related"}, most collected first, ties by host.
    """
    frame = daft.from_arrow(pa.table({"host": hosts, "collected": collected.astype(np.int64)}))
    counts = frame.groupby("host").agg(
        daft.col("collected").count().alias("pages"), daft.col("collected").sum().alias("collected")
    )
    rows = counts.sort(["collected", "host"], desc=[True, False]).to_pylist()
    return [
        {
            "host": row["host"],
            "pages": row["pages"],
            "collected": row["collected"],
            "share": row["collected"] / row["pages"],
            "math_related": row["collected"] > math_share * row["pages"],
        }
        for row in rows
    ]


def annotated_pages(canonical_urls: Sequence[str], annotations: Sequence[Annotation]) -> np.ndarray:
    """bool [pages]: pages whose longest annotated prefix is judged to be mathematics."""
    names = np.array(canonical_urls)
    math = np.zeros(len(names), bool)
    for annotation in sorted(annotations, key=lambda annotation: len(annotation.prefix)):
        math[np.strings.startswith(names, annotation.prefix)] = annotation.math
    return math


def majority_pages(canonical_urls: Sequence[str], collected: np.ndarray) -> np.ndarray:
    """bool [pages]: pages in a folder most of whose pages were collected: the automatic rule in a person's place.

    A math-related domain may hold much else, so that its uncollected pages cannot all be taken. A folder with a
    majority of collected pages speaks for the rest of its pages; the larger folders of a path are asked first.
    """
    pages: dict[str, int] = defaultdict(int)
    hits: dict[str, int] = defaultdict(int)
    paths = [urls.folders(url) for url in canonical_urls]
    for path, hit in zip(paths, collected.tolist(), strict=True):
        for folder in path:
            pages[folder] += 1
            hits[folder] += hit
    return np.array(
        [
            any(pages[folder] >= FOLDER_PAGES and hits[folder] >= FOLDER_SHARE * pages[folder] for folder in path)
            for path in paths
        ],
        bool,
    )
