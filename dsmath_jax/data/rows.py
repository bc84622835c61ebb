"""Packed rows on disk: folders of ArrayRecord shards, with the ids of the examples in each row.

A record is a header, the row's tokens without padding, its runs (parts of a segment with the same loss mask) and the
ids of its segments. ArrayRecord compresses records one by one (zstd) and checksums each.
"""

import contextlib
import json
import os
import resource
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path

import numpy as np
from array_record.python import array_record_module

from dsmath_jax.data.packing import PackedRow
from dsmath_jax.workdir import UserError, atomic_path

SUFFIX = ".array_record"
SPARE_FILES = 256  # open files of a process other than shards
MAGIC = b"dsm1"
HEADER = struct.Struct("<4s3I")  # magic, T+1, tokens, runs
RUN_BEGINS, RUN_IN_LOSS = 2, 1  # a run is `length << 2` with these bits: it begins a segment, its tokens have loss


def encode(packed: PackedRow) -> bytes:
    """Encodes a row as the bytes of a record."""
    tokens, segments, loss_mask = packed.row
    used = int(np.count_nonzero(segments))
    marks = segments[:used] * 2 + loss_mask[:used]
    starts = np.flatnonzero(np.diff(marks, prepend=-1))
    lengths = np.diff(starts, append=used)
    begins = np.diff(segments[starts], prepend=0) > 0
    runs = (lengths << 2) | (begins * RUN_BEGINS) | (loss_mask[starts] * RUN_IN_LOSS)
    head = HEADER.pack(MAGIC, packed.row.shape[1], used, len(runs))
    ids = json.dumps(packed.ids, ensure_ascii=False, separators=(",", ":")).encode()
    return b"".join((head, tokens[:used].astype("<u4").tobytes(), runs.astype("<u4").tobytes(), ids))


def decode(record: bytes, length: int) -> PackedRow:
    """Decodes the row of a record.

    Raises:
      ValueError: the record is not a row of `length` + 1 tokens; the message says what it is.
    """
    if len(record) < HEADER.size or record[:4] != MAGIC:
        raise ValueError("is not a packed row")
    _, width, used, count = HEADER.unpack_from(record)
    if width != length + 1:
        raise ValueError(f"is a row for sequences of {width - 1} tokens, not {length}")
    end = HEADER.size + 4 * (used + count)
    if used > width or len(record) < end:
        raise ValueError("is an incomplete packed row")
    numbers = np.frombuffer(record, "<u4", used + count, HEADER.size)
    runs = numbers[used:].astype(np.int64)
    if (runs >> 2).sum() != used:
        raise ValueError("is an incomplete packed row")
    row = np.zeros((3, width), np.int32)
    row[0, :used] = numbers[:used]
    row[1, :used] = np.repeat(np.cumsum(runs & RUN_BEGINS) // RUN_BEGINS, runs >> 2)
    row[2, :used] = np.repeat(runs & RUN_IN_LOSS, runs >> 2)
    try:
        return PackedRow(row, json.loads(record[end:]))
    except ValueError:
        raise ValueError("is an incomplete packed row") from None


@contextlib.contextmanager
def shard_writer(path: Path) -> Iterator[Callable[[PackedRow], int]]:
    """Yields a function that appends a row to a shard, which is renamed to `path` at the end of the block.

    The function returns 1, for counting.
    """
    with atomic_path(path) as temporary:
        writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")

        def write(packed: PackedRow) -> int:
            writer.write(encode(packed))
            return 1

        try:
            yield write
        finally:
            writer.close()


def write_rows(path: Path, rows: Iterable[PackedRow]) -> int:
    """Writes rows to one shard, atomically; returns their number."""
    with shard_writer(path) as write:
        return sum(write(packed) for packed in rows)


class Rows:
    """Random access to the rows of a folder's shards, in the order of their names."""

    def __init__(self, folder: Path, length: int):
        """Opens the shards of rows of `length` + 1 tokens.

        Raises:
          UserError: there is no shard, one is damaged, or there are more than a process may open.
        """
        self.name, self._length = folder.name, length
        self._paths = sorted(folder.glob(f"[!.]*{SUFFIX}"))
        if not self._paths:
            raise UserError(f"{folder} has no *{SUFFIX} file; run the stage that writes it.")
        _allow_files(folder, len(self._paths))
        self._readers = [_open(path) for path in self._paths]
        self._ends = list(accumulate(reader.num_records() for reader in self._readers))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> PackedRow:
        """Returns row `index`.

        Raises:
          UserError: its record is damaged, or not a row of this length.
        """
        shard = bisect_right(self._ends, index)
        number = index - (self._ends[shard - 1] if shard else 0)
        try:
            (record,) = self._readers[shard].read([number])
            return decode(record, self._length)
        except (RuntimeError, ValueError) as error:  # of ArrayRecord, and of `decode`
            reason = str(error).partition("\n")[0] if isinstance(error, ValueError) else "is damaged"
            raise UserError(
                f"{self._paths[shard]}, record {number}: it {reason}; remove that file and run the stage again with "
                "--overwrite."
            ) from None


def _open(path: Path) -> array_record_module.ArrayRecordReader:
    reader = array_record_module.ArrayRecordReader(str(path), options="readahead_buffer_size:0")
    if not reader.ok():  # its number of records is 0 then, without an error
        raise UserError(f"{path} is a damaged ArrayRecord file; remove it and run the stage again with --overwrite.")
    return reader


def _allow_files(folder: Path, more: int) -> None:
    """Raises this process's limit of open files by `more`, since each shard stays open.

    Raises:
      UserError: the system's hard limit is too low.
    """
    wanted = len(os.listdir("/proc/self/fd")) + more + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard) and hard < wanted:
        raise UserError(f"{folder} has {more} shards, but a process may open {hard} files here; raise `ulimit -Hn`.")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def read_rows(folder: Path, length: int) -> np.ndarray:
    """Reads all rows of a folder, `[rows, 3, T+1]`, in their order (held-out rows)."""
    rows = Rows(folder, length)
    read = [rows[i].row for i in range(len(rows))]
    return np.stack(read) if read else np.zeros((0, 3, length + 1), np.int32)


def shard_name(number: int) -> str:
    """Returns the file name of a shard."""
    return f"{number:05d}{SUFFIX}"
