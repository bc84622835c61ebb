"""The corpus from end to end (paper section 2.1): WARC files to decontaminated documents.

    pages -> one per URL -> one per group of near-duplicates -> [ fastText on seeds against random pages -> scores ->
    top-N tokens -> math-related domains -> more seeds ] until little new is collected -> decontamination -> documents

Page work goes shard by shard from file to file; what goes between shards are dataframes of page numbers, hashes and
addresses (`engine`). What a killed run left complete the next run takes over; the rest follows from it.
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
from dsmath_jax.settings import to_dict
from dsmath_jax.workdir import write_json

OTHER_HOSTS = 1000  # of those that are not math-related, so many are in the summary


class Inputs(NamedTuple):
    """What is read besides the pages."""

    seeds: list[str]
    labels: dict[str, dict]
    annotations: list[Annotation] | None
    records: list[Record]


def read_inputs(settings: CorpusSettings, data_dir: Path) -> Inputs:
    """The small files and the benchmark records that the settings name.

    Raises:
      UserError: one is missing or cannot be used.
    """
    records = [record for name in settings.benchmarks for record in datasets.load(name, data_dir)]
    records += [record for name in settings.benchmark_files for record in datasets.load_file(data_dir / name)]
    return Inputs(
        inputs.read_seeds(data_dir / settings.seeds),
        inputs.read_labels(data_dir / settings.labels) if settings.labels else {},
        read_annotations(data_dir / settings.annotations) if settings.annotations else None,
        records,
    )


def check(settings: CorpusSettings, data_dir: Path) -> None:
    """Raises a `UserError` where an input cannot be used; does not look at addresses, nor into the files of pages."""
    given = [settings.input] if isinstance(settings.input, str) else settings.input
    local = [spec for spec in given if "://" not in spec]
    for spec in (*given, settings.input_root):
        sources.import_store(spec)
    if local or not given:
        sources.find(local, data_dir, settings.input_root)
    read_inputs(settings, data_dir)
    if settings.tokenizer:
        tokenizer.load(data_dir / settings.tokenizer)


def mine(settings: CorpusSettings, seed: int, data_dir: Path, out: Path) -> dict:
    """Runs the whole pipeline and returns what it writes to `out/summary.json`.

    Writes `pages/*.parquet` (one per input), `duplicates/`, `candidates/`, `iterations/N/`, `documents/*.parquet`,
    `matches/*.parquet` (pages and the benchmark records they repeat), `decisions.parquet` (one row per page read),
    `prefixes.parquet` and `summary.json` below `out`.

    A labelled page counts as found if the last iteration collected it, or the page kept in its place, before
    decontamination. `contaminated_planted` counts labelled candidates labelled as contaminated, `contaminated_left`
    those of them that are among the documents; null where none is labelled so.

    Raises:
      UserError: an input is missing, unreadable, empty or gives nothing to train on.
    """
    engine.connect(settings.ray_address, settings.workers)
    data_dir, out = data_dir.absolute(), out.absolute()  # the processes of a cluster may work elsewhere
    # What is there grows with every step that a lost machine does not undo.
    return engine.retry(lambda: _mine(settings, seed, data_dir, out), lambda: sum(1 for _ in out.rglob("*.*")))


def _mine(settings: CorpusSettings, seed: int, data_dir: Path, out: Path) -> dict:
    found = sources.find(settings.input, data_dir, settings.input_root)
    seeds, labels, annotations, records = read_inputs(settings, data_dir)
    made = pages.page_settings(settings, data_dir)
    shards = pages.take_shards(found, out / "pages", made)
    crawl = read_crawl(shards, out, settings.min_tokens)
    prefixes = seeds + [annotation.prefix for annotation in annotations or ()]
    duplicates = daft.read_parquet(f"{crawl.duplicates}/*.parquet")
    labelled = measure.find_labelled(shards, duplicates, labels, prefixes) if labels else None
    if labelled and labelled.unknown:
        print(
            f"{data_dir / settings.labels}: {labelled.unknown} labels are of URLs not read; not counted.",
            file=sys.stderr,
        )
    done = mining.iterate(crawl, seeds, annotations, labelled, settings, seed, out / "iterations")
    results.write(crawl, done[-1], records, settings, out)
    prefixes_found = daft.read_parquet(f"{done[-1].folder}/prefixes/*.parquet").sort(["host", "prefix"])
    write_file(out / "prefixes.parquet", prefixes_found)
    summary = summarize(crawl, done, labelled, out) | {
        "ablation": mining.ablation(done[-1], settings.ablation_tokens, labelled, settings, seed),
        "domain_rule": domains.RULES[annotations is not None],
        "token_counter": pages.token_counter(made),
        "damage": pages.read_damage(shards),
    }
    write_json(out / "summary.json", summary)
    card.write(out, to_dict(settings) | {"seed": seed})
    return summary


def summarize(crawl: Crawl, done: list[mining.Iteration], labelled: measure.Labelled | None, out: Path) -> dict:
    """Most of the numbers of `summary.json`."""
    last = done[-1]
    documents = daft.read_parquet(f"{out}/documents/*.parquet").select("id", "language")
    decisions = daft.read_parquet(f"{out}/decisions.parquet")
    duplicates = daft.read_parquet(f"{crawl.duplicates}/*.parquet")
    read, kept, gone = decisions.count_rows(), documents.count_rows(), duplicates.count_rows()
    older = duplicates.where(col("same_url")).count_rows()
    candidates = crawl.listed().count_rows()
    contaminated = decisions.where(col("contaminated_by").not_null()).count_rows()
    languages = documents.groupby("language").agg(col("id").count()).sort(["id", "language"], desc=[True, False])
    hosts = daft.read_parquet(f"{last.folder}/hosts/*.parquet")
    others = hosts.where(~col("math_related")).sort(["collected", "host"], desc=[True, False]).limit(OTHER_HOSTS)
    told = [*hosts.where(col("math_related")).to_pylist(), *others.to_pylist()]
    return {
        "pages_read": read,
        "documents_kept": kept,
        **{name: last.row[name] for name in measure.RATES},
        "unprefixed": last.row["unprefixed"],
        "labels_unknown": labelled.unknown if labelled else None,
        "contaminated_removed": contaminated,
        **planted(labelled, crawl, decisions, documents),
        "funnel": [
            ["pages read", read],
            ["after URL de-duplication", read - older],
            ["after near-duplicates", read - gone],
            ["long enough", candidates],
            ["collected", last.row["pages"]],
            ["after decontamination", kept],
        ],
        "domains": sorted(told, key=lambda row: (-row["collected"], row["host"])),
        "domains_total": hosts.count_rows(),
        "iterations": [iteration.row for iteration in done],
        "languages": dict(zip(*languages.to_pydict().values(), strict=True)),
    }


def planted(
    labelled: measure.Labelled | None, crawl: Crawl, decisions: daft.DataFrame, documents: daft.DataFrame
) -> dict[str, int | None]:
    """Candidates that are labelled as contaminated, and how many of them are documents."""
    if labelled is None or not labelled.planted.any():
        return {"contaminated_planted": None, "contaminated_left": None}
    ids = crawl.ids(sorted(set(labelled.numbers[labelled.planted].tolist())))
    candidates = decisions.where(col("id").is_in(ids) & col("score").not_null())
    left = documents.where(col("id").is_in(ids))
    return {"contaminated_planted": candidates.count_rows(), "contaminated_left": left.count_rows()}
