"""Texts of Parquet, JSONL and plain files, in the order of their names."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsmath_jax.data.documents import texts
from dsmath_jax.workdir import UserError, write_jsonl


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table = {"id": [1, 2, 3], "language": ["en", "zh", "en"], "text": ["one", "二", "three"]}
    pq.write_table(pa.table(table), tmp_path / "b.parquet")
    write_jsonl(tmp_path / "a.jsonl", [{"text": "first", "language": "en"}, {"text": "plain"}])
    (tmp_path / "c.txt").write_text("last\nline", encoding="utf-8")
    (tmp_path / ".hidden.txt").write_text("not this", encoding="utf-8")
    return tmp_path


def test_every_format_in_the_order_of_names(folder: Path) -> None:
    assert list(texts(folder)) == ["first", "plain", "one", "二", "three", "last\nline"]
    assert list(texts(folder / "b.parquet")) == ["one", "二", "three"]


def test_one_language_only(folder: Path) -> None:
    assert list(texts(folder, "en")) == ["first", "one", "three"]
    assert list(texts(folder, "zh")) == ["二"]


def test_more_rows_than_one_batch_of_the_reader(tmp_path: Path) -> None:
    many = [str(i) for i in range(1000)]
    pq.write_table(pa.table({"text": many}), tmp_path / "many.parquet", row_group_size=300)
    assert list(texts(tmp_path)) == many


def test_records_without_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No text files at"):
        list(texts(tmp_path / "absent"))
    write_jsonl(tmp_path / "a.jsonl", [{"text": "good"}, {"words": "none"}])
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: the field 'text' is missing"):
        list(texts(tmp_path))
    pq.write_table(pa.table({"id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet, record 1: the field 'text' is missing"):
        list(texts(tmp_path / "a.parquet"))


@pytest.mark.parametrize("name", ["broken.parquet", "broken.txt"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe no text")
    with pytest.raises(UserError, match=f"{name} cannot be read"):
        list(texts(tmp_path))
