"""Rollouts that are sampled before the updates on the one before: by which policy, in which order, and after kills."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsmath_jax.data import chat as chats
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.rl import checks
from dsmath_jax.rl.batches import RowShapes, pack_batch, sequences_of
from dsmath_jax.rl.diagnosis import Diagnosis
from dsmath_jax.rl.rewards import RewardFunctions, RewardInput, RuleRewards
from dsmath_jax.rl.rollout_files import read_rollout
from dsmath_jax.rl.rollouts import load_prompts, step_indices
from dsmath_jax.rl.scoring import PackedForward, jitted_logprobs
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.rl.training_rollouts import RolloutMaker, Sampled
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.settings import build
from dsmath_jax.sharding import Layout
from dsmath_jax.training.loop import TrainLoop
from dsmath_jax.training.model_files import read_model, read_params
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.step import make_train_step, state_from_params
from dsmath_jax.workdir import UserError
from tests.rl.test_trainer import RETRAIN, grade_by_length
from tests.rl.trainer_runs import SEED, RLRun, assert_same_results, equal, metrics, weights

Recipe = Callable[..., RLRun]
MakeWorkdir = Callable[[str], Path]
AHEAD = {"rollouts_ahead": 1, "checkpoint_every": 1, "keep_checkpoints": 20}


def test_the_policy_before_the_updates_samples_the_next_rollout(
    recipe: Recipe, workdir: MakeWorkdir, layout: Layout
) -> None:
    """Against a loop of its own: every rollout is sampled again, its log-probabilities too, and trained on."""
    folder, rl = workdir("run"), recipe("grpo_rule", steps=8, num_updates=2, **AHEAD)
    rl.run(folder)
    settings, model = rl.settings, read_model(folder / "sft", layout)
    tokenizer = chats.read(chats.ChatSource(folder / "tokenizer", ChatSettings()))
    prompts = load_prompts(settings, rl.data_dir, tokenizer.prompt_ids, model.config.max_position_embeddings)
    sampler = Sampler(model, layout, tokenizer.stop_ids, settings.max_new_tokens, decode_slots=3)
    optimizer, shapes = make_optimizer(settings), RowShapes(prompts.max_length, 8, 1, layout)
    logprobs = PackedForward(jitted_logprobs(model, 1.0), shapes)
    state = state_from_params(read_params(folder / "sft", model.config, layout), optimizer, layout)
    rows = metrics(folder)
    for step in range(8):
        number = step // 2
        for sampled in {0: [0, 1], 2: [2], 4: [3]}.get(step, []):
            (sequences, fields), _ = read_rollout(folder / "rl" / "rollouts" / f"{sampled:08d}.npz")
            chosen = step_indices(SEED, sampled, 2, len(prompts.ids))
            groups = sampler.generate(
                state.params, [prompts.ids[i] for i in chosen], SamplingParams(samples=4, seed=SEED), step=sampled,
                prompt_ids=chosen,
            )  # fmt: skip
            completions = [completion for group in groups for completion in group]
            own = sequences_of([prompts.ids[i] for i in chosen], completions)
            assert all(np.array_equal(one, other) for one, other in zip(sequences, own, strict=True))
            sampler_logprobs = np.concatenate([completion.logprobs for completion in completions])
            np.testing.assert_allclose(fields["old_logprobs"], sampler_logprobs * fields["loss_weights"], atol=1e-4)
            assert rows[2 * sampled]["sampler_logprob_diff"] < 1e-5
        data, _ = read_rollout(folder / "rl" / "rollouts" / f"{number:08d}.npz")
        ratios = np.exp(logprobs(state.params, data.sequences) - data.fields["old_logprobs"])
        assert (np.abs(ratios - 1).max() > 1e-3) == (step > 0)
        batch = pack_batch(*data.with_loss(), shapes)
        parts = shapes.num_micro_batches(len(batch["tokens"]))
        train = make_train_step(settings.algorithm.objective, model, optimizer, layout, state, parts)
        state, scalars = train(state, layout.put_batch(batch))
        assert float(scalars["loss"]) == rows[step]["loss"]
    assert equal(state.params, weights(folder, layout))


def test_the_host_grades_while_the_devices_train(
    recipe: Recipe, workdir: MakeWorkdir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rewards of the next rollout are only given when the update on this one is dispatched."""
    dispatched, update, calls = threading.Event(), TrainLoop.update, []

    def note(self: TrainLoop, *arguments: Any) -> None:
        update(self, *arguments)
        dispatched.set()

    def score(self: RewardFunctions, inputs: list[RewardInput], *_: Any) -> RuleRewards:
        calls.append(len(inputs))
        assert len(calls) == 1 or dispatched.wait(60)
        return RuleRewards(np.array([float(len(each.text) % 2) for each in inputs]), {}, {})

    monkeypatch.setattr(TrainLoop, "update", note)
    monkeypatch.setattr(RewardFunctions, "score", score)
    folder = workdir("run")
    recipe("grpo_rule", **AHEAD).run(folder)
    assert len(metrics(folder)) == len(calls) == 2


def kill_before_writing(rl: RLRun, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Runs until an update is dispatched and the next rollout is sampled, but not written."""
    finish = RolloutMaker.finish

    def stop(self: RolloutMaker, sampled: Sampled) -> None:
        if sampled.number == number:
            raise KeyboardInterrupt
        finish(self, sampled)

    rl.run_interrupted(folder, monkeypatch, RolloutMaker, "finish", stop)


OTHER_RUNS: list[tuple[str, dict[str, Any]]] = [
    ("ppo", {"steps": 6, "num_updates": 1}),
    ("online_rft", {"steps": 6, "num_updates": 1}),
    ("grpo_rule", {"old_logprobs": "sampler"}),
    ("grpo_rule", {"lora": {"rank": 2, "alpha": 4.0}, "minibatches": 2, "num_updates": 1}),
    ("grpo_rule", {"environment": {"name": "calculator"}}),
    ("grpo_ps", {"step_rewards": "monte_carlo", "step_completions": 2, "num_updates": 1, "steps": 6}),
    ("grpo_rule", {"eval_data": ("toy/train",), "eval_problems": 4, "eval_every": 3, "allow_overlap": True}),
    (
        "dapo",
        {"curriculum": "run", "min_pass_rate": 0.01, "max_gen_batches": 3, "minibatches": 2, "num_updates": 1}
        | {"reward_fns": (("trainer_rewards:for_every_third_question", 1.0),)},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "changes"),
    [("grpo_rule", {}), *(pytest.param(*each, marks=pytest.mark.slow) for each in OTHER_RUNS)],
)
def test_a_killed_run_ends_as_an_uninterrupted_one(
    method: str, changes: dict, recipe: Recipe, workdir: MakeWorkdir, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the next rollout is written, after it, and within the updates on a rollout."""
    whole, cut = workdir("whole"), workdir("cut")
    rl = recipe(method, **AHEAD | {"steps": 8, "num_updates": 2} | changes)
    rl.run(whole)
    assert len(metrics(whole)) >= rl.settings.steps
    kill_before_writing(rl, cut, monkeypatch, 1)
    for step in sorted({1, rl.settings.steps_per_rollout, 3}):
        rl.interrupt(cut, monkeypatch, step)
    kill_before_writing(rl, cut, monkeypatch, 3 // rl.settings.steps_per_rollout + 2)
    rl.run(cut)
    assert_same_results(whole, cut, layout)


@pytest.mark.slow
def test_a_round_begins_with_a_rollout_of_its_own(
    recipe: Recipe, workdir: MakeWorkdir, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rewards are those of its own reward model, and its reference is the policy that samples."""
    whole, cut = workdir("whole"), workdir("cut")
    rl = recipe("grpo_iterative", rounds=2, steps=6, retrain=RETRAIN, **AHEAD)
    grade_by_length(monkeypatch)
    rl.run(whole)
    assert [row["kl"] < 1e-9 for row in metrics(whole)] == [True, False, False, True, False, False]
    for step in (2, 3, 4):
        rl.interrupt(cut, monkeypatch, step)
    rl.run(cut)
    assert_same_results(whole, cut, layout)


def test_a_rollout_whose_policy_is_gone_is_refused(
    recipe: Recipe, workdir: MakeWorkdir, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rl = workdir("run"), recipe("grpo_rule", steps=3, **AHEAD)
    rl.interrupt(folder, monkeypatch, 1)
    (folder / "rl" / "rollouts" / "00000001.npz").unlink()
    with pytest.raises(UserError, match=r"00000001\.npz is missing, and so is the policy that generated it; remove"):
        rl.run(folder)


def test_which_policy_samples() -> None:
    def settings(**fields: Any) -> RLSettings:
        return build(RLSettings, {"steps": 12} | fields, "rl.")

    assert [settings().sampled_at(number) for number in range(4)] == [0, 1, 2, 3]
    ahead = settings(rollouts_ahead=1, num_updates=2)
    assert [ahead.sampled_at(number) for number in range(4)] == [0, 0, 2, 4]
    rounds = settings(rollouts_ahead=1, rounds=3, method="grpo_iterative", retrain={"steps": 1})
    assert [rounds.sampled_at(number) for number in range(9)] == [0, 0, 1, 2, 4, 4, 5, 6, 8]


def test_a_run_that_ended_within_a_rollout_is_not_extended(recipe: Recipe, tmp_path: Path) -> None:
    """Its last rollout had no next one."""
    rl = recipe("grpo_rule", steps=8, num_updates=2, **AHEAD)
    (tmp_path / "checkpoints" / "00000004").mkdir(parents=True)
    assert checks.why_not_extendable(rl.settings, tmp_path, 6) == ""
    (tmp_path / "checkpoints" / "00000005").mkdir()
    assert "is within the last rollout, and with rollouts_ahead=1" in checks.why_not_extendable(
        rl.settings, tmp_path, 6
    )
    once = recipe("grpo_rule", steps=8, **AHEAD)
    assert checks.why_not_extendable(once.settings, tmp_path, 6) == ""


@pytest.mark.slow
def test_more_steps_leave_what_as_many_from_scratch_leave(recipe: Recipe, workdir: MakeWorkdir, layout: Layout) -> None:
    whole, longer = workdir("whole"), workdir("longer")
    recipe("grpo_rule", steps=6, **AHEAD).run(whole)
    for steps in (4, 6):
        recipe("grpo_rule", steps=steps, **AHEAD).run(longer)
    assert_same_results(whole, longer, layout)


def test_findings_know_that_the_policy_is_another_one_than_the_samplers() -> None:
    row = {"step": 0, "clip_low": 0.0, "clip_high": 0.0, "frac_truncated": 0.0, "reward": 0.5}
    row["sampler_logprob_diff"] = 0.5
    for fields, expected in (
        ({}, ["clip_shares_zero", "sampler_differs"]),
        ({"rollouts_ahead": 1}, ["sampler_differs"]),  # the metric is that of the policy that sampled
        ({"rollouts_ahead": 1, "old_logprobs": "sampler"}, []),
    ):
        diagnosis = Diagnosis(build(RLSettings, fields, "rl."), "float32")
        assert [finding.kind for finding in diagnosis.add(row)] == expected
