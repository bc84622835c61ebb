"""The training loop: a run that is cut off and goes on is bitwise the undisturbed one; a loss that is lost stops it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dsmath_jax.training import checkpoint, loop
from dsmath_jax.training.metrics import StepLog
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.step import TrainState, init_state, make_train_step
from dsmath_jax.workdir import UserError, read_jsonl

STEPS = 12
CONFIG = ConfigDict(
    {
        "steps": STEPS, "checkpoint_every": 3, "eval_every": 4, "schedule": "multi_step", "peak_lr": 0.1, "warmup": 3,
        "weight_decay": 0.1, "clip_norm": 1.0,
    }
)  # fmt: skip


def squares(model: Any, params: Any, batch: dict[str, jax.Array]) -> Any:
    """A regression for the decoder's place: what is tested is the loop around it."""
    del model
    error = batch["x"] @ params["embedding"] - batch["y"]
    return (jnp.sum(jnp.square(error)), jnp.float32(len(error))), {"largest": jnp.max(error)}


class Cut(Exception):
    """Stands for a kill."""


@pytest.fixture
def run(mesh: Mesh) -> Callable[..., TrainState]:
    optimizer = make_optimizer(CONFIG, STEPS)
    make = lambda: {"embedding": jax.random.normal(jax.random.key(0), (5, 2))}  # noqa: E731
    step = make_train_step(squares, None, optimizer, mesh, init_state(make, optimizer, mesh))

    def batch_at(number: int) -> dict[str, np.ndarray]:
        noise = np.random.default_rng([1, number])
        return {"x": noise.normal(size=(6, 5)).astype(np.float32), "y": noise.normal(size=(6, 2)).astype(np.float32)}

    def go(folder: Path, cut_at: int | None = None, spoil_at: int | None = None) -> TrainState:
        def explore(number: int, params: Any) -> tuple[dict[str, np.ndarray], dict[str, float]]:
            assert params["embedding"].shape == (5, 2)
            if number == cut_at:
                raise Cut
            batch = batch_at(number)
            if number == spoil_at:
                batch["y"][0, 0] = np.nan
            return batch, {"extra": float(number)}

        evaluate = lambda params: {"eval_loss": float(jnp.sum(params["embedding"]))}  # noqa: E731
        state = init_state(make, optimizer, mesh)
        return loop.fit("test", folder, CONFIG, mesh, state, step, explore, evaluate)

    return go


def test_a_resumed_run_is_bitwise_the_undisturbed_one(run: Callable[..., TrainState], tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    for cut_at in (2, 8, 11):
        with pytest.raises(Cut):
            run(tmp_path / "cut", cut_at)
    again = run(tmp_path / "cut")
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
    rows = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "cut")]
    assert rows[0] == rows[1]
    stored = checkpoint.restore(tmp_path / "cut" / "params", whole.params)
    np.testing.assert_array_equal(stored["embedding"], whole.params["embedding"])


def test_a_run_goes_on_from_its_newest_checkpoint(run: Callable[..., TrainState], tmp_path: Path) -> None:
    with pytest.raises(Cut):
        run(tmp_path, 8)
    with pytest.raises(Cut):
        run(tmp_path, 6)  # the step of the newest checkpoint is done again,
    run(tmp_path, 5)  # and none before it is: the cut is never reached


def test_metrics_of_every_step_and_of_the_held_out_data(run: Callable[..., TrainState], tmp_path: Path) -> None:
    run(tmp_path)
    rows = list(read_jsonl(tmp_path / "metrics.jsonl"))
    assert [row["step"] for row in rows if "eval_loss" in row] == [0, 4, 8, 12]
    trained = [row for row in rows if "loss" in row]
    assert [row["step"] for row in trained] == list(range(STEPS))
    assert trained[5].keys() == {"step", "loss", "grad_norm", "param_norm", "largest", "extra", "lr"}
    assert [row["lr"] for row in trained] == pytest.approx([0.1 / 3, 0.2 / 3] + [0.1] * 8 + [0.0316, 0.01], rel=1e-5)
    assert [row["extra"] for row in trained] == list(range(STEPS))
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_loss_that_is_not_finite_stops_the_run(run: Callable[..., TrainState], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="test: the loss of step 7 is nan"):
        run(tmp_path, spoil_at=7)
    assert not (tmp_path / "params").exists()
    assert checkpoint.Checkpoints(tmp_path / "checkpoints").latest() == 6
    assert max(row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")) == 6


def test_a_log_drops_the_steps_to_come_and_a_line_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [json.dumps({"step": step}) for step in range(6)]
    path.write_text("\n".join(lines) + '\n{"step": 6, "lo')
    log = StepLog(path, first_step=4)
    log.write({"step": 4, "again": True})
    log.close()
    assert list(read_jsonl(path)) == [{"step": step} for step in range(4)] + [{"step": 4, "again": True}]
