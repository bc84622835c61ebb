"""The benchmarks of training at tiny sizes: their reports, and that all sides do the same work."""

import math
import sys
from pathlib import Path

import pytest

from benchmarks import comparison, cross_entropy, train_step, turns
from dsmath_jax.workdir import UserError, read_json

SIDE = """
import os, time
from benchmarks import turns
blocks = []
def work():
    print("noise of a library")
    blocks.append(bytearray(b"1") * (20 << 20))
    start = time.process_time()
    while time.process_time() < start + 0.05: pass
    return {"count": len(blocks), "cpus": len(os.sched_getaffinity(0))}
turns.serve(lambda: ({"hello": 1}, work))
"""


def test_sides_take_turns_and_report_what_each_took(tmp_path):
    command = [sys.executable, "-c", SIDE]
    results = turns.alternate({"a": command, "b": command}, tmp_path, repetitions=3, count=1)
    assert list(results) == ["a", "b"]
    for name, (ready, reports) in results.items():
        assert ready["hello"] == 1
        assert [turn["count"] for turn in reports] == [1, 2, 3]
        assert {turn["cpus"] for turn in reports} == {1}
        assert all(turn["seconds"] >= turn["cpu_seconds"] > 0.04 for turn in reports)
        assert reports[-1]["peak_bytes"] - ready["peak_bytes"] > 55 << 20
        assert (tmp_path / f"{name}.log").read_text() == "noise of a library\n" * 3


@pytest.mark.parametrize("when", ["before it is ready", "in its turn"])
def test_a_side_that_fails_is_an_error_with_its_output(when, tmp_path):
    work = "turns.serve(lambda: ({}, lambda: 1 / 0))" if when == "in its turn" else "1 / 0"
    command = [sys.executable, "-c", f"from benchmarks import turns\n{work}"]
    with pytest.raises(RuntimeError, match=r"code 1: (.|\n)*ZeroDivisionError"):
        turns.alternate({"a": command}, tmp_path, repetitions=1, count=1)


def test_a_missing_peer_is_reported(capsys):
    assert comparison.interpreter("") == ""
    assert comparison.interpreter("no/python") == ""
    assert "make peers" in capsys.readouterr().err


def check_cross_entropy(sizes: dict[str, int], peer: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    arguments = [f"--{name}={value}" for name, value in sizes.items()]
    out = folder / "result.json"
    cross_entropy.main([*arguments, f"--peer={peer}", "--repetitions=2", "--threads=1", f"--json={out}"])
    result = read_json(out)
    assert {name: result[name] for name in sizes} == sizes
    printed = capsys.readouterr().out
    for name, side in result["sides"].items():
        assert side["seconds"] > 0
        assert side["difference"] < 1e-4
        assert len(side["values"]) == 3
        # Logits are as wide as 1: the logarithm of the vocabulary, and half their variance.
        assert side["values"][0] == pytest.approx(math.log(sizes["vocabulary"]) + 0.5, abs=0.2)
        assert f"| {cross_entropy.SIDES[name]} | " in printed
    ours = result["sides"]["chunked"]
    assert ours["time_ratio"] == ours["memory_ratio"] == 1
    return result["sides"]


@pytest.mark.slow
def test_cross_entropy_needs_less_memory_than_all_logits(tmp_path, capsys):
    sizes = {"tokens": 1024, "hidden_size": 8, "vocabulary": 20_000}
    sides = check_cross_entropy(sizes, "", tmp_path, capsys)
    assert list(sides) == ["chunked", "plain"]
    logits = sizes["tokens"] * sizes["vocabulary"] * 4
    for field in ("temporary_bytes", "added_bytes"):
        assert sides["chunked"][field] < logits < sides["plain"][field], field


@pytest.mark.oracle
def test_cross_entropy_is_that_of_torch(peer_with, tmp_path, capsys):
    sides = check_cross_entropy(
        {"tokens": 64, "hidden_size": 16, "vocabulary": 640}, peer_with("torch"), tmp_path, capsys
    )
    assert sides["torch"]["version"].startswith("torch ")


def test_sides_that_compute_something_else_are_an_error():
    turn = {"seconds": 1.0, "cpu_seconds": 1.0, "peak_bytes": 9}
    ready = {"version": "", "baseline_bytes": 1, "temporary_bytes": 1}
    results = {name: (ready, [turn | {"values": [1.0, value]}]) for name, value in (("chunked", 2.0), ("plain", 2.01))}
    with pytest.raises(RuntimeError, match="plain does not compute what ours does"):
        cross_entropy.compare(results)

    case = train_step.CASES["tiny"]
    ready = {"peak_flops": None, "devices": ["cpu"], "parameters": 1, "flops_per_token": 1.0, "version": ""}
    steps = {
        name: (ready | {"losses": [5.0]}, [turn | {"losses": [loss]}])
        for name, loss in (("ours", 4.0), ("eager", 4.01))
    }
    with pytest.raises(RuntimeError, match="eager does not compute what ours does"):
        train_step.compare(case, steps)


def run_train_step(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    out = folder / "result.json"
    train_step.main(["--cases=tiny", "--repetitions=2", "--threads=1", f"--json={out}", *arguments])
    result = read_json(out)
    case = result["cases"]["tiny"]
    printed = capsys.readouterr().out
    for name, side in case["sides"].items():
        assert side["tokens_per_second"] > 0
        assert side["peak_bytes"] > 50 << 20
        assert side["mfu"] is None  # a CPU's peak is not known
        assert side["losses"] == sorted(side["losses"], reverse=True), "the same batch again is learned"
        assert len(side["losses"]) == 1 + 2 * train_step.STEPS
        assert f"| {train_step.PEERS.get(name, name)} | " in printed
    assert case["sides"]["ours"]["ratio"] == 1
    return case


@pytest.mark.slow
def test_train_step_measures_ours_alone(tmp_path, capsys):
    case = run_train_step(["--rows=1"], tmp_path, capsys)
    assert list(case["sides"]) == ["ours"]
    assert case["rows"] == 1
    assert case["parameters"] == pytest.approx(0.61e6, rel=0.02)


@pytest.mark.oracle
def test_train_step_is_that_of_transformers(peer_with, tmp_path, capsys):
    case = run_train_step([f"--peer={peer_with('torch', 'transformers')}", "--peer_kinds=eager"], tmp_path, capsys)
    assert list(case["sides"]) == ["ours", "eager"]
    assert case["sides"]["eager"]["loss_difference"] < 1e-5
    assert case["sides"]["eager"]["loss_difference"] > 0, "two programs that agree in every bit are one"


def test_mfu_is_model_flops_over_the_peak():
    ready = {"peak_flops": 1e6, "devices": ["x", "x"], "parameters": 1, "flops_per_token": 1e3, "version": ""}
    turn = {"seconds": 2.0, "cpu_seconds": 1.0, "peak_bytes": 9, "losses": [4.0, 4.0]}
    case = train_step.CASES["tiny"]
    side = train_step.compare(case, {"ours": (ready | {"losses": [5.0]}, [turn])})["sides"]["ours"]
    tokens = train_step.STEPS * case.rows * case.length
    assert side["tokens_per_second"] == tokens / 2
    assert side["mfu"] == pytest.approx(tokens / 2 * 1e3 / 2e6)


@pytest.mark.parametrize("wrong", ["--cases=tiny,huge", "--peer_kinds=huge"])
def test_an_unknown_name_is_one_sentence(wrong):
    with pytest.raises(UserError, match=r" must list some of .*; got 'huge'"):
        train_step.main([wrong])
