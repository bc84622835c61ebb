"""Packs the texts of a source into shards of rows: a shard per group of input files, in workers and on all hosts.

A shard is a pure function of its files and the tokenizer, whatever process writes it. Existing shards are skipped, so a
restart resumes.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dsmath_jax.data import documents, packing, rows, sources, tokenizer, workers
from dsmath_jax.data.downloads import File
from dsmath_jax.workdir import UserError, read_json, write_json

GROUP_BYTES = 64 << 20  # of the input files of a shard, if they are smaller
IN_PROCESS_BYTES = 32 << 20  # less input is packed without worker processes
HELD_OUT_EVERY = 50  # one document in 50 is held out for the evaluation loss, until there are enough
HELD_OUT = "held-out"
FILES = "files.json"


@dataclasses.dataclass(frozen=True)
class Shard:
    """The plan of one shard.

    Attributes:
      path: of its rows; held-out rows are in `held_out_folder(path.parent)` under the same name.
      texts: the source.
      files: the files of the source in this shard.
      tokenizer: the file or folder of the tokenizer.
      length: tokens of a sequence.
      held_out: approximate maximum number of rows to hold out.
    """

    path: Path
    texts: sources.TextSource
    files: tuple[File, ...]
    tokenizer: Path
    length: int
    held_out: int


def held_out_folder(folder: Path) -> Path:
    """Returns the folder of the held-out rows of a folder of rows."""
    return folder.with_name(f"{folder.name}.{HELD_OUT}")


def held_out_folders(folders: Sequence[Path]) -> list[Path]:
    """Returns the folders of held-out rows, of the folders of rows that have some."""
    return [folder for folder in map(held_out_folder, folders) if any(folder.glob(f"[!.]*{rows.SUFFIX}"))]


def plan(folder: Path, texts: sources.TextSource, tokenizer_path: Path, length: int, held_out: int) -> list[Shard]:
    """Plans the shards of a source; `held_out` rows are taken evenly from all of them."""
    groups = sources.grouped(texts, GROUP_BYTES)
    share = -(-held_out // len(groups))
    return [
        Shard(folder / rows.shard_name(number), texts, files, tokenizer_path, length, share)
        for number, files in enumerate(groups)
    ]


def check_file_list(shards: Sequence[Shard]) -> None:
    """Stores the list of a folder's input files or, if there is one, compares them with it.

    Raises:
      UserError: they differ, so that existing shards do not match new ones.
    """
    folder = shards[0].path.parent
    listed = [[file.path for file in shard.files] for shard in shards]
    if not (folder / FILES).exists():
        write_json(folder / FILES, listed)
    elif read_json(folder / FILES) != listed:
        raise UserError(
            f"The files in {shards[0].texts.root} are not those that {folder} was started with; restore them, or run "
            "the stage with --overwrite."
        )


def write(shards: Sequence[Shard], process_index: int = 0, process_count: int = 1) -> None:
    """Writes this process's part of the shards, except existing ones.

    Raises:
      UserError: a file cannot be downloaded or read, or a document has no text.
    """
    my_shards = [shard for shard in shards[process_index::process_count] if not shard.path.exists()]
    for _ in workers.run(write_shard, my_shards, "packing documents", 1 if _small(my_shards) else 0):
        pass


def _small(shards: Sequence[Shard]) -> bool:
    paths = [shard.texts.root / file.path for shard in shards for file in shard.files]
    return all(path.exists() for path in paths) and sum(path.stat().st_size for path in paths) < IN_PROCESS_BYTES


def write_shard(shard: Shard) -> int:
    """Downloads, reads, tokenizes and packs the files of one shard; returns the number of its rows."""
    held_out: list[packing.Example] = []
    enough = shard.held_out * (shard.length + 1)

    def trained_on() -> Iterator[packing.Example]:
        tokens = 0
        for number, example in enumerate(examples(shard)):
            if number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 and tokens < enough:
                tokens += len(example.tokens)
                held_out.append(example)
            else:
                yield example

    # Held-out documents are known at the end; the shard gets its name last, when both are complete.
    packed = packing.concat_and_chunk(trained_on(), shard.length)
    with rows.shard_writer(shard.path) as write:
        count = sum(write(row) for row in packed)
        if held_out:
            path = held_out_folder(shard.path.parent) / shard.path.name
            rows.write_rows(path, packing.concat_and_chunk(held_out, shard.length))
    return count


def examples(shard: Shard) -> Iterator[packing.Example]:
    """Yields the tokenized documents of a shard, with loss on all tokens; ids are "FILE:RECORD".

    A document is BOS, if the tokenizer has one, the text, and EOS.
    """
    text_tokenizer = _load_tokenizer(shard.tokenizer)
    before = () if text_tokenizer.bos_id is None else (text_tokenizer.bos_id,)
    for file in shard.files:
        path = shard.texts.fetch(file)
        for number, text in documents.documents(path, shard.texts.text, shard.texts.language):
            ids = np.array([*before, *text_tokenizer.encode(text), text_tokenizer.eos_id], np.int32)
            yield packing.Example(ids, np.ones(len(ids), bool), f"{file.path}:{number}")


_load_tokenizer = functools.cache(tokenizer.load)
