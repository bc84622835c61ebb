"""A run killed twice ends as an uninterrupted one (the script does it with the whole recipe and ten kills)."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dsmath_jax.training.checkpoint import save
from dsmath_jax.workdir import write_json

SCRIPT = Path(__file__).with_name("kill_resume.py")
CONTENTS = runpy.run_path(str(SCRIPT))["contents"]


@pytest.mark.slow
def test_a_run_killed_twice_ends_as_an_uninterrupted_one(tmp_path):
    command = [sys.executable, str(SCRIPT), "--small", "--kills=2", "--seed=10", f"--dir={tmp_path / 'runs'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = re.search(r"^(\d) of 2 kills, (\d+) files compared: no differences$", done.stdout, re.MULTILINE)
    assert verdict, done.stdout
    assert int(verdict[1]) >= 1
    assert int(verdict[2]) > 20
    runs = [tmp_path / "runs" / name for name in ("uninterrupted", "killed")]
    assert all((run / "report" / "report.json").is_file() for run in runs)


ONE_ULP_MORE = float(np.nextafter(np.float32(1), np.float32(2)))


def write_run(
    workdir: Path, seconds: float, documents: str, accuracy: float, weight: float, round_weight: float
) -> dict[str, object]:
    (workdir / "corpus" / "documents").mkdir(parents=True)
    (workdir / "corpus" / "documents" / "a.parquet").write_text(documents)
    write_json(workdir / "report" / "report.json", {"seconds": {"corpus": seconds}, "rl": {"accuracy": accuracy}})
    save(workdir / "rl" / "params", {"head": np.full((2, 3), weight, np.float32)})
    for folder in ("1", "1/reward_model"):
        save(workdir / "rl" / "rounds" / folder / "params", {"head": np.full((2, 3), round_weight, np.float32)})
    return CONTENTS(workdir)


@pytest.mark.parametrize(
    ("change", "different"),
    [
        ({}, []),
        ({"seconds": 2.0}, []),
        ({"documents": "others"}, ["corpus/documents/a.parquet"]),
        ({"accuracy": 0.25}, ["report/report.json"]),
        ({"weight": ONE_ULP_MORE}, ["rl/params"]),
        ({"round_weight": ONE_ULP_MORE}, ["rl/rounds/1/params", "rl/rounds/1/reward_model/params"]),
    ],
)
def test_the_comparison_finds_what_differs(tmp_path, change, different):
    same = {"seconds": 1.0, "documents": "some", "accuracy": 0.5, "weight": 1.0, "round_weight": 1.0}
    one, other = write_run(tmp_path / "one", **same), write_run(tmp_path / "other", **same | change)
    arrays = ["rl/params", "rl/rounds/1/params", "rl/rounds/1/reward_model/params"]
    assert sorted(one) == sorted(other) == ["corpus/documents/a.parquet", "report/report.json", *arrays]
    assert [name for name in sorted(one) if one[name] != other[name]] == different
