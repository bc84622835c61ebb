"""A run of RL that is made longer leaves what a run of as many steps leaves, bit by bit, although it is killed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsmath_jax.rl import checks, trainer
from dsmath_jax.rl.methods import METHODS
from dsmath_jax.sharding import Layout
from dsmath_jax.training.loop import TrainLoop
from dsmath_jax.workdir import write_jsonl
from tests.rl.trainer_runs import RLRun, equal, metrics, weights

MakeRun = Callable[..., RLRun]


def cut(rl: RLRun, workdir: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Runs up to the update of a step."""
    update = TrainLoop.update

    def stop(self: TrainLoop, *arguments: Any) -> None:
        if self._step == at:
            raise KeyboardInterrupt
        update(self, *arguments)

    rl.run_interrupted(workdir, monkeypatch, TrainLoop, "update", stop)


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.iterative])
def test_more_steps_leave_what_as_many_from_scratch_leave(
    recipe: MakeRun, workdir: Callable[[str], Path], layout: Layout, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    whole, longer = workdir("whole"), workdir("longer")
    changes: dict[str, Any] = {"eval_data": ("toy/train",), "eval_problems": 4, "eval_every": 3, "checkpoint_every": 3}
    changes["allow_overlap"] = True
    changes |= {"teacher": "pretrain"} if method == "distill" else {}
    changes["max_new_tokens"] = 64 if method == "sft" else 12  # the solutions' tokens
    if METHODS[method].completions in ("correct", "pairs"):  # an untrained model is never correct
        monkeypatch.setattr(trainer, "initial_policy_samples", lambda ctx: _samples(ctx.folder))
    make = lambda steps: recipe(method, steps=steps, **changes)  # noqa: E731
    make(8).run(whole)
    make(5).run(longer)
    assert [row["step"] for row in metrics(longer) if "eval_greedy" in row] == [0, 3, 5]
    assert checks.why_not_extendable(make(8).settings, longer / "rl", 5) == ""
    cut(make(8), longer, monkeypatch, 7)
    make(8).run(longer)
    assert [row["step"] for row in metrics(longer) if "eval_greedy" in row] == [0, 3, 6, 8]
    assert (whole / "rl/metrics.jsonl").read_bytes() == (longer / "rl/metrics.jsonl").read_bytes()
    if METHODS[method].completions == "policy":
        assert (whole / "rl/samples.jsonl").read_bytes() == (longer / "rl/samples.jsonl").read_bytes()
    assert equal(weights(whole, layout), weights(longer, layout))


def _samples(folder: Path) -> Path:
    completions = [[n + 4, 2] for n in range(40)]
    rows = [
        {"problem": n // 4, "prompt": [1, 9, n // 4 + 3], "completion": tokens, "ends": [1], "labels": [float(n % 2)]}
        for n, tokens in enumerate(completions)
    ]
    write_jsonl(folder / "samples_of_init.jsonl", rows)
    return folder / "samples_of_init.jsonl"


def test_rounds_that_would_end_elsewhere_are_the_reason_not_to(recipe: MakeRun, tmp_path: Path) -> None:
    retrain = {"steps": 2, "data": ("toy/train",), "max_new_tokens": 12}
    settings = recipe("grpo_iterative", steps=4, rounds=2, retrain=retrain).settings
    assert checks.why_not_extendable(settings, tmp_path, 2) == "its rounds=2 would end at different steps"
