"""Pre-training and SFT that are made longer leave what runs of as many steps leave, bit by bit."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmath_jax import runner, stages
from dsmath_jax.data import tokenizer
from dsmath_jax.recipe import Recipe
from dsmath_jax.settings import build
from dsmath_jax.sharding import Layout
from dsmath_jax.training.loop import TrainLoop, why_not_extendable
from dsmath_jax.training.model_files import read_model_config, read_params
from dsmath_jax.training.optimizer import first_changed_lr, make_schedule
from dsmath_jax.training.settings import TrainingSettings
from dsmath_jax.workdir import UserError, read_jsonl, write_jsonl

TEXTS = [f"The sum of {n} and {n + 1} is {2 * n + 1}." for n in range(200)]
PROBLEM = {"question": "What is 3 + 4?", "solution": "3 + 4 = 7\nThe answer is 7."}
TRAINING = {
    "sequence_length": 96, "batch_size": 8, "steps": 5, "checkpoint_every": 3, "eval_every": 3, "eval_rows": 4,
    "peak_lr": 1e-2, "warmup_steps": 2, "schedule": "constant",
}  # fmt: skip
NAMES = ("tokenizer", "pretrain", "sft")
Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a recipe in a workdir, with fields of both stages that train changed."""
    data = tmp_path / "data"
    write_jsonl(data / "mine/a.jsonl", [{"text": text} for text in TEXTS])
    write_jsonl(data / "problems.jsonl", [PROBLEM] * 40)
    tokenizer.train_sentencepiece(TEXTS, data / "tokenizer" / "tokenizer.model", 285)
    sizes = {
        "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 32,
        "max_position_embeddings": 96, "compute_dtype": "float32", "remat": "none",
    }  # fmt: skip

    def go(workdir: str, names: tuple[str, ...] = NAMES, overwrite: tuple[str, ...] = (), **changes: Any) -> None:
        recipe = {
            "data_dir": str(data), "tokenizer": {"path": "tokenizer", "vocab_size": 0}, "model": sizes,
            "chat": {"template": "paper"},
            "pretrain": {**TRAINING, "mixture": {"mine": 1.0}, **changes},
            "sft": {**TRAINING, "data": ("problems.jsonl",), **changes},
        }  # fmt: skip
        runner.run(stages.STAGES, build(Recipe, recipe), tmp_path / workdir, names, overwrite)

    return go


def kill(patch: pytest.MonkeyPatch, stage: str, at: int) -> None:
    """Lets a stage run up to the update of a step."""
    update = TrainLoop.update

    def stop(self: TrainLoop, *arguments: Any) -> None:
        if self._name == stage and self._step == at:
            raise KeyboardInterrupt
        update(self, *arguments)

    patch.setattr(TrainLoop, "update", stop)


def params(folder: Path, layout: Layout) -> Any:
    return jax.tree.map(np.asarray, read_params(folder, read_model_config(folder), layout))


def eval_steps(folder: Path) -> list[int]:
    return [row["step"] for row in read_jsonl(folder / "metrics.jsonl") if "eval_loss" in row]


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
@pytest.mark.slow
def test_more_steps_leave_what_as_many_from_scratch_leave(
    run: Run, tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """A stage that is complete is extended, killed on the way and extended again."""
    run("longer", NAMES[: NAMES.index(stage) + 1])
    assert eval_steps(tmp_path / "longer" / stage) == [0, 3, 5]
    for name in NAMES[: NAMES.index(stage)]:  # both from the same files
        (tmp_path / "whole").mkdir(exist_ok=True)
        (tmp_path / "whole" / name).symlink_to(tmp_path / "longer" / name)
    run("whole", (stage,), steps=8)
    with monkeypatch.context() as patch:
        kill(patch, stage, 6)
        with pytest.raises(KeyboardInterrupt):
            run("longer", (stage,), steps=7)
    run("longer", (stage,), steps=8)
    whole, longer = tmp_path / "whole" / stage, tmp_path / "longer" / stage
    assert eval_steps(longer) == [0, 3, 6, 8]  # none is left of the old end
    assert (whole / "metrics.jsonl").read_bytes() == (longer / "metrics.jsonl").read_bytes()
    jax.tree.map(np.testing.assert_array_equal, params(whole, layout), params(longer, layout))


@pytest.mark.slow
def test_what_reads_an_extended_stage_is_refused_before_and_after(run: Run, tmp_path: Path) -> None:
    run("run")
    sft = tmp_path / "run" / "sft"
    before = (sft / "manifest.json").read_bytes()
    with pytest.raises(
        UserError, match=r"^Stage sft in .* \(sft\.steps was 5, is 8; the files of pretrain will change\)"
    ):
        run("run", steps=8)
    run("run", ("pretrain",), steps=8)
    with pytest.raises(
        UserError, match=r"^Stage sft in .* \(the files of pretrain have changed\): give --overwrite=sft"
    ):
        run("run", ("sft",))
    assert (sft / "manifest.json").read_bytes() == before
    run("run", ("sft",), ("sft",))


@pytest.mark.slow
def test_a_schedule_that_has_begun_to_fall_is_the_reason_not_to(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates of multi_step fall at 80 % of all steps, those of 10 steps at step 8."""
    names = ("tokenizer", "pretrain")
    with monkeypatch.context() as patch:
        kill(patch, "pretrain", 7)
        with pytest.raises(KeyboardInterrupt):
            run("run", names, steps=9, schedule="multi_step")
    run("run", names, steps=10, schedule="multi_step")  # its checkpoint of step 6 is that of 10 steps too
    with pytest.raises(UserError) as caught:
        run("run", names, steps=20, schedule="multi_step")
    assert str(caught.value) == (
        f"Stage pretrain in {tmp_path / 'run'} was made with fewer steps (pretrain.steps was 10, is 20) and cannot be "
        "extended, since its newest checkpoint is of step 9, and with schedule=multi_step and steps=20 the learning "
        "rate differs from step 8 on: give --overwrite=pretrain to redo it and the stages after it, or another "
        "--workdir."
    )


@pytest.mark.slow
def test_a_stage_without_a_checkpoint_takes_new_settings(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the loop and the stage write before the first one is not worth keeping; packed rows are."""
    names = ("tokenizer", "pretrain")
    with monkeypatch.context() as patch:
        kill(patch, "pretrain", 2)
        with pytest.raises(KeyboardInterrupt):
            run("run", names)
    folder = tmp_path / "run" / "pretrain"
    assert (folder / "metrics.jsonl").stat().st_size
    with pytest.raises(UserError, match=r"pretrain\.peak_lr was 0\.01, is 0\.001.*--overwrite=pretrain"):
        run("run", names, peak_lr=1e-3)
    for path in folder.glob("rows/**/*.array_record"):
        path.unlink()
    run("run", names, peak_lr=1e-3)
    assert max(row["lr"] for row in read_jsonl(folder / "metrics.jsonl") if "lr" in row) == pytest.approx(1e-3)


@given(
    schedule=st.sampled_from(["constant", "multi_step"]), steps=st.integers(1, 60), more=st.integers(0, 60),
    taken=st.integers(0, 60), warmup=st.integers(0, 20),
)  # fmt: skip
@settings(max_examples=25)
def test_the_first_changed_lr_is_that_of_the_schedules(
    schedule: str, steps: int, more: int, taken: int, warmup: int
) -> None:
    training = TrainingSettings(schedule=schedule, steps=steps + more, warmup_steps=warmup)
    before, after = (make_schedule(dataclasses.replace(training, steps=n)) for n in (steps, steps + more))
    others = [step for step in range(taken) if float(before(step)) != float(after(step))]
    assert first_changed_lr(training, steps, taken) == next(iter(others), None)
    if schedule == "constant":
        assert others == []


def test_a_folder_without_checkpoints_can_take_any_steps(tmp_path: Path) -> None:
    assert why_not_extendable(tmp_path, TrainingSettings(schedule="multi_step", steps=20), 10) == ""
