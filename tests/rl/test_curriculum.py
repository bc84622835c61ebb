"""The order of questions: epochs, and which are left out by their pass rates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsmath_jax.data.datasets import Record
from dsmath_jax.rl.curriculum import Asked, Questions, by_initial_pass_rate, pass_rates
from dsmath_jax.rl.rewards import RuleRewards
from dsmath_jax.rl.rollouts import Prompts, step_indices
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.settings import build
from dsmath_jax.workdir import UserError, read_jsonl
from tests.rl.trainer_runs import RLRun, assert_same_results, metrics

COUNT = 6
Recipe = Callable[..., RLRun]
MakeWorkdir = Callable[[str], Path]


def settings(curriculum: str = "run", **fields: Any) -> RLSettings:
    return build(RLSettings, {"curriculum": curriculum, "prompts_per_step": 3, "group_size": 2} | fields)


def rate_of(question: int) -> float | None:
    """Question 0 is never solved, 5 always; 4 has no reward."""
    return {0: 0.0, 4: None, 5: 1.0}.get(question, 0.5)


def asked_in(folder: Path, rollouts: range, refills: int = 0) -> list[list[int]]:
    """The batches of these rollouts of a run that begins, or resumes, at the first of them."""
    found = []
    own = settings(method="dapo", max_gen_batches=1 + refills) if refills else settings()
    with Questions(folder, own, 3, COUNT, rollouts.start) as questions:
        for number in rollouts:
            batches = list(questions.batches(number))
            found += batches
            questions.observe(number, [Asked(batch, [rate_of(q) for q in batch]) for batch in batches])
            questions.observe(number, [])  # a further update on the rollout
    return found


def test_without_a_curriculum_every_epoch_asks_all_once(tmp_path: Path) -> None:
    own = settings("none", method="dapo", max_gen_batches=2)
    questions = Questions(tmp_path, own, 3, COUNT, 0)
    batches = [batch for number in range(3) for batch in questions.batches(number)]
    assert batches == [step_indices(3, number, 3, COUNT) for number in range(6)]
    assert all(
        sorted(one + other) == list(range(COUNT)) for one, other in zip(batches[::2], batches[1::2], strict=True)
    )
    assert not (tmp_path / "pass_rates.jsonl").exists()


def test_solved_and_hopeless_questions_are_left_out_of_every_other_epoch(tmp_path: Path) -> None:
    asked = [question for batch in asked_in(tmp_path, range(20)) for question in batch]
    counts = np.bincount(asked, minlength=COUNT)
    assert counts[1:5].min() >= 11
    assert counts[[0, 5]].max() <= 7
    assert counts[[0, 5]].min() >= 5
    assert all(len(row["batches"][0][0]) == 3 for row in read_jsonl(tmp_path / "pass_rates.jsonl"))


@pytest.mark.parametrize("refills", [0, 2])
def test_a_resumed_run_asks_the_same(refills: int, tmp_path: Path) -> None:
    whole = asked_in(tmp_path / "whole", range(12), refills)
    first = asked_in(tmp_path / "cut", range(7), refills)
    rest = asked_in(tmp_path / "cut", range(5, 12), refills)  # the last checkpoint was before two rollouts
    batches = 1 + refills
    assert first[: 5 * batches] + rest == whole
    one, other = (tmp_path / name / "pass_rates.jsonl" for name in ("cut", "whole"))
    assert one.read_bytes() == other.read_bytes()


def test_batches_that_are_not_sampled_are_asked_later(tmp_path: Path) -> None:
    with Questions(tmp_path, settings(method="dapo", max_gen_batches=3), 3, COUNT, 0) as questions:
        first, second, _ = questions.batches(0)
        questions.observe(0, [Asked(first, [0.5] * 3)])
        assert next(questions.batches(1)) == second


def test_pass_rates_are_shares_of_correct_completions() -> None:
    nan = float("nan")
    totals = np.array([2.0, 0.0, nan, 0.5, nan, nan])
    rewards = RuleRewards(totals, {"correct": np.array([1.0, 0.0, nan, 1.0, nan, nan])}, {})
    assert pass_rates(rewards, 2) == [0.5, 1.0, None]
    assert pass_rates(rewards._replace(by_function={}), 2) == [1.0, 0.5, None]


def test_the_initial_policys_pass_rates_choose_questions() -> None:
    records = [Record(f"toy/{i}", "q", answer="1") for i in range(4)]
    prompts = Prompts([records[:2], records[2:]], records, [[i] for i in range(4)], 9)
    sampled = [records[i] for i in (3, 1, 0)]
    rows = [
        {"problem": p, "labels": [label]} for p, label in ((0, 1.0), (0, 0.0), (1, 1.0), (1, 1.0), (2, 0.0), (2, 1.0))
    ]
    found = by_initial_pass_rate(prompts, sampled, rows, settings("init"))
    assert [record.id for record in found.records] == ["toy/0", "toy/3"]
    assert found.ids == [[0], [3]]
    assert [[record.id for record in each] for each in found.sets] == [["toy/0"], ["toy/3"]]
    with pytest.raises(UserError, match=r"^rl: no question has a pass rate from 0\.6 to 0\.9 with the initial policy"):
        by_initial_pass_rate(prompts, sampled, rows, settings("init", min_pass_rate=0.6))


@pytest.mark.slow
def test_a_killed_run_with_a_curriculum_ends_the_same(
    recipe: Recipe, workdir: MakeWorkdir, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = workdir("whole"), workdir("cut")
    rewards = (("trainer_rewards:for_every_third_question", 1.0),)
    rl = recipe(
        "dapo",
        steps=10,
        max_gen_batches=2,
        curriculum="run",
        min_pass_rate=0.01,
        reward_fns=rewards,
        checkpoint_every=2,
    )
    rl.run(whole)
    for step in (3, 7):
        rl.interrupt(cut, monkeypatch, step)
    rl.run(cut)
    assert_same_results(whole, cut, layout)
    rates = (whole / "rl" / "pass_rates.jsonl", cut / "rl" / "pass_rates.jsonl")
    assert rates[0].read_bytes() == rates[1].read_bytes()
    assert len(list(read_jsonl(rates[0]))) == len(metrics(whole)) == 10
