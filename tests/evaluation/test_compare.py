"""Tests of comparing two evaluations: what is paired, reported and refused."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsmath_jax.evaluation.compare import compare, main, markdown, probability, read
from dsmath_jax.evaluation.statistics import mcnemar
from dsmath_jax.evaluation.summary import Problem, read_problems, summarize
from dsmath_jax.intervals import paired_interval
from dsmath_jax.workdir import UserError, write_json, write_jsonl


def problems(greedy: Sequence[bool], samples: Sequence[Sequence[bool]] = ()) -> list[Problem]:
    """Returns problems with correct and incorrect answers; all incorrect ones are equal."""

    def line(correct: bool) -> dict[str, Any]:
        return {"answer": str(correct), "correct": correct}

    found = []
    for place, correct in enumerate(greedy):
        group = list(samples[place]) if samples else []
        lines = [line(one) | {"class": group.index(one)} for one in group]
        found.append(Problem(str(place), line(correct), lines))
    return found


def test_only_problems_that_one_run_solves_count() -> None:
    first = problems([True] * 10 + [False] * 8 + [True] * 2)
    second = problems([True] * 10 + [True] * 6 + [False] * 2 + [False] * 2)
    found = compare(first, second)
    assert found["n"] == 20
    assert found["k"] is None
    assert found["greedy"] == {
        "shares": (0.6, 0.8), "difference": 0.2, "interval": paired_interval(10, 6, 2, 2), "only": (2, 6),
        "p": mcnemar(2, 6),
    }  # fmt: skip
    back = compare(second, first)["greedy"]
    assert (back["difference"], back["only"], back["p"]) == (-0.2, (6, 2), found["greedy"]["p"])


def test_votes_are_compared_problem_by_problem() -> None:
    """Runs that differ equally on every problem differ certainly, however different the problems are."""
    random = np.random.default_rng(0)
    easy = [[True] * 8 if random.random() < 0.5 else [False] * 8 for _ in range(60)]
    harder = [[*group[:6], False, False] for group in easy]
    found = compare(problems([False] * 60, easy), problems([False] * 60, harder))
    assert found["k"] == 8
    assert found["maj"] == (0.0, pytest.approx([-0.06, 0.06], abs=0.001))
    fewer = [group[:4] for group in harder]
    assert compare(problems([False] * 60, easy), problems([False] * 60, fewer))["k"] == 4
    unlike = compare(problems([False] * 60, [[False] * 2] * 60), problems([False] * 60, [[True, False]] * 60))
    assert unlike["pass"][0] == 1.0
    assert unlike["maj"][0] == 0.5


def test_equal_runs_are_rarely_found_different() -> None:
    random = np.random.default_rng(1)
    significant = misses = 0
    for _ in range(400):
        chance = random.beta(1, 1, size=40)
        first, second = (problems((random.random(40) < chance).tolist()) for _ in range(2))
        greedy = compare(first, second)["greedy"]
        significant += greedy["p"] < 0.05
        misses += not greedy["interval"][0] <= 0 <= greedy["interval"][1]
    assert significant / 400 < 0.06
    assert misses / 400 < 0.09


def evaluation(folder: Path, correct: Sequence[bool], samples: int = 0, checked: bool = True, **changes: Any) -> Path:
    """The files of an evaluation on gsm8k."""
    lines = []
    for place, one in enumerate(correct):
        lines.append({"id": f"gsm8k/test/{place}", "sample": -1, "answer": "1", "correct": one})
        lines[-1]["reason"] = "same number" if checked else "not checked: no isabelle"
        lines += [lines[-1] | {"sample": i, "class": 0} for i in range(samples)]
    path = folder / "gsm8k-cot" / "samples.jsonl"
    write_jsonl(path, lines)
    result = summarize(read_problems(path)) | {"task": "gsm8k", "mode": "cot", "shots": 8, "total": 1319}
    run = {"checkpoint": str(folder / "rl"), "grader": "a grader", "temperature": 0.7}
    write_json(folder / "summary.json", {"run": run | changes, "results": [result]})
    return folder


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = evaluation(tmp_path / "a", [True, False, False, False], samples=2)
    second = evaluation(tmp_path / "b", [True, True, True, True], samples=2)
    main([str(first), str(second), f"--out={tmp_path / 'table.md'}"])
    text = capsys.readouterr().out
    assert text == (tmp_path / "table.md").read_text()
    cells = [cell.strip() for cell in text.splitlines()[2].strip("|").split("|")]
    assert cells[:5] == ["gsm8k", "cot", "4", "25.0", "100.0"]
    assert cells[5].startswith("+75.0 (")
    assert cells[6:10] == ["0", "3", "0.25", "2"]
    assert cells[10].startswith("+75.0 (")
    assert f"- A: `{first}`, checkpoint `{first}/rl`" in text
    assert " in A, " not in text  # another checkpoint is not a different setting


def test_an_unwritable_table_is_reported(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "a", [True])
    with pytest.raises(UserError, match=r"a cannot be written \(Is a directory\); give another --out"):
        main([str(first), str(first), f"--out={first}"])


def test_problems_of_one_run_only_are_reported(tmp_path: Path) -> None:
    first = read(evaluation(tmp_path / "a", [True] * 6, temperature=1.0, exemplars=""))
    second = read(evaluation(tmp_path / "b", [True] * 4, exemplars="mine.jsonl"))
    text = markdown(first, second)
    assert "| gsm8k | cot | 4 | 100.0 | 100.0 |" in text
    assert "- gsm8k, cot: left out 2 only in A" in text
    assert "- temperature is `1.0` in A, `0.7` in B" in text
    assert "- exemplars is none in A, `mine.jsonl` in B" in text


def test_different_tasks_and_shots_are_reported(tmp_path: Path) -> None:
    first, second = read(evaluation(tmp_path / "a", [True])), read(evaluation(tmp_path / "b", [True]))
    key = ("gsm8k", "cot")
    second.results[key]["shots"] = 0  # type: ignore[index]
    first.results["math", "tir"] = first.results[key]  # type: ignore[index]
    text = markdown(first, second)
    assert "- gsm8k, cot: shots is `8` in A, `0` in B" in text
    assert "- math, tir: only in A" in text


def test_what_was_not_checked_is_not_compared(tmp_path: Path) -> None:
    first, second = (evaluation(tmp_path / name, [False] * 3, checked=name == "a") for name in "ab")
    assert "| gsm8k | cot | 3 | not checked | not checked | – |" in markdown(read(first), read(second))


def test_other_folders_are_refused(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "a", [True, False])
    with pytest.raises(UserError, match=r"c has no summary\.json; give the --out of a finished evaluation"):
        read(tmp_path / "c")
    write_json(tmp_path / "d" / "summary.json", {"rl": {"greedy": 0.5}})
    with pytest.raises(UserError, match="is not a summary"):
        read(tmp_path / "d")
    second = evaluation(tmp_path / "b", [True, False])
    (second / "gsm8k-cot" / "samples.jsonl").write_text('{"id": "gsm8k/test/9", "sample": -1, "correct": true}\n')
    with pytest.raises(UserError, match="answered no problem of gsm8k, cot in common"):
        markdown(read(first), read(second))
    write_json(second / "summary.json", {"run": {}, "results": []})
    with pytest.raises(UserError, match="have no task and mode in common"):
        markdown(read(first), read(second))


def test_p_values_have_three_digits() -> None:
    assert [probability(p) for p in (1.0, 0.0499, 0.001, 0.00042)] == ["1", "0.0499", "0.001", "0.00042"]


def test_comparing_needs_no_jax() -> None:
    modules = ", ".join(f"dsmath_jax.evaluation.{name}" for name in ("statistics", "summary", "table", "compare"))
    subprocess.run([sys.executable, "-c", f"import sys, {modules}; assert 'jax' not in sys.modules"], check=True)
