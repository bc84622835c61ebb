"""Cases in which users of other RL libraries were surprised."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsmath_jax.data import datasets, tokenizer
from dsmath_jax.data.chat import Chat
from dsmath_jax.recipe import Recipe
from dsmath_jax.rl.advantages import group_relative, outcome_scores
from dsmath_jax.rl.batches import split
from dsmath_jax.rl.rewards import RewardFunctions, RewardInput
from dsmath_jax.rl.rollout_files import read_rollout
from dsmath_jax.rl.rollouts import load_prompts, step_indices
from dsmath_jax.settings import build
from dsmath_jax.sharding import Layout
from dsmath_jax.stages import STAGES
from dsmath_jax.workdir import UserError, read_jsonl, write_jsonl
from tests.rl.trainer_runs import SEED, RLRun, assert_same_results, equal, metrics, weights

MakeRun = Callable[..., RLRun]
MakeWorkdir = Callable[[str], Path]


# --- cases that fail ---


@pytest.mark.slow
def test_a_rollout_without_rewards_leaves_the_policy_as_it_is(
    recipe: MakeRun, workdir: MakeWorkdir, start: Path, layout: Layout
) -> None:
    """rasbt/reasoning-from-scratch 186, PrimeIntellect-ai/prime-rl 1563 and 3595, redai-studio/Relax 239."""
    settings = recipe("grpo_rule").settings
    records = load_prompts(settings, start / "data", Chat(tokenizer.load(start / "tokenizer")).prompt_ids, 256).records
    asked = [records[i].id for i in step_indices(SEED, 2, settings.prompts_per_step, len(records))]
    (start / "rewards" / "without_reward").write_text(" ".join(asked))
    changes = {"reward_fns": (("trainer_rewards:nan_for_listed", 1.0),), "kl_coef": 0.0, "weight_decay": 0.0}
    folder = workdir("run")
    recipe("grpo_rule", steps=2, checkpoint_every=2, **changes).run(folder)
    before = weights(folder, layout)
    shutil.rmtree(folder / "rl" / "params")
    recipe("grpo_rule", steps=3, checkpoint_every=2, **changes).run(folder)  # resumes at step 2
    row = metrics(folder)[-1]
    if (row["step"], row["num_masked"], row["grad_norm"]) != (2, 8, 0.0):
        pytest.fail("the rollout of step 2 should have no rewards", pytrace=False)
    assert [row["step_skipped"] for row in metrics(folder)] == [0.0, 0.0, 1.0]
    assert equal(before, weights(folder, layout))


def test_equal_completions_have_no_advantage() -> None:
    """NVIDIA-NeMo/RL 4158: equal completions that a reward model scores in different batches differ by rounding."""
    score = 0.37
    rewards = outcome_scores([score, score * (1 + 1e-7), score, score], [3] * 4)
    advantages = group_relative(rewards, 4, [3] * 4)
    assert np.abs(advantages).max() < 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("recipe")
def test_a_reward_function_that_returns_none_is_left_out_of_the_sum(start: Path) -> None:
    """huggingface/trl 3079."""
    records = datasets.load("toy/train", start / "data")[:2]
    reward_fns = (("trainer_rewards:same", 1.0), ("trainer_rewards:none", 1.0))
    with RewardFunctions(reward_fns, 5.0, 1) as functions:
        rewards = functions.score([RewardInput("ab", records[0]), RewardInput("abc", records[1])])
    assert rewards.total.tolist() == [0.25, 0.25]
    assert not any(rewards.errors.values())


def test_multiple_choice_prompts_have_the_options(recipe: MakeRun, start: Path, tmp_path: Path) -> None:
    """The answer is a letter, which nobody can know without the options."""
    row = {"question": "What is 3 + 4?", "options": "A) 12 B) 34 C) 7 D) 50", "Answer": "C"}
    write_jsonl(tmp_path / "sat" / "test.jsonl", [row])
    tokens = tokenizer.load(start / "tokenizer")
    prompts = load_prompts(recipe("grpo_rule", data=("sat/test",)).settings, tmp_path, Chat(tokens).prompt_ids, 256)
    text = tokens.decode(prompts.ids[0])
    assert [option for option in ("12", "34", "7", "50") if option not in text] == []


# --- cases that pass ---


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("rl", {"data": ("toy/train",)}),
        ("rl", {"data": ("toy/rl",), "eval_data": ("toy/train",)}),
        ("reward_model", {"data": ("toy/train",)}),
        ("evaluate", {"tasks": ("toy/train",)}),
    ],
)
def test_a_changed_data_file_is_a_change_of_the_stage(stage: str, changes: dict, start: Path) -> None:
    """Otherwise a resumed run mixes the old and the new data."""
    assert start / "data" / "problems" / "train.jsonl" in input_files(stage, start / "data", changes)


@pytest.mark.usefixtures("recipe")
def test_a_changed_reward_function_is_a_change_of_the_stage(start: Path) -> None:
    found = input_files("rl", start / "data", {"reward_fns": (("trainer_rewards:digits", 1.0),)})
    assert start / "rewards" / "trainer_rewards.py" in found


def test_changed_functions_of_the_users_are_a_change_of_the_stage(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_parts.py").write_text(PARTS)
    names = {"loss": "my_parts:loss", "advantage": "my_parts:advantage", "rollout_filter": ("my_parts:keep",)}
    for changes in ({"method": "my_parts:METHOD"}, *({name: value} for name, value in names.items())):
        assert tmp_path / "my_parts.py" in input_files("rl", start / "data", changes)


def test_a_method_is_made_of_the_users_parts(
    recipe: MakeRun, workdir: MakeWorkdir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each of them says is in the batch and in the metrics."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_parts.py").write_text(PARTS)
    monkeypatch.delitem(sys.modules, "my_parts", raising=False)
    folder = workdir("run")
    recipe("my_parts:METHOD", steps=1, strength=0.5).run(folder)
    (row,) = list(read_jsonl(folder / "rl" / "metrics.jsonl"))
    assert row["gap"] == pytest.approx(0.5)
    assert row["num_masked"] == 4
    data, _ = read_rollout(folder / "rl" / "rollouts" / "00000000.npz")
    assert set(np.unique(data.fields["advantages"])) == {7.0}


@pytest.mark.parametrize(
    ("setting", "code", "message"),
    [
        ("loss", "tokens.advantages", r"^rl\.loss: 'bad:f' must return \(gain, metrics\): an array \[B,T\] and a dict"),
        ("advantage", "[[0.0]]", r"^rl\.advantage: 'bad:f' must return a list with one array per completion"),
        (
            "rollout_filter",
            "[True]",
            r"^rl\.rollout_filter: 'bad:f' returned values of shape \(1,\); it must",
        ),
    ],
)
def test_what_a_users_function_must_return(
    setting: str, code: str, message: str, recipe: MakeRun, workdir: MakeWorkdir, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "bad.py").write_text(f"def f(tokens, *rest):\n    return {code}\n")
    monkeypatch.delitem(sys.modules, "bad", raising=False)
    with pytest.raises(UserError, match=message):
        recipe("grpo_rule", steps=1, **{setting: "bad:f"}).run(workdir("run"))


PARTS = """
import dataclasses
import numpy as np
from dsmath_jax.rl.algorithms import GRPO
from dsmath_jax.rl.methods import Method
from dsmath_jax.settings import setting

def loss(tokens, low, high):
    return tokens.advantages * tokens.log_ratios, {"gap": 0.5 + 0 * tokens.logprobs}

def advantage(rollout, settings):
    return [np.full(length, 14 * settings.strength) for length in rollout.lengths]

def keep(rollout, scores, group_size):
    return [completion.sample % 2 == 0 for completion in rollout.completions_PG]

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(GRPO):
    strength: float = setting(1.0, "of the advantage", gt=0)
    loss: str = setting("my_parts:loss")
    advantage: str = setting("my_parts:advantage")
    rollout_filter: tuple[str, ...] = setting(("my_parts:keep",))

METHOD = Method("policy", "rule", Mine, "A")
"""


def input_files(stage: str, data_dir: Path, changes: dict[str, Any]) -> list[Path]:
    """The user's files whose change is a change of the stage."""
    made = build(Recipe, {"data_dir": str(data_dir), stage: changes})
    return list(next(each for each in STAGES if each.name == stage).input_files(made, data_dir.parent))


@pytest.mark.slow
def test_a_question_that_comes_twice_in_a_rollout_has_other_samples(
    recipe: MakeRun, workdir: MakeWorkdir, start: Path, tmp_path: Path
) -> None:
    """NVIDIA-NeMo/RL 3882 and rllm-org/rllm 776 are about neighboring bugs."""
    lines = (start / "data" / "problems" / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "data" / "problems").mkdir(parents=True)
    (tmp_path / "data" / "problems" / "train.jsonl").write_text("".join(lines[:3]))
    folder, rl = workdir("run"), recipe("grpo_rule", steps=1, prompts_per_step=6)
    dataclasses.replace(rl, data_dir=tmp_path / "data").run(folder)
    (sequences, fields), _ = read_rollout(folder / "rl" / "rollouts" / "00000000.npz")
    groups = {sequences.take(range(4 * p, 4 * p + 4)).tokens.tobytes() for p in range(6)}
    assert len(groups) == 6
    advantages = split(fields["advantages"], sequences.completion_lengths)
    advantages_PG = np.array([each.mean() for each in advantages]).reshape(6, 4)
    np.testing.assert_allclose(advantages_PG.mean(axis=1), 0, atol=1e-6)  # each group is normalized by itself
    assert (advantages_PG.std(axis=1) > 0.5).all()


def test_rl_data_may_be_a_file_of_the_users(recipe: MakeRun, start: Path, tmp_path: Path) -> None:
    """SFT takes a path below data_dir."""
    rows = [{"id": f"mine/{i}", "question": f"What is {i} plus {i}?", "answer": str(2 * i)} for i in range(4)]
    write_jsonl(tmp_path / "mine.jsonl", [row | {"solution": f"The answer is {row['answer']}."} for row in rows])
    settings = recipe("grpo_rule", data=("mine.jsonl",)).settings
    prompts = load_prompts(settings, tmp_path, Chat(tokenizer.load(start / "tokenizer")).prompt_ids, 256)
    assert [(record.question, record.answer) for record in prompts.records] == [
        (row["question"], row["answer"]) for row in rows
    ]


@pytest.mark.slow
def test_the_schedule_counts_all_updates_of_a_rollout(recipe: MakeRun, workdir: MakeWorkdir) -> None:
    """NovaSky-AI/SkyRL 872 and 873, allenai/open-instruct 537."""
    folder = workdir("run")
    recipe("grpo_rule", steps=10, num_updates=2, schedule="multi_step", warmup_steps=2).run(folder)
    expected = [0.005, 0.01, *[0.01] * 6, 0.00316, 0.001]
    assert [row["lr"] for row in metrics(folder)] == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_evaluation_during_training_changes_nothing(recipe: MakeRun, workdir: MakeWorkdir, layout: Layout) -> None:
    """huggingface/trl 6681."""
    found = []
    for eval_every in (0, 1):
        folder = workdir(f"eval_every_{eval_every}")
        recipe(
            "grpo_rule", steps=3, eval_data=("toy/train",), eval_problems=5, eval_every=eval_every, allow_overlap=True
        ).run(folder)
        found.append(weights(folder, layout))
    assert equal(*found)


@pytest.mark.slow
def test_a_run_resumes_at_the_turn_of_an_epoch(
    recipe: MakeRun, workdir: MakeWorkdir, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """verl-project/verl 7401, 5725 and 4156. 15 prompts are short enough: three rollouts an epoch."""
    whole, cut = workdir("whole"), workdir("cut")
    rl = recipe("grpo_rule", steps=7, prompts_per_step=5, checkpoint_every=3)
    rl.run(whole)
    for step in (3, 6):
        rl.interrupt(cut, monkeypatch, step)
    rl.run(cut)
    assert_same_results(whole, cut, layout)


@pytest.mark.slow
def test_completions_of_one_token_are_trained_on(recipe: MakeRun, workdir: MakeWorkdir, start: Path) -> None:
    """thinking-machines-lab/tinker-cookbook 848."""
    folder = workdir("run")
    (folder / "tokenizer").unlink()
    shutil.copytree(start / "tokenizer", folder / "tokenizer")
    stop_ids = {"eos_token_id": [2, *range(20, 290)]}
    (folder / "tokenizer" / "generation_config.json").write_text(json.dumps(stop_ids))
    recipe("grpo_rule", steps=1).run(folder)
    data, _ = read_rollout(folder / "rl" / "rollouts" / "00000000.npz")
    assert data.sequences.completion_lengths.min() == 1
    assert np.isfinite(metrics(folder)[0]["grad_norm"])
