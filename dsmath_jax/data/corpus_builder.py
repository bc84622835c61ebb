"""The corpus of a run as a TFDS dataset (see `builders`), documents in the order of their ids.

builder = builders.prepare(config(workdir / "corpus/documents"), workdir / "tfds")
source = builder.as_data_source(split="train")
source[5]["text"].decode()
"""

import argparse
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
from absl import logging

from dsmath_jax.data import builders, documents
from dsmath_jax.workdir import UserError, exit_code, hash_file, local_path

FIELDS: dict[str, Any] = {
    "id": tfds.features.Text(),
    "url": tfds.features.Text(),
    "host": tfds.features.Text(),
    "text": tfds.features.Text(),
    "language": tfds.features.Text(),
    "tokens": np.int64,
    "score": np.float32,
    "iteration": np.int64,
}


def config(folder: Path) -> builders.DatasetConfig:
    """Returns the config of the Parquet files in a folder of documents, after hashing them.

    Raises:
      UserError: the folder has no documents, or another Parquet file.
    """
    files = document_files(folder)
    return builders.DatasetConfig(
        name=builders.fingerprint((file.name, hash_file(file)) for file in files),
        description="Web pages mined for mathematics as in section 2.1 of arXiv 2402.03300, decontaminated.",
        features=FIELDS,
        examples=functools.partial(examples, files),
        size=functools.partial(size, files),
    )


def document_files(folder: Path) -> list[Path]:
    """Returns the Parquet files of a folder of documents, in the order of their ids.

    Raises:
      UserError: there is none, one is not readable or lacks a field, or all are empty.
    """
    # An id is "<stem>/<number>".
    files = sorted((path for path in folder.glob("*.parquet") if path.name[0] != "."), key=lambda path: path.stem + "/")
    if not files:
        raise UserError(f"There are no documents (*.parquet) in {folder}; finish the corpus stage first.")
    for file in files:
        try:
            names = pq.read_schema(file).names
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{file} cannot be read ({error}); redo the corpus stage.") from None
        for field in FIELDS:
            if field not in names:
                raise UserError(f"{file} has no field '{field}', which every document has; redo the corpus stage.")
    if not any(pq.read_metadata(file).num_rows for file in files):
        raise UserError(f"The files in {folder} have no documents: the corpus stage kept none, look at its data card.")
    return files


def size(files: Sequence[Path]) -> tuple[int, int]:
    """Returns the number of documents in the files, and the bytes of their columns."""
    metadata = [pq.read_metadata(file) for file in files]
    groups = [file.row_group(number) for file in metadata for number in range(file.num_row_groups)]
    return sum(file.num_rows for file in metadata), sum(group.total_byte_size for group in groups)


def examples(files: Sequence[Path]) -> Iterator[builders.Example]:
    """Yields (id, fields) of all documents; a few rows are in memory at a time.

    Raises:
      UserError: ids do not ascend.
    """
    last_id = ""
    for file in files:
        for _, row in documents.records(file, list(FIELDS)):
            if row["id"] <= last_id:
                raise UserError(
                    f"{file}: the id '{row['id']}' comes after '{last_id}', but ids must ascend and be unique; "
                    "redo the corpus stage."
                )
            last_id = row["id"]
            yield last_id, row


def main(argv: Sequence[str] | None = None) -> None:
    """Prepares `WORKDIR/corpus/documents` in `WORKDIR/tfds`."""
    parser = argparse.ArgumentParser(
        prog="python -m dsmath_jax.data.corpus_builder", description="Prepares a run's documents as a TFDS dataset."
    )
    parser.add_argument("--workdir", type=local_path, required=True, help="of a run whose corpus stage has finished")
    workdir = parser.parse_args(argv).workdir
    logging.set_verbosity(logging.ERROR)  # TFDS warns of every config that is defined while it runs
    builders.print_usage(builders.prepare(config(workdir / "corpus" / "documents"), workdir / "tfds"), "text")


if __name__ == "__main__":
    sys.exit(exit_code(main))
