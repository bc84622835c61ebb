"""The attention benchmark on a few tokens: the sides compute the same, and each has a line in the table."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import attention
from dsmath_jax.workdir import UserError, read_json


def run(out: Path, peer: str, *more: str) -> dict:
    small = ["--tokens=48,300", "--documents=3", "--heads=2", "--head_dim=8", "--repetitions=1", "--threads=1"]
    attention.main([*small, f"--peer={peer}", f"--json={out}", *more])
    return read_json(out)


def check(result: dict, sides: list[str]) -> None:
    for case in result["cases"]:
        assert list(case["sides"]) == sides
        ours = case["sides"]["ours"]
        for name, side in case["sides"].items():
            assert side["cpu_seconds"] > 0, name
            assert side["cpu_ratio"] == pytest.approx(side["cpu_seconds"] / ours["cpu_seconds"])
            assert side["difference"] < 1e-5, name


@pytest.mark.slow
def test_ours_and_the_plain_implementation_compute_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(tmp_path / "out.json", "no/python", "--tokens=48")
    printed = capsys.readouterr()
    assert "make peers" in printed.err
    assert [(case["tokens"], case["documents"]) for case in result["cases"]] == [(48, 3)]
    check(result, ["ours", "plain"])
    assert printed.out == attention.table(result) + "\n"
    assert "| 48 | 3 | plain implementation | " in printed.out


def test_sides_that_differ_are_an_error() -> None:
    def side(value: float) -> tuple[dict, list[dict]]:
        ready = {"version": "", "baseline_bytes": 0, "dtype": "float32", "values": [value, 2.0]}
        return ready, [{"seconds": 1.0, "cpu_seconds": 1.0, "peak_bytes": 5}]

    assert attention.compare({"ours": side(1.0), "plain": side(1.0)})["plain"]["memory_ratio"] == 1
    with pytest.raises(RuntimeError, match="plain does not compute what ours does"):
        attention.compare({"ours": side(1.0), "plain": side(1.1)})


def test_an_option_that_lists_no_numbers_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"--tokens must list positive numbers, joined by commas, as 512,1024; got '512,-1'"
    ):
        attention.main(["--tokens=512,-1"])


@pytest.mark.slow
@pytest.mark.parametrize("documents", [1, 3])
def test_torch_computes_the_same(peer_with: Callable[..., str], tmp_path: Path, documents: int) -> None:
    result = run(tmp_path / "out.json", peer_with("torch"), f"--documents={documents}")
    check(result, ["ours", "plain", "torch"])
