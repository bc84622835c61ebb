"""Writes the results of the corpus: documents, a decision per page read, and the matches with benchmark records."""

import dataclasses
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsmath_jax.corpus import engine, pages
from dsmath_jax.corpus.crawl import Crawl, read_duplicates
from dsmath_jax.corpus.decontaminate import Benchmarks, Match, remove_matches
from dsmath_jax.corpus.mining import Iteration
from dsmath_jax.corpus.select import Cut
from dsmath_jax.corpus.settings import CorpusSettings
from dsmath_jax.data.datasets import Record
from dsmath_jax.workdir import atomic_path, read_jsonl, write_jsonl

DOCUMENTS = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("host", pa.string()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("tokens", pa.int64()),
        ("score", pa.float32()),
        ("iteration", pa.int64()),
    ]
)
DECISIONS = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("host", pa.string()),
        ("language", pa.string()),
        ("tokens", pa.int64()),
        ("duplicate_of", pa.string()),  # id of the page that is kept instead
        ("score", pa.float32()),  # of the last iteration; null for pages that are not candidates
        ("iteration", pa.int64()),  # the first that collected it; null if the last one did not
        ("contaminated_by", pa.string()),  # id of the benchmark record
        ("contaminated_ngram", pa.string()),  # the n-gram that both have
    ]
)
MATCHES = pa.schema([("id", pa.string()), ("record", pa.string()), ("ngram", pa.string())])


def write(crawl: Crawl, last: Iteration, records: Sequence[Record], settings: CorpusSettings, out: Path) -> None:
    """Decontaminates the collected pages and writes `documents/`, `matches/` and `decisions.parquet` below `out`."""
    benchmarks = out / "benchmarks.jsonl"
    if not benchmarks.exists():
        rows = ({"id": record.id, "question": record.question, "solution": record.solution} for record in records)
        write_jsonl(benchmarks, rows)
    rules: dict[str, Any] = {"ngram": settings.ngram, "min_ngram": settings.min_ngram, "remove": settings.remove}
    rules |= {"cut": dataclasses.asdict(last.cut), "iteration": last.number}
    rules |= {"tokenizer": pages.shard_settings(crawl.shards[0])["tokenizer"]}
    tasks = [
        (
            str(out / "decisions" / shard.name), str(out), str(shard), str(last.folder / "scores" / shard.name),
            str(crawl.duplicates), json.dumps(rules),
        )
        for shard in crawl.shards
    ]  # fmt: skip
    engine.run_tasks(write_shard, tasks, "writing documents")
    _name_duplicates(crawl, out)


@lru_cache(maxsize=1)
def _benchmarks(path: Path, ngram: int, min_ngram: int) -> Benchmarks:
    records = (Record(row["id"], row["question"], row["solution"], "") for row in read_jsonl(path))
    return Benchmarks(records, ngram, min_ngram)


def write_shard(target: str, out: str, shard: str, scores: str, duplicates: str, rules: str) -> None:
    """Writes the documents, the matches and, last, the decisions (to `target`) of one shard of pages.

    Here `duplicate_of` is the number of the page that is kept, as text: its id is in another shard.
    """
    rule, folder, name = json.loads(rules), Path(out), Path(target).name
    table = pq.read_table(shard, columns=["id", "number", "url", "host", "language", "tokens"])
    numbers = table.column("number").to_numpy()
    scored = pq.read_table(scores)
    rows = np.searchsorted(numbers, scored.column("number").to_numpy())
    collected = Cut(**rule["cut"]).is_collected(scored.column("score").to_numpy(), scored.column("number").to_numpy())
    first = scored.column("first").to_numpy()
    score, iteration = np.full(len(numbers), np.nan, np.float32), np.zeros(len(numbers), np.int64)
    score[rows] = scored.column("score").to_numpy()
    iteration[rows] = np.where(collected, np.where(first, first, rule["iteration"]), 0)

    matches_by_page = _decontaminate(Path(shard), table, score, iteration, rule, folder, name)
    pairs = read_duplicates(Path(duplicates), pages.shard_number(Path(shard)))
    kept = dict(zip(pairs.column("number").to_pylist(), pairs.column("kept").to_pylist(), strict=True))
    first_matches = [matches_by_page.get(number, [None])[0] for number in numbers.tolist()]
    columns = [
        *(table.column(name) for name in ("id", "url", "host", "language", "tokens")),
        pa.array([str(kept[number]) if number in kept else None for number in numbers.tolist()], pa.string()),
        pa.array(score, mask=np.isnan(score)),
        pa.array(iteration, mask=iteration == 0),
        pa.array([match and match.gram.record for match in first_matches], pa.string()),
        pa.array([match and match.gram.ngram for match in first_matches], pa.string()),
    ]
    with atomic_path(target) as temporary:
        pq.write_table(pa.table(columns, schema=DECISIONS), temporary, compression="zstd")


def _decontaminate(
    shard: Path, table: pa.Table, score: np.ndarray, iteration: np.ndarray, rule: dict, folder: Path, name: str
) -> dict[int, list[Match]]:
    """Writes the documents and the matches of one shard; returns the matches by page number."""
    benchmarks = _benchmarks(folder / "benchmarks.jsonl", rule["ngram"], rule["min_ngram"])
    count_tokens = pages.counter(rule["tokenizer"])
    numbers = table.column("number").to_numpy()
    matches_by_page: dict[int, list[Match]] = {}
    rows = np.flatnonzero(iteration)
    page_rows = table.take(rows).to_pylist()
    normals = pages.bodies(shard, "normal", numbers[rows])
    texts = pages.bodies(shard, "text", numbers[rows])
    ids = dict(zip(numbers[rows].tolist(), [page["id"] for page in page_rows], strict=True))
    path = folder / "documents" / name
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, DOCUMENTS, compression="zstd") as writer:
        batch: list[dict] = []
        for row, page, (number, normal), (_, text) in zip(rows.tolist(), page_rows, normals, texts, strict=True):
            matches = list(benchmarks.matches(normal))
            if matches:
                matches_by_page[number] = matches
                text = remove_matches(text, matches) if rule["remove"] == "segment" else ""
                page["tokens"] = count_tokens(text)
            if text:
                del page["number"]
                batch.append(page | {"text": text, "score": score[row], "iteration": iteration[row]})
            if len(batch) == pages.ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(batch, DOCUMENTS))
                batch.clear()
        writer.write_table(pa.Table.from_pylist(batch, DOCUMENTS))
    match_rows = [
        {"id": ids[number], "record": record, "ngram": gram}
        for number, matches in matches_by_page.items()
        for record, gram in sorted({match.gram.record: match.gram.ngram for match in reversed(matches)}.items())
    ]
    with atomic_path(folder / "matches" / name) as temporary:
        pq.write_table(pa.Table.from_pylist(match_rows, MATCHES), temporary, compression="zstd")
    return matches_by_page


def _name_duplicates(crawl: Crawl, out: Path) -> None:
    """Joins the decisions of all shards into one file, with the ids of the pages kept instead of duplicates."""
    path = out / "decisions.parquet"
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, DECISIONS, compression="zstd") as writer:
        for shard in crawl.shards:
            table = pq.read_table(out / "decisions" / shard.name)
            kept = table.column("duplicate_of").to_pylist()
            ids = iter(crawl.ids([int(number) for number in kept if number is not None]))
            named = pa.array([None if number is None else next(ids) for number in kept], pa.string())
            column = DECISIONS.get_field_index("duplicate_of")
            writer.write_table(table.set_column(column, DECISIONS.field(column), named))
