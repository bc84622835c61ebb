"""`python -m dsmath_jax.grading`: files of completions in, the same lines with their grades out."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dsmath_jax.data import datasets
from dsmath_jax.grading import __main__ as command
from dsmath_jax.grading import files
from dsmath_jax.grading import grade as module
from dsmath_jax.workdir import UserError, exit_code

COMMAND = [sys.executable, "-m", "dsmath_jax.grading"]
LINE = {"task": "gsm8k", "gold": "6 * 7 = <<6*7=42>>42\n#### 42", "completion": "The answer is 42."}
WRONG = LINE | {"completion": "The answer is 41."}
ADDED = ("answer", "correct", "correct_deepseek", "reason")


@pytest.fixture(autouse=True)
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import computer algebra when an answer needs it, which few here do."""
    monkeypatch.setattr(module, "PRELOAD", ())


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), encoding="utf-8")
    return path


def grade(folder: Path, lines: list[Any], *arguments: str) -> list[dict[str, Any]]:
    source = write(folder / "in.jsonl", lines)
    command.run([f"--input={source}", f"--output={folder / 'out.jsonl'}", "--workers=1", *arguments])
    return read(folder / "out.jsonl")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_lines_keep_their_order_and_fields_and_get_grades(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [(LINE if number % 3 else WRONG) | {"id": number, "题": "鸭子"} for number in range(12)]
    graded = grade(tmp_path, lines)
    assert [{name: row[name] for name in row if name not in ADDED} for row in graded] == lines
    assert [row["correct"] for row in graded] == [number % 3 > 0 for number in range(12)]
    assert [row["correct_deepseek"] for row in graded] == [number % 3 > 0 for number in range(12)]
    assert {row["answer"] for row in graded} == {"41", "42"}
    assert all(row["reason"] for row in graded)
    assert capsys.readouterr().out == (
        "gsm8k: 12 graded, 8 correct, 66.7 % (39.1 to 86.2), by the paper's evaluation 66.7 %\n"
    )


TASKS = [
    {"task": "gsm8k/test", "gold": "#### 1,200", "completion": "#### 1200"},
    {"task": "math", "gold": "So $x=\\boxed{\\frac12}$.", "completion": "# Answer\n\n0.5", "level": "Level 1"},
    {
        "task": "ocw",
        "gold": "4.5e33",
        "completion": "The final answer is $4.5\\times 10^{33}$. I hope it is correct.",
    },
    {"task": "sat", "gold": "B", "completion": "So (B).", "options": "A) 2 B) 4 C) 6 D) 8"},
    {"task": "mmlu_stem", "gold": "C", "completion": "The answer is 6.", "options": ["2", "4", "6", "8"]},
    {"task": "mmlu", "gold": "C", "completion": " C"},
    {"task": "mgsm_zh", "gold": 18, "completion": "答案是18。"},
    {"task": "cmath", "gold": "27.3%", "completion": "所以答案是：27.3%。"},
    {"task": "gaokao_mathcloze", "gold": "1;$\\frac{8}{9}$", "completion": "答案是$1$;$\\frac{8}{9}$。"},
    {"task": "gaokao_mathqa", "gold": ["A", "C"], "completion": "故选 AC", "options": ["(A)1", "(B)2", "(C)3"]},
    {"task": "bbh", "gold": "(B)", "completion": "So the answer is (B)."},
    {"task": "bbh", "gold": "> ) }", "completion": "So the answer is > ) }."},
]


def test_tasks_are_graded_with_raw_gold_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graded = grade(tmp_path, TASKS)
    assert [row["task"] for row in graded if not row["correct"]] == []
    *each, last = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in each] == list(dict.fromkeys(row["task"] for row in TASKS))
    assert last.startswith("all: 12 graded, 12 correct, 100.0 % (")


BAD = {
    '{"task": "gsm8k", "gold": "#### 4': "not a JSON object",
    "[1, 2]": "not a JSON object",
    "[" * 100_000: "not a JSON object",
    '{"task": "gsm8k", "completion": "5"}': "the field 'gold' is missing",
    '{"gold": "5", "completion": "5"}': "the field 'task' is missing",
    '{"task": "gsm8k", "gold": "5", "completion": ["5", "6"]}': "the field 'completion' is not text",
    '{"task": "gsm8k", "gold": null, "completion": "5"}': "the field 'gold' is not text",
    '{"task": "gsm8k", "gold": NaN, "completion": "5"}': "the field 'gold' is not text",
    '{"task": "gsm8k", "gold": true, "completion": "5"}': "the field 'gold' is not text",
    '{"task": "gsm8k", "gold": " ", "completion": "5"}': "the field 'gold' is empty",
    '{"task": "gsm9k", "gold": "5", "completion": "5"}': "Unknown task 'gsm9k', did you mean 'gsm8k'",
    '{"task": "sat", "gold": "A", "completion": "A", "options": 4}': "the field 'options' is not a list of texts",
    '{"task": "minif2f", "gold": "x", "completion": "x"}': "proofs are not checked here",
    '{"task": "humaneval", "gold": "x", "completion": "x", "prompt": ""}': "the field 'entry_point' is missing",
}


def test_a_bad_line_is_reported_with_its_number_and_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line for bad in BAD for line in (bad, LINE)]
    with pytest.raises(command.SomeBad, match=f"{len(BAD)} lines could not be graded"):
        grade(tmp_path, lines)
    rows = read(tmp_path / "out.jsonl")
    assert len(rows) == len(lines)
    assert [row["correct"] for row in rows] == [None, True] * len(BAD)
    printed = capsys.readouterr()
    reports = [line for line in printed.err.splitlines() if line.startswith("line ")]
    for number, (what, row, report) in enumerate(zip(BAD.values(), rows[::2], reports, strict=True)):
        assert row["line"] == 2 * number + 1
        assert row["error"].startswith(what)
        assert report.startswith(f"line {2 * number + 1}: {what}")
    assert rows[6]["completion"] == "5"  # existing fields stay
    assert printed.out.startswith(f"gsm8k: {len(BAD)} graded, {len(BAD)} correct")
    assert printed.out.endswith(f", {len(BAD)} bad lines\n")


def test_the_exit_code_depends_on_bad_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for lines, code in (([LINE], 0), ([LINE, "{"], 1)):
        assert exit_code(lambda lines=lines: grade(tmp_path, lines)) == code  # type: ignore[misc]
    capsys.readouterr()
    assert exit_code(lambda: command.run([f"--input={tmp_path}/none", f"--output={tmp_path}/o"])) == 2
    message = f"error: {tmp_path}/none cannot be read (No such file or directory); check --input.\n"
    assert capsys.readouterr().err == message


def test_blank_lines_stay_and_an_empty_file_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "in.jsonl", [LINE, "", LINE])
    command.run([f"--input={source}", f"--output={tmp_path}/out.jsonl"])
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n")[1] == ""
    assert grade(tmp_path, []) == []
    assert capsys.readouterr().out.endswith("all: 0 graded\n")


def test_standard_streams_are_files_too(tmp_path: Path) -> None:
    ran = subprocess.run(
        [*COMMAND, "--input=-", "--output=-"], input=json.dumps(LINE).encode(), capture_output=True, check=True
    )
    assert [json.loads(line)["correct"] for line in ran.stdout.splitlines()] == [True]
    assert b"1 graded, 1 correct" in ran.stderr


def test_windows_line_ends_and_a_byte_order_mark_are_ignored(tmp_path: Path) -> None:
    line = json.dumps(LINE).encode()
    (tmp_path / "in.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n" + line)
    command.run([f"--input={tmp_path}/in.jsonl", f"--output={tmp_path}/out.jsonl", "--workers=1"])
    graded = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert [bool(row) and json.loads(row)["correct"] for row in graded] == [True, False, True]


def test_chunks_limit_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(files, "CHUNK_LINES", 3)
    monkeypatch.setattr(files, "CHUNK_BYTES", 400)
    lines = [LINE | {"id": number, "pad": "x" * (number % 5) * 100} for number in range(20)]
    assert [row["id"] for row in grade(tmp_path, lines)] == list(range(20))
    sizes = [len(chunk) for chunk in files._chunks(json.dumps(line).encode() for line in lines)]
    assert max(sizes) == 3
    assert min(sizes) == 1


def test_odd_text_is_unchanged(tmp_path: Path) -> None:
    lines = [LINE | {"note": note} for note in ("\0", "\ud800", "\u2028", "🦆")]
    assert [row["note"] for row in grade(tmp_path, lines)] == ["\0", "\ud800", "\u2028", "🦆"]


def test_a_killed_run_leaves_no_output_and_starts_again(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [LINE] * 30_000)
    target = tmp_path / "out.jsonl"
    arguments = [*COMMAND, f"--input={source}", f"--output={target}", "--workers=1"]
    run = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    until = time.monotonic() + 60
    while not any(path.stat().st_size for path in tmp_path.glob(".out.jsonl.*")) and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    assert not target.exists()
    write(source, [LINE] * 10)
    subprocess.run(arguments, check=True)
    assert len(read(target)) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_an_unwritable_output_is_reported_at_once(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [LINE])
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe", tmp_path / "none" / "out.jsonl"):
        with pytest.raises(UserError, match="cannot be written"):
            command.run([f"--input={source}", f"--output={place}"])
    assert (tmp_path / "pipe").is_fifo()  # nor does a file take its place


@pytest.mark.parametrize("flag", ["--workers=0", "--workers=-1", "--seconds=0", "--seconds=x"])
def test_limits_are_positive(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.run(["--input=-", "--output=-", flag])
    assert flag.split("=")[0] in capsys.readouterr().err


ADD = 'def add(a, b):\n    """The sum."""\n'
ASSERTS = ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]
HUMANEVAL = {
    "task": "humaneval",
    "gold": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    "prompt": ADD,
    "entry_point": "add",
}
PROGRAMS = [
    ({"task": "mbpp", "gold": ASSERTS, "completion": ADD + "    return a + b\n[DONE]"}, True),
    ({"task": "mbpp", "gold": "\n".join(ASSERTS), "completion": ADD + "    return a - b"}, False),
    ({"task": "mbpp", "gold": ASSERTS, "completion": "import sys; sys.exit(0)"}, False),
    ({"task": "mbpp", "gold": ASSERTS, "completion": ""}, False),
    (HUMANEVAL | {"completion": "    return a + b\n\n\ndef other():\n    return 1"}, True),
    (HUMANEVAL | {"completion": "    while True:\n        pass"}, False),
    (HUMANEVAL | {"completion": f"```python\n{ADD}    return a + b\n```"}, True),
]


def test_programs_run_with_their_tests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graded = grade(tmp_path, [LINE, *(line for line, _ in PROGRAMS)], "--seconds=3")
    assert [row["correct"] for row in graded[1:]] == [correct for _, correct in PROGRAMS]
    assert [row["correct_deepseek"] for row in graded[1:]] == [correct for _, correct in PROGRAMS]
    assert graded[6]["reason"] == "timed out"
    assert all(row["sandbox"] for row in graded[1:])
    assert "sandbox" not in graded[0]
    assert capsys.readouterr().out.startswith("programs ran in: ")


def test_gold_fields_of_a_task_grade_its_solutions(real_data: Path, tmp_path: Path) -> None:
    raw = [json.loads(line) for line in (real_data / "gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()]
    records = datasets.load("gsm8k/test", real_data)
    lines = [
        {"task": "gsm8k", "gold": fields["answer"], "completion": record.solution}
        for fields, record in zip(raw, records, strict=True)
    ]
    assert all(row["correct"] and row["correct_deepseek"] for row in grade(tmp_path, lines))


def test_a_files_task_may_be_called_a_benchmark(tmp_path: Path) -> None:
    rows = [{"benchmark": "gsm8k/test", "gold": "4", "completion": "The answer is 4."}]
    assert [row["correct"] for row in grade(tmp_path, rows)] == [True]
