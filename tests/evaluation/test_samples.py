"""Tests of the file of samples: groups are complete or absent, and belong to their settings."""

from pathlib import Path

import pytest

from dsmath_jax.evaluation.samples import append, resume, write_or_check_settings
from dsmath_jax.workdir import UserError, read_jsonl

GROUPS = [[("a", -1)], [("b", -1)], [("a", 0), ("a", 1)], [("b", 0), ("b", 1)]]


def rows(group: int) -> list[dict]:
    return [{"id": name, "sample": sample, "completion": f"{name}{sample} 三 \udcff"} for name, sample in GROUPS[group]]


def test_a_file_resumes_after_a_kill_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    for number in range(len(GROUPS)):
        append(path, rows(number))
    whole = path.read_bytes()
    ends = [0]
    for number in range(len(GROUPS)):
        ends.append(ends[-1] + sum(len(line) for line in whole[ends[-1] :].splitlines(True)[: len(GROUPS[number])]))
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        done = resume(path, GROUPS)
        assert done == max(number for number, end in enumerate(ends) if end <= cut)
        for number in range(done, len(GROUPS)):
            append(path, rows(number))
        assert path.read_bytes() == whole
    assert resume(tmp_path / "none.jsonl", GROUPS) == 0
    assert [row["sample"] for row in read_jsonl(path)] == [-1, -1, 0, 1, 0, 1]


def test_lines_of_other_samples_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    append(path, rows(1))
    with pytest.raises(UserError, match=r"samples\.jsonl, line 1: not the sample that belongs there; remove"):
        resume(path, GROUPS)
    path.write_text('{"id": "a", "sam\n')
    with pytest.raises(UserError, match=r"line 1: not a JSON object"):
        resume(path, GROUPS)
    path.unlink()
    for group in (*range(4), 0):
        append(path, rows(group))
    with pytest.raises(UserError, match=r"line 7: not the sample"):
        resume(path, GROUPS)


def test_a_folder_belongs_to_the_settings_of_its_samples(tmp_path: Path) -> None:
    write_or_check_settings(tmp_path, {"seed": -1})
    write_or_check_settings(
        tmp_path, {"samples": 4, "seed": 0, "stops": ("a",)}
    )  # nothing was drawn with other settings
    (tmp_path / "gsm8k-cot").mkdir()
    append(tmp_path / "gsm8k-cot" / "samples.jsonl", rows(0))
    write_or_check_settings(tmp_path, {"samples": 4, "seed": 0, "stops": ("a",)})
    with pytest.raises(UserError, match=r"made with other settings \(samples, temperature\); give another --out"):
        write_or_check_settings(tmp_path, {"samples": 8, "seed": 0, "stops": ("a",), "temperature": 1.0})


@pytest.mark.parametrize("damaged", ["", "{", "[]", "3"])
def test_damaged_settings_are_reported(tmp_path: Path, damaged: str) -> None:
    append(tmp_path / "samples.jsonl", rows(0))
    (tmp_path / "settings.json").write_text(damaged)
    with pytest.raises(UserError, match=r"settings\.json: not a JSON object; fix or remove the folder"):
        write_or_check_settings(tmp_path, {"seed": 0})


def test_a_file_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be opened for writing \(Is a directory\); give another --out"):
        resume(tmp_path, GROUPS)
