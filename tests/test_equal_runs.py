"""The script that compares runs of two commits: a renamed key is equal, a changed bit, metric or file is found."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsmath_jax.training.checkpoint import save
from dsmath_jax.workdir import write_json, write_jsonl

SCRIPT = Path(__file__).with_name("equal_runs.py")
ONE_ULP_MORE = float(np.nextafter(np.float32(1), np.float32(2)))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))  # as Python does for a script
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def compare(
    script: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str]]]:
    """Compares two runs below `tmp_path`: exit code and lines."""

    def run(old: str = "old", new: str = "new") -> tuple[int, list[str]]:
        code = script["main"]([str(tmp_path / old), str(tmp_path / new)])
        return code, capsys.readouterr().out.splitlines()

    return run


VALUES = {"weight": 1.0, "truncated": 0.25, "kl": float("nan"), "completion": "So 4.", "advantage": 0.5}


def write_run(workdir: Path, renamed: bool = False, page: str = "<p>", version: str = "1", **changes: Any) -> None:
    """The files of a run, with the names of before or after the renaming."""
    metric, size = ("frac_truncated", "hidden_size") if renamed else ("truncated", "width")
    weight, truncated, kl, completion, advantage = (VALUES | changes).values()
    rl = workdir / "rl"
    save(rl / "params", {"head": np.full((2, 3), weight, np.float32), "layers": {"q": np.ones(2, np.float32)}})
    write_json(rl / "model.json", {size: 16, "vocab_size": 300})
    write_jsonl(rl / "metrics.jsonl", [{"step": n, metric: truncated * n, "kl": kl} for n in range(3)])
    write_jsonl(rl / "samples.jsonl", [{"step": 0, "completion": completion, "truncated": False}])
    (rl / "rollouts").mkdir()
    facts = np.array(json.dumps({"metrics": {metric: truncated}}))
    np.savez_compressed(rl / "rollouts" / "00000000.npz", facts=facts, advantages=np.full((2, 2), advantage))
    write_json(rl / "manifest.json", {"counts": {"steps": 3}, "config": {size: 16}, "versions": {"jax": version}})
    write_jsonl(workdir / "evaluate" / "rl" / "toy_test-cot" / "samples.jsonl", [{"id": "toy/1", "correct": True}])
    write_json(workdir / "evaluate" / "summary.json", {"rl": {"pooled": {"greedy": 0.5}}})
    definitions = {metric: "share of completions" if renamed else "completions cut"}
    report = {"rl": {f"{metric}_last": truncated}, "definitions": definitions, "seconds": {"rl": len(version)}}
    write_json(workdir / "report" / "report.json", report)
    (workdir / "report" / "index.html").write_text(page)
    (rl / "timing.jsonl").write_text(version)


FILES = 10  # params, model, metrics, samples, rollout, manifest, samples of evaluate, summary, report.json, index.html
EQUAL = f"{FILES} files compared, with 2 arrays of parameters and 3 rows of metrics: no differences"


def test_renamed_keys_are_equal(tmp_path: Path, compare: Callable) -> None:
    write_run(tmp_path / "old")
    write_run(tmp_path / "new", renamed=True, page="<h1>", version="2.0")
    code, lines = compare()
    assert (code, lines[-1]) == (0, EQUAL)
    assert lines[:-1] == [
        "report/index.html: not compared, and not equal: byte 1 of 3 and 4",
        'report/report.json: not compared, and not equal: definitions.frac_truncated "completions cut" '
        '!= "share of completions"',
    ]
    assert compare("old", "old") == (0, [EQUAL])
    assert compare("new", "new") == (0, [EQUAL])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"weight": ONE_ULP_MORE}, ["rl/params: head [0, 0]: np.float32(1.0) != np.float32(1.0000001)"]),
        (
            {"truncated": 0.5},
            [
                "report/report.json: rl.frac_truncated_last 0.25 != 0.5",
                "rl/metrics.jsonl: [1].frac_truncated 0.25 != 0.5 (and 1 more places)",
                "rl/rollouts/00000000.npz: facts.metrics.frac_truncated 0.25 != 0.5",
            ],
        ),
        ({"kl": 0.0}, ["rl/metrics.jsonl: [0].kl NaN != 0.0 (and 2 more places)"]),
        ({"completion": "So 5."}, ['rl/samples.jsonl: [0].completion "So 4." != "So 5."']),
        ({"advantage": 0.25}, ["rl/rollouts/00000000.npz: advantages [0, 0]: np.float64(0.5) != np.float64(0.25)"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_changed_value_is_found(tmp_path: Path, compare: Callable, change: dict, expected: list[str]) -> None:
    write_run(tmp_path / "old")
    write_run(tmp_path / "new", renamed=True, **change)
    code, lines = compare()
    assert code == 1
    assert [line for line in lines[:-1] if "not compared" not in line] == expected
    assert lines[-1].endswith(f": {len(expected)} differences")


@pytest.mark.parametrize(
    "name", ["evaluate/rl/toy_test-cot/samples.jsonl", "rl/rollouts/00000000.npz", "report/index.html"]
)
def test_a_missing_file_is_found(tmp_path: Path, compare: Callable, name: str) -> None:
    for run in ("old", "new"):
        write_run(tmp_path / run)
    (tmp_path / "new" / name).unlink()
    for old, new in (("old", "new"), ("new", "old")):
        code, lines = compare(old, new)
        assert (code, lines[0]) == (1, f"{name}: is only in the {old} run")


@pytest.mark.parametrize("emptied", ["params", "metrics.jsonl"])
def test_runs_without_parameters_or_metrics_prove_nothing(tmp_path: Path, compare: Callable, emptied: str) -> None:
    write_run(tmp_path / "old")
    path = tmp_path / "old" / "rl" / emptied
    path.rename(tmp_path / "away")
    if emptied == "metrics.jsonl":
        path.write_text("")
    code, lines = compare("old", "old")
    assert code == 1
    assert lines[-2].endswith(": no differences")
    assert lines[-1] == "Nothing is proved: the runs share no parameters or no metrics."


def test_two_keys_that_become_one_are_found(tmp_path: Path, compare: Callable) -> None:
    write_run(tmp_path / "old")
    write_run(tmp_path / "new", renamed=True)
    rows = [{"step": n, "truncated": 0.25 * n, "frac_truncated": 0.25 * n, "kl": float("nan")} for n in range(3)]
    write_jsonl(tmp_path / "new" / "rl" / "metrics.jsonl", rows)
    code, lines = compare()
    assert code == 1
    assert "rl/metrics.jsonl: two names become [0].frac_truncated" in lines


def test_paths_may_be_renamed(tmp_path: Path, compare: Callable, script: dict[str, Any]) -> None:
    for run in ("old", "new"):
        write_run(tmp_path / run)
    (tmp_path / "new" / "evaluate" / "rl").rename(tmp_path / "new" / "evaluate" / "policy")
    assert compare()[0] == 1
    script["main"].__globals__["PATHS"] = ((r"^evaluate/rl/", "evaluate/policy/"),)
    assert compare() == (0, [EQUAL])
