"""Texts for pre-training: the documents of the corpus stage, or local files."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from dsmath_jax.workdir import UserError, read_jsonl


def texts(path: Path, language: str = "") -> Iterator[str]:
    """The texts of Parquet (`text`, `language`), JSONL (`text`) or plain-text files, streamed in their names' order.

    Args:
      path: a file, or a folder whose files are read.
      language: only records of this language ("en", "zh"); "" for all.

    Raises:
      UserError: nothing is there, a file cannot be read, or a record has no `text`.
    """
    files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.is_file() and p.name[0] != ".")
    if not files:
        raise UserError(f"No text files at {path}; check the mixture of the config.")
    for file in files:
        try:
            for number, row in enumerate(READERS.get(file.suffix, _whole)(file), 1):
                if not isinstance(row.get("text"), str):
                    raise UserError(f"{file}, record {number}: the field 'text' is missing; mend or remove it.")
                if not language or row.get("language") == language:
                    yield row["text"]
        except (OSError, ValueError) as error:  # what Arrow and the UTF-8 decoder raise
            raise UserError(f"{file} cannot be read ({error}); mend or remove it.") from None


def _parquet(file: Path) -> Iterator[dict]:
    with pq.ParquetFile(file) as parquet:
        columns = [name for name in ("text", "language") if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(batch_size=256, columns=columns):
            yield from batch.to_pylist()


def _whole(file: Path) -> Iterator[dict]:
    yield {"text": file.read_text(encoding="utf-8")}


READERS: dict[str, Callable[[Path], Iterator[dict]]] = {".parquet": _parquet, ".jsonl": read_jsonl}
