"""Reads, extracts, normalizes and shingles the pages of one input shard into one Parquet file.

`python -m dsmath_jax.corpus.pages --input=GLOB --output=DIR` does this alone; the corpus accepts such files as input.
"""

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsmath_jax.corpus import urls
from dsmath_jax.corpus.normalize import Spans, normalize
from dsmath_jax.corpus.reading import sources
from dsmath_jax.corpus.settings import CorpusSettings
from dsmath_jax.data import tokenizer
from dsmath_jax.extras import required_by
from dsmath_jax.workdir import UserError, atomic_path, exit_code

with required_by(__name__):
    import daft

    from dsmath_jax.corpus import dedup, engine
    from dsmath_jax.corpus.reading.warc import read_pages
    from dsmath_jax.corpus.text.html_text import html_to_text
    from dsmath_jax.corpus.text.language import language

ROWS_PER_GROUP = 1_000
# The number of a page is its shard's number and its row, so that numbers ascend in the order of reading.
ROW_BITS = 24
SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # <shard>/<row>
        ("number", pa.int64()),
        ("url", pa.string()),
        ("canonical_url", pa.string()),
        ("host", pa.string()),
        ("date", pa.string()),
        ("language", pa.string()),
        ("tokens", pa.int64()),
        ("bands", pa.list_(pa.uint64())),  # MinHash bucket of each band, none for a page without text
        ("text", pa.string()),
        ("normal", pa.string()),
    ]
)


def page_settings(settings: CorpusSettings, data_dir: Path) -> dict:
    """Returns the settings that the files of pages depend on; they are in the metadata of the files."""
    path = str((data_dir / settings.tokenizer).absolute()) if settings.tokenizer else ""
    return {"minhash": dataclasses.asdict(settings.minhash), "tokenizer": path}


def token_counter(settings: dict) -> str:
    """Describes how the tokens of pages with some `page_settings` are counted."""
    return f"tokenizer {settings['tokenizer']}" if settings["tokenizer"] else "characters / 4"


@lru_cache
def counter(path: str) -> Callable[[str], int]:
    """Returns a function that counts tokens: by the tokenizer at `path`, or characters / 4, rounded up."""
    if not path:
        return lambda text: -(-len(text) // 4)
    encode = tokenizer.load(Path(path)).encode
    return lambda text: len(encode(text))


def page_id(shard: str, row: int) -> str:
    """Returns the id of a page: the name of its shard and its row."""
    return f"{shard}/{row:06d}"


def write_shard(target: str, source: str, shard: str, settings: str) -> None:
    """Reads one WARC or WET file into one Parquet file, atomically; the file's metadata counts damaged records.

    Args:
      target: the Parquet file.
      source: the path or URL of the WARC or WET file.
      shard: the number of the shard.
      settings: `page_settings` as JSON.

    Raises:
      UserError: `source` or the tokenizer cannot be read.
    """
    fields, name, damage = json.loads(settings), Path(target).stem, Counter[str]()
    count_tokens = counter(fields["tokenizer"])
    rows: list[dict] = []
    with atomic_path(target) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for row, page in enumerate(read_pages(source, damage)):
            text = html_to_text(page.body) if page.is_html else page.body.strip()
            normal = normalize(text)
            rows.append(
                {
                    "id": page_id(name, row),
                    "number": (int(shard) << ROW_BITS) + row,
                    "url": page.url,
                    "canonical_url": urls.canonical(page.url),
                    "host": urls.host(page.url),
                    "date": page.date,
                    "language": language(text),
                    "tokens": count_tokens(text),
                    "bands": dedup.bands(Spans(normal), **fields["minhash"]),
                    "text": text,
                    "normal": normal,
                }
            )
            if len(rows) == ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                rows.clear()
        writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
        metadata = {"shard": int(shard), "damage": damage, "settings": fields}
        writer.add_key_value_metadata({"dsmath": json.dumps(metadata, sort_keys=True)})


def _metadata(shard: Path) -> dict:
    metadata = pq.read_metadata(shard).metadata or {}
    if b"dsmath" not in metadata:
        raise UserError(
            f"{shard} is not a file of pages; give WARC or WET files, or files that dsmath_jax.corpus.pages wrote."
        )
    return json.loads(metadata[b"dsmath"])


def shard_number(shard: Path) -> int:
    """Reads the number of a shard."""
    return _metadata(shard)["shard"]


def shard_settings(shard: Path) -> dict:
    """Reads the `page_settings` of a shard."""
    return _metadata(shard)["settings"]


def write_shards(sources: Sequence[str], folder: Path, settings: dict) -> list[Path]:
    """Writes the missing Parquet files of some WARC files below `folder`; returns all files in input order."""
    names = [source.rstrip("/").rpartition("/")[2].removesuffix(".gz") for source in sources]
    targets = [folder / f"{number:06d}-{name}.parquet" for number, name in enumerate(names)]
    tasks = [
        (str(target), source, str(number), json.dumps(settings, sort_keys=True))
        for number, (source, target) in enumerate(zip(sources, targets, strict=True))
    ]
    engine.run_tasks(write_shard, tasks, "reading pages")
    return targets


def take_shards(sources: Sequence[str], folder: Path, settings: dict) -> list[Path]:
    """Returns the shards of an input: converts WARC and WET files below `folder`, links to files of pages there.

    Raises:
      UserError: the input mixes both, or files of pages have other settings or are from several runs.
    """
    ready = [Path(source) for source in sources if source.endswith(".parquet")]
    if not ready:
        return write_shards(sources, folder, settings)
    if len(ready) < len(sources):
        raise UserError(f"The input mixes files of pages ({ready[0]}) with WARC files; give one kind.")
    metadata = [_metadata(shard) for shard in ready]
    for shard, fields in zip(ready, metadata, strict=True):
        if fields["settings"] != settings:
            raise UserError(f"{shard} was made with {fields['settings']}, the config says {settings}; fix one of them.")
    numbers = [fields["shard"] for fields in metadata]
    if sorted(set(numbers)) != numbers:
        raise UserError(f"The pages below {ready[0].parent} are from several runs; give the output of one.")
    folder.mkdir(parents=True, exist_ok=True)
    for shard in ready:
        link = folder / shard.name
        link.unlink(missing_ok=True)
        link.symlink_to(shard.resolve())
    return ready


def read_damage(shards: Sequence[Path]) -> dict[str, int]:
    """Counts the damaged records in the inputs of some shards, by reason."""
    total: Counter[str] = Counter()
    for shard in shards:
        total.update(_metadata(shard)["damage"])
    return dict(sorted(total.items()))


def frame(shards: Sequence[Path], *columns: str) -> daft.DataFrame:
    """Returns some columns of all pages."""
    return daft.read_parquet([str(shard) for shard in shards]).select(*columns)


def bodies(shard: Path, column: str, numbers: np.ndarray) -> Iterator[tuple[int, str]]:
    """Yields number and body (the column `text` or `normal`) of some pages of a shard, in ascending order.

    Reads one row group at a time, and only those with such a page.
    """
    file = pq.ParquetFile(shard)
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group, columns=["number"]).column("number").to_numpy()
        selected = np.flatnonzero(np.isin(rows, numbers, assume_unique=True))
        if len(selected):
            texts = file.read_row_group(group, columns=[column]).column(column).take(selected)
            yield from zip(rows[selected].tolist(), texts.to_pylist(), strict=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m dsmath_jax.corpus.pages", description=__doc__)
    parser.add_argument("--input", required=True, nargs="+", help="files, folders, globs, lists, URLs")
    parser.add_argument("--output", required=True, type=Path, help="folder of the Parquet files, one per input file")
    parser.add_argument("--tokenizer", default="", help="tokenizer file that counts tokens; without it: characters / 4")
    parser.add_argument("--ray-address", default="", help='"auto", HOST:PORT or ray://...: run on a Ray cluster')
    args = parser.parse_args(argv)
    engine.connect(args.ray_address)
    settings = page_settings(CorpusSettings(tokenizer=args.tokenizer), Path())
    shards = write_shards(sources.find(args.input, Path()), args.output, settings)
    count = frame(shards, "number").count_rows()
    print(f"{count} pages in {len(shards)} files below {args.output}; damaged: {read_damage(shards) or 'nothing'}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
