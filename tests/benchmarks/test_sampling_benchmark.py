"""The benchmark of sampling at a tiny size: what it tells, and that all sides did the same work."""

import subprocess
from pathlib import Path

import pytest

from benchmarks import sampling
from dsmath_jax.workdir import UserError, read_json

PEER = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"


@pytest.fixture
def peer() -> str:
    needed = "import torch, transformers, tunix.generate.sampler"
    found = PEER.exists() and subprocess.run([PEER, "-c", needed], capture_output=True)
    if not found or found.returncode:
        pytest.skip(f"{PEER} is missing, or has no torch, transformers and tunix; make peers")
    return str(PEER)


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


def test_sampling_measures_ours_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(run([], tmp_path, capsys)["sides"]) == ["ours"]


@pytest.mark.oracle
def test_sampling_is_that_of_the_peers(peer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Greedily all go on with the same tokens, or the benchmark refuses."""
    sides = run([f"--peer={peer}"], tmp_path, capsys)["sides"]
    assert list(sides) == ["ours", "transformers", "tunix"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"greedy": [5]}, "tunix does not compute what ours does"),
        ({"tokens": 90}, "tunix does not draw what ours does"),
    ],
)
def test_sides_that_do_other_work_are_an_error(change: dict, said: str) -> None:
    ready, turn = {"version": "", "greedy": [4]}, {"tokens": 10, "seconds": 1.0, "cpu_seconds": 1.0, "peak_bytes": 9}
    found = {
        "ours": (ready, [turn]),
        "tunix": ({name: change.get(name, value) for name, value in ready.items()}, [turn | change]),
    }
    with pytest.raises(RuntimeError, match=said):
        sampling._compared(sampling.CASES["tiny"], found)


def test_a_wrong_option_is_one_sentence() -> None:
    with pytest.raises(UserError, match="there is no 'huge'; give some of "):
        sampling.main(["--cases=huge"])
    with pytest.raises(UserError, match=r"--stop_share=1.5 is no share of the ids"):
        sampling.main(["--cases=tiny", "--stop_share=1.5"])
