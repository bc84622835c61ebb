"""The benchmark of grading at a tiny size: its report, and that its labels are correct."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import grading
from benchmarks.grading import Task
from dsmath_jax.workdir import UserError, read_json


def run(case: str, answers: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    out, cpus = folder / "result.json", os.sched_getaffinity(0)
    grading.main([f"--cases={case}", f"--answers={answers}", "--repetitions=1", "--workers=1", f"--data_dir={folder}",
                  f"--json={out}"])  # fmt: skip
    assert os.sched_getaffinity(0) == cpus
    sides = read_json(out)["cases"][case]
    printed = capsys.readouterr().out
    for name, side in sides.items():
        assert side["rate"] > 0
        assert side["start_up_seconds"] > 0
        assert f"| {case} | {name} | " in printed
    assert sides["ours"]["agreement"] == sides["ours"]["ratio"] == 1
    return sides


@pytest.mark.parametrize("case", [pytest.param("gsm8k", marks=pytest.mark.slow), "math"])
def test_answers_are_graded_by_both_sides(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sides = run(case, 20, tmp_path, capsys)
    assert list(sides) == ["ours", "Math-Verify"]
    assert sides["Math-Verify"]["agreement"] > 0.5


def test_programs_run_in_the_sandbox_and_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        sides = run("programs", 1, tmp_path, capsys)
    except UserError as error:  # the machine has nothing to contain programs with
        pytest.skip(str(error))
    assert list(sides) == ["ours", "plain process"]
    assert sides["plain process"]["agreement"] == 1


@pytest.mark.parametrize("make", [grading.word_problems, grading.problems])
def test_half_of_the_answers_are_correct_and_every_turn_has_others(make: grading.Case, tmp_path: Path) -> None:
    first, second = make(40, 0, tmp_path), make(40, 1, tmp_path)
    assert sum(task.correct for task in first) == 20
    assert not {task.text for task in first} & {task.text for task in second}
    assert first == make(40, 0, tmp_path)


def test_real_word_problems_are_used_where_they_exist(real_data: Path) -> None:
    tasks = grading.word_problems(1500, 0, real_data)
    assert 0.5 <= sum(task.correct for task in tasks) / 1500 < 0.6  # some problems have the same answer
    assert all(task.text.endswith(f"The answer is {task.gold}.") for task in tasks if task.correct)


def test_incorrect_verdicts_of_our_side_are_an_error(tmp_path: Path) -> None:
    def credulous(workers: int, stack: contextlib.ExitStack) -> grading.Side:
        return lambda tasks: [True] * len(tasks)

    with pytest.raises(RuntimeError, match="our side has 5 of 10 answers incorrect"):
        grading.measure(grading.Case(grading.problems, {"ours": credulous}, 1), 10, 1, 1, tmp_path)


def test_cpu_seconds_are_those_of_all_processes(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.5: pass"

    def side(tasks: Sequence[Task]) -> list[bool]:
        grandchild = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
        subprocess.run([sys.executable, "-c", grandchild], check=True)
        return [True]

    report = grading._turn(side, [Task("", "", "number", True)])
    assert report["cpu_seconds"] >= 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cases=gsm9k"], "--cases must list some of gsm8k, math, programs, joined by commas; got 'gsm9k'"),
        (["--answers=0"], "--answers must be at least 1; got 0"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        grading.main(options)
