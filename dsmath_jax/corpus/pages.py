"""One input shard to one Parquet file of pages: read, extract, normalise, shingle. No page depends on another one."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import daft
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsmath_jax.corpus import dedup, urls
from dsmath_jax.corpus.html_text import html_to_text, language
from dsmath_jax.corpus.normalize import Spans, normalize
from dsmath_jax.corpus.warc import read_pages
from dsmath_jax.progress import track
from dsmath_jax.workdir import UserError, atomic_path

TOKEN_COUNTER = "characters / 4"
PAGES_PER_BATCH = 1_000
WORKERS = 2
SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # <shard>/<number of the page in it>: sorted, it is the order of reading
        ("url", pa.string()),
        ("canonical_url", pa.string()),
        ("host", pa.string()),
        ("date", pa.string()),
        ("language", pa.string()),
        ("tokens", pa.int64()),
        ("bands", pa.list_(pa.uint64())),  # near-duplicate bucket of each band, none for a page without text
        ("text", pa.string()),
        ("normal", pa.string()),
    ]
)
BODIES = ("text", "normal")


def token_count(text: str) -> int:
    """Estimates tokens, since the tokenizer is trained on what is kept: characters / 4, rounded up."""
    return -(-len(text) // 4)


def write_shard(source: Path, target: Path) -> None:
    """Reads one WARC file into one Parquet file, atomically; the counts of damage go into the file's metadata.

    Raises:
      UserError: `source` is no readable WARC file.
    """
    damage: Counter[str] = Counter()
    rows: list[dict] = []
    with atomic_path(target) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for number, page in enumerate(read_pages(source, damage)):
            text = html_to_text(page.html)
            normal = normalize(text)
            rows.append(
                {
                    "id": f"{target.stem}/{number:06d}",
                    "url": page.url,
                    "canonical_url": urls.canonical(page.url),
                    "host": urls.host(page.url),
                    "date": page.date,
                    "language": language(text),
                    "tokens": token_count(text),
                    "bands": dedup.bands(Spans(normal)),
                    "text": text,
                    "normal": normal,
                }
            )
            if len(rows) == PAGES_PER_BATCH:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                rows.clear()
        writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
        writer.add_key_value_metadata({"damage": json.dumps(damage, sort_keys=True)})


def read_damage(shards: list[Path]) -> dict[str, int]:
    """Counts of what was broken in the inputs of some written shards, by reason."""
    total: Counter[str] = Counter()
    for shard in shards:
        total.update(json.loads(pq.read_metadata(shard).metadata[b"damage"]))
    return dict(sorted(total.items()))


@daft.cls(max_concurrency=WORKERS, use_process=True)
class ShardWriter:
    """Writes shards in worker processes."""

    @daft.method.batch(return_dtype=daft.DataType.string(), batch_size=1)
    def write(self, sources: Any, targets: Any) -> Any:
        """Returns "" or the sentence of a `UserError` for each shard: an exception would lose its type on the way."""
        errors = []
        for source, target in zip(sources.to_pylist(), targets.to_pylist(), strict=True):
            try:
                write_shard(Path(source), Path(target))
                errors.append("")
            except UserError as error:
                errors.append(str(error))
        return errors


def write_shards(sources: list[Path], folder: Path) -> list[Path]:
    """Writes a Parquet file below `folder` for each WARC file that has none; returns all of them in input order."""
    targets = [
        folder / f"{number:05d}-{source.name.removesuffix('.gz')}.parquet" for number, source in enumerate(sources)
    ]
    todo = [(str(source), str(target)) for source, target in zip(sources, targets, strict=True) if not target.exists()]
    if not todo:
        return targets
    frame = daft.from_pydict({"source": [source for source, _ in todo], "target": [target for _, target in todo]})
    frame = frame.with_column("error", ShardWriter().write(daft.col("source"), daft.col("target")))
    rows = frame.iter_rows(results_buffer_size=1)
    for row in track(rows, "reading WARC files", len(targets), len(targets) - len(todo)):
        if row["error"]:
            raise UserError(row["error"])
    return targets


def read_index(shards: list[Path]) -> pa.Table:
    """Everything but the bodies of all pages, in input order."""
    columns = [name for name in SCHEMA.names if name not in BODIES]
    return pa.concat_tables([pq.read_table(shard, columns=columns) for shard in shards])


def shard_rows(shards: list[Path]) -> list[slice]:
    """Which rows of the index each shard holds."""
    ends = np.cumsum([pq.read_metadata(shard).num_rows for shard in shards])
    return [
        slice(int(end) - pq.read_metadata(shard).num_rows, int(end)) for shard, end in zip(shards, ends, strict=True)
    ]
