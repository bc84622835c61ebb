"""The benchmarks of RL at tiny sizes: their reports, and that all sides do the same work."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import grpo_iteration, grpo_memory, grpo_packing
from benchmarks.grpo_iteration_task import EOS, PHASES, Task, lengths_of, prompts_of, reward_of, text_of
from dsmath_jax.workdir import read_json

TASK = Task(prompts=2, group_size=4, prompt_tokens=8, new_tokens=12, vocabulary=128)
SIZES = [
    "--hidden_size=32", "--num_hidden_layers=2", "--intermediate_size=64", "--head_dim=16", "--repetitions=2",
    "--threads=1",
]  # fmt: skip


def test_planned_lengths_are_reproducible_and_mixed() -> None:
    task = TASK._replace(prompts=4, group_size=16, new_tokens=64)
    lengths = lengths_of(task, 3)
    assert lengths == lengths_of(task, 3) != lengths_of(task, 4)
    assert len(lengths) == task.rows
    assert 7 <= min(lengths) < 20
    assert 48 < max(lengths) <= 64
    assert sum(sorted(lengths)[31:33]) / 2 == pytest.approx(32, abs=8)
    assert prompts_of(task, 3) == prompts_of(task, 3) != prompts_of(task, 4)
    assert all(len(prompt) == 8 and min(prompt) > EOS for prompt in prompts_of(task, 3))


def test_the_reward_is_the_share_of_even_words() -> None:
    assert reward_of(text_of([2, 13, 14, 7])) == 0.5
    assert reward_of("") == 0.0


def run_iteration(peer: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict]:
    out = folder / "result.json"
    task = [f"--{name}={getattr(TASK, name)}" for name in TASK._fields[:5]]
    grpo_iteration.main([*task, *SIZES, *peer, f"--json={out}"])
    sides = read_json(out)["sides"]
    printed = capsys.readouterr().out
    planned = sum(sum(lengths_of(TASK, iteration)) for iteration in (1, 2))
    for name, side in sides.items():
        assert f"| {grpo_iteration.SIDES[name]} (" in printed
        assert side["tokens"] == planned
        walls = [side["phases"][phase] for phase in PHASES]
        assert all(wall > 0 for wall in walls)
        assert sum(walls) <= 1.5 * max(side["seconds_of_turns"])
    return sides


@pytest.mark.slow
def test_an_iteration_of_ours_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sides = run_iteration([], tmp_path, capsys)
    assert list(sides) == ["ours"]
    loss, norm = sides["ours"]["values"]
    assert loss != 0, "the common rollout is off the policy: there is something to compare"
    assert norm > 0


@pytest.mark.oracle
def test_an_iteration_is_that_of_trl(
    peer_with: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = run_iteration([f"--peer={peer_with('trl', 'datasets')}"], tmp_path, capsys)
    assert list(sides) == ["ours", "trl"]
    assert 0 < sides["trl"]["difference"] < 1e-4
    assert sides["trl"]["version"].startswith("TRL 1.13")


def test_sides_of_an_iteration_that_differ_are_an_error() -> None:
    turn = {"seconds": 1.0, "cpu_seconds": 1.0, "peak_bytes": 9, "tokens": 5}
    turn |= {name: 0.3 for phase in PHASES for name in (phase, f"{phase}_cpu")}
    ready = {"version": "", "values": [1.0, 2.0]}
    for other in (({"version": "", "values": [1.0, 2.01]}, [turn]), (ready, [turn | {"tokens": 6}])):
        with pytest.raises(RuntimeError, match="trl does not compute what ours does"):
            grpo_iteration.compare({"ours": (ready, [turn]), "trl": other})


@pytest.mark.slow
def test_chunks_need_less_memory_than_all_logits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    sizes = {"vocabulary": 20_000, "hidden_size": 32, "num_hidden_layers": 1, "rows": 1, "tokens": 1024}
    flags = [f"--{name}={value}" for name, value in sizes.items()]
    grpo_memory.main([*flags, "--threads=1", "--repetitions=1", f"--json={out}"])
    sides = read_json(out)["sides"]
    printed = capsys.readouterr().out
    assert all(f"| {name} | " in printed for name in grpo_memory.SIDES.values())
    logits = 1024 * 20_000 * 4
    ours, plain = sides["chunked"], sides["plain"]
    assert ours["temporary_bytes"] < 1.5 * logits < plain["temporary_bytes"]
    assert ours["added_bytes"] + logits < plain["added_bytes"]
    # Three numbers a parameter (its own, two moments), and twice that with a value model.
    parameters = 20_000 * 32 + 4 * 32 * 32 + 3 * 32 * 86 + 3 * 32
    assert sides["chunked"]["state_bytes"] == pytest.approx(12 * parameters, rel=0.01)
    assert sides["ppo"]["state_bytes"] == pytest.approx(24 * parameters, rel=0.01)
    assert sides["ppo"]["temporary_bytes"] > ours["temporary_bytes"]


def test_forms_that_differ_are_an_error() -> None:
    ready = {"state_bytes": 1, "baseline_bytes": 1, "temporary_bytes": 1, "values": [1.0, 2.0]}
    results = {name: (ready, [{"cpu_seconds": 1.0, "peak_bytes": 9}]) for name in grpo_memory.SIDES}
    grpo_memory.compare(results)
    results["plain"] = (ready | {"values": [1.0, 2.01]}, results["plain"][1])
    with pytest.raises(RuntimeError, match="the plain implementation does not compute what ours does"):
        grpo_memory.compare(results)


@pytest.mark.slow
def test_packed_rows_compute_what_padded_ones_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    sizes = {"vocabulary": 64, "hidden_size": 32, "num_hidden_layers": 1, "prompts": 2, "group_size": 4}
    flags = [f"--{name}={value}" for name, value in sizes.items()]
    grpo_packing.main([*flags, "--new_tokens=128", "--threads=1", "--repetitions=1", f"--json={out}"])
    sides = read_json(out)["sides"]
    printed = capsys.readouterr().out
    assert all(f"| {name} | " in printed for name in grpo_packing.SIDES.values())
    assert sides["packed"]["padding"] < sides["padded"]["padding"]
