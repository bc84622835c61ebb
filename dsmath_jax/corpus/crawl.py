"""The pages of all shards: which are duplicates, and which are candidates for the corpus."""

import dataclasses
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import daft
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
from daft import DataFrame

from dsmath_jax.corpus import dedup, engine, pages
from dsmath_jax.workdir import UserError, atomic_path, write_json

CANDIDATES = pa.schema(
    [
        ("number", pa.int64()),
        ("canonical_url", pa.string()),
        ("host", pa.string()),
        ("tokens", pa.int64()),
        ("first", pa.int64()),  # the first iteration that collected the page, 0 for none
        ("before", pa.bool_()),  # whether the previous iteration collected it
    ]
)


@dataclasses.dataclass(frozen=True)
class Crawl:
    """The files of a crawl.

    Attributes:
      shards: files of pages.
      names: a JSON file with the paths of `shards`.
      duplicates: a folder with the output of `dedup.duplicates`.
      candidates: a file of candidates for each shard.
    """

    shards: list[Path]
    names: Path
    duplicates: Path
    candidates: list[Path]

    def read_candidates(self) -> DataFrame:
        """Returns all candidates, with the columns of `CANDIDATES`."""
        return daft.read_parquet([str(path) for path in self.candidates])

    def ids(self, numbers: Sequence[int]) -> list[str]:
        """Returns the ids of the pages with some numbers."""
        names = _names(tuple(self.shards))
        return [
            pages.page_id(names[number >> pages.ROW_BITS], number & ((1 << pages.ROW_BITS) - 1)) for number in numbers
        ]


@lru_cache
def _names(shards: tuple[Path, ...]) -> dict[int, str]:
    """Returns the name of each shard by its number."""
    return {pages.shard_number(shard): shard.stem for shard in shards}


def read_crawl(shards: list[Path], folder: Path, min_tokens: int = 1) -> Crawl:
    """Finds the duplicates among the pages of some shards and writes the candidates: the rest, if long enough.

    Args:
      shards: files that `pages` wrote.
      folder: receives `duplicates/`, `candidates/` and `shards.json`; existing files are reused.
      min_tokens: pages of fewer tokens are not candidates: they are too short to classify, and mostly stubs.

    Raises:
      UserError: there is no candidate.
    """
    duplicates = folder / "duplicates"
    if not duplicates.exists():  # building the query already computes a part of it
        write_frame(duplicates, dedup.duplicates(pages.frame(shards, *dedup.COLUMNS)))
    candidates = [folder / "candidates" / shard.name for shard in shards]
    tasks = [
        (str(target), str(shard), str(duplicates), str(min_tokens))
        for target, shard in zip(candidates, shards, strict=True)
    ]
    engine.run_tasks(write_candidates, tasks, "listing candidates")
    if not any(pq.read_metadata(path).num_rows for path in candidates):
        raise UserError(
            f"No page of the {len(shards)} input file(s), {shards[0].name} first, has {min_tokens} tokens; give others."
        )
    write_json(folder / "shards.json", [os.path.relpath(shard, folder) for shard in shards])
    return Crawl(shards, folder / "shards.json", duplicates, candidates)


def write_frame(target: Path, frame: DataFrame) -> None:
    """Writes a dataframe as a folder of Parquet files, atomically, unless the folder exists."""
    if not target.exists():
        with atomic_path(target) as temporary:
            engine.write_parquet(frame, temporary)


def write_file(target: Path, frame: DataFrame) -> None:
    """Writes a dataframe as one Parquet file, atomically and in order, a batch at a time."""
    schema = frame.schema().to_pyarrow_schema()
    with atomic_path(target) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in frame.to_arrow_iter():
            writer.write_batch(batch.cast(schema))


def write_candidates(target: str, shard: str, duplicates: str, min_tokens: str) -> None:
    """Writes the candidates of one shard: pages that are not duplicates and have at least `min_tokens`, in order."""
    table = pq.read_table(shard, columns=["number", "canonical_url", "host", "tokens"])
    dropped = read_duplicates(Path(duplicates), pages.shard_number(Path(shard))).column("number").to_numpy()
    kept = ~np.isin(table.column("number").to_numpy(), dropped) & (table.column("tokens").to_numpy() >= int(min_tokens))
    table = table.filter(pa.array(kept))
    table = table.append_column("first", pa.array(np.zeros(len(table), np.int64)))
    table = table.append_column("before", pa.array(np.zeros(len(table), bool)))
    with atomic_path(target) as temporary:
        pq.write_table(table.cast(CANDIDATES), temporary, compression="zstd")


def read_duplicates(duplicates: Path, shard: int) -> pa.Table:
    """Returns number, kept, same_url of the duplicates in one shard."""
    low, high = shard << pages.ROW_BITS, (shard + 1) << pages.ROW_BITS
    field = pa.dataset.field("number")
    return pa.dataset.dataset(duplicates, format="parquet").to_table(filter=(field >= low) & (field < high))
