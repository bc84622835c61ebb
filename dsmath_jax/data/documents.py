"""Reads records and texts from files: Parquet, JSON (lines or one list), CSV and plain text.

Everything is streamed, with a few records in memory at a time; `.gz` and `.zst` are decompressed.
"""

import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from dsmath_jax.workdir import UserError, json_lines, without_surrogates

OPENERS: dict[str, Callable[..., Any]] = {  # of compressed files, by suffix
    ".gz": gzip.open,
    ".zst": lambda file, mode: io.BufferedReader(pa.input_stream(file, compression="zstd")),
}
RECORDS = (".parquet", ".jsonl", ".json", ".csv")  # the formats of records; any other is plain text
MAX_CELL = 1 << 30  # characters of a cell of a CSV file; Python's default is 128 K
READ_BYTES = 1 << 20
ROWS_PER_READ = 256


def file_format(file: Path) -> str:
    """Returns the suffix of a file's format: ".jsonl" of "a.jsonl.zst"."""
    return Path(file.stem).suffix if file.suffix in OPENERS else file.suffix


def stem(name: str) -> str:
    """Returns the name of a file of records without its suffixes, "mine" of "mine.jsonl.gz"; others as they are."""
    path = Path(name)
    if file_format(path) not in RECORDS:
        return name
    return name.removesuffix(path.suffix if path.suffix in OPENERS else "").rpartition(".")[0]


def files_below(path: Path) -> list[Path]:
    """Returns a file itself, or the files below a folder except hidden ones, sorted by path.

    Raises:
      UserError: there is none.
    """
    candidates = [path] if path.is_file() else sorted(below for below in path.rglob("*") if below.is_file())
    files = [file for file in candidates if not any(part[0] == "." for part in file.relative_to(path).parts)]
    if not files:
        raise UserError(f"No text files at {path}; check the path.")
    return files


def records(file: Path, columns: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (position in words, fields) of a file's records; a format that is not in `RECORDS` is plain text.

    Fields of a CSV file are texts, named by its first row.

    Args:
      columns: the only fields to read of a Parquet file; () for all.

    Raises:
      UserError: the file cannot be read, a line is not a JSON object, or the rows differ in length.
    """
    try:
        if file_format(file) == ".parquet":
            yield from _parquet(file, columns)
        else:
            with OPENERS.get(file.suffix, open)(file, "rb") as stream:
                yield from READERS.get(file_format(file), _whole)(file, stream)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
        raise UserError(f"{file} cannot be read ({reason}); check the path and that the file is complete.") from None


def documents(file: Path, field: str = "text", language: str = "") -> Iterator[tuple[int, str]]:
    """Yields (number of the record from 1, text) of a file's documents.

    Args:
      field: the field of the text.
      language: yields only records of this `language` ("en", "zh"); "" for all.

    Raises:
      UserError: as `records`, or a record has no text.
    """
    for number, (place, row) in enumerate(records(file, (field, "language")), 1):
        if not isinstance(row.get(field), str):
            raise UserError(f"{file}, {place}: the field '{field}' is missing or not text; fix or remove it.")
        if not language or row.get("language") == language:
            yield number, row[field]


def texts(path: Path, language: str = "") -> Iterator[str]:
    """Yields the texts of a file or of the files below a folder, in the order of their paths; raises as `documents`."""
    for file in files_below(path):
        for _, text in documents(file, "text", language):
            yield text


def _parquet(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    # Without these two, Arrow reads whole columns of a row group before the first row.
    with pq.ParquetFile(file, pre_buffer=False, buffer_size=READ_BYTES) as parquet:
        present = parquet.schema_arrow.names
        _check_distinct(f"{file}, schema", present)
        chosen = [name for name in columns if name in present] if columns else present
        number = 0
        for batch in parquet.iter_batches(batch_size=ROWS_PER_READ, columns=chosen):
            for row in _as_written(batch).to_pylist():
                number += 1
                yield f"record {number}", row


def _as_written(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Returns a batch whose float32 columns are float64 with the same shortest decimals: 0.1 stays 0.1."""
    for i, column in enumerate(batch.schema):
        if column.type == pa.float32():
            batch = batch.set_column(i, column.name, batch.column(i).cast(pa.string()).cast(pa.float64()))
    return batch


def _check_distinct(place: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise UserError(
            f"{place}: the column '{max(names, key=names.count)}' has the same name as another; rename one."
        )


def _json(file: Path, stream: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    head = []
    for line in stream:
        head.append(line)
        if line.strip():
            break
    if head and head[-1].lstrip().startswith(b"["):
        for number, row in enumerate(json.loads(b"".join(head) + stream.read()), 1):
            if not isinstance(row, dict):
                raise UserError(f"{file}, record {number}: not a JSON object; fix or remove it.")
            yield f"record {number}", without_surrogates(row)
        return
    for number, row in json_lines(file, itertools.chain(head, stream)):
        yield f"line {number}", row


def _csv(file: Path, stream: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(MAX_CELL)
    table = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", newline=""), strict=True)  # Excel writes the mark
    rows = _csv_rows(file, table)
    header = next(rows, [])
    _check_distinct(f"{file}, line 1", header)
    end = table.line_num  # of the row before; a row may have several lines
    for cells in rows:
        place, end = f"line {end + 1}", table.line_num
        if cells and len(cells) != len(header):
            raise UserError(
                f"{file}, {place}: {len(cells)} cells, but line 1 names {len(header)} columns; fix or remove the row."
            )
        if cells:
            yield place, dict(zip(header, cells, strict=True))


def _csv_rows(file: Path, table: Any) -> Iterator[list[str]]:
    """Yields the rows of a CSV reader; its errors become a `UserError` with the line."""
    try:
        yield from table
    except csv.Error as error:
        raise UserError(f"{file}, line {table.line_num}: {error}; fix or remove the row.") from None


def _whole(file: Path, stream: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    del file
    yield "record 1", {"text": stream.read().decode()}


READERS = {".jsonl": _json, ".json": _json, ".csv": _csv}
