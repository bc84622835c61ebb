"""Texts of a source to shards of packed rows: one shard for one group of input files, in worker processes and on hosts.

A shard is a pure function of its files and the tokenizer, so nothing depends on who made it; one that is there is not
made again, which is all that a restart takes.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dsmath_jax.data import documents, packing, rows, sources, tokenizer, workers
from dsmath_jax.data.downloads import File
from dsmath_jax.workdir import UserError, read_json, write_json

GROUP_BYTES = 64 << 20  # of input files for one shard, where they are smaller
IN_PROCESS_BYTES = 32 << 20  # of input altogether that are not worth the start of worker processes
HELD_OUT_EVERY = 50  # one document in so many is kept for the evaluation loss, until there are enough
HELD_OUT = "held-out"
FILES = "files.json"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard to be made.

    Attributes:
      path: of its rows; those that are held out lie in the folder `held_out_folder(path.parent)` under the same name.
      texts: the source.
      files: those of its files whose documents are in this shard.
      tokenizer: the file or folder of the tokenizer.
      length: tokens of a sequence.
      held_out: rows to hold out, at most about so many.
    """

    path: Path
    texts: sources.Texts
    files: tuple[File, ...]
    tokenizer: Path
    length: int
    held_out: int


def held_out_folder(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{HELD_OUT}")


def held_out_of(folders: Sequence[Path]) -> list[Path]:
    """The folders of held-out rows of those folders of rows that have some."""
    return [one for one in map(held_out_folder, folders) if any(one.glob(f"[!.]*{rows.SUFFIX}"))]


def plan(folder: Path, texts: sources.Texts, tokenizer_path: Path, length: int, held_out: int) -> list[Shard]:
    """The shards of a source; `held_out` rows are taken evenly from all of them."""
    groups = sources.grouped(texts, GROUP_BYTES)
    share = -(-held_out // len(groups))
    return [
        Shard(folder / rows.shard_name(number), texts, files, tokenizer_path, length, share)
        for number, files in enumerate(groups)
    ]


def settle(shards: Sequence[Shard]) -> None:
    """Writes down which files the shards of a folder are made from, or compares them with those it was begun with.

    Raises:
      UserError: they are others, so that the shards that are there would not go with those that are to come.
    """
    folder = shards[0].path.parent
    listed = [[file.path for file in shard.files] for shard in shards]
    if not (folder / FILES).exists():
        write_json(folder / FILES, listed)
    elif read_json(folder / FILES) != listed:
        raise UserError(
            f"The files in {shards[0].texts.root} are not those that {folder} was begun with; put them back, or run "
            "the stage with --overwrite."
        )


def write(shards: Sequence[Shard], process_index: int = 0, process_count: int = 1) -> None:
    """Makes this process's part of the shards, those that are not there; the other processes make the others.

    Raises:
      UserError: a file cannot be fetched or read, or a document has no text.
    """
    mine = [shard for shard in shards[process_index::process_count] if not shard.path.exists()]
    for _ in workers.run(write_shard, mine, "packing documents", 1 if _small(mine) else 0):
        pass


def _small(shards: Sequence[Shard]) -> bool:
    paths = [shard.texts.root / file.path for shard in shards for file in shard.files]
    return all(path.exists() for path in paths) and sum(path.stat().st_size for path in paths) < IN_PROCESS_BYTES


def write_shard(shard: Shard) -> int:
    """Fetches, reads, tokenises and packs the files of one shard; returns the number of its rows."""
    apart: list[packing.Example] = []
    enough = shard.held_out * (shard.length + 1)

    def learned() -> Iterator[packing.Example]:
        held = 0
        for number, example in enumerate(examples(shard)):
            if number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 and held < enough:
                held += len(example.tokens)
                apart.append(example)
            else:
                yield example

    # Those held out are known when all is read; the shard gets its name last, since it stands for both.
    packed = packing.concatenate(learned(), shard.length)
    with rows.writing(shard.path) as write:
        count = sum(write(row) for row in packed)
        if apart:
            path = held_out_folder(shard.path.parent) / shard.path.name
            rows.write_rows(path, packing.concatenate(apart, shard.length))
    return count


def examples(shard: Shard) -> Iterator[packing.Example]:
    """The documents of a shard as tokens, all of it to be learned; ids are "FILE:RECORD".

    A document is BOS, where the tokenizer has one, the text, and EOS.
    """
    text_tokenizer = _tokenizer(shard.tokenizer)
    before = () if text_tokenizer.bos_id is None else (text_tokenizer.bos_id,)
    for file in shard.files:
        path = shard.texts.fetch(file)
        for number, text in documents.documents(path, shard.texts.text, shard.texts.language):
            ids = np.array([*before, *text_tokenizer.encode(text), text_tokenizer.eos_id], np.int32)
            yield packing.Example(ids, np.ones(len(ids), bool), f"{file.path}:{number}")


_tokenizer = functools.cache(tokenizer.load)
