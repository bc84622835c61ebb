"""Packed rows on disk: they come back as they were, and what is damaged is named."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.data import rows
from dsmath_jax.data.packing import Example, PackedRow, concat_and_chunk, pack_whole
from dsmath_jax.workdir import UserError

LENGTH = 7


def some(count: int, length: int = LENGTH) -> list[PackedRow]:
    documents = (Example(range(1 + i, 12 + i), [True] * 11, f"a.jsonl:{i}") for i in range(count))
    return list(concat_and_chunk(documents, length))


def same(one: PackedRow, other: PackedRow) -> bool:
    return one.ids == other.ids and one.row.dtype == other.row.dtype and np.array_equal(one.row, other.row)


@given(
    st.lists(
        st.tuples(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=9), st.text()),
        max_size=9,
    )
)
def test_a_record_gives_its_row_back(documents: list[tuple[list[tuple[int, bool]], str]]) -> None:
    examples = [Example([t for t, _ in marked], [learn for _, learn in marked], name) for marked, name in documents]
    for packed in [*concat_and_chunk(examples, LENGTH), *pack_whole(examples, 8)]:
        assert same(rows.decode(rows.encode(packed), packed.row.shape[1] - 1), packed)


def test_rows_of_several_shards_are_one_sequence(tmp_path: Path) -> None:
    written = some(20)
    for number, part in enumerate((written[:9], [], written[9:])):
        assert rows.write_rows(tmp_path / rows.shard_name(number), part) == len(part)
    (tmp_path / ".00003.array_record.17.tmp").write_bytes(b"left by a killed process")
    found = rows.Rows(tmp_path, LENGTH)
    assert len(found) == len(written)
    assert all(same(found[i], written[i]) for i in reversed(range(len(written))))
    np.testing.assert_array_equal(rows.read_rows(tmp_path, LENGTH), np.stack([packed.row for packed in written]))


def test_a_folder_of_empty_shards_has_no_rows(tmp_path: Path) -> None:
    rows.write_rows(tmp_path / rows.shard_name(0), [])
    assert rows.read_rows(tmp_path, LENGTH).shape == (0, 3, LENGTH + 1)


def test_padding_and_marks_cost_next_to_nothing() -> None:
    (packed,) = concat_and_chunk([Example(range(100), [True] * 100, "a:1")], 4096)
    assert len(rows.encode(packed)) < 4 * 100 + 40


def test_an_interrupted_file_never_has_its_name(tmp_path: Path) -> None:
    def stop_after_one() -> object:
        yield some(1)[0]
        raise RuntimeError("out of text")

    with pytest.raises(RuntimeError, match="out of text"):
        rows.write_rows(tmp_path / "rows.array_record", stop_after_one())
    assert list(tmp_path.iterdir()) == []


def flip(data: bytes) -> bytes:
    place = len(data) // 3
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


@pytest.mark.parametrize("spoil", [lambda d: d[: len(d) // 2], lambda d: b"", lambda d: b"some text\n" * 9999, flip])
def test_a_damaged_shard_is_an_error(tmp_path: Path, spoil) -> None:
    path = tmp_path / rows.shard_name(0)
    rows.write_rows(path, some(20_000, 99))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match=r"00000\.array_record.* (a damaged ArrayRecord file|it is damaged)") as error:
        rows.read_rows(tmp_path, 99)
    assert "\n" not in str(error.value)


def record_of(data: bytes, path: Path) -> None:
    with rows.atomic_path(path) as temporary:
        writer = rows.array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
        writer.write(data)
        writer.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: b"a record of another program", "record 0: it is not a packed row"),
        (lambda record: b"", "record 0: it is not a packed row"),
        (lambda record: record[:40], "record 0: it is an incomplete packed row"),
        (lambda record: record[:12] + b"\x05" + record[13:], "record 0: it is an incomplete packed row"),
    ],
)
def test_a_foreign_record_is_an_error(tmp_path: Path, change, words: str) -> None:
    record_of(change(rows.encode(some(1)[0])), tmp_path / rows.shard_name(0))
    with pytest.raises(UserError, match=words):
        rows.Rows(tmp_path, LENGTH)[0]


def test_rows_of_another_length_are_refused(tmp_path: Path) -> None:
    rows.write_rows(tmp_path / rows.shard_name(0), some(3))
    with pytest.raises(UserError, match=r"00000.array_record, record 1: it is a row for sequences of 7 tokens, not 8"):
        rows.Rows(tmp_path, 8)[1]


MANY = """
import resource, sys
from pathlib import Path
from dsmath_jax.data import rows
resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[2])))
try:
    print(len(rows.Rows(Path(sys.argv[1]), 7)))
except rows.UserError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("hard", "words"), [(1024, "300\n"), (300, "has 100 shards, but a process may open 300 files")]
)
def test_more_shards_than_files_that_a_process_has_open_at_first(tmp_path: Path, hard: int, words: str) -> None:
    rows.write_rows(tmp_path / rows.shard_name(0), some(2)[:3])
    for number in range(1, 100):
        shutil.copy(tmp_path / rows.shard_name(0), tmp_path / rows.shard_name(number))
    command = [sys.executable, "-c", MANY, str(tmp_path), str(hard)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert words in done.stdout
