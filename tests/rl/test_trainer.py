"""The RL stage: every method from one start, its checkpoints, and what it refuses or leaves out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from dsmath_jax.aot.rl import abstract_batch
from dsmath_jax.rl import loop
from dsmath_jax.rl.explore import Explorer
from dsmath_jax.rl.methods import METHODS
from dsmath_jax.rl.reward_stage import ROWS, reward_model_fields
from dsmath_jax.rl.rewards import RuleReward
from dsmath_jax.rl.rollouts import read_exploration
from dsmath_jax.sharding import Layout
from dsmath_jax.training.loop import loop_fields
from dsmath_jax.training.model_files import read_model, read_params
from dsmath_jax.training.optimizer import adamw
from dsmath_jax.workdir import UserError, read_jsonl, write_jsonl

Recipe = Callable[..., ConfigDict]
MakeWorkdir = Callable[[str], Path]


def metrics(folder: Path) -> list[dict]:
    return list(read_jsonl(folder / "rl" / "metrics.jsonl"))


def weights(workdir: Path, layout: Layout, stage: str = "rl") -> dict[str, Any]:
    model = read_model(workdir / stage, layout)
    return jax.tree.map(np.asarray, read_params(workdir / stage, model.config, layout))


def differ(one: Any, other: Any) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def graded_samples(folder: Path, rows: int = 12) -> None:
    """Samples of the start as if some were right: an untrained decoder never is."""
    noise = np.random.default_rng(0)
    tokens = [noise.integers(3, 300, size=4 + n % 5).tolist() for n in range(rows)]
    write_jsonl(
        folder / "rl" / "samples_of_init.jsonl",
        [
            {"problem": n // 4, "prompt": [1, 9, 7], "completion": tokens[n], "ends": [3], "labels": [float(n % 2)]}
            for n in range(rows)
        ],
    )


METRICS = {
    "grpo": {"kl", "clip_low", "clip_high", "entropy", "sampler_difference", "reward", "groups_without_spread"},
    "ppo": {"kl", "clip_low", "clip_high", "entropy", "value_loss", "reward"},
    "online_rft": {"entropy", "reward"},
    "rft": {"entropy"},
    "sft": {"entropy"},
    "dpo": {"margin", "accuracy"},
}


@pytest.mark.parametrize("name", [name for name in METHODS if name != "grpo_iterative"])
def test_every_method_moves_the_policy(name: str, recipe: Recipe, workdir: MakeWorkdir, layout: Layout) -> None:
    folder = workdir("run")
    if METHODS[name].data in ("right", "pairs"):
        graded_samples(folder)
    config = recipe(name, max_new_tokens=40 if name == "sft" else 12)
    loop.run(config, folder)
    rows = metrics(folder)
    assert [row["step"] for row in rows] == [0, 1]
    assert METRICS[name.split("_")[0] if name.startswith("grpo") else name] <= rows[0].keys()
    assert all(np.isfinite(value) for row in rows for value in row.values())
    assert all(row["grad_norm"] > 0 for row in rows)
    if METHODS[name].data == "policy":
        # What is compiled ahead of time is what is run.
        batch, _ = read_exploration(folder / "rl" / "rollouts" / "00000000.npz")
        expected = abstract_batch(config.rl, METHODS[name], layout)
        assert {n: (len(x), x.dtype) for n, x in batch.items()} == {
            n: (x.shape[0], x.dtype) for n, x in expected.items()
        }
    moved = weights(folder, layout)
    assert moved.keys() == weights(folder, layout, "sft").keys()
    assert differ(moved, weights(folder, layout, "sft"))


def interrupted(config: ConfigDict, folder: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Runs until the batch of a step has been made, and no further."""
    inner = Explorer.__call__

    def stopped(self: Explorer, step: int, params: Any) -> Any:
        made = inner(self, step, params)
        if step == at:
            raise KeyboardInterrupt
        return made

    with monkeypatch.context() as patch:
        patch.setattr(Explorer, "__call__", stopped)
        with pytest.raises(KeyboardInterrupt):
            loop.run(config, folder)


def with_retraining(config: ConfigDict, kind: str) -> ConfigDict:
    config.rl.retrain = reward_model_fields(
        ("toy/train",), kind, 24, 4, completions=2, init="sft", max_new_tokens=12, batch_size=8
    )
    config.rl.retrain.update(loop_fields(2, 10), **adamw(1e-3, 1))
    return config


@pytest.mark.parametrize(
    ("method", "changes", "stops"),
    [
        ("grpo_rule", {"num_updates": 2, "checkpoint_every": 1, "steps": 6}, (1, 3, 4)),
        ("ppo", {"checkpoint_every": 2, "steps": 4}, (2,)),
    ],
)
def test_a_run_that_was_cut_off_ends_as_an_undisturbed_one(
    method: str, changes: dict, stops: tuple[int, ...], recipe: Recipe, workdir: MakeWorkdir, layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole, cut, config = workdir("whole"), workdir("cut"), recipe(method, **changes)
    loop.run(config, whole)
    for at in stops:
        interrupted(config, cut, monkeypatch, at)
    loop.run(config, cut)
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (whole / "rl" / name).read_bytes() == (cut / "rl" / name).read_bytes()
    assert not differ(weights(whole, layout), weights(cut, layout))


def test_what_was_graded_is_not_graded_again(
    recipe: Recipe, workdir: MakeWorkdir, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, log = workdir("run"), start / "rules" / "graded"
    config = recipe("grpo_rule", rules=(("loop_rules:counted", 1.0),), reward_workers=1)
    interrupted(config, folder, monkeypatch, 0)
    before = log.read_text()
    assert before.count("\n") == 8
    loop.run(config, folder)
    assert log.read_text().count("\n") == 16
    assert log.read_text().startswith(before)


def test_explorations_that_no_checkpoint_needs_are_dropped(recipe: Recipe, workdir: MakeWorkdir) -> None:
    folder = workdir("run")
    loop.run(recipe("grpo_rule", steps=5, checkpoint_every=1), folder)
    kept = sorted(path.stem for path in (folder / "rl" / "rollouts").iterdir())
    assert kept == [f"{number:08d}" for number in range(1, 5)]


def test_rounds_train_the_reward_model_and_move_the_reference(
    recipe: Recipe, workdir: MakeWorkdir, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = workdir("whole"), workdir("cut")
    config = with_retraining(recipe("grpo_iterative", rounds=2, steps=4, checkpoint_every=1), "pointwise")
    answers_by_length(monkeypatch)
    loop.run(config, whole)
    rows = metrics(whole)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    # The first update of a round has the policy itself for its reference.
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-9)
    assert rows[1]["kl"] > 1e-7
    assert rows[2]["kl"] == pytest.approx(0.0, abs=1e-9)
    trained = whole / "rl" / "rounds" / "1" / "reward_model"
    assert (trained / "summary.json").is_file()
    assert (trained / ROWS).is_file()
    interrupted(config, cut, monkeypatch, 1)
    interrupted(config, cut, monkeypatch, 2)
    loop.run(config, cut)
    assert (whole / "rl" / "metrics.jsonl").read_bytes() == (cut / "rl" / "metrics.jsonl").read_bytes()
    assert not differ(weights(whole, layout), weights(cut, layout))


def answers_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right is what has an even number of characters: an untrained decoder's answers would all be wrong."""

    def score(self: RuleReward, texts: list[str], *_: Any) -> tuple[np.ndarray, dict[str, int]]:
        return np.array([float(len(text) % 2 == 0) for text in texts]), {}

    monkeypatch.setattr(RuleReward, "score", score)


def test_a_reward_that_fails_is_counted_and_left_out(recipe: Recipe, workdir: MakeWorkdir, layout: Layout) -> None:
    folder = workdir("run")
    loop.run(recipe("grpo_rule", rules=(("loop_rules:nan_for_some", 1.0),)), folder)
    for row in metrics(folder):
        assert 0 < row["reward_errors"] == row["dropped"] < 8
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights(folder, layout)))


@pytest.mark.parametrize("rule", ["nan", "same"])
def test_an_exploration_that_teaches_nothing_moves_nothing(
    rule: str, recipe: Recipe, workdir: MakeWorkdir, layout: Layout
) -> None:
    folder = workdir("run")
    config = recipe("grpo_rule", rules=((f"loop_rules:{rule}", 1.0),), kl_coef=0.0)
    config.rl.weight_decay = 0.0
    loop.run(config, folder)
    assert all(row["grad_norm"] == 0.0 and row["groups_without_spread"] == 1.0 for row in metrics(folder))
    assert not differ(weights(folder, layout), weights(folder, layout, "sft"))


def test_options_leave_completions_out(recipe: Recipe, workdir: MakeWorkdir) -> None:
    masked, spread = workdir("masked"), workdir("spread")
    loop.run(recipe("grpo_rule", steps=1, mask_truncated=True), masked)
    [row] = metrics(masked)
    assert row["dropped"] == 8 * row["truncated"] > 0
    loop.run(recipe("grpo_rule", steps=1, rules=(("loop_rules:same", 1.0),), drop_groups_without_spread=True), spread)
    assert metrics(spread)[0]["dropped"] == 8


def test_where_the_reference_lies_and_how_a_batch_is_cut_change_nothing(recipe: Recipe, workdir: MakeWorkdir) -> None:
    found = []
    for name, reference, accumulate in (("plain", "device", 1), ("host", "host", 1), ("cut", "device", 2)):
        folder, config = workdir(name), recipe("grpo_rule", reference=reference)
        config.rl.accumulate = accumulate
        loop.run(config, folder)
        found.append(metrics(folder))
    plain, host, cut = found
    assert plain == host
    for one, other in zip(plain, cut, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_greedy_accuracy_is_measured_on_the_way(
    recipe: Recipe, workdir: MakeWorkdir, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers_by_length(monkeypatch)
    folder, config = workdir("run"), recipe("grpo_rule", eval_data=("toy/train",), eval_problems=6)
    config.rl.eval_every = 1
    loop.run(config, folder)
    found = [row["eval_greedy"] for row in metrics(folder) if "eval_greedy" in row]
    assert len(found) == 3
    assert all(0 <= share <= 1 and (6 * share) % 1 == pytest.approx(0, abs=1e-9) for share in found)


def test_samples_and_seconds_are_written(recipe: Recipe, workdir: MakeWorkdir) -> None:
    folder = workdir("run")
    loop.run(recipe("grpo_rule"), folder)
    samples = list(read_jsonl(folder / "rl" / "samples.jsonl"))
    assert [row["step"] for row in samples] == [0, 0, 1, 1]
    assert samples[0]["reward"] >= samples[1]["reward"]
    assert samples[0].keys() == {"step", "id", "question", "answer", "completion", "reward", "finish"}
    timing = list(read_jsonl(folder / "rl" / "timing.jsonl"))
    assert all(row["sample_seconds"] > 0 and row["score_seconds"] > 0 for row in timing)


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("ppg", {}, r"Unknown rl\.method 'ppg'; known ones are sft, rft"),
        ("grpo_rule", {"reward": "rules"}, r"Unknown rl\.reward 'rules'; known ones are rule, outcome, process"),
        ("rft", {"reward": "outcome"}, r"rl\.method=rft cannot take rl\.reward=outcome"),
        ("grpo_rule", {"group_size": 1}, r"rl\.group_size is 1; a group needs at least 2"),
        ("grpo_rule", {"temperature": 0.0}, r"rl\.temperature is 0\.0"),
        ("grpo_rule", {"num_updates": 0}, r"rl\.num_updates is 0; it must be at least 1"),
        ("grpo_rule", {"num_updates": 2, "steps": 3}, r"rl\.steps=3 does not divide"),
        ("grpo_rule", {"rules": (("correct",),)}, r"rl\.rules is .*; give pairs of a rule and its weight"),
        ("grpo_rule", {"rounds": 2}, r"rl\.rounds is 2; rl\.method=grpo_rule takes 1"),
        ("grpo_iterative", {}, r"rl\.rounds is 1; rl\.method=grpo_iterative takes at least 2"),
        ("grpo_iterative", {"rounds": 2, "reward": "rule"}, r"trains a reward model"),
        ("grpo_rule", {"old_logprobs": "both"}, r"Unknown rl\.old_logprobs 'both'"),
        ("grpo_rule", {"reference": "disk"}, r"Unknown rl\.reference 'disk'; known ones are device, host"),
        ("grpo_rule", {"max_prompt_tokens": 2}, r"no prompt of rl\.data has at most 2 tokens"),
        ("grpo_rule", {"max_new_tokens": 250}, r"more than the model's context of 256"),
        ("sft", {"max_new_tokens": 3}, r"no solution of rl\.data has at most 3 tokens"),
        ("grpo_rule", {"kl": "k4"}, r"rl\.kl is 'k4'"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    method: str, changes: dict, message: str, recipe: Recipe, workdir: MakeWorkdir
) -> None:
    with pytest.raises(UserError, match=message):
        loop.run(recipe(method, **changes), workdir("run"))


def test_samples_that_cannot_teach_are_refused(recipe: Recipe, workdir: MakeWorkdir) -> None:
    for method, message in (("rft", r"none of the \d+ samples"), ("dpo", "has both right and wrong samples")):
        with pytest.raises(UserError, match=message):
            loop.run(recipe(method), workdir(method))


def test_a_reference_of_another_shape_is_refused(recipe: Recipe, workdir: MakeWorkdir, start: Path) -> None:
    folder = workdir("run")
    (folder / "sft").unlink()
    (folder / "sft").mkdir()
    for path in (start / "sft").iterdir():
        (folder / "sft" / path.name).symlink_to(path)
    (folder / "sft" / "model.json").unlink()
    sizes = json.loads((start / "sft" / "model.json").read_text()) | {"intermediate_size": 32}
    (folder / "sft" / "model.json").write_text(json.dumps(sizes))
    with pytest.raises(UserError, match=r"does not fit: layers/\S+ has shape"):
        loop.run(recipe("grpo_rule"), folder)
