"""Data sets as TFDS builders in ArrayRecord files, prepared and read without TensorFlow.

    python -m dsmath_jax.data.builders --source=NAME --data_dir=DIR

prepares a source of texts or of instructions (`data.sources`, `data.instructions`) in DIR/tfds;
`as_data_source(split="train")` reads it back at random access. Example i is the i-th record of the source, in every
preparation; nothing is shuffled on disk (a reader that wants mixed order shuffles indices, as Grain does). Texts are
bytes in UTF-8, as everywhere in TFDS.

The name of a dataset's config ends in a hash of what it was made from. So changed data are another config in a folder
of their own and never take over old files, which stay until somebody removes them; the version is that of the features.

It is a `ShardBasedBuilder`, since the shuffling of `GeneratorBasedBuilder` holds up to 1 GB in memory and needs
TensorFlow beyond that. Preparing holds one shard's examples, about `SHARD_BYTES`.
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

from dsmath_jax.data import datasets, documents, instructions, sources
from dsmath_jax.progress import track
from dsmath_jax.workdir import exit_code, hash_file, local_path, lock, remove

Example = tuple[str, dict[str, Any]]  # its id and its fields
SHARD_BYTES = 64 << 20  # of uncompressed examples
FINGERPRINT_DIGITS = 16
TEXT_FEATURES: dict[str, Any] = {"id": tfds.features.Text(), "text": tfds.features.Text()}
INSTRUCTION_FEATURES: dict[str, Any] = {
    "id": tfds.features.Text(),
    "question": tfds.features.Text(),
    # The parts of all messages in order: the message that each is of, its role, its text, is it to be learned.
    "parts": tfds.features.Sequence(
        {"message": np.int32, "role": tfds.features.Text(), "text": tfds.features.Text(), "learn": np.bool_}
    ),
    "language": tfds.features.Text(),
    "style": tfds.features.Text(),
}


@dataclasses.dataclass(eq=False)
class Data(tfds.core.BuilderConfig):
    """What a builder is about.

    Attributes:
      features: of an example, by name.
      examples: a function of a module, or a `partial` of one, since builders are pickled; yields them in order.
      size: counts the examples and their bytes; asked for once, before they are prepared.
    """

    features: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    examples: Callable[[], Iterator[Example]] = lambda: iter(())
    size: Callable[[], tuple[int, int]] = lambda: (0, 0)


class DsmathData(tfds.core.ShardBasedBuilder):
    """The examples of a `Data` config, in their order."""

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
        """One stream of all examples, cut into shards of as many each; TFDS asks for them in order."""
        del dl_manager  # what is fetched was fetched before
        total, size = self.builder_config.size()
        rows = max(1, -(-total // max(1, round(size / SHARD_BYTES))))  # of each shard but the last
        stream = track(self.builder_config.examples(), "preparing documents", total)
        shards = max(1, -(-total // rows))
        # The last shard takes the stream to its end, so that the progress is told to its end too.
        ends: list[int | None] = [*([rows] * (shards - 1)), None]
        return {"train": [lambda end=end: itertools.islice(stream, end) for end in ends]}


def builder(config: Data, data_dir: Path) -> DsmathData:
    """The builder of a config; what it prepares lies below `data_dir`.

    It can also be read without the config: `tfds.builder_from_directory(FOLDER)`.
    """
    return DsmathData(data_dir=data_dir, config=config, file_format="array_record")


def prepare(config: Data, data_dir: Path) -> DsmathData:
    """Writes the dataset's files, unless they are there; returns its builder.

    The files appear under their names all at once. What a killed preparation left is removed first; the lock keeps
    this from happening to a running one.

    Raises:
      UserError: an example is wrong, or another process prepares below the same folder.
    """
    made = builder(config, data_dir)
    with lock(data_dir), tempfile.TemporaryDirectory() as downloads:
        for leftover in Path(made.data_dir).parent.glob("incomplete.*"):
            remove(leftover)
        made.download_and_prepare(
            download_dir=downloads, download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    return made


def fingerprint(files: Iterable[tuple[str, str]]) -> str:
    """Hexadecimal digits that stand for (name, SHA-256) of files."""
    digest = hashlib.sha256()
    for name, checksum in files:
        digest.update(f"{name}\n{checksum}\n".encode())
    return digest.hexdigest()[:FINGERPRINT_DIGITS]


def texts(name: str, data_dir: Path) -> Data:
    """The config of a source of texts, whose files are fetched and checked.

    Raises:
      UserError: as `sources.find` and its `fetch`.
    """
    found = sources.find(name, data_dir, data_dir / name)
    digest = fingerprint((file.path, hash_file(found.fetch(file))) for file in found.files)
    examples = functools.partial(_texts, found)
    return _data(f"{name}-{digest}", f"Documents of {name}.", TEXT_FEATURES, examples)


def _texts(found: sources.Texts) -> Iterator[Example]:
    for file in found.files:
        for number, text in documents.documents(found.root / file.path, found.text):
            identity = f"{file.path}:{number}"
            yield identity, {"id": identity, "text": text}


def instruction_data(name: str, data_dir: Path) -> Data:
    """The config of a source of instructions; its records are its fingerprint, since all are read anyway.

    Raises:
      UserError: as `instructions.load`.
    """
    examples = functools.partial(_instructions, name, data_dir)
    digest = fingerprint((key, repr(fields)) for key, fields in examples())
    return _data(f"{name}-{digest}", f"Instructions of {name}.", INSTRUCTION_FEATURES, examples)


def _instructions(name: str, data_dir: Path) -> Iterator[Example]:
    for one in instructions.load(name, data_dir):
        parts = [
            {"message": number, "role": message.role, "text": text, "learn": learn}
            for number, message in enumerate(one.messages)
            for text, learn in message.parts
        ]
        fields = {"id": one.id, "question": one.question, "parts": parts}
        yield one.id, {**fields, "language": one.language, "style": one.style}


def _data(name: str, description: str, features: Mapping[str, Any], examples: Callable[[], Iterator[Example]]) -> Data:
    size = functools.partial(_size, examples)
    return Data(name=name.replace("/", "-"), description=description, features=features, examples=examples, size=size)


def _size(examples: Callable[[], Iterator[Example]]) -> tuple[int, int]:
    count = size = 0
    for _, fields in examples():
        count, size = count + 1, size + len(str(fields).encode())
    return count, size


def tell(made: DsmathData, field: str) -> None:
    """Says what was prepared, and how to load it."""
    train = made.info.splits["train"]
    print(f"{train.num_examples:,} examples in {train.num_shards:,} shard(s); to load them:")
    print("  import tensorflow_datasets as tfds")
    print(f"  source = tfds.builder_from_directory({made.data_dir!r}).as_data_source(split='train')")
    print(f"  source[0][{field!r}].decode()")


def main(argv: Sequence[str] | None = None) -> None:
    """Prepares the source `--source` in the folder `tfds` below `--data_dir`."""
    parser = argparse.ArgumentParser(
        prog="python -m dsmath_jax.data.builders", description="Prepares texts or instructions as a TFDS dataset."
    )
    known = ", ".join((*sources.PUBLIC, *instructions.PUBLIC, *instructions.FETCHED))
    parser.add_argument("--source", required=True, help=f"{known}, a data set, or a path to texts")
    parser.add_argument(
        "--data_dir", type=local_path, required=True, help="the data folder: mirrors, downloads and tfds/"
    )
    parser.add_argument("--instructions", action="store_true", help="the path is one to instructions")
    options = parser.parse_args(argv)
    logging.set_verbosity(logging.ERROR)  # TFDS warns of every config that is made while it runs
    instructive = options.instructions or options.source in (*instructions.PUBLIC, *datasets.SOURCES)
    config = (instruction_data if instructive else texts)(options.source, options.data_dir)
    tell(prepare(config, options.data_dir / "tfds"), "question" if instructive else "text")


if __name__ == "__main__":
    sys.exit(exit_code(main))
