"""One input shard to one Parquet file of pages: read, extract, normalise, shingle. No page depends on another one.

`python -m dsmath_jax.corpus.pages --input=GLOB --output=DIR` does this alone; the corpus takes such files as its input.
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
# A page's number is its shard's number and its row: sorted, numbers are the order of reading.
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
        ("bands", pa.list_(pa.uint64())),  # near-duplicate bucket of each band, none for a page without text
        ("text", pa.string()),
        ("normal", pa.string()),
    ]
)


def page_settings(settings: CorpusSettings, data_dir: Path) -> dict:
    """What of the corpus's settings decides how pages are written; it goes into the files' metadata."""
    path = str((data_dir / settings.tokenizer).absolute()) if settings.tokenizer else ""
    return {"minhash": dataclasses.asdict(settings.minhash), "tokenizer": path}


def token_counter(made: dict) -> str:
    """In words, what counts the tokens of pages made with these settings."""
    return f"tokenizer {made['tokenizer']}" if made["tokenizer"] else "characters / 4"


@lru_cache
def counter(path: str) -> Callable[[str], int]:
    """Counts the tokens of a text: by the tokenizer at `path`, or, without one, characters / 4, rounded up."""
    if not path:
        return lambda text: -(-len(text) // 4)
    encode = tokenizer.load(Path(path)).encode
    return lambda text: len(encode(text))


def page_id(shard: str, row: int) -> str:
    return f"{shard}/{row:06d}"


def write_shard(target: str, source: str, shard: str, made: str) -> None:
    """Reads one WARC or WET file into one Parquet file, atomically; counts of damage go into the file's metadata.

    Args:
      shard: its number among all shards.
      made: `page_settings` as JSON.

    Raises:
      UserError: `source` is no readable WARC file, or the tokenizer is none.
    """
    chosen, name, damage = json.loads(made), Path(target).stem, Counter[str]()
    count_tokens = counter(chosen["tokenizer"])
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
                    "bands": dedup.bands(Spans(normal), **chosen["minhash"]),
                    "text": text,
                    "normal": normal,
                }
            )
            if len(rows) == ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                rows.clear()
        writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
        facts = {"shard": int(shard), "damage": damage, "settings": chosen}
        writer.add_key_value_metadata({"dsmath": json.dumps(facts, sort_keys=True)})


def _facts(shard: Path) -> dict:
    metadata = pq.read_metadata(shard).metadata or {}
    if b"dsmath" not in metadata:
        raise UserError(f"{shard} is no file of pages; give WARC or WET files, or what dsmath_jax.corpus.pages wrote.")
    return json.loads(metadata[b"dsmath"])


def shard_number(shard: Path) -> int:
    return _facts(shard)["shard"]


def shard_settings(shard: Path) -> dict:
    return _facts(shard)["settings"]


def write_shards(sources: Sequence[str], folder: Path, made: dict) -> list[Path]:
    """Writes a Parquet file below `folder` for each WARC file that has none; returns all of them in input order."""
    names = [source.rstrip("/").rpartition("/")[2].removesuffix(".gz") for source in sources]
    targets = [folder / f"{number:06d}-{name}.parquet" for number, name in enumerate(names)]
    tasks = [
        (str(target), source, str(number), json.dumps(made, sort_keys=True))
        for number, (source, target) in enumerate(zip(sources, targets, strict=True))
    ]
    engine.run_tasks(write_shard, tasks, "reading pages")
    return targets


def take_shards(sources: Sequence[str], folder: Path, made: dict) -> list[Path]:
    """The shards of some input: WARC and WET files are written below `folder`, pages made before stay where they are.

    Raises:
      UserError: the input mixes both, or pages were made with other settings or by several runs.
    """
    ready = [Path(source) for source in sources if source.endswith(".parquet")]
    if not ready:
        return write_shards(sources, folder, made)
    if len(ready) < len(sources):
        raise UserError(f"The input mixes pages made before ({ready[0]}) with WARC files; give one kind.")
    facts = [_facts(shard) for shard in ready]
    for shard, fact in zip(ready, facts, strict=True):
        if fact["settings"] != made:
            raise UserError(f"{shard} was made with {fact['settings']}, the config says {made}; fix one of them.")
    numbers = [fact["shard"] for fact in facts]
    if sorted(set(numbers)) != numbers:
        raise UserError(f"The pages below {ready[0].parent} come from several runs; give the output of one.")
    return ready


def read_damage(shards: Sequence[Path]) -> dict[str, int]:
    """Counts of what was broken in the inputs of some written shards, by reason."""
    total: Counter[str] = Counter()
    for shard in shards:
        total.update(_facts(shard)["damage"])
    return dict(sorted(total.items()))


def frame(shards: Sequence[Path], *columns: str) -> daft.DataFrame:
    """Some columns of all pages."""
    return daft.read_parquet([str(shard) for shard in shards]).select(*columns)


def bodies(shard: Path, column: str, numbers: np.ndarray) -> Iterator[tuple[int, str]]:
    """Number and body (`text` or `normal`) of those pages of a shard whose numbers are given, sorted.

    One row group is in memory at a time, and none that has no such page is read.
    """
    file = pq.ParquetFile(shard)
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group, columns=["number"]).column("number").to_numpy()
        wanted = np.flatnonzero(np.isin(rows, numbers, assume_unique=True))
        if len(wanted):
            texts = file.read_row_group(group, columns=[column]).column(column).take(wanted)
            yield from zip(rows[wanted].tolist(), texts.to_pylist(), strict=True)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: reads and extracts, and nothing else."""
    parser = argparse.ArgumentParser(prog="python -m dsmath_jax.corpus.pages", description=__doc__)
    parser.add_argument("--input", required=True, nargs="+", help="files, folders, globs, lists, addresses")
    parser.add_argument("--output", required=True, type=Path, help="folder of the Parquet files, one per input file")
    parser.add_argument("--tokenizer", default="", help="file that counts tokens; without it: characters / 4")
    parser.add_argument("--ray-address", default="", help='"auto", HOST:PORT or ray://...: work on a Ray cluster')
    args = parser.parse_args(argv)
    engine.connect(args.ray_address)
    chosen = page_settings(CorpusSettings(tokenizer=args.tokenizer), Path())
    shards = write_shards(sources.find(args.input, Path()), args.output, chosen)
    count = frame(shards, "number").count_rows()
    print(f"{count} pages in {len(shards)} files below {args.output}; broken: {read_damage(shards) or 'nothing'}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
