"""The kept documents of a run as a TFDS dataset (see `builders`), in the order of their ids.

source = prepare(workdir / "corpus/documents", workdir / "tfds").as_data_source(split="train")
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


def config(folder: Path) -> builders.Data:
    """The config of the Parquet files in a folder of documents; reads them once for their hash.

    Raises:
      UserError: the folder holds no document, or a file that is none of the corpus.
    """
    files = document_files(folder)
    return builders.Data(
        name=builders.fingerprint((file.name, hash_file(file)) for file in files),
        description="Web pages mined for mathematics as in section 2.1 of arXiv 2402.03300, decontaminated.",
        features=FIELDS,
        examples=functools.partial(examples, files),
        size=functools.partial(size, files),
    )


def prepare(folder: Path, data_dir: Path) -> builders.DsmathData:
    """Writes the dataset of a folder of documents below `data_dir`; errors as `config`, `examples` and `builders`."""
    return builders.prepare(config(folder), data_dir)


def document_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder of documents, in the order of the ids in them.

    Raises:
      UserError: there is none, one of them is not readable or lacks a field, or none holds a document.
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
        raise UserError(f"The files in {folder} hold no document: the corpus stage kept none, look at its data card.")
    return files


def size(files: Sequence[Path]) -> tuple[int, int]:
    """How many documents files hold, and the bytes of their columns."""
    metadata = [pq.read_metadata(file) for file in files]
    groups = [file.row_group(number) for file in metadata for number in range(file.num_row_groups)]
    return sum(file.num_rows for file in metadata), sum(group.total_byte_size for group in groups)


def examples(files: Sequence[Path]) -> Iterator[builders.Example]:
    """Yields (id, fields) of all documents, a few rows of one file in memory at a time.

    Raises:
      UserError: an id does not follow the one before.
    """
    before = ""
    for file in files:
        for _, row in documents.records(file, list(FIELDS)):
            if row["id"] <= before:
                raise UserError(
                    f"{file}: the id '{row['id']}' comes after '{before}', but ids must rise and be there once; "
                    "redo the corpus stage."
                )
            before = row["id"]
            yield before, row


def main(argv: Sequence[str] | None = None) -> None:
    """`--workdir=DIR` prepares `DIR/corpus/documents` in `DIR/tfds`."""
    parser = argparse.ArgumentParser(
        prog="python -m dsmath_jax.data.corpus_builder", description="Prepares a run's documents as a TFDS dataset."
    )
    parser.add_argument("--workdir", type=local_path, required=True, help="of a run whose corpus stage has finished")
    workdir = parser.parse_args(argv).workdir
    logging.set_verbosity(logging.ERROR)  # TFDS warns of every config that is made while it runs
    made = prepare(workdir / "corpus" / "documents", workdir / "tfds")
    builders.tell(made, "text")


if __name__ == "__main__":
    sys.exit(exit_code(main))
