"""The comparison of runs: grouping into methods, intervals and gains, files, and errors."""

import math
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from dsmath_jax.report import comparison
from dsmath_jax.report.comparison import comparison_rows, estimate, gain, group, read, write
from dsmath_jax.workdir import UserError, exit_code, folder_name, read_json, write_json, write_jsonl

PROBLEMS = 40
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes up a finished run whose greedy answers are correct on the first `correct` problems."""

    def one(
        name: str,
        correct: int,
        method: str = "",
        seed: int = 0,
        steps: int = 30,
        problems: int = PROBLEMS,
        others: str = "sft",
    ) -> Path:
        workdir, model = tmp_path / name, "rl" if method else others
        curve = {"k": [1, 2, 4], "maj": [0.3, 0.4, 0.5], "pass": [0.3, 0.5, 0.7 + seed / 100]}
        curve |= {f"{kind}_interval": [[value - 0.1, value + 0.1] for value in curve[kind]] for kind in ("maj", "pass")}
        write_json(workdir / "evaluate" / "summary.json", {"base": {}, model: {"pooled": {"curve": curve}}})
        write_json(workdir / "evaluate" / "manifest.json", {"config": {"seed": seed}})
        lines = [{"id": f"toy/test/{i}", "sample": -1, "correct": i < correct} for i in range(problems)]
        write_jsonl(workdir / "evaluate" / folder_name(model) / "toy_test-cot" / "samples.jsonl", lines)
        if method:
            config = {"seed": seed, "rl.method": method, "rl.steps": steps}
            write_json(workdir / "rl" / "manifest.json", {"config": config, "seconds": 60.0 + seed})
            metrics = [{"step": step, "eval_greedy": 0.3 + step / 100 + seed / 50} for step in (0, 10, 20)]
            write_jsonl(workdir / "rl" / "metrics.jsonl", [*metrics, {"step": 5, "loss": 0.1}])
        return workdir

    return one


def test_runs_that_differ_in_the_seed_alone_are_one_method(make: Make) -> None:
    runs = [
        make("start", 10), make("b1", 24, "grpo_os", 1), make("a0", 20, "rft"), make("b0", 22, "grpo_os", 0),
        make("c0", 30, "grpo_os", 0, steps=60),
    ]  # fmt: skip
    methods = group(result for run in runs for result in read(run))
    assert [method.name for method in methods] == ["sft", "grpo_os rl.steps=30", "rft", "grpo_os rl.steps=60"]
    assert [[one.seed for one in method.results] for method in methods] == [[0], [1, 0], [0], [0]]
    assert methods[1].greedy.sum(axis=1).tolist() == [24, 22]


def test_a_model_of_the_hub_is_compared(make: Make) -> None:
    methods = group([*read(make("hub", 10, others="hf:a/b")), *read(make("rl", 24, "rft"))])
    assert [(method.name, method.greedy.sum()) for method in methods] == [("hf:a/b", 10), ("rft", 24)]


def test_an_estimate_has_an_interval_over_problems_and_one_over_seeds() -> None:
    values = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]], float)
    found = estimate(values)
    assert found.mean == 0.5
    reach = 4.303 * 0.25 / math.sqrt(3)  # Student's t with two degrees of freedom
    assert found.over_seeds == pytest.approx((0.5 - reach, 0.5 + reach))
    low, high = found.over_problems
    assert 0 <= low < 0.5 < high <= 1
    assert estimate(values[:1]).over_seeds is None


def test_a_gain_is_taken_problem_by_problem_and_seed_by_seed(make: Make) -> None:
    """Models that differ on four problems of forty: paired, the interval is that of four."""
    runs = [
        make(f"{method}{seed}", correct, method, seed)
        for method, correct in (("rft", 20), ("dpo", 24))
        for seed in (0, 1)
    ]
    rft, dpo = group(result for run in runs for result in read(run))
    found = gain(dpo, rft)
    assert found.mean == pytest.approx(0.1)
    assert found.over_seeds == pytest.approx((0.1, 0.1))  # the same gain with both seeds
    low, high = found.over_problems
    assert 0 < low < 0.1 < high < 0.25


def test_the_start_is_paired_with_all_seeds(make: Make) -> None:
    runs = [make("start", 20), make("r0", 22, "rft", 0), make("r1", 26, "rft", 1)]
    start, rft = group(result for run in runs for result in read(run))
    found = gain(rft, start)
    assert found.mean == pytest.approx(0.1)
    assert found.over_seeds is not None
    assert found.over_seeds[0] < 0 < found.over_seeds[1]  # 2 and 6 problems: two seeds are few


def test_other_seeds_give_no_interval_over_seeds(make: Make) -> None:
    runs = [make(f"rft{seed}", 20, "rft", seed) for seed in (0, 1)]
    runs += [make(f"dpo{seed}", 24, "dpo", seed) for seed in (2, 3)]
    rft, dpo = group(result for run in runs for result in read(run))
    assert gain(dpo, rft).over_seeds is None
    assert gain(dpo, rft).mean == pytest.approx(0.1)


def test_curves_are_means_between_the_lowest_and_the_highest_seed(make: Make) -> None:
    runs = [make("start", 10), make("a0", 20, "rft", 0), make("a1", 20, "rft", 1)]
    sft, rft = comparison_rows(group(result for run in runs for result in read(run)))
    assert rft["training"]["step"] == [0, 10, 20]
    assert rft["training"]["accuracy"] == pytest.approx([0.31, 0.41, 0.51])
    assert rft["training"]["ends"] == [pytest.approx([x, x + 0.02]) for x in (0.3, 0.4, 0.5)]
    assert rft["curve"]["pass"] == pytest.approx([0.3, 0.5, 0.705])
    assert rft["curve"]["pass_ends"][-1] == pytest.approx([0.7, 0.71])
    assert sft["curve"]["maj_ends"][0] == pytest.approx([0.2, 0.4])  # one run: its interval over problems
    assert (sft["training"]["step"], sft["gains"], sft["seconds"], rft["seconds"]) == ([], {}, None, 60.5)
    found = rft["gains"]["pass"]  # the start has 0.7
    assert found["over_problems"] is None
    assert found["mean"] == pytest.approx(0.005)
    assert found["over_seeds"] == pytest.approx((0.005 - 12.706 * 0.005, 0.005 + 12.706 * 0.005))


@pytest.mark.parametrize("methods", [[""], ["", "rft", "grpo_ps"]])
def test_tables_and_plots_are_written_the_same_each_time(make: Make, tmp_path: Path, methods: list[str]) -> None:
    runs = [make(f"run{number}", 10 + 5 * number, method) for number, method in enumerate(methods)]
    text = write(runs, tmp_path / "out")
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(files) == {"comparison.md", "comparison.json", "accuracy.svg", "votes.svg"}
    assert files["comparison.md"].decode() == text
    for row in read_json(tmp_path / "out" / "comparison.json"):
        assert f"| {row['method']} | 0 | {100 * row['greedy']['mean']:.1f} % |" in text
    assert ("sft → rft | +12.5" in text) == (len(methods) > 1)
    for name in ("accuracy.svg", "votes.svg"):
        drawn = "".join(ElementTree.fromstring(files[name]).itertext())
        assert all((method or "sft") in drawn for method in methods)
    write(runs, tmp_path / "again")
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == files


def test_runs_that_cannot_be_compared_are_one_error_message(make: Make, tmp_path: Path, capsys) -> None:
    start, other = make("start", 10), make("other", 10, "rft", problems=PROBLEMS - 1)
    old = make("old", 10, "rft")
    summary = read_json(old / "evaluate" / "summary.json")
    del summary["rl"]["pooled"]["curve"]
    write_json(old / "evaluate" / "summary.json", summary)
    cases = {
        "has no finished evaluation; run its command": [start, tmp_path / "nothing"],
        "were evaluated on different problems": [start, other],
        "are both rft with seed 0": [make("a", 10, "rft"), make("b", 12, "rft")],
        "was evaluated without maj@k and pass@k over k": [start, old],
    }
    for words, runs in cases.items():
        with pytest.raises(UserError, match=words):
            write(runs, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    arguments = ["--runs", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]
    assert exit_code(lambda: comparison.main(arguments)) == 2
    assert capsys.readouterr().err.startswith("error: ")
