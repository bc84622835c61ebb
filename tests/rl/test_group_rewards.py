"""Reward functions that score a group at once, and asynchronous ones: their values, and that failures stay alone."""

import logging
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsmath_jax.data.datasets import Record
from dsmath_jax.rl.rewards import ERRORS, RewardFunctions, RewardInput, RuleRewards
from dsmath_jax.workdir import UserError, read_jsonl, write_jsonl
from tests.rl.test_cases import MakeRun, MakeWorkdir
from tests.rl.trainer_runs import metrics

LENGTH, USERS = "tests.rl.reward_functions:length", "tests.rl.group_reward_functions"
NONE, NAN = dict.fromkeys(ERRORS, 0), float("nan")
DOCS = Path(__file__).parents[2] / "docs" / "rl.md"


def score(
    reward_fns: dict[str, float], groups: list[list[str]], seconds: float = 60.0, workers: int = 1, **extra: Any
) -> RuleRewards:
    """Scores groups of one size, each of its own record."""
    records = [Record(f"toy/{n}", "How many?", "", "7", kind="number", extra=extra) for n in range(len(groups))]
    inputs = [RewardInput(text, record) for record, group in zip(records, groups, strict=True) for text in group]
    with RewardFunctions(tuple(reward_fns.items()), seconds, workers) as reward:
        return reward.score(inputs, len(groups[0]))


@pytest.mark.parametrize("function", ["ranks", "ranks_as_an_array"])
def test_a_function_of_completions_scores_each_group_by_itself(function: str) -> None:
    rewards = score({f"{USERS}:{function}": 0.5}, [["a", "aaa", "aa"], ["aaaaa", "a", "a"]], bonus=10)
    assert rewards.total.tolist() == [5.0, 6.0, 5.5, 5.5, 5.0, 5.0]
    assert rewards.by_function == {f"{USERS}:{function}": pytest.approx([10, 12, 11, 11, 10, 10])}
    assert rewards.errors == NONE


def test_functions_of_one_completion_and_of_a_group_add_up() -> None:
    functions = {LENGTH: 1.0, f"{USERS}:ranks": 10.0, "correct": 100.0}
    assert score(functions, [["The answer is 7.", "a"]]).total.tolist() == [126.0, 1.0]


@pytest.mark.parametrize("function", ["group_as_asked", pytest.param("group_later", marks=pytest.mark.slow)])
def test_a_call_that_fails_costs_its_group_alone(function: str) -> None:
    groups = [[first, "fine"] for first in ("fine", "whole raise", "whole exit", "short", "number", "abstain")]
    rewards = score({f"{USERS}:{function}": 2.0}, groups)
    np.testing.assert_array_equal(rewards.total, [2.0, 2.0, *10 * [NAN]])
    assert rewards.errors == NONE | {"raised": 6, "died": 2}


@pytest.mark.parametrize("function", ["group_as_asked", pytest.param("group_later", marks=pytest.mark.slow)])
def test_a_call_that_hangs_costs_its_group_alone(function: str) -> None:
    groups = [["fine", "fine"], ["whole hang", "fine"], ["fine", "fine"]]
    rewards = score({f"{USERS}:{function}": 2.0}, groups, seconds=1.0)
    np.testing.assert_array_equal(rewards.total, [2.0, 2.0, NAN, NAN, 2.0, 2.0])
    assert rewards.errors == NONE | {"timed_out": 2}


def test_a_value_of_a_group_that_is_no_number_costs_its_completion_alone() -> None:
    rewards = score({f"{USERS}:group_as_asked": 1.0, LENGTH: 0.5}, [["fine", "nan", "none", "text"]])
    np.testing.assert_array_equal(rewards.total, [3.0, NAN, 2.0, NAN])  # None abstains
    assert rewards.errors == NONE | {"not_finite": 2}
    np.testing.assert_array_equal(rewards.by_function[f"{USERS}:group_as_asked"], [1.0, NAN, NAN, NAN])
    assert rewards.means == {f"{USERS}:group_as_asked": 1.0, LENGTH: 3.75}


def test_the_error_of_a_group_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        score({f"{USERS}:group_as_asked": 1.0}, [["fine"] * 4, ["short"] * 4])
    assert [line.getMessage() for line in caplog.records] == [
        f"rl: a completion of toy/1 has no reward: {USERS}:group_as_asked raised (returned 1 values for a group of 4 "
        "completions)."
    ]


def test_calls_of_an_asynchronous_function_wait_together() -> None:
    began = time.monotonic()
    rewards = score({f"{USERS}:later": 1.0, f"{USERS}:group_later": 1.0}, [["fine", "none"]] * 60)
    assert time.monotonic() - began < 12  # 36 s one after the other
    assert np.nan_to_num(rewards.total).tolist() == [2.0, 0.0] * 60
    assert rewards.errors == NONE


def test_an_asynchronous_call_that_fails_costs_its_completion_alone() -> None:
    texts = ["fine", "raise", "none", "exit", "nan", "hang", "fine"]
    rewards = score({f"{USERS}:later": 1.0}, [[text] for text in texts], seconds=1.0)
    np.testing.assert_array_equal(rewards.total, [1.0, *5 * [NAN], 1.0])
    assert rewards.errors == dict.fromkeys(ERRORS, 1)


def test_an_object_with_an_asynchronous_call_may_score_groups() -> None:
    assert score({f"{USERS}:judge": 1.0}, [["a", "b"]]).total.tolist() == [0.5, 0.5]


@pytest.mark.slow
def test_the_rewards_of_groups_do_not_depend_on_the_number_of_workers() -> None:
    groups = [[text, "fine"] for text in ("fine", "nan", "exit", "whole raise", "none", "kill", "short", "fine")]
    functions = {f"{USERS}:group_as_asked": 1.0, f"{USERS}:group_later": 0.5, f"{USERS}:later": 0.25}
    one, three = (score(functions, groups, workers=workers) for workers in (1, 3))
    np.testing.assert_array_equal(one.total, three.total)
    assert one.errors == three.errors


def test_a_function_of_a_group_takes_the_record_too() -> None:
    with pytest.raises(UserError, match=r"or \(completions, record\) for a group\.$"):
        score({f"{USERS}:of_one_group": 1.0}, [["a"]])


# --- in a run ---

REWARDS = """
def of_extra(completion, record):
    return record.extra["bonus"] + len(completion) % 2

def group_of_extra(completions, record):
    return [record.extra["nested"]["weight"] * (i + 1) for i in range(len(completions))]

async def never(completion, record):
    return None
"""


def test_a_run_gives_reward_functions_the_extra_columns_and_logs_the_mean_of_each(
    recipe: MakeRun, workdir: MakeWorkdir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"question": f"What is {n} + 1?", "bonus": 3, "nested": {"weight": 0.5}} for n in range(4)]
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "mine.jsonl", rows)
    (tmp_path / "extra_rewards.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(str(tmp_path))
    weights = {"of_extra": 1.0, "group_of_extra": 2.0, "never": 1.0}
    reward_fns = tuple((f"extra_rewards:{name}", weight) for name, weight in weights.items())
    folder, run = workdir("run"), recipe("grpo_rule", steps=1, data=("mine.jsonl",), reward_fns=reward_fns)
    type(run)(run.settings, tmp_path / "data", run.layout).run(folder)
    [row] = metrics(folder)
    assert row["reward/extra_rewards:group_of_extra"] == 1.25  # 0.5 x the mean of 1, 2, 3, 4
    assert 3 <= row["reward/extra_rewards:of_extra"] <= 4
    assert "reward/extra_rewards:never" not in row
    assert row["reward"] == pytest.approx(row["reward/extra_rewards:of_extra"] + 2.5)
    assert row["reward_errors"] == row["reward_abstained"] == 0
    for sample in read_jsonl(folder / "rl" / "samples.jsonl"):
        values = sample["rewards"]
        assert values.keys() == dict(reward_fns).keys()
        assert values["extra_rewards:never"] is None
        total = values["extra_rewards:of_extra"] + 2 * values["extra_rewards:group_of_extra"]
        assert sample["reward"] == pytest.approx(total)


# --- the examples of docs/rl.md ---

HTTPX = """
class Reply:
    def __init__(self, data):
        self.data = data

    def raise_for_status(self):
        return self

    def json(self):
        return {"score": len(self.data["completion"])}

class AsyncClient:
    async def post(self, address, json):
        return Reply(json)
"""


def test_the_examples_of_the_documentation_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(# \w+_rewards.py.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        (tmp_path / block.split()[1]).write_text(block, encoding="utf-8")
    (tmp_path / "httpx.py").write_text(HTTPX)
    monkeypatch.syspath_prepend(str(tmp_path))
    groups = [["The answer is 7.", "I think the answer is 7.", "The answer is 8.", "Who knows?"], ["a", "b", "c", "d"]]
    rewards = score({"group_rewards:agrees": 1.0}, groups)
    np.testing.assert_array_equal(rewards.total, [1.0, 1.0, 0.0, 0.0, *4 * [NAN]])
    assert score({"judge_rewards:judged": 1.0}, [["a", "bcd"]]).total.tolist() == [1.0, 3.0]
