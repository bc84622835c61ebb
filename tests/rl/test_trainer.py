"""The RL stage: every method from one start, its checkpoints, and what it refuses or leaves out."""

import dataclasses
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dsmath_jax.aot.rl import abstract_batch
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.rl import rollouts, rounds, trainer
from dsmath_jax.rl.batches import RowShapes, pack_batch, split
from dsmath_jax.rl.diagnosis import MAX_LOGPROB_DIFF
from dsmath_jax.rl.methods import METHODS
from dsmath_jax.rl.reward_model.training import ROWS
from dsmath_jax.rl.rewards import RewardFunctions, RewardInput, RuleRewards
from dsmath_jax.rl.rollout_files import RolloutFiles, read_rollout
from dsmath_jax.sampling.thinking import Marks, ThinkingBudget
from dsmath_jax.sharding import Layout
from dsmath_jax.training.preemption import Preempted
from dsmath_jax.workdir import UserError, read_jsonl, write_json, write_jsonl
from tests.rl.trainer_runs import RLRun, assert_same_results, equal, metrics, weights

Recipe = Callable[..., RLRun]
MakeWorkdir = Callable[[str], Path]

RETRAIN = {
    "data": ("toy/train",), "kind": "pointwise", "problems": 24, "samples": 4, "completions": 2,
    "max_new_tokens": 12, "batch_size": 8, "steps": 2, "checkpoint_every": 10, "peak_lr": 1e-3, "warmup_steps": 1,
}  # fmt: skip


def write_graded_samples(folder: Path, rows: int = 12) -> None:
    """Writes samples of the start as if some were correct: an untrained decoder's never are."""
    noise = np.random.default_rng(0)
    tokens = [noise.integers(3, 300, size=4 + n % 5).tolist() for n in range(rows)]
    write_jsonl(
        folder / "rl" / "samples_of_init.jsonl",
        [
            {"problem": n // 4, "prompt": [1, 9, 7], "completion": tokens[n], "ends": [3], "labels": [float(n % 2)]}
            for n in range(rows)
        ],
    )


def grade_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes completions with an even number of characters correct: an untrained decoder's would all be incorrect."""

    def score(self: RewardFunctions, inputs: list[RewardInput], *_: Any) -> RuleRewards:
        return RuleRewards(np.array([float(len(each.text) % 2 == 0) for each in inputs]), {}, {})

    monkeypatch.setattr(RewardFunctions, "score", score)


METRICS = {
    "grpo": {"kl", "clip_low", "clip_high", "entropy", "sampler_logprob_diff", "reward", "frac_reward_zero_std"},
    "ppo": {"kl", "clip_low", "clip_high", "entropy", "value_loss", "reward"},
    "online_rft": {"entropy", "reward"},
    "rft": {"entropy"},
    "sft": {"entropy"},
    "dpo": {"margin", "accuracy"},
    "rloo": {"kl", "entropy", "reward", "num_gen_batches", "max_token_share"},
    "distill": {"entropy", "clip_low", "rule_reward"},
}
ONLY_OTHER_SETTINGS = ("dr_grpo", "dapo", "gspo", "cispo", "reinforce_pp", "reinforce_pp_baseline", "raft_pp")
ONLY_OTHER_SETTINGS += ("reinforce_rej", "rloo", "online_rft")
OF_ONE_ROUND = [
    pytest.param(name, marks=[pytest.mark.slow] if name in ONLY_OTHER_SETTINGS else [])
    for name in METHODS if name != "grpo_iterative"
]  # fmt: skip


@pytest.mark.slow
def test_inserted_tokens_have_no_loss_but_a_value(
    recipe: Recipe, workdir: MakeWorkdir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GAE bootstraps from the value after each token."""
    budget = ThinkingBudget(3, Marks(7, 8), opened=True)
    monkeypatch.setattr(rollouts, "thinking_budget", lambda *_: budget)
    folder = workdir("run")
    recipe("ppo", steps=2).run(folder)  # the value model starts with values of 0
    (sequences, fields), _ = read_rollout(folder / "rl" / "rollouts" / "00000001.npz")
    lengths, mark = sequences.completion_lengths, budget.max_tokens
    tokens = [ids[-n:] for ids, n in zip(split(sequences.tokens, sequences.lengths), lengths, strict=True)]
    found = {name: split(values, lengths) for name, values in fields.items()}
    marked = [i for i, ids in enumerate(tokens) if len(ids) > mark and ids[mark] == 8]
    assert len(marked) > len(tokens) // 2
    for i in marked:
        assert found["loss_weights"][i][: mark + 2].tolist() == [1.0] * mark + [0.0, 1.0]
        assert found["sampler_logprobs"][i][mark] == found["ref_logprobs"][i][mark] == 0
        assert found["old_values"][i][mark] != 0


@pytest.mark.parametrize("name", OF_ONE_ROUND)
def test_every_method_moves_the_policy(name: str, recipe: Recipe, workdir: MakeWorkdir, layout: Layout) -> None:
    folder = workdir("run")
    if METHODS[name].completions in ("correct", "pairs"):
        write_graded_samples(folder)
    teacher = {"teacher": "pretrain"} if name == "distill" else {}
    rl = recipe(name, max_new_tokens=40 if name == "sft" else 12, **teacher)
    rl.run(folder)
    rows = metrics(folder)
    assert [row["step"] for row in rows] == [0, 1]
    assert METRICS.get("grpo" if name.startswith("grpo") else name, METRICS["grpo"] - {"kl"}) <= rows[0].keys()
    assert all(np.isfinite(value) for row in rows for value in row.values())
    assert all(row["grad_norm"] > 0 for row in rows)
    if METHODS[name].completions == "policy":
        # What is compiled ahead of time is what is run.
        data, _ = read_rollout(folder / "rl" / "rollouts" / "00000000.npz")
        batch = pack_batch(*data, RowShapes(140, 8, 1, layout))
        expected = abstract_batch(rl.settings, layout)
        assert {n: (x.shape, x.dtype) for n, x in batch.items()} == {n: (x.shape, x.dtype) for n, x in expected.items()}
    trained = weights(folder, layout)
    assert trained.keys() == weights(folder, layout, "sft").keys()
    assert not equal(trained, weights(folder, layout, "sft"))


@pytest.mark.parametrize(
    ("method", "changes", "stops"),
    [
        ("grpo_rule", {"num_updates": 2, "checkpoint_every": 1, "steps": 6, "log_samples": "all"}, (1, 3, 4)),
        pytest.param("ppo", {"checkpoint_every": 2, "steps": 4}, (2,), marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    method: str, changes: dict, stops: tuple[int, ...], recipe: Recipe, workdir: MakeWorkdir, layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole, cut, rl = workdir("whole"), workdir("cut"), recipe(method, **changes)
    rl.run(whole)
    for step in stops:
        rl.interrupt(cut, monkeypatch, step)
    rl.run(cut)
    assert_same_results(whole, cut, layout)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo_os", "ppo"])
def test_short_completions_share_rows(
    method: str, recipe: Recipe, workdir: MakeWorkdir, start: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two minibatches of two micro-batches; a killed run ends the same."""
    whole, cut = workdir("whole"), workdir("cut")
    for folder in (whole, cut):
        (folder / "tokenizer").unlink()
        shutil.copytree(start / "tokenizer", folder / "tokenizer")
        write_json(folder / "tokenizer" / "generation_config.json", {"eos_token_id": [2, *range(20, 290)]})
    rl = recipe(
        method, steps=8, minibatches=2, num_updates=2, grad_accum_steps=2, max_new_tokens=120, checkpoint_every=1
    )  # fmt: skip
    rl.run(whole)
    (sequences, _), _ = read_rollout(whole / "rl" / "rollouts" / "00000001.npz")
    assert 2 * sequences.lengths.max() < sequences.lengths.max() - sequences.completion_lengths.max() + 120
    for row in metrics(whole):
        assert row["frac_padding"] < 0.2
        assert row["sampler_logprob_diff"] < 1e-4 or row["step"] % 4
        assert row["grad_norm"] > 0
    for step in (1, 5, 6):
        rl.interrupt(cut, monkeypatch, step)
    rl.run(cut)
    assert_same_results(whole, cut, layout)


def test_what_was_graded_is_not_graded_again(
    recipe: Recipe, workdir: MakeWorkdir, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, log = workdir("run"), start / "rewards" / "graded"
    rl = recipe("grpo_rule", reward_fns=(("trainer_rewards:counted", 1.0),), reward_workers=1)
    rl.interrupt(folder, monkeypatch, 0)
    before = log.read_text()
    assert before.count("\n") == 8
    rl.run(folder)
    assert log.read_text().count("\n") == 16
    assert log.read_text().startswith(before)


@pytest.mark.slow
def test_rollouts_that_no_checkpoint_needs_are_removed(recipe: Recipe, workdir: MakeWorkdir) -> None:
    folder = workdir("run")
    recipe("grpo_rule", steps=5, checkpoint_every=1).run(folder)
    kept = sorted(path.stem for path in (folder / "rl" / "rollouts").iterdir())
    assert kept == [f"{number:08d}" for number in range(1, 5)]


def test_a_rollout_that_is_gone_within_its_updates_is_refused(
    recipe: Recipe, workdir: MakeWorkdir, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rl = workdir("run"), recipe("grpo_rule", num_updates=2, checkpoint_every=1)
    rl.interrupt(folder, monkeypatch, 1)
    path = folder / "rl" / "rollouts" / "00000000.npz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"00000000\.npz cannot be read \(.*\); remove it to generate it again"):
        rl.run(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"00000000\.npz is missing, .* remove \S+/rl to redo"):
        rl.run(folder)


# --- iterative GRPO ---


def test_a_round_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    """Its steps would be taken again with the reference and the reward model of a later round."""
    rounds.check_resumes_in_round(4, 4, tmp_path)
    rounds.check_resumes_in_round(6, 4, tmp_path)
    with pytest.raises(UserError, match=r"no checkpoint of step 4 or later in .* is valid, .*; remove "):
        rounds.check_resumes_in_round(3, 4, tmp_path)


def test_rounds_train_the_reward_model_and_move_the_reference(
    recipe: Recipe, workdir: MakeWorkdir, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = workdir("whole"), workdir("cut")
    rl = recipe("grpo_iterative", rounds=2, steps=4, checkpoint_every=1, retrain=RETRAIN)
    grade_by_length(monkeypatch)
    rl.run(whole)
    rows = metrics(whole)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    # The first update of a round has the policy itself for its reference.
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-9)
    assert rows[1]["kl"] > 1e-7
    assert rows[2]["kl"] == pytest.approx(0.0, abs=1e-9)
    retrained = whole / "rl" / "rounds" / "1" / "reward_model"
    assert (retrained / "summary.json").is_file()
    assert {row["problem"] for row in read_jsonl(retrained / ROWS)} == set(range(RETRAIN["problems"]))
    rl.interrupt(cut, monkeypatch, 1)
    rl.interrupt(cut, monkeypatch, 2)
    rl.run(cut)
    assert_same_results(whole, cut, layout)
    # Without its own checkpoint the second round is not restarted from the first one's start.
    for path in (cut / "rl" / "checkpoints").glob("*.sha256.json"):
        path.unlink()
    with pytest.raises(UserError, match="this round cannot resume"):
        rl.run(cut)


@pytest.mark.slow
@pytest.mark.parametrize("function", ["retrain_reward_model", "write_rows", "train"])
def test_a_kill_between_two_rounds_changes_nothing(
    function: str, recipe: Recipe, workdir: MakeWorkdir, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy of the first round is saved, its reward model is not: before its samples, or before its training."""
    whole, cut = workdir("whole"), workdir("cut")
    rl = recipe("grpo_iterative", rounds=2, steps=4, retrain=RETRAIN)
    grade_by_length(monkeypatch)
    rl.run(whole)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    used_in = {"retrain_reward_model": trainer, "write_rows": rounds, "train": rounds.reward_training}
    rl.run_interrupted(cut, monkeypatch, used_in[function], function, stop)
    first = cut / "rl" / "rounds" / "1"
    assert (first / "params").is_dir()
    assert not (first / "reward_model" / "params").exists()
    rl.run(cut)
    assert_same_results(whole, cut, layout)
    retrained = [folder / "rl" / "rounds" / "1" / "reward_model" for folder in (whole, cut)]
    for name in (ROWS, "metrics.jsonl", "summary.json"):
        assert (retrained[0] / name).read_bytes() == (retrained[1] / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("step", "saved"), [(0, 2), (1, 3)])
def test_sigterm_in_a_round_saves_and_resumes(
    step: int, saved: int, recipe: Recipe, workdir: MakeWorkdir, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal is seen a step later: in the middle of the first round, or as its last step ends."""
    whole, cut = workdir("whole"), workdir("cut")
    rl = recipe("grpo_iterative", rounds=2, steps=4 if saved == 2 else 8, retrain=RETRAIN)
    grade_by_length(monkeypatch)
    rl.run(whole)
    read = RolloutFiles.read

    def preempt(self: RolloutFiles, at: int) -> Any:
        if at == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(self, at)

    with monkeypatch.context() as patch:
        patch.setattr(RolloutFiles, "read", preempt)
        with pytest.raises(Preempted, match=rf"rl: preempted, saved at step {saved} of "):
            rl.run(cut)
    assert not (cut / "rl" / "rounds" / "1" / "params").exists()
    rl.run(cut)
    assert_same_results(whole, cut, layout)


# --- completions that carry no loss ---


def test_a_reward_that_fails_is_counted_and_left_out(recipe: Recipe, workdir: MakeWorkdir, layout: Layout) -> None:
    folder = workdir("run")
    recipe("grpo_rule", reward_fns=(("trainer_rewards:nan_for_some", 1.0),)).run(folder)
    for row in metrics(folder):
        assert 0 < row["reward_errors"] == row["num_masked"] < 8
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights(folder, layout)))


def test_a_quantized_sampler_is_corrected_for(recipe: Recipe, workdir: MakeWorkdir) -> None:
    int8 = {"cache_dtype": "int8", "decode_weight_dtype": "int8", "steps": 1}
    plain, corrected = workdir("plain"), workdir("corrected")
    recipe("grpo_rule", **int8).run(plain)
    recipe("grpo_rule", **int8, sampler_correction="truncate").run(corrected)
    [one], [other] = metrics(plain), metrics(corrected)
    assert 2e-3 < one["sampler_logprob_diff"] == other["sampler_logprob_diff"] < MAX_LOGPROB_DIFF["int8"]
    assert other["sampler_weight"] != 1
    assert one["grad_norm"] != other["grad_norm"]
    found = [row["kind"] for row in read_jsonl(plain / "rl" / "findings.jsonl")]
    assert "sampler_differs" not in found  # although they differ by more than float32 explains


@pytest.mark.slow
def test_a_completion_without_a_rewarding_function_is_counted_and_left_out(
    recipe: Recipe, workdir: MakeWorkdir
) -> None:
    folder, reward_fns = workdir("run"), (("trainer_rewards:of_some", 1.0), ("trainer_rewards:none", 1.0))
    recipe("grpo_rule", steps=1, reward_fns=reward_fns).run(folder)
    [row] = metrics(folder)
    assert 0 < row["reward_abstained"] == row["num_masked"] < 8
    assert row["reward_errors"] == row["step_skipped"] == 0


@pytest.mark.parametrize("function", [pytest.param("nan", marks=pytest.mark.slow), "same", "none"])
def test_rewards_that_teach_nothing_move_nothing(
    function: str, recipe: Recipe, workdir: MakeWorkdir, layout: Layout
) -> None:
    folder, reward_fns = workdir("run"), ((f"trainer_rewards:{function}", 1.0),)
    recipe("grpo_rule", reward_fns=reward_fns, kl_coef=0.0, weight_decay=0.0).run(folder)
    for row in metrics(folder):
        assert row["grad_norm"] == 0.0
        assert row["frac_reward_zero_std"] == 1.0
        assert row["step_skipped"] == (function != "same")  # equal rewards are rewards: completions carry loss
        assert row["reward_errors"] == (8 if function == "nan" else 0)
        assert row["reward_abstained"] == (8 if function == "none" else 0)
    assert equal(weights(folder, layout), weights(folder, layout, "sft"))


@pytest.mark.slow
def test_truncated_completions_and_groups_without_spread_are_masked(
    recipe: Recipe, workdir: MakeWorkdir, layout: Layout
) -> None:
    truncated, zero_std = workdir("truncated"), workdir("zero_std")
    recipe("grpo_rule", steps=1, rollout_filter=("truncated",)).run(truncated)
    [row] = metrics(truncated)
    assert row["num_masked"] == 8 * row["frac_truncated"] > 0
    same = (("trainer_rewards:same", 1.0),)
    recipe("grpo_rule", steps=1, reward_fns=same, rollout_filter=("zero_std",)).run(zero_std)
    [row] = metrics(zero_std)
    assert row["num_masked"] == 8
    assert row["step_skipped"] == 1  # neither the KL nor weight decay moves anything
    assert equal(weights(zero_std, layout), weights(zero_std, layout, "sft"))


def test_a_rollout_is_refilled_until_it_is_full_and_learned_in_minibatches(
    recipe: Recipe, workdir: MakeWorkdir, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DAPO's dynamic sampling; a killed run ends the same."""
    whole, cut = workdir("whole"), workdir("cut")
    rewards = (("trainer_rewards:for_every_third_question", 1.0),)
    rl = recipe("dapo", steps=4, minibatches=2, max_gen_batches=5, reward_fns=rewards, checkpoint_every=1)
    rl.run(whole)
    rows = metrics(whole)
    assert rows[0]["num_gen_batches"] > 1
    assert rows[0]["frac_reward_zero_std"] > 0.4  # of all that were sampled
    (sequences, fields), _ = read_rollout(whole / "rl" / "rollouts" / "00000000.npz")
    advantages = split(fields["advantages"], sequences.completion_lengths)
    assert np.array([each.any() for each in advantages]).reshape(2, 4).any(axis=1).all()
    assert rows[0]["num_masked"] == 0
    rl.interrupt(cut, monkeypatch, 2)
    rl.run(cut)
    assert_same_results(whole, cut, layout)


# --- what changes nothing, and what is logged ---


@pytest.mark.slow
def test_the_memory_of_the_reference_and_micro_batches_change_nothing(recipe: Recipe, workdir: MakeWorkdir) -> None:
    found = []
    for name, reference, grad_accum_steps in (("plain", "device", 1), ("host", "host", 1), ("cut", "device", 2)):
        folder = workdir(name)
        recipe("grpo_rule", reference_memory=reference, grad_accum_steps=grad_accum_steps).run(folder)
        found.append(metrics(folder))
    plain, host, cut = found
    assert plain == host
    for one, other in zip(plain, cut, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_greedy_accuracy_is_measured_during_training(
    recipe: Recipe, workdir: MakeWorkdir, monkeypatch: pytest.MonkeyPatch
) -> None:
    grade_by_length(monkeypatch)
    folder = workdir("run")
    recipe("grpo_rule", eval_data=("toy/train",), eval_problems=6, eval_every=1, allow_overlap=True).run(folder)
    found = [row["eval_greedy"] for row in metrics(folder) if "eval_greedy" in row]
    assert len(found) == 3
    assert all(0 <= share <= 1 and (6 * share) % 1 == pytest.approx(0, abs=1e-9) for share in found)


TWO_ROUNDS = {"rounds": 2, "retrain": RETRAIN | {"data": (), "problems": 10}}


@pytest.mark.parametrize(
    ("method", "changes", "expected"),
    [
        ("rft", {"offline_prompts": 6}, {"one": 3, "other": 3}),
        ("dpo", {"offline_prompts": 0}, {"one": 12, "other": 4}),
        ("grpo_rule", {"eval_data": ("more.jsonl", "test.jsonl"), "eval_problems": 6}, {"more": 3, "test": 3}),
        ("grpo_iterative", TWO_ROUNDS, {"one": 6, "other": 4}),
        ("grpo_iterative", TWO_ROUNDS | {"retrain": RETRAIN | {"data": ("more.jsonl",)}}, {"more": 5}),
    ],
)
def test_questions_are_drawn_evenly_over_the_data_sets(
    method: str,
    changes: dict,
    expected: dict[str, int],
    recipe: Recipe,
    workdir: MakeWorkdir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, size in {"one": 12, "other": 4, "more": 5, "test": 5}.items():
        rows = [{"question": f"{name} {i}?", "answer": str(i)} for i in range(size)]
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", rows)
    drawn: list[Record] = []

    def record(*arguments: Any) -> None:
        found = (each.retrain_records if isinstance(each, trainer.Context) else each for each in arguments)
        drawn.extend(next(each for each in found if isinstance(each, list) and each))
        raise KeyboardInterrupt

    for function in ("write_rows", "greedy_accuracy", "train_online"):
        monkeypatch.setattr(trainer, function, record)
    rl = recipe(method, data=("one.jsonl", "other.jsonl"), **changes)
    with pytest.raises(KeyboardInterrupt):
        dataclasses.replace(rl, data_dir=tmp_path / "data").run(workdir("run"))
    assert Counter(one.id.split("/")[0] for one in drawn) == expected


def test_questions_that_are_trained_on_are_not_measured_on(
    recipe: Recipe, workdir: MakeWorkdir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those of rl.data nor those of the stages before; where they are allowed they are counted."""
    rows = {name: [{"question": f"{name} {i}?", "answer": "1"} for i in range(4)] for name in ("sft", "rl", "test")}
    for name in ("sft", "rl"):
        write_jsonl(tmp_path / f"{name}.jsonl", rows[name])
    write_jsonl(tmp_path / "test.jsonl", [*rows["test"], rows["sft"][0], rows["rl"][1]])
    folder = workdir("run")
    (folder / "sft").unlink()
    shutil.copytree(recipe("grpo_rule").data_dir.parent / "sft", folder / "sft")
    manifest = {"config": {"data_dir": str(tmp_path), "sft.data": ["sft.jsonl"]}, "inputs": {}}
    write_json(folder / "sft" / "manifest.json", manifest)
    rl = recipe("grpo_rule", data=("rl.jsonl",), eval_data=("test.jsonl",))
    with pytest.raises(
        UserError, match=r"rl\.eval_data: 2 of 6 questions are also in the training data \(test/4 is in sft\.data"
    ):
        dataclasses.replace(rl, data_dir=tmp_path).run(folder)
    monkeypatch.setattr(trainer, "train_online", lambda *_: None)
    allowed = recipe("grpo_rule", data=("rl.jsonl",), eval_data=("test.jsonl",), allow_overlap=True)
    counts = trainer.run(allowed.settings, None, ChatSettings(), folder, tmp_path, allowed.layout, 0)
    assert counts == {"questions": 4, "num_overlapping": 2, "steps": 2}


def test_samples_and_seconds_are_written(recipe: Recipe, workdir: MakeWorkdir) -> None:
    folder = workdir("run")
    recipe("grpo_rule").run(folder)
    samples = list(read_jsonl(folder / "rl" / "samples.jsonl"))
    assert [row["step"] for row in samples] == [0, 0, 1, 1]
    assert samples[0]["reward"] >= samples[1]["reward"]
    assert all(row["prompt"] == 0 for row in samples)
    assert all(row["rewards"] == {"trainer_rewards:digits": row["reward"]} for row in samples)
    timing = list(read_jsonl(folder / "rl" / "timing.jsonl"))
    assert all(row["sample_seconds"] > 0 and row["score_seconds"] > 0 for row in timing)


# --- refusals ---


def test_an_evaluation_prompt_that_fills_the_context_is_refused_before_training(
    recipe: Recipe, workdir: MakeWorkdir, start: Path
) -> None:
    rows = [
        {"id": name, "question": text, "answer": "2"} for name, text in (("short", "1 + 1"), ("long", "1 + " * 200))
    ]
    write_jsonl(start / "data" / "long.jsonl", rows)
    folder = workdir("run")
    with pytest.raises(
        UserError, match=r"the record long of rl\.eval_data has \d+ tokens, which fills .* of 256; remove"
    ):
        recipe("grpo_rule", eval_data=("long.jsonl",)).run(folder)
    assert not list((folder / "rl").glob("metrics*"))


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("ppg", {}, r"^rl\.method must be one of 'sft', 'rft', .*; got 'ppg'"),
        ("grpo_rule", {"reward": "rules"}, r"^rl\.reward must be one of '', 'rule', 'outcome', 'process'; got 'rules'"),
        ("rft", {"reward": "outcome"}, r"^rl\.reward is outcome, which method=rft cannot take"),
        ("grpo_rule", {"group_size": 1}, r"^rl\.group_size is 1; it must be at least 2"),
        ("grpo_rule", {"temperature": 0.0}, r"^rl\.temperature is 0\.0"),
        ("grpo_rule", {"num_updates": 0}, r"^rl\.num_updates is 0; it must be at least 1"),
        ("grpo_rule", {"num_updates": 2, "steps": 3}, r"^rl\.steps is 3, which is not divisible"),
        ("grpo_rule", {"reward_fns": (("correct",),)}, r"^rl\.reward_fns\[0\] is \('correct',\); it must be of the"),
        ("grpo_rule", {"reward_fns": ()}, r"^rl\.reward_fns is empty; give it at least one value"),
        ("grpo_rule", {"rounds": 2}, r"^rl\.rounds is 2; method=grpo_rule takes 1"),
        ("grpo_iterative", {}, r"^rl\.rounds is 1; method=grpo_iterative takes at least 2"),
        ("grpo_iterative", {"rounds": 2, "reward": "rule"}, r"^rl\.reward is rule, .* trains a reward model"),
        ("grpo_rule", {"old_logprobs": "both"}, r"^rl\.old_logprobs must be one of 'trainer', 'sampler'; got 'both'"),
        (
            "grpo_rule",
            {"reference_memory": "disk"},
            r"^rl\.reference_memory must be one of 'device', 'host'; got 'disk'",
        ),
        ("grpo_rule", {"max_prompt_tokens": 2}, r"no prompt of rl\.data has at most 2 tokens"),
        ("grpo_rule", {"max_new_tokens": 250}, r"more than the model's context of 256"),
        ("sft", {"max_new_tokens": 3}, r"no solution of rl\.data has at most 3 tokens"),
        ("grpo_rule", {"kl": "k4"}, r"^rl\.kl must be one of 'k1', 'k2', 'k3'; got 'k4'"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    method: str, changes: dict, message: str, recipe: Recipe, workdir: MakeWorkdir
) -> None:
    with pytest.raises(UserError, match=message):
        recipe(method, **changes).run(workdir("run"))


def test_samples_that_cannot_teach_are_refused(recipe: Recipe, workdir: MakeWorkdir) -> None:
    for method, message in (("rft", r"none of the \d+ samples"), ("dpo", "has both correct and incorrect samples")):
        with pytest.raises(UserError, match=message):
            recipe(method).run(workdir(method))


def test_a_reference_of_another_shape_is_refused(recipe: Recipe, workdir: MakeWorkdir, start: Path) -> None:
    folder = workdir("run")
    (folder / "sft").unlink()
    (folder / "sft").mkdir()
    for path in (start / "sft").iterdir():
        (folder / "sft" / path.name).symlink_to(path)
    (folder / "sft" / "model.json").unlink()
    config = json.loads((start / "sft" / "model.json").read_text()) | {"intermediate_size": 32}
    (folder / "sft" / "model.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"does not fit: layers/\S+ has shape"):
        recipe("grpo_rule").run(folder)
