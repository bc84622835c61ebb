"""Mines the corpus from end to end (paper section 2.1): from WARC files to decontaminated documents.

    pages -> one per URL -> one per group of near-duplicates -> [ fastText on seeds against random pages -> scores ->
    top-N tokens -> math-related domains -> more seeds ] until little new is collected -> decontamination -> documents

Work on pages maps one shard file to another; only dataframes of page numbers, hashes and URLs pass
between shards (`engine`). A resumed run reuses the complete files of a killed one.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import daft
from daft import col

from dsmath_jax.corpus import domains, engine, inputs, measure, mining, pages, results
from dsmath_jax.corpus.annotations import Annotation, read_annotations
from dsmath_jax.corpus.card import card
from dsmath_jax.corpus.crawl import Crawl, read_crawl, write_file
from dsmath_jax.corpus.reading import sources
from dsmath_jax.corpus.settings import CorpusSettings
from dsmath_jax.data import datasets, tokenizer
from dsmath_jax.data.datasets import Record
from dsmath_jax.settings import fingerprint
from dsmath_jax.workdir import write_json

OTHER_HOSTS = 1000  # hosts in the summary that are not math-related


class Inputs(NamedTuple):
    """The inputs besides the pages."""

    seeds: list[str]
    labels: dict[str, dict]
    annotations: list[Annotation] | None
    records: list[Record]


def read_inputs(settings: CorpusSettings, data_dir: Path) -> Inputs:
    """Reads the small input files and the benchmark records that the settings name.

    Raises:
      UserError: one is missing or invalid.
    """
    records = [one for name in settings.benchmarks for one in datasets.stream(name, data_dir, settings.columns)]
    return Inputs(
        inputs.read_seeds(data_dir / settings.seeds),
        inputs.read_labels(data_dir / settings.labels) if settings.labels else {},
        read_annotations(data_dir / settings.annotations) if settings.annotations else None,
        records,
    )


def check(settings: CorpusSettings, data_dir: Path) -> None:
    """Raises a `UserError` if an input is missing or invalid; opens no URL and no page file."""
    specs = [settings.input] if isinstance(settings.input, str) else settings.input
    local = [spec for spec in specs if "://" not in spec]
    for spec in (*specs, settings.input_root):
        sources.import_store(spec)
    if local or not specs:
        sources.find(local, data_dir, settings.input_root)
    read_inputs(settings, data_dir)
    if settings.tokenizer:
        tokenizer.load(data_dir / settings.tokenizer)


def mine(settings: CorpusSettings, seed: int, data_dir: Path, out: Path) -> dict:
    """Runs the whole pipeline and returns the content of `out/summary.json`.

    Writes below `out`: `pages/*.parquet` (one per input), `duplicates/`, `candidates/`, `iterations/N/`,
    `documents/*.parquet`, `matches/*.parquet` (pages and the benchmark records that they share n-grams with),
    `decisions.parquet` (one row per page read), `prefixes.parquet`, `summary.json`, `card.md` and `card.html`.

    A labeled page counts as collected if the last iteration collected it, or the page that is kept instead of it,
    before decontamination. `contaminated_labeled` counts the candidates labeled as contaminated, `contaminated_left`
    those of them among the documents; both are null without such labels.

    Args:
      settings: the settings of the corpus.
      seed: the seed of all random choices.
      data_dir: the folder that relative paths in the settings are relative to.
      out: the folder of the output; existing files are reused.

    Raises:
      UserError: an input is missing, unreadable or empty, or there is nothing to train on.
    """
    engine.connect(settings.ray_address, settings.workers)
    data_dir, out = data_dir.absolute(), out.absolute()  # processes of a cluster may have another working directory
    # The number of files is the progress: it grows with every finished step.
    return engine.retry(lambda: _mine(settings, seed, data_dir, out), lambda: sum(1 for _ in out.rglob("*.*")))


def _mine(settings: CorpusSettings, seed: int, data_dir: Path, out: Path) -> dict:
    files = sources.find(settings.input, data_dir, settings.input_root)
    seeds, labels, annotations, records = read_inputs(settings, data_dir)
    page_settings = pages.page_settings(settings, data_dir)
    shards = pages.take_shards(files, out / "pages", page_settings)
    crawl = read_crawl(shards, out, settings.min_tokens)
    prefixes = seeds + [annotation.prefix for annotation in annotations or ()]
    duplicates = daft.read_parquet(f"{crawl.duplicates}/*.parquet")
    labeled = measure.find_labeled(shards, duplicates, labels, prefixes) if labels else None
    if labeled and labeled.unknown:
        print(
            f"{data_dir / settings.labels}: {labeled.unknown} labels are of URLs that were not read; ignored.",
            file=sys.stderr,
        )
    iterations = mining.iterate(crawl, seeds, annotations, labeled, settings, seed, out / "iterations")
    results.write(crawl, iterations[-1], records, settings, out)
    by_prefix = daft.read_parquet(f"{iterations[-1].folder}/prefixes/*.parquet").sort(["host", "prefix"])
    write_file(out / "prefixes.parquet", by_prefix)
    summary = summarize(crawl, iterations, labeled, out) | {
        "ablation": mining.ablation(iterations[-1], settings.ablation_tokens, labeled, settings, seed),
        "domain_rule": domains.RULES[annotations is not None],
        "token_counter": pages.token_counter(page_settings),
        "damage": pages.read_damage(shards),
    }
    write_json(out / "summary.json", summary)
    card.write(out, fingerprint(settings) | {"seed": seed})
    return summary


def summarize(crawl: Crawl, iterations: list[mining.Iteration], labeled: measure.Labeled | None, out: Path) -> dict:
    """Computes most fields of `summary.json`."""
    last = iterations[-1]
    documents = daft.read_parquet(f"{out}/documents/*.parquet").select("id", "language")
    decisions = daft.read_parquet(f"{out}/decisions.parquet")
    duplicates = daft.read_parquet(f"{crawl.duplicates}/*.parquet")
    read, kept, dropped = decisions.count_rows(), documents.count_rows(), duplicates.count_rows()
    same_url = duplicates.where(col("same_url")).count_rows()
    candidates = crawl.read_candidates().count_rows()
    contaminated = decisions.where(col("contaminated_by").not_null()).count_rows()
    languages = documents.groupby("language").agg(col("id").count()).sort(["id", "language"], desc=[True, False])
    hosts = daft.read_parquet(f"{last.folder}/hosts/*.parquet")
    others = hosts.where(~col("math_related")).sort(["collected", "host"], desc=[True, False]).limit(OTHER_HOSTS)
    listed = [*hosts.where(col("math_related")).to_pylist(), *others.to_pylist()]
    return {
        "pages_read": read,
        "documents_kept": kept,
        **{name: last.row[name] for name in measure.RATES},
        "unprefixed": last.row["unprefixed"],
        "labels_unknown": labeled.unknown if labeled else None,
        "contaminated_removed": contaminated,
        **count_contaminated(labeled, crawl, decisions, documents),
        "funnel": [
            ["pages read", read],
            ["after URL de-duplication", read - same_url],
            ["after near-duplicates", read - dropped],
            ["long enough", candidates],
            ["collected", last.row["pages"]],
            ["after decontamination", kept],
        ],
        "domains": sorted(listed, key=lambda row: (-row["collected"], row["host"])),
        "domains_total": hosts.count_rows(),
        "iterations": [iteration.row for iteration in iterations],
        "languages": dict(zip(*languages.to_pydict().values(), strict=True)),
    }


def count_contaminated(
    labeled: measure.Labeled | None, crawl: Crawl, decisions: daft.DataFrame, documents: daft.DataFrame
) -> dict[str, int | None]:
    """Counts the candidates that are labeled as contaminated, and those of them that are documents."""
    if labeled is None or not labeled.contaminated.any():
        return {"contaminated_labeled": None, "contaminated_left": None}
    ids = crawl.ids(sorted(set(labeled.numbers[labeled.contaminated].tolist())))
    candidates = decisions.where(col("id").is_in(ids) & col("score").not_null())
    left = documents.where(col("id").is_in(ids))
    return {"contaminated_labeled": candidates.count_rows(), "contaminated_left": left.count_rows()}
