"""Runs that evaluate their policy: the best one in `rl/best/`, early stopping; and runs that say what is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from dsmath_jax.api import load_model
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.rl import trainer
from dsmath_jax.rl.evaluations import Evaluations, without_improvement
from dsmath_jax.sharding import Layout
from dsmath_jax.training import checkpoint
from dsmath_jax.training.loop import TrainLoop
from dsmath_jax.workdir import UserError, read_json, read_jsonl
from tests.rl.trainer_runs import RLRun, assert_same_results, equal, metrics, weights

Recipe = Callable[..., RLRun]
MakeWorkdir = Callable[[str], Path]
EVALUATED = {"eval_data": ("toy/train",), "eval_problems": 2, "eval_every": 1, "allow_overlap": True}
SHORT = {"steps": 5, "max_new_tokens": 2, "kl_coef": 0.0}  # the tests below share what it compiles


def measure(values: list[float], monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """Makes the evaluation before each step return these values, in resumed runs too; returns the policies by step."""
    add, policies = Evaluations.add, dict[int, Any]()

    def at_step(self: Evaluations, loop: TrainLoop, step: int, policy: Any) -> None:
        self._measure = lambda _: values[step]
        policies[step] = jax.device_get(policy)
        add(self, loop, step, policy)

    monkeypatch.setattr(Evaluations, "add", at_step)
    return policies


def evaluations(workdir: Path) -> list[tuple[int, float, float | None]]:
    rows = [row for row in metrics(workdir) if "eval_greedy" in row]
    return [(row["step"], row["eval_greedy"], row.get("early_stop")) for row in rows]


def interrupt_before_params(rl: RLRun, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs until `rl/params` is to be written."""
    save = checkpoint.save

    def interrupted(folder: Path, tree: Any) -> None:
        if folder.parent == workdir / "rl":
            raise KeyboardInterrupt
        save(folder, tree)

    rl.run_interrupted(workdir, monkeypatch, checkpoint, "save", interrupted)
    assert not (workdir / "rl" / "params").exists()


def test_evaluations_without_improvement() -> None:
    for values, expected in (([1.0], 0), ([1.0, 2.0], 0), ([2.0, 1.0], 1), ([2.0, 2.0, 1.0], 2), ([2.0, 1.0, 3.0], 0)):
        assert without_improvement(values) == expected


@pytest.mark.slow
def test_a_run_says_that_all_completions_are_cut(
    recipe: Recipe, workdir: MakeWorkdir, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workdir("run")
    recipe("grpo_rule", reward_fns=(("trainer_rewards:same", 1.0),), **SHORT).run(folder)
    found = list(read_jsonl(folder / "rl" / "findings.jsonl"))
    assert [(row["step"], row["kind"]) for row in found] == [
        (0, "all_truncated"), (0, "clip_shares_zero"), (4, "no_eos"), (4, "equal_rewards")
    ]  # fmt: skip
    assert found[0]["sample"]["finish"] == "length"
    logged = [message for message in caplog.messages if message.startswith("rl: step ")]
    assert len(logged) == 3
    assert logged[0].startswith("rl: step 0: 100.0 % of the 8 completions are cut at rl.max_new_tokens=2 before they ")
    assert "A sample (reward 0.25, ended by length, the record's answer is '" in logged[0]
    assert "rl: step 0: clip_low and clip_high are 0, as they should be" in capsys.readouterr().out


def test_a_run_without_improvement_stops_and_keeps_its_best_policy(
    recipe: Recipe, workdir: MakeWorkdir, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a killed run too. The first of equal ones is the best; `rl/params` is the last."""
    policies = measure([0.25, 0.5, 0.25, 0.5, 1.0, 1.0], monkeypatch)
    whole, cut = workdir("whole"), workdir("cut")
    rl = recipe("grpo_rule", checkpoint_every=2, patience=2, **EVALUATED, **SHORT)
    rl.run(whole)
    assert evaluations(whole) == [(0, 0.25, None), (1, 0.5, None), (2, 0.25, None), (3, 0.5, 1.0)]
    assert [row["step"] for row in metrics(whole) if "loss" in row] == [0, 1, 2]
    assert read_json(whole / "rl" / "best" / "best.json") == {"step": 1, "eval_greedy": 0.5}
    best = load_model(str(whole / "rl" / "best"))  # with the tokenizer of the run
    assert equal(jax.device_get(best.params), policies[1])
    assert equal(weights(whole, layout), policies[3])
    assert not equal(policies[1], policies[3])

    rl.interrupt(cut, monkeypatch, 1)
    assert read_json(cut / "rl" / "best" / "best.json")["step"] == 1
    interrupt_before_params(rl, cut, monkeypatch)
    rl.run(cut)
    assert_same_results(whole, cut, layout)
    assert not list((cut / "rl").glob(".*"))


@pytest.mark.slow
def test_a_run_on_fixed_completions_stops_too(
    recipe: Recipe, workdir: MakeWorkdir, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies, folder = measure([0.5, 0.25, 0.25, 0.25], monkeypatch), workdir("run")
    recipe("sft", steps=3, patience=2, max_new_tokens=40, **EVALUATED).run(folder)
    assert evaluations(folder) == [(0, 0.5, None), (1, 0.25, None), (2, 0.25, 1.0)]
    assert equal(weights(folder, layout), policies[2])


@pytest.mark.slow
def test_a_round_that_stops_early_is_the_last(
    recipe: Recipe, workdir: MakeWorkdir, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure([0.5, 0.25, 0.25, 0.25, 0.25], monkeypatch)
    retrain = {"data": ("toy/train",), "problems": 24, "samples": 4, "max_new_tokens": 12, "steps": 2}
    rl = recipe("grpo_iterative", steps=4, rounds=2, retrain=retrain, patience=1, **EVALUATED)
    folder = workdir("run")
    counts = trainer.run(rl.settings, None, ChatSettings(), folder, rl.data_dir, rl.layout, 3)
    assert counts == {"questions": 15, "num_overlapping": 2, "steps": 1, "best_step": 0}
    assert not (folder / "rl" / "rounds").exists()


def test_patience_needs_evaluations(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"^rl\.patience is 2, but nothing is evaluated during training; give"):
        recipe("grpo_rule", patience=2, eval_data=("toy/train",))
    with pytest.raises(UserError, match=r"^rl\.patience is 2"):
        recipe("grpo_rule", patience=2, eval_every=1)
