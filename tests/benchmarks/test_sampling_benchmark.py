"""The benchmark of sampling at a tiny size: its report, and that all sides do the same work."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import sampling
from dsmath_jax.workdir import UserError, read_json


def run(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    out = folder / "result.json"
    common = ["--cases=tiny", "--repetitions=2", "--threads=1", "--stop_share=0.1", f"--json={out}"]
    sampling.main([*common, *arguments])
    case = read_json(out)["cases"]["tiny"]
    printed = capsys.readouterr().out
    for name, side in case["sides"].items():
        assert side["tokens_per_second"] > 0
        # Geometric with a share of 51 in 512, cut at 16.
        assert side["mean_length"] == pytest.approx(10.04 * (1 - (1 - 51 / 512) ** 16), abs=4 * 10 / 32**0.5)
        assert f"| {sampling.SIDES[name]} | " in printed
    assert case["sides"]["ours"]["ratio"] == case["sides"]["ours"]["cpu_ratio"] == 1
    return case


@pytest.mark.slow
def test_sampling_measures_ours_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(run([], tmp_path, capsys)["sides"]) == ["ours"]


@pytest.mark.oracle
def test_sampling_is_that_of_the_peers(
    peer_with: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All greedy completions are the same, or the benchmark fails."""
    peer = peer_with("torch", "transformers", "tunix.generate.sampler")
    sides = run([f"--peer={peer}"], tmp_path, capsys)["sides"]
    assert list(sides) == ["ours", "transformers", "tunix"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"greedy": [5]}, "tunix does not compute what ours does"),
        ({"tokens": 90}, "tunix does not draw what ours does"),
    ],
)
def test_sides_that_do_other_work_are_an_error(change: dict, message: str) -> None:
    ready, turn = {"version": "", "greedy": [4]}, {"tokens": 10, "seconds": 1.0, "cpu_seconds": 1.0, "peak_bytes": 9}
    results = {
        "ours": (ready, [turn]),
        "tunix": ({name: change.get(name, value) for name, value in ready.items()}, [turn | change]),
    }
    with pytest.raises(RuntimeError, match=message):
        sampling.compare(sampling.CASES["tiny"], results)


def test_a_wrong_option_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"--cases must list some of tiny, .*; got 'huge'"):
        sampling.main(["--cases=huge"])
    with pytest.raises(UserError, match=r"--stop_share must be a share of the ids.*got 1.5"):
        sampling.main(["--cases=tiny", "--stop_share=1.5"])
