"""Precision, recall and average precision of the collected pages on labeled pages."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from daft import DataFrame, col
from daft.functions import coalesce

from dsmath_jax.corpus import inputs, pages
from dsmath_jax.corpus.select import Cut
from dsmath_jax.intervals import bootstrap_interval, wilson_interval
from dsmath_jax.workdir import UserError

RESAMPLES = 1000
RATES = ("precision", "recall", "f1", "average_precision")
UNMEASURED: dict = {"labeled": 0, **{f"{rate}{of}": None for rate in RATES for of in ("", "_interval")}}


@dataclasses.dataclass(frozen=True)
class Labeled:
    """The labeled pages that were read; arrays are [labeled].

    Attributes:
      numbers: the numbers of the pages; for a duplicate, of the page that is kept instead.
      math: whether the label is "math".
      outside: whether the page is below no seed or annotated prefix.
      contaminated: whether the page is labeled as contaminated.
      unknown: the number of labels whose URL was not read.
    """

    numbers: np.ndarray
    math: np.ndarray
    outside: np.ndarray
    contaminated: np.ndarray
    unknown: int


def find_labeled(
    shards: Sequence[Path], duplicates: DataFrame, labels: Mapping[str, dict], prefixes: Sequence[str]
) -> Labeled:
    """Finds the labeled pages among the pages read.

    Args:
      shards: files of pages.
      duplicates: the output of `dedup.duplicates`.
      labels: rows with `label` ("math" or "other") and optionally `contaminated`, by canonical URL.
      prefixes: canonical seed and annotation prefixes.

    Raises:
      UserError: no labeled page was read.
    """
    rows = pages.frame(shards, "number", "canonical_url").where(col("canonical_url").is_in(list(labels)))
    columns = (
        rows.join(duplicates, on="number", how="left")
        .select("canonical_url", coalesce(col("kept"), col("number")).alias("kept"))
        .sort(["canonical_url", "kept"])
        .to_pydict()
    )
    number_by_url = dict(zip(columns["canonical_url"], columns["kept"], strict=True))
    if not number_by_url:
        raise UserError("None of the labeled URLs is among the pages read; fix --config.corpus.labels.")
    rows_read = [labels[url] for url in number_by_url]
    return Labeled(
        np.array(list(number_by_url.values()), np.int64),
        np.array([row["label"] == "math" for row in rows_read], bool),
        ~inputs.below_any(list(number_by_url), prefixes),
        np.array([bool(row.get("contaminated")) for row in rows_read], bool),
        len(labels) - len(number_by_url),
    )


def look_up(labeled: Labeled, scored: DataFrame) -> np.ndarray:
    """Returns float [labeled]: the scores of the labeled pages, -1 for a page without one, which no cut collects."""
    rows = scored.where(col("number").is_in(labeled.numbers.tolist())).select("number", "score").to_pydict()
    scores = dict(zip(rows["number"], rows["score"], strict=True))
    return np.array([scores.get(number, -1.0) for number in labeled.numbers.tolist()])


def measure(labeled: Labeled | None, scored: DataFrame, cut: Cut, seed: int) -> dict:
    """Computes the `measures` of the pages that a cut collects; all are None without labels."""
    if labeled is None:
        return UNMEASURED | {"unprefixed": UNMEASURED}
    return measures(labeled, look_up(labeled, scored), cut, seed)


def measures(labeled: Labeled, scores: np.ndarray, cut: Cut, seed: int) -> dict:
    """Computes precision, recall, F1 and average precision with 95 % intervals; `unprefixed`: over `outside` pages.

    Precision and recall have Wilson intervals, F1 and average precision bootstrap intervals over the pages. Undefined
    values are None.
    """
    collected, outside = cut.is_collected(scores, labeled.numbers), labeled.outside
    return _measures(scores, collected, labeled.math, seed) | {
        "unprefixed": _measures(scores[outside], collected[outside], labeled.math[outside], seed)
    }


def _measures(scores: np.ndarray, collected: np.ndarray, math: np.ndarray, seed: int) -> dict:
    hits, predicted, positives = int((collected & math).sum()), int(collected.sum()), int(math.sum())
    table = np.stack([scores, collected, math], axis=1)
    return {
        "labeled": len(math),
        "precision": hits / predicted if predicted else None,
        "precision_interval": list(wilson_interval(hits, predicted)) if predicted else None,
        "recall": hits / positives if positives else None,
        "recall_interval": list(wilson_interval(hits, positives)) if positives else None,
        "f1": f1(table) if positives else None,
        "f1_interval": _interval(table, f1, seed) if positives else None,
        "average_precision": average_precision(table) if positives else None,
        "average_precision_interval": _interval(table, average_precision, seed) if positives else None,
    }


def _interval(table: np.ndarray, statistic: Callable[[np.ndarray], float], seed: int) -> list[float]:
    return list(bootstrap_interval(table, seed, RESAMPLES, statistic))


def f1(table: np.ndarray) -> float:
    """Returns F1 of rows (score, collected, math), [n, 3]; NaN without mathematics."""
    _, collected, math = table.T
    return float(2 * (collected * math).sum() / (collected.sum() + math.sum())) if math.any() else float("nan")


def average_precision(table: np.ndarray) -> float:
    """Returns the average precision of rows (score, collected, math), [n, 3]; NaN without mathematics.

    Ties are counted together, so that their order does not matter.
    """
    scores, _, math = table[np.argsort(-table[:, 0], kind="stable")].T
    if not math.any():
        return float("nan")
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    hits = np.cumsum(math)[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / math.sum())
