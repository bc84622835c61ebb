"""Benchmark records: the real sets in full, and rows that do not fit."""

from pathlib import Path

import pytest

from dsmath_jax.data import benchmarks
from dsmath_jax.workdir import UserError, write_jsonl

GSM8K = {"question": " How many?\n", "answer": "He has 48/2 = <<48/2=24>>24.\nThen 1<<1=1>> more.\n#### 1,024"}


@pytest.mark.parametrize(
    ("name", "count"), [("gsm8k/train", 7473), ("gsm8k/test", 1319), ("cmath/test", 1098), ("mgsm_zh/test", 250)]
)
def test_real_sets_are_whole(real_data: Path, name: str, count: int) -> None:
    records = benchmarks.load(name, real_data)
    assert len(records) == len({record.id for record in records}) == count
    assert records[count - 1].id == f"{name}/{count - 1}"
    for record in records:
        assert record.question.strip()
        assert any(character.isdigit() for character in record.answer)
        assert "<<" not in record.solution
        assert not record.solution or record.solution.endswith(f"\nThe answer is {record.answer}.")


def test_a_real_record(real_data: Path) -> None:
    first = benchmarks.load("gsm8k/test", real_data)[0]
    assert first.question.startswith("Janet’s ducks lay 16 eggs per day.")
    assert first.solution.startswith("Janet sells 16 - 3 - 4 = 9 duck eggs a day.")
    assert first.answer == "18"
    assert benchmarks.load("mgsm_zh/test", real_data)[0].question.startswith("珍妮特的鸭子每天下 16 颗蛋。")


def test_gsm8k_loses_its_marks_and_its_commas(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "gsm8k" / "test.jsonl", [GSM8K])
    assert benchmarks.load("gsm8k/test", tmp_path) == [
        benchmarks.Record(
            "gsm8k/test/0", "How many?", "He has 48/2 = 24.\nThen 1 more.\nThe answer is 1024.", "1024"
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GSM8K, {"question": "How many?"}], r"test\.jsonl, record 2: the field 'answer' is missing"),
        ([], r"test\.jsonl holds no records"),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path: Path, rows: list[dict], message: str) -> None:
    write_jsonl(tmp_path / "gsm8k" / "test.jsonl", rows)
    with pytest.raises(UserError, match=message):
        benchmarks.load("gsm8k/test", tmp_path)


def test_unknown_names_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Unknown benchmark 'gsm9k/test'; known ones are .*gsm8k/test"):
        benchmarks.load("gsm9k/test", tmp_path)
    with pytest.raises(UserError, match=r"'toy/rl' wants the file .*problems/rl\.jsonl"):
        benchmarks.load("toy/rl", tmp_path)
    (tmp_path / "problems").mkdir()
    (tmp_path / "problems" / "rl.jsonl").write_text('{"id": 1}\nnot json\n')
    with pytest.raises(UserError, match=r"rl\.jsonl, record 1: the field 'question' is missing"):
        benchmarks.load("toy/rl", tmp_path)
