"""The iterated mining of paper section 2.1: classify, collect, find math-related domains, enlarge the seeds, repeat."""

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsmath_jax.corpus import classifier, domains, select
from dsmath_jax.corpus.crawl import Crawl
from dsmath_jax.progress import track
from dsmath_jax.workdir import UserError, atomic_path, remove

TRAINING = ".training-"  # how the folders of running trainings begin


@dataclasses.dataclass(frozen=True)
class Mined:
    """What the last iteration left; arrays are [pages].

    scores are its probabilities of mathematics (NaN for pages that are no candidates), first the iteration that first
    collected each page of `collected` (0 for the others), domains the rows of `domains.statistics`, table one row per
    iteration.
    """

    collected: np.ndarray
    scores: np.ndarray
    first: np.ndarray
    domains: list[dict]
    table: list[dict]


def iterate(
    crawl: Crawl,
    seeds: np.ndarray,
    annotations: Sequence[domains.Annotation] | None,
    config: Any,
    seed: int,
    folder: Path,
) -> Mined:
    """Mines until an iteration collects hardly anything new, or for `config.iterations`.

    Args:
      seeds: bool [pages], candidates that are positives from the beginning.
      annotations: judged prefixes; None takes the automatic rule.
      folder: keeps the scores of each iteration; those found there are taken over.

    Raises:
      UserError: the seeds or the token limit cover everything, so that nothing can be told apart.
    """
    urls, hosts = crawl.column("canonical_url"), crawl.column("host")
    candidate_hosts = [hosts[page] for page in np.flatnonzero(crawl.candidate).tolist()]
    positive, collected, first = seeds, np.zeros(len(urls), bool), np.zeros(len(urls), np.int64)
    table: list[dict] = []
    related: set[str] = set()
    for iteration in track(range(1, config.iterations + 1), "mining iterations", config.iterations):
        random = np.random.default_rng([seed, iteration])
        positives, negatives = training_pages(crawl, positive, collected, config, random)
        path = folder / f"{iteration}.parquet"
        if not path.exists():
            score_pages(crawl, positives, negatives, config.fasttext, random, path)
        scores = pq.read_table(path).column("score").to_numpy()

        before, collected = collected, select.top_tokens(scores, crawl.tokens, config.top_tokens, config.min_score)
        if collected[crawl.candidate].all():
            raise UserError(
                f"Iteration {iteration} collected every page: all {crawl.candidate.sum()} together have "
                f"{crawl.tokens[crawl.candidate].sum()} tokens; give --config.corpus.top_tokens a smaller number."
            )
        first[collected & (first == 0)] = iteration
        overlap = float((before & collected).sum() / max(collected.sum(), 1))
        statistics = domains.statistics(candidate_hosts, collected[crawl.candidate], config.domain_share)
        known, related = related, {row["host"] for row in statistics if row["math_related"]}
        table.append(
            {
                "iteration": iteration,
                "positives": int(positives.sum()),
                "negatives": int(negatives.sum()),
                "threshold": float(scores[collected].min()) if collected.any() else None,
                "pages": int(collected.sum()),
                "tokens": int(crawl.tokens[collected].sum()),
                "overlap": overlap,
                "new_domains": len(related - known),
                **precision_recall(collected, crawl.math),
            }
        )
        if overlap >= config.stop_overlap:
            break
        on_related = np.array([host in related for host in hosts], bool)
        missed = crawl.candidate & ~collected & on_related
        positive = positive | (missed & mathematical(urls, collected, crawl.candidate, annotations))
    return Mined(collected, scores, np.where(collected, first, 0), statistics, table)


def training_pages(
    crawl: Crawl, positive: np.ndarray, collected: np.ndarray, config: Any, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Samples positives and, as in the paper as many, negatives: bool [pages] each.

    Negatives are random pages, but none of those that the last iteration collected: where mathematics is not as rare
    as in Common Crawl, they would teach that it is none.

    Raises:
      UserError: no page is left for a negative.
    """
    positives = sample(positive, config.max_positives, random)
    negatives = sample(
        crawl.candidate & ~positive & ~collected, min(config.max_negatives, int(positives.sum())), random
    )
    if not negatives.any():
        raise UserError(
            "The seeds cover every page, so that none is left to learn what is not mathematics; give fewer."
        )
    return positives, negatives


def score_pages(
    crawl: Crawl,
    positives: np.ndarray,
    negatives: np.ndarray,
    settings: Any,
    random: np.random.Generator,
    path: Path,
) -> None:
    """Trains a classifier and writes its score of every page (NaN for those that are no candidates) to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f"{TRAINING}*"):
        remove(stale)
    # A folder of our own: the training process of a killed run may live on and write into its folder.
    with tempfile.TemporaryDirectory(prefix=TRAINING, dir=path.parent, ignore_cleanup_errors=True) as folder:
        model = classifier.train(
            examples(crawl, positives, negatives, random), settings, int(random.integers(2**31)), Path(folder)
        )
        scores = np.full(len(crawl.candidate), np.nan, np.float32)
        normals = (normal for _, normal in crawl.bodies("normal", crawl.candidate))
        scores[crawl.candidate] = list(classifier.scores(model, normals))
    with atomic_path(path) as temporary:
        pq.write_table(pa.table({"id": crawl.index.column("id"), "score": scores}), temporary)


def mathematical(
    urls: Sequence[str],
    collected: np.ndarray,
    candidate: np.ndarray,
    annotations: Sequence[domains.Annotation] | None,
) -> np.ndarray:
    """bool [pages]: pages that a person annotated as mathematics, or that the automatic rule takes in their place."""
    if annotations is not None:
        return domains.annotated_pages(urls, annotations)
    pages = np.zeros(len(urls), bool)
    numbers = np.flatnonzero(candidate)
    pages[numbers] = domains.majority_pages([urls[number] for number in numbers.tolist()], collected[numbers])
    return pages


def sample(pool: np.ndarray, limit: int, random: np.random.Generator) -> np.ndarray:
    """bool [pages]: `limit` pages of a boolean pool, or all where there are fewer."""
    members = np.flatnonzero(pool)
    chosen = np.zeros(len(pool), bool)
    chosen[random.choice(members, min(limit, len(members)), replace=False)] = True
    return chosen


def examples(
    crawl: Crawl, positives: np.ndarray, negatives: np.ndarray, random: np.random.Generator
) -> Iterator[tuple[bool, str]]:
    """Training examples for one pass in mixed order: shards in random order, and each one's pages too."""
    for shard in random.permutation(len(crawl.shards)).tolist():
        bodies = crawl.shard_bodies(shard, "normal", positives | negatives)
        for position in random.permutation(len(bodies)).tolist():
            page, normal = bodies[position]
            yield bool(positives[page]), normal


def precision_recall(collected: np.ndarray, math: np.ndarray) -> dict[str, float | None]:
    """Precision and recall of the collected pages over the labelled ones; null where nothing is to be divided by."""
    labelled = collected & (math >= 0)
    found = int((labelled & (math == 1)).sum())
    return {
        "precision": found / int(labelled.sum()) if labelled.any() else None,
        "recall": found / int((math == 1).sum()) if (math == 1).any() else None,
    }
