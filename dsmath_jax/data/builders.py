"""Data sets as TFDS builders with ArrayRecord files, prepared and read without TensorFlow.

    python -m dsmath_jax.data.builders --source=NAME --data_dir=DIR

prepares a source of texts or of instructions (`data.sources`, `data.instructions`) in DIR/tfds;
`as_data_source(split="train")` gives random access to it. Example i is the i-th record of the source, in every
preparation; nothing is shuffled on disk (readers shuffle indices, as Grain does). Texts are UTF-8 bytes, as in all of
TFDS.

The name of a dataset's config ends in a hash of its source. So changed data get another config in their own folder and
never reuse old files, which stay until somebody removes them; the version is that of the features.

It is a `ShardBasedBuilder`, since the shuffling of `GeneratorBasedBuilder` needs up to 1 GB of memory, and TensorFlow
beyond that. In memory are the examples of one shard, about `SHARD_BYTES`.
"""

import argparse
import dataclasses
import functools
import hashlib
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from dsmath_jax.data import datasets, documents, hub, instructions, sources
from dsmath_jax.progress import track
from dsmath_jax.workdir import exit_code, hash_file, local_path, lock, remove

Example = tuple[str, dict[str, Any]]  # id and fields
SHARD_BYTES = 64 << 20  # of uncompressed examples
FINGERPRINT_DIGITS = 16
TEXT_FEATURES: dict[str, Any] = {"id": tfds.features.Text(), "text": tfds.features.Text()}
INSTRUCTION_FEATURES: dict[str, Any] = {
    "id": tfds.features.Text(),
    "question": tfds.features.Text(),
    # The parts of all messages in order: index of the message, its role, text, and whether it has loss.
    "parts": tfds.features.Sequence(
        {"message": np.int32, "role": tfds.features.Text(), "text": tfds.features.Text(), "learn": np.bool_}
    ),
    "language": tfds.features.Text(),
    "style": tfds.features.Text(),
}


@dataclasses.dataclass(eq=False)
class DatasetConfig(tfds.core.BuilderConfig):
    """The config of a data set.

    Attributes:
      features: of an example, by name.
      examples: yields the examples in order; a module-level function or a `partial` of one, since builders are pickled.
      size: returns the number of examples and of their bytes; called once, before they are prepared.
    """

    features: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    examples: Callable[[], Iterator[Example]] = lambda: iter(())
    size: Callable[[], tuple[int, int]] = lambda: (0, 0)


class DsmathData(tfds.core.ShardBasedBuilder):
    """The TFDS builder of a `DatasetConfig`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "mined documents, texts, instructions"}  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.builder_config.description,
            features=tfds.features.FeaturesDict(dict(self.builder_config.features)),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, Sequence[Callable[[], Iterator[Example]]]]:
        """Splits the stream of all examples into shards of equal numbers; TFDS reads them in order."""
        del dl_manager  # everything is downloaded already
        total, size = self.builder_config.size()
        rows = max(1, -(-total // max(1, round(size / SHARD_BYTES))))  # of each shard but the last
        stream = track(self.builder_config.examples(), "preparing documents", total)
        shards = max(1, -(-total // rows))
        # The last shard exhausts the stream, so that the progress bar completes.
        ends: list[int | None] = [*([rows] * (shards - 1)), None]
        return {"train": [lambda end=end: itertools.islice(stream, end) for end in ends]}


def builder(config: DatasetConfig, data_dir: Path) -> DsmathData:
    """Returns the builder of a config, which prepares below `data_dir`.

    The files can also be read without the config: `tfds.builder_from_directory(FOLDER)`.
    """
    return DsmathData(data_dir=data_dir, config=config, file_format="array_record")


def prepare(config: DatasetConfig, data_dir: Path) -> DsmathData:
    """Writes the files of a data set, unless they exist; returns its builder.

    The files appear all at once. Remains of a killed preparation are removed first; the lock protects a running one.

    Raises:
      UserError: an example is invalid, or another process prepares below the same folder.
    """
    prepared = builder(config, data_dir)
    with lock(data_dir), tempfile.TemporaryDirectory() as downloads:
        for leftover in Path(prepared.data_dir).parent.glob("incomplete.*"):
            remove(leftover)
        prepared.download_and_prepare(
            download_dir=downloads, download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    return prepared


def fingerprint(files: Iterable[tuple[str, str]]) -> str:
    """Returns a hash of (name, SHA-256) of files."""
    digest = hashlib.sha256()
    for name, checksum in files:
        digest.update(f"{name}\n{checksum}\n".encode())
    return digest.hexdigest()[:FINGERPRINT_DIGITS]


def text_config(name: str, data_dir: Path) -> DatasetConfig:
    """Returns the config of a source of texts, after fetching and checking its files.

    Raises:
      UserError: as `sources.find` and its `fetch`.
    """
    source = sources.find(name, data_dir, data_dir / name)
    digest = fingerprint((file.path, hash_file(source.fetch(file))) for file in source.files)
    examples = functools.partial(_texts, source)
    return _config(f"{name}-{digest}", f"Documents of {name}.", TEXT_FEATURES, examples)


def _texts(source: sources.TextSource) -> Iterator[Example]:
    for file in source.files:
        for number, text in documents.documents(source.root / file.path, source.text):
            record_id = f"{file.path}:{number}"
            yield record_id, {"id": record_id, "text": text}


def instruction_config(name: str, data_dir: Path) -> DatasetConfig:
    """Returns the config of a source of instructions; the fingerprint is of all its records.

    Raises:
      UserError: as `instructions.load`.
    """
    examples = functools.partial(_instructions, name, data_dir)
    digest = fingerprint((key, repr(fields)) for key, fields in examples())
    return _config(f"{name}-{digest}", f"Instructions of {name}.", INSTRUCTION_FEATURES, examples)


def _instructions(name: str, data_dir: Path) -> Iterator[Example]:
    for conversation in instructions.load(name, data_dir):
        parts = [
            {"message": number, "role": message.role, "text": text, "learn": has_loss}
            for number, message in enumerate(conversation.messages)
            for text, has_loss in message.parts
        ]
        fields = {"id": conversation.id, "question": conversation.question, "parts": parts}
        yield conversation.id, {**fields, "language": conversation.language, "style": conversation.style}


def _config(
    name: str, description: str, features: Mapping[str, Any], examples: Callable[[], Iterator[Example]]
) -> DatasetConfig:
    size, name = functools.partial(_size, examples), name.replace("/", "-")
    return DatasetConfig(name=name, description=description, features=features, examples=examples, size=size)


def _size(examples: Callable[[], Iterator[Example]]) -> tuple[int, int]:
    count = size = 0
    for _, fields in examples():
        count, size = count + 1, size + len(str(fields).encode())
    return count, size


def print_usage(prepared: DsmathData, field: str) -> None:
    """Prints what was prepared, and how to load it."""
    train = prepared.info.splits["train"]
    print(f"{train.num_examples:,} examples in {train.num_shards:,} shard(s); to load them:")
    print("  import tensorflow_datasets as tfds")
    print(f"  source = tfds.builder_from_directory({prepared.data_dir!r}).as_data_source(split='train')")
    print(f"  source[0][{field!r}].decode()")


def main(argv: Sequence[str] | None = None) -> None:
    """Prepares the source `--source` in the folder `tfds` below `--data_dir`."""
    parser = argparse.ArgumentParser(
        prog="python -m dsmath_jax.data.builders", description="Prepares texts or instructions as a TFDS dataset."
    )
    known = ", ".join((*sources.PUBLIC, *hub.PUBLIC, *instructions.FETCHED))
    parser.add_argument("--source", required=True, help=f"{known}, a data set, or a path to texts")
    parser.add_argument(
        "--data_dir", type=local_path, required=True, help="the data folder: mirrors, downloads and tfds/"
    )
    parser.add_argument("--instructions", action="store_true", help="the path is one to instructions")
    options = parser.parse_args(argv)
    logging.set_verbosity(logging.ERROR)  # TFDS warns of every config that is defined while it runs
    is_instructions = options.instructions or options.source in (*hub.PUBLIC, *datasets.SOURCES)
    config = (instruction_config if is_instructions else text_config)(options.source, options.data_dir)
    print_usage(prepare(config, options.data_dir / "tfds"), "question" if is_instructions else "text")


if __name__ == "__main__":
    sys.exit(exit_code(main))
