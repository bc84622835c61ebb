"""The kept documents as a TFDS dataset in ArrayRecord files, prepared and read without TensorFlow.

    source = builder(workdir / "corpus/documents", workdir / "tfds").as_data_source(split="train")
    source[5]["text"].decode()

Order: example i is the i-th document by id, in every preparation; nothing is shuffled on disk (a reader that wants
mixed order shuffles indices, as Grain does). Texts are bytes in UTF-8, as everywhere in TFDS.

The name of the dataset's config is a hash of the documents' files. So a changed corpus is another config in a folder of
its own and never takes over old files, which stay until somebody removes them; the version is that of the features.

It is a `ShardBasedBuilder`, since the shuffling of `GeneratorBasedBuilder` holds up to 1 GB in memory and needs
TensorFlow beyond that. Preparing holds one shard's documents, about `SHARD_BYTES`.
"""

import argparse
import dataclasses
import hashlib
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
from absl import logging

from dsmath_jax.progress import track
from dsmath_jax.workdir import UserError, exit_code, hash_file, lock, remove

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
SHARD_BYTES = 64 << 20  # of uncompressed columns
ROWS_PER_READ, READ_BYTES = 64, 1 << 20
FINGERPRINT_DIGITS = 16


@dataclasses.dataclass(eq=False)
class DocumentsConfig(tfds.core.BuilderConfig):
    """Which documents a builder is about: the Parquet files of `folder`, whose `fingerprint` is the config's name."""

    folder: Path = Path()


class DsmathCorpus(tfds.core.ShardBasedBuilder):
    """Documents of a mined corpus, in the order of their ids."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "id, url, host, text, language, tokens, score, iteration"}  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Web pages mined for mathematics as in section 2.1 of arXiv 2402.03300, decontaminated.",
            features=tfds.features.FeaturesDict(FIELDS),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, Sequence[Callable[[], Iterator[tuple[str, dict]]]]]:
        """One stream of all documents, cut into shards of as many documents each; TFDS asks for them in order."""
        del dl_manager  # nothing is downloaded
        files = document_files(self.builder_config.folder)
        metadata = [pq.read_metadata(file) for file in files]
        total = sum(file.num_rows for file in metadata)
        size = sum(file.row_group(group).total_byte_size for file in metadata for group in range(file.num_row_groups))
        rows = max(1, -(-total // max(1, round(size / SHARD_BYTES))))  # of each shard but the last
        stream = track(examples(files), "preparing documents", total)
        shards = -(-total // rows)
        # The last shard takes the stream to its end, so that the progress is told to its end too.
        ends: list[int | None] = [*([rows] * (shards - 1)), None]
        return {"train": [lambda end=end: itertools.islice(stream, end) for end in ends]}


def builder(documents: Path, data_dir: Path) -> DsmathCorpus:
    """The builder over the Parquet files in the folder `documents`; what it prepares lies below `data_dir`.

    Reads the files once for their hash. What is prepared can also be read without them:
    `tfds.builder_from_directory(FOLDER)`.

    Raises:
      UserError: the folder holds no document, or a file that is none of the corpus.
    """
    config = DocumentsConfig(name=fingerprint(documents), folder=documents)
    return DsmathCorpus(data_dir=data_dir, config=config, file_format="array_record")


def prepare(documents: Path, data_dir: Path) -> DsmathCorpus:
    """Writes the dataset's files, unless they are there; returns its builder.

    The files appear under their names all at once. What a killed preparation left is removed first; the lock keeps
    this from happening to a running one.

    Raises:
      UserError: as `builder`; or the ids do not rise; or another process prepares the same folder.
    """
    made = builder(documents, data_dir)
    with lock(data_dir), tempfile.TemporaryDirectory() as downloads:
        for leftover in Path(made.data_dir).parent.glob("incomplete.*"):
            remove(leftover)
        made.download_and_prepare(
            download_dir=downloads, download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    return made


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


def fingerprint(folder: Path) -> str:
    """Hexadecimal digits that stand for the documents: a hash of the names and contents of their files."""
    digest = hashlib.sha256()
    for file in document_files(folder):
        digest.update(f"{file.name}\n{hash_file(file)}\n".encode())
    return digest.hexdigest()[:FINGERPRINT_DIGITS]


def examples(files: Sequence[Path]) -> Iterator[tuple[str, dict]]:
    """Yields (id, fields) of all documents, a few rows of one file in memory at a time.

    Raises:
      UserError: an id does not follow the one before.
    """
    before = ""
    for file in files:
        # Without these two, Arrow reads the whole columns of a row group before it hands out the first row.
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=READ_BYTES) as parquet:
            for batch in parquet.iter_batches(batch_size=ROWS_PER_READ, columns=list(FIELDS)):
                for row in batch.to_pylist():
                    if row["id"] <= before:
                        raise UserError(
                            f"{file}: the id '{row['id']}' comes after '{before}', but ids must rise and be there "
                            "once; redo the corpus stage."
                        )
                    before = row["id"]
                    yield before, row


def main(argv: Sequence[str] | None = None) -> None:
    """`--workdir=DIR` prepares `DIR/corpus/documents` in `DIR/tfds`."""
    parser = argparse.ArgumentParser(
        prog="python -m dsmath_jax.data.corpus_builder", description="Prepares a run's documents as a TFDS dataset."
    )
    parser.add_argument("--workdir", type=Path, required=True, help="of a run whose corpus stage has finished")
    workdir = parser.parse_args(argv).workdir
    logging.set_verbosity(logging.ERROR)  # TFDS warns of every config that is made while it runs
    made = prepare(workdir / "corpus" / "documents", workdir / "tfds")
    train = made.info.splits["train"]
    print(f"{train.num_examples:,} documents in {train.num_shards:,} shard(s); to load them:")
    print("  import tensorflow_datasets as tfds")
    print(f"  source = tfds.builder_from_directory({made.data_dir!r}).as_data_source(split='train')")
    print("  source[0]['text'].decode()")


if __name__ == "__main__":
    sys.exit(exit_code(main))
