"""Rollouts in turns: what is trained on, what is graded, kills, and what is refused."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsmath_jax.environments.dialogues import Dialogues
from dsmath_jax.rl.rollout_files import read_rollout
from dsmath_jax.sharding import Layout
from dsmath_jax.workdir import UserError, read_jsonl
from tests.rl.trainer_runs import RLRun, assert_same_results, metrics

Recipe, MakeWorkdir = Callable[..., RLRun], Callable[[str], Path]
# Replies to every turn, however it ended; notes each step outside of the run.
ENVIRONMENT = """
import pathlib
from dsmath_jax.environments.protocol import Step

class Noting:
    mode, stop_strings = "cot", ("3", "7")

    def __init__(self):
        self.turns = 0

    def reset(self, record):
        return record.question + " Say it."

    def step(self, turn):
        self.turns += 1
        with open(pathlib.Path(__file__).with_name("steps"), "a") as file:
            file.write(turn.text + "\\n")
        return Step("0 = 0", reward=float(len(turn.text)), answer_text="The answer is 12.", drops_eos=True)

class NoMode:
    stop_strings = ()

class TextStops(Noting):
    stop_strings = "3"

class Takes(Noting):
    def __init__(self, size):
        pass

class NoQuestion(Noting):
    def reset(self, record):
        pass

class Failing(Noting):
    def step(self, turn):
        if len(turn.text) % 2:
            raise ValueError("odd")
        return super().step(turn)
"""


@pytest.fixture
def noting(start: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "noting_environment.py").write_text(ENVIRONMENT)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "noting_environment", raising=False)  # another test's
    return folder


SETTINGS: dict[str, Any] = {
    "environment": {"name": "noting_environment:Noting", "max_turns": 3, "max_turn_tokens": 4},
    "reward_fns": (("environment", 1.0),), "max_new_tokens": 24, "log_samples": "all",
}  # fmt: skip


def test_replies_are_read_and_not_learned(recipe: Recipe, workdir: MakeWorkdir, noting: Path) -> None:
    folder = workdir("run")
    recipe("grpo_rule", steps=1, checkpoint_every=1, **SETTINGS).run(folder)
    data, _ = read_rollout(folder / "rl" / "rollouts" / "00000000.npz")
    rows = list(read_jsonl(folder / "rl" / "samples.jsonl"))
    assert len(rows) == 8
    [row] = metrics(folder)
    assert row["turns"] > 1
    assert row["reward"] == pytest.approx(row["reward/environment"])
    total = sum(each["num_tokens"] for each in rows)
    assert data.fields["loss_weights"].sum() == pytest.approx(total * (1 - row["frac_inserted"]))
    assert 0 < row["frac_inserted"] < 1
    assert all("0 = 0" in each["completion"] for each in rows if each["num_tokens"] > 8)
    assert not list((folder / "rl" / "rollouts").glob("*.jsonl"))
    assert np.mean([each["turns"] for each in rows]) == pytest.approx(row["turns"])
    assert {each["finish"] for each in rows} <= {"rounds", "length"}


def test_a_kill_among_the_replies_repeats_none(
    recipe: Recipe, workdir: MakeWorkdir, noting: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    rl = recipe("grpo_rule", steps=2, checkpoint_every=1, **SETTINGS)
    whole, cut = workdir("whole"), workdir("cut")
    rl.run(whole)
    steps = (noting / "steps").read_text().splitlines()
    (noting / "steps").unlink()
    replies, calls = Dialogues.replies, []

    def killed(self: Dialogues) -> Any:
        calls.append(replies(self))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return calls[-1]

    rl.run_interrupted(cut, monkeypatch, Dialogues, "replies", killed)
    assert list((cut / "rl" / "rollouts").glob("*.replies.jsonl"))
    (noting / "steps").unlink()
    known = sum(map(len, calls)) - sum(1 for reply in calls[-1] if reply)
    rl.run(cut)
    assert_same_results(whole, cut, layout)
    # Of the turns whose replies are known, those are shown again that have a turn after them.
    again = (noting / "steps").read_text().splitlines()
    assert len(steps) - known <= len(again) <= len(steps)


def test_the_final_answer_is_that_of_the_environment(
    recipe: Recipe, workdir: MakeWorkdir, noting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workdir("run")
    own = SETTINGS | {"reward_fns": (("correct", 1.0),), "eval_data": ("toy/train",), "eval_problems": 0}
    recipe("grpo_rule", steps=1, eval_every=1, allow_overlap=True, **own).run(folder)
    rows = list(read_jsonl(folder / "rl" / "samples.jsonl"))
    assert [row["rule_reward"] for row in rows] == [float(row["answer"] == "12") for row in rows]
    problems = list(read_jsonl(recipe("grpo_rule").data_dir / "problems" / "train.jsonl"))
    share = np.mean([row["answer"] == "12" for row in problems])
    assert [row["eval_greedy"] for row in metrics(folder) if "eval_greedy" in row] == pytest.approx([share, share])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environment": {"name": "nowhere:X"}}, "environment.name: 'nowhere:X' cannot be used"),
        ({"environment": {"name": "noting_environment:NoMode"}}, "'noting_environment:NoMode' has no mode, one of cot"),
        ({"environment": {"name": "noting_environment:TextStops"}}, "has no stop_strings, a tuple of texts"),
        ({"environment": {"name": "noting_environment:Takes"}}, "it must take no arguments"),
        ({"environment": {"name": "noting_environment:NoQuestion"}}, "`reset` returned None for toy/train"),
        ({"environment": {"name": "pyton"}}, "environment.name must be one of"),
        ({"environment": {"name": "calculator", "max_turn_tokens": 25}}, "max_turn_tokens is 25; it must be at most"),
        ({"environment": None}, "reward_fns has environment, but there is none"),
        ({"curriculum": "init"}, "environment is set, but curriculum=init is for completions of one turn"),
    ],
)
def test_what_cannot_work_is_refused(
    recipe: Recipe, workdir: MakeWorkdir, noting: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        recipe("grpo_rule", steps=1, **SETTINGS | changes).run(workdir("run"))


def test_a_dialogue_whose_environment_fails_has_no_loss(recipe: Recipe, workdir: MakeWorkdir, noting: Path) -> None:
    folder = workdir("run")
    environment = {"environment": SETTINGS["environment"] | {"name": "noting_environment:Failing"}}
    recipe("grpo_rule", steps=1, checkpoint_every=1, **SETTINGS | environment | {"reward_fns": ("format",)}).run(folder)
    [row] = metrics(folder)
    assert 0 < row["environment_errors"] == row["num_masked"] < 8
