"""How good the collected pages are, against pages that somebody has labelled."""

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
UNMEASURED: dict = {"labelled": 0, **{f"{rate}{of}": None for rate in RATES for of in ("", "_interval")}}


@dataclasses.dataclass(frozen=True)
class Labelled:
    """The labelled pages that were read; arrays are [labelled].

    numbers are those of the pages kept for them (a duplicate is judged by what is kept in its place), math what the
    label says, outside whether the page lies below no prefix that a person gave (seed or annotation), planted whether
    it is labelled as contaminated; unknown counts the labels whose URL was not read.
    """

    numbers: np.ndarray
    math: np.ndarray
    outside: np.ndarray
    planted: np.ndarray
    unknown: int


def find_labelled(
    shards: Sequence[Path], duplicates: DataFrame, labels: Mapping[str, dict], prefixes: Sequence[str]
) -> Labelled:
    """Looks up which pages have a label.

    Args:
      labels: rows with `label` ("math" or "other") and perhaps `contaminated`, by canonical URL.
      prefixes: canonical seed and annotation prefixes.

    Raises:
      UserError: no labelled page was read.
    """
    rows = pages.frame(shards, "number", "canonical_url").where(col("canonical_url").is_in(list(labels)))
    found = (
        rows.join(duplicates, on="number", how="left")
        .select("canonical_url", coalesce(col("kept"), col("number")).alias("kept"))
        .sort(["canonical_url", "kept"])
        .to_pydict()
    )
    kept = dict(zip(found["canonical_url"], found["kept"], strict=True))
    if not kept:
        raise UserError("None of the labelled URLs is among the pages read; fix --config.corpus.labels.")
    chosen = [labels[url] for url in kept]
    return Labelled(
        np.array(list(kept.values()), np.int64),
        np.array([row["label"] == "math" for row in chosen], bool),
        ~inputs.below_any(list(kept), prefixes),
        np.array([bool(row.get("contaminated")) for row in chosen], bool),
        len(labels) - len(kept),
    )


def look_up(labelled: Labelled, scored: DataFrame) -> np.ndarray:
    """float [labelled]: the scores of labelled pages; 0 for a page without text."""
    rows = scored.where(col("number").is_in(labelled.numbers.tolist())).select("number", "score").to_pydict()
    scores = dict(zip(rows["number"], rows["score"], strict=True))
    return np.array([scores.get(number, 0.0) for number in labelled.numbers.tolist()])


def measure(labelled: Labelled | None, scored: DataFrame, cut: Cut, seed: int) -> dict:
    """The `measures` of what a cut of scored pages collects; all None without labels."""
    if labelled is None:
        return UNMEASURED | {"unprefixed": UNMEASURED}
    return measures(labelled, look_up(labelled, scored), cut, seed)


def measures(labelled: Labelled, scores: np.ndarray, cut: Cut, seed: int) -> dict:
    """Precision, recall, F1 and average precision with 95 % intervals; `unprefixed` has the same for `outside` pages.

    Precision and recall are shares of labelled pages (Wilson's intervals); F1's and average precision's intervals come
    from a bootstrap over the pages. What is not defined is None.
    """
    collected, outside = cut.is_before(scores, labelled.numbers), labelled.outside
    return _measures(scores, collected, labelled.math, seed) | {
        "unprefixed": _measures(scores[outside], collected[outside], labelled.math[outside], seed)
    }


def _measures(scores: np.ndarray, collected: np.ndarray, math: np.ndarray, seed: int) -> dict:
    found, claimed, true = int((collected & math).sum()), int(collected.sum()), int(math.sum())
    table = np.stack([scores, collected, math], axis=1)
    return {
        "labelled": len(math),
        "precision": found / claimed if claimed else None,
        "precision_interval": list(wilson_interval(found, claimed)) if claimed else None,
        "recall": found / true if true else None,
        "recall_interval": list(wilson_interval(found, true)) if true else None,
        "f1": f1(table) if true else None,
        "f1_interval": _interval(table, f1, seed) if true else None,
        "average_precision": average_precision(table) if true else None,
        "average_precision_interval": _interval(table, average_precision, seed) if true else None,
    }


def _interval(table: np.ndarray, statistic: Callable[[np.ndarray], float], seed: int) -> list[float]:
    return list(bootstrap_interval(table, seed, RESAMPLES, statistic))


def f1(table: np.ndarray) -> float:
    """Of rows (score, collected, math), [n, 3]: 2 found / (collected + mathematical), NaN without mathematics."""
    _, collected, math = table.T
    return float(2 * (collected * math).sum() / (collected.sum() + math.sum())) if math.any() else float("nan")


def average_precision(table: np.ndarray) -> float:
    """Of rows (score, collected, math), [n, 3]: precision averaged over the steps of recall, NaN without mathematics.

    Pages of equal score enter together, so that their order does not matter.
    """
    scores, _, math = table[np.argsort(-table[:, 0], kind="stable")].T
    if not math.any():
        return float("nan")
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    found = np.cumsum(math)[ends]
    return float((np.diff(found, prepend=0) * found / (ends + 1)).sum() / math.sum())
