"""The corpus from end to end (paper section 2.1): WARC files to decontaminated documents.

    pages -> one per URL -> one per group of near-duplicates -> [ fastText on seeds against random pages -> scores ->
    top-N tokens -> math-related domains -> more seeds ] until little new is collected -> decontamination -> documents

Page work goes shard by shard from file to file; everything between shards is about page numbers, hashes and integers.
What a killed run left complete (`pages/*`, `iterations/*`) the next run takes over; the rest follows from it.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsmath_jax.corpus import domains, inputs, mining, pages
from dsmath_jax.corpus.crawl import Crawl, read_crawl
from dsmath_jax.corpus.decontaminate import Benchmarks, Match
from dsmath_jax.data import benchmarks
from dsmath_jax.workdir import UserError, atomic_path, write_json

DEFAULTS: dict[str, Any] = {
    "input": "crawl/*.warc.gz",  # glob below data_dir
    "seeds": "crawl/seeds.txt",  # URL prefixes whose pages are the first positives
    "labels": "",  # page labels, for measuring only
    "annotations": "",  # judged URL prefixes; "" takes the automatic rule of domains.majority_pages
    "benchmarks": (),  # names of data/benchmarks.py
    "iterations": 4,
    "top_tokens": 40_000_000_000,  # N, per iteration
    "min_score": 0.0,  # pages that score less are not collected, even where N has room
    "domain_share": 0.1,
    "stop_overlap": 0.98,
    "max_positives": 500_000,
    "max_negatives": 500_000,
    "fasttext": {"dim": 256, "lr": 0.1, "word_ngrams": 3, "min_count": 3, "epochs": 3, "bucket": 2_000_000},
    "ngram": 10,
    "min_ngram": 3,
}


def mine(config: Any, seed: int, data_dir: Path, out: Path) -> dict:
    """Runs the whole pipeline with the fields of `DEFAULTS`; returns what it writes to `out/summary.json`.

    Writes `pages/*.parquet` (one per input), `iterations/N.parquet` (scores), `documents/*.parquet`,
    `decisions.parquet` (one row per page read) and `summary.json` below `out`.

    Precision and recall are over the labelled pages among the candidates, that is after de-duplication (labels of pages
    that went as duplicates or without text are not counted): a page counts as found if the iteration (for the summary:
    the last one) collected it, before decontamination. Null without labels. `contaminated_planted` counts candidates
    labelled as contaminated, `contaminated_left` those of them that are among the documents; null
    where none is labelled so.

    Raises:
      UserError: an input is missing, unreadable, empty or gives nothing to train on.
    """
    sources = inputs.find_inputs(data_dir, config.input)
    seeds = inputs.read_seeds(data_dir / config.seeds)
    labels = inputs.read_labels(data_dir / config.labels) if config.labels else {}
    annotations = domains.read_annotations(data_dir / config.annotations) if config.annotations else None
    records = [record for name in config.benchmarks for record in benchmarks.load(name, data_dir)]

    crawl = read_crawl(sources, labels, out / "pages")
    seeded = inputs.below_any(crawl.column("canonical_url"), seeds) & crawl.candidate
    if not seeded.any():
        raise UserError(f"No page read lies below a prefix of {data_dir / config.seeds}; mend the prefixes.")
    mined = mining.iterate(crawl, seeded, annotations, config, seed, out / "iterations")
    matches = find_contaminated(crawl, mined.collected, Benchmarks(records, config.ngram, config.min_ngram))
    clean = mined.collected.copy()
    clean[list(matches)] = False
    write_documents(crawl, clean, mined, out)
    write_decisions(crawl, mined, matches, out)
    summary = summarize(crawl, mined, clean, bool(labels), annotations is not None)
    write_json(out / "summary.json", summary)
    return summary


def summarize(crawl: Crawl, mined: mining.Mined, clean: np.ndarray, labelled: bool, annotated: bool) -> dict:
    """The numbers of `summary.json`; `clean` is bool [pages], the pages that became documents."""
    return {
        "pages_read": len(clean),
        "documents_kept": int(clean.sum()),
        **mining.precision_recall(mined.collected, crawl.math),
        "contaminated_removed": int((mined.collected & ~clean).sum()),
        "contaminated_planted": int((crawl.planted & crawl.candidate).sum()) if crawl.planted.any() else None,
        "contaminated_left": int((crawl.planted & clean).sum()) if crawl.planted.any() else None,
        "funnel": [
            ["pages read", len(clean)],
            ["after URL de-duplication", len(np.unique(crawl.by_url))],
            ["after near-duplicates", len(np.unique(crawl.kept))],
            ["with text", int(crawl.candidate.sum())],
            ["collected", int(mined.collected.sum())],
            ["after decontamination", int(clean.sum())],
        ],
        "domains": mined.domains,
        "domain_rule": "annotations" if annotated else "automatic: folders most of whose pages were collected",
        "iterations": mined.table,
        "languages": count(crawl.column("language"), clean),
        "damage": pages.read_damage(crawl.shards),
        "token_counter": pages.TOKEN_COUNTER,
    }


def find_contaminated(crawl: Crawl, collected: np.ndarray, known: Benchmarks) -> dict[int, Match]:
    """The collected pages that repeat a benchmark, by page number."""
    found = ((page, known.find(normal)) for page, normal in crawl.bodies("normal", collected))
    return {page: match for page, match in found if match}


def write_documents(crawl: Crawl, clean: np.ndarray, mined: mining.Mined, out: Path) -> None:
    """Writes the kept pages of each shard to `documents/<shard>.parquet`."""
    for shard, rows in zip(crawl.shards, pages.shard_rows(crawl.shards), strict=True):
        table = pq.read_table(shard, columns=["id", "url", "host", "text", "language", "tokens"])
        table = table.append_column("score", pa.array(mined.scores[rows]))
        table = table.append_column("iteration", pa.array(mined.first[rows]))
        with atomic_path(out / "documents" / shard.name) as temporary:
            pq.write_table(table.filter(pa.array(clean[rows])), temporary, compression="zstd")


def write_decisions(crawl: Crawl, mined: mining.Mined, matches: dict[int, Match], out: Path) -> None:
    """Writes `decisions.parquet`: one row per page read, why it is in or out.

    duplicate_of is the id of the page kept in its place; score is of the last iteration; iteration is the one that
    first collected the page, null where the last one did not; contaminated_by names the benchmark record, and
    contaminated_ngram what of it was found.
    """
    ids = crawl.column("id")
    found = [matches.get(page) for page in range(len(ids))]
    columns = {
        "duplicate_of": pa.array(
            [ids[kept] if kept != page else None for page, kept in enumerate(crawl.kept.tolist())]
        ),
        "score": pa.array(mined.scores, mask=np.isnan(mined.scores)),
        "iteration": pa.array(mined.first, mask=mined.first == 0),
        "contaminated_by": pa.array([match and match.record for match in found], pa.string()),
        "contaminated_ngram": pa.array([match and match.ngram for match in found], pa.string()),
    }
    table = crawl.index.select(["id", "url", "host", "language", "tokens"])
    for name, values in columns.items():
        table = table.append_column(name, values)
    with atomic_path(out / "decisions.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")


def count(values: Sequence[str], chosen: np.ndarray) -> dict[str, int]:
    """How often each value occurs among the chosen pages, most frequent first, ties by name."""
    counts = Counter(value for value, is_chosen in zip(values, chosen.tolist(), strict=True) if is_chosen)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
