"""The best policy in `rl/best/` and early stopping, in runs that are killed too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from dsmath_jax.api import load_model
from dsmath_jax.rl import trainer
from dsmath_jax.rl.evaluations import Evaluations, without_improvement
from dsmath_jax.sharding import Layout
from dsmath_jax.training.loop import TrainLoop
from dsmath_jax.workdir import UserError, read_json, read_jsonl
from tests.rl.trainer_runs import RLRun, assert_same_results, equal, metrics, weights

Recipe = Callable[..., RLRun]
MakeWorkdir = Callable[[str], Path]
EVALUATED = {"eval_data": ("toy/train",), "eval_problems": 2, "eval_every": 1, "allow_overlap": True}


def measure(values: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the evaluation before each step return these values, in killed and resumed runs too."""
    add = Evaluations.add

    def at_step(self: Evaluations, loop: TrainLoop, step: int, policy: Any) -> None:
        self._measure = lambda _: values[step]
        add(self, loop, step, policy)

    monkeypatch.setattr(Evaluations, "add", at_step)


def evaluations(workdir: Path) -> list[tuple[int, float, float | None]]:
    rows = [row for row in metrics(workdir) if "eval_greedy" in row]
    return [(row["step"], row["eval_greedy"], row.get("early_stop")) for row in rows]


def test_evaluations_without_improvement() -> None:
    assert [without_improvement(values) for values in ([1.0], [1, 2], [2, 1], [2, 2, 1], [1, 2, 1, 3])] == [
        0,
        0,
        1,
        2,
        0,
    ]


def test_the_best_policy_is_kept_next_to_the_last(
    recipe: Recipe, workdir: MakeWorkdir, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a killed run too; the first of equal ones is the best."""
    measure([0.25, 0.5, 0.75, 0.75, 0.5], monkeypatch)
    whole, cut, short = workdir("whole"), workdir("cut"), workdir("short")
    rl = recipe("grpo_rule", steps=4, checkpoint_every=3, **EVALUATED)
    rl.run(whole)
    assert read_json(whole / "rl" / "best" / "best.json") == {"step": 2, "eval_greedy": 0.75}
    recipe("grpo_rule", steps=2).run(short)
    best = load_model(str(whole / "rl" / "best"))
    assert equal(jax.device_get(best.params), weights(short, layout))
    assert not equal(weights(whole, layout), weights(short, layout))
    for step in (2, 3):
        rl.interrupt(cut, monkeypatch, step)
    rl.run(cut)
    assert_same_results(whole, cut, layout)
    for folder in (whole, cut):
        assert not list((folder / "rl").glob(".*"))


@pytest.mark.parametrize("method", ["grpo_rule", pytest.param("sft", marks=pytest.mark.slow)])
def test_a_run_that_no_longer_improves_stops(
    method: str, recipe: Recipe, workdir: MakeWorkdir, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure([0.25, 0.5, 0.25, 0.5, 1.0, 1.0, 1.0], monkeypatch)
    whole, cut = workdir("whole"), workdir("cut")
    length = {"max_new_tokens": 40} if method == "sft" else {}
    rl = recipe(method, steps=6, checkpoint_every=2, patience=2, **EVALUATED, **length)
    rl.run(whole)
    assert evaluations(whole) == [(0, 0.25, None), (1, 0.5, None), (2, 0.25, None), (3, 0.5, 1.0)]
    assert [row["step"] for row in metrics(whole) if "loss" in row] == [0, 1, 2]
    assert read_json(whole / "rl" / "best" / "best.json")["step"] == 1
    with monkeypatch.context() as patch:  # as it stops, before rl/params is written
        patch.setattr(trainer.checkpoint, "save", _unless_best(trainer.checkpoint.save))
        with pytest.raises(KeyboardInterrupt):
            rl.run(cut)
    assert not (cut / "rl" / "params").exists()
    rl.run(cut)
    assert_same_results(whole, cut, layout)


def _unless_best(save: Callable[..., None]) -> Callable[..., None]:
    def interrupted(folder: Path, tree: Any) -> None:
        if folder.parent.name == "rl":
            raise KeyboardInterrupt
        save(folder, tree)

    return interrupted


@pytest.mark.slow
def test_the_manifest_counts_the_steps(recipe: Recipe, workdir: MakeWorkdir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round of iterative GRPO that stops early is the last one."""
    measure([0.5, 0.25, 0.25, 0.25, 0.25], monkeypatch)
    retrain = {"data": ("toy/train",), "problems": 24, "samples": 4, "max_new_tokens": 12, "steps": 2}
    rl = recipe("grpo_iterative", steps=4, rounds=2, retrain=retrain, patience=1, **EVALUATED)
    counts = trainer.run(rl.settings, None, trainer.ChatSettings(), workdir("run"), rl.data_dir, rl.layout, 3)
    assert counts == {"questions": 24, "num_overlapping": 2, "steps": 1, "best_step": 0}


def test_patience_needs_evaluations(recipe: Recipe) -> None:
    with pytest.raises(
        UserError, match=r"^rl\.patience is 2, but nothing is evaluated during training; give eval_data"
    ):
        recipe("grpo_rule", patience=2, eval_data=("toy/train",))
    with pytest.raises(UserError, match=r"^rl\.patience is 2"):
        recipe("grpo_rule", patience=2, eval_every=1)


# --- findings of a run ---


@pytest.fixture
def untrained(recipe: Recipe) -> RLRun:
    """Completions so short that all are cut at the limit."""
    return recipe(
        "grpo_rule", steps=6, max_new_tokens=2, checkpoint_every=2, reward_fns=(("trainer_rewards:same", 1.0),)
    )


def test_a_run_says_that_all_completions_are_cut(
    untrained: RLRun, workdir: MakeWorkdir, layout: Layout, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole, cut = workdir("whole"), workdir("cut")
    untrained.run(whole)
    found = list(read_jsonl(whole / "rl" / "findings.jsonl"))
    assert [(row["step"], row["kind"]) for row in found] == [
        (0, "all_truncated"), (0, "clip_shares_zero"), (4, "no_eos"), (4, "equal_rewards")
    ]  # fmt: skip
    assert found[0]["sample"]["finish"] == "length"
    said = [message for message in caplog.messages if message.startswith("rl: step ")]
    assert len(said) == 3
    assert said[0].startswith("rl: step 0: 100.0 % of the 8 completions are cut at rl.max_new_tokens=2 before they end")
    assert "A sample (reward 0.25, ended by length): " in said[0]
    assert "rl: step 0: clip_low and clip_high are 0, as they should be" in capsys.readouterr().out
    caplog.clear()
    for step in (3, 5):
        untrained.interrupt(cut, monkeypatch, step)
    untrained.run(cut)
    assert_same_results(whole, cut, layout)
    assert sum("are cut at" in message for message in caplog.messages) == 1
