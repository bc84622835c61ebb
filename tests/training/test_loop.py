"""The training loop: a resumed run is bitwise the uninterrupted one; a loss that is not finite stops it."""

import dataclasses
import math
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.hardware import CHIPS
from dsmath_jax.sharding import Layout
from dsmath_jax.training import checkpoint
from dsmath_jax.training.loop import TrainLoop
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.preemption import Preempted
from dsmath_jax.training.prefetch import HostBatch, Prefetch
from dsmath_jax.training.settings import TrainingSettings
from dsmath_jax.training.step import TrainState, TrainStep, init_state, make_train_step
from dsmath_jax.workdir import UserError, read_json, read_jsonl

STEPS = 12
SETTINGS = TrainingSettings(
    steps=STEPS, checkpoint_every=3, eval_every=4, peak_lr=0.1, warmup_steps=3, schedule="multi_step"
)  # fmt: skip


def fit(
    folder: Path,
    settings: TrainingSettings,
    layout: Layout,
    state: TrainState,
    train_step: TrainStep,
    batch_at: Callable[[int, Any], tuple[HostBatch, dict[str, float]]],
    evaluate: Callable[[Any], dict[str, float]] | None = None,
    **more: Any,
) -> TrainState:
    """A stage around the loop, as pre-training, reward models and RL have it."""
    with TrainLoop(folder, settings, layout, state, **more) as loop:
        for step in loop.steps():
            if evaluate and loop.eval_due(step):
                loop.log(step, evaluate(loop.state.params))
            batch, metrics = batch_at(step, loop.state.params)
            loop.update(train_step, batch, metrics)
        if evaluate:
            loop.log(settings.steps, evaluate(loop.state.params))
    checkpoint.save(folder / "params", loop.state.params)
    return loop.state


def squares(model: Any, params: Any, batch: dict[str, jax.Array]) -> Any:
    """A regression for the decoder's place: what is tested is the loop around it."""
    del model
    error = batch["x"] @ params["embedding"] - batch["y"]
    return (jnp.sum(jnp.square(error)), jnp.float32(len(error))), {"largest": jnp.max(error)}


class Cut(Exception):
    """Stands for a kill."""


def make_batch(number: int) -> dict[str, np.ndarray]:
    noise = np.random.default_rng([1, number])
    return {"x": noise.normal(size=(6, 5)).astype(np.float32), "y": noise.normal(size=(6, 2)).astype(np.float32)}


@pytest.fixture(scope="module")
def run(layout: Layout) -> Callable[..., TrainState]:
    optimizer = make_optimizer(SETTINGS)
    make = lambda: {"embedding": jax.random.normal(jax.random.key(0), (5, 2))}  # noqa: E731
    step = make_train_step(squares, None, optimizer, layout, init_state(make, optimizer, layout))

    def go(
        folder: Path,
        cut_at: int | None = None,
        spoil: Callable[[int, dict[str, np.ndarray]], None] = lambda number, batch: None,
        changes: dict[str, Any] | None = None,
        **more: Any,
    ) -> TrainState:
        def batch_at(number: int, params: Any) -> tuple[dict[str, np.ndarray], dict[str, float]]:
            assert params["embedding"].shape == (5, 2)
            if number == cut_at:
                raise Cut
            batch = make_batch(number)
            spoil(number, batch)
            return batch, {"extra": float(number)}

        evaluate = lambda params: {"eval_loss": float(jnp.sum(params["embedding"]))}  # noqa: E731
        settings = dataclasses.replace(SETTINGS, **(changes or {}))
        state = init_state(make, optimizer, layout)
        return fit(folder, settings, layout, state, step, batch_at, evaluate, **more)

    return go


def same(one: TrainState, other: TrainState) -> None:
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(run: Callable[..., TrainState], tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    for cut_at in (2, 8, 11):
        with pytest.raises(Cut):
            run(tmp_path / "cut", cut_at)
    again = run(tmp_path / "cut")
    same(whole, again)
    rows = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "cut")]
    assert rows[0] == rows[1]
    stored = checkpoint.restore(tmp_path / "cut" / "params", whole.params)
    np.testing.assert_array_equal(stored["embedding"], whole.params["embedding"])


def test_a_run_resumes_from_its_newest_checkpoint(run: Callable[..., TrainState], tmp_path: Path) -> None:
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
    assert trained[5].keys() == {
        "step", "loss", "grad_norm", "param_norm", "step_skipped", "largest", "extra", "lr"
    }  # fmt: skip
    assert [row["lr"] for row in trained] == pytest.approx([0.1 / 3, 0.2 / 3] + [0.1] * 8 + [0.0316, 0.01], rel=1e-5)
    assert [row["extra"] for row in trained] == list(range(STEPS))
    assert list((tmp_path / "tensorboard").glob("events.*"))


def spoil_x_of(step: int, value: float) -> Callable[[int, dict[str, np.ndarray]], None]:
    def spoil(number: int, batch: dict[str, np.ndarray]) -> None:
        if number == step:
            batch["x"][0, 0] = value

    return spoil


@pytest.mark.parametrize(
    ("value", "what"),
    [(np.nan, "the loss of step 8 is nan"), (1e12, "the gradient norm of step 8 is inf")],
)
def test_a_loss_that_is_not_finite_stops_the_run(
    run: Callable[..., TrainState], tmp_path: Path, value: float, what: str
) -> None:
    records = lambda step: [f"document {step}", "another"]  # noqa: E731
    with pytest.raises(UserError, match=f"^{tmp_path.name}: {what}; .*{tmp_path}/not_finite.json"):
        run(tmp_path, spoil=spoil_x_of(8, value), records_at=records)
    assert not (tmp_path / "params").exists()
    # Step 8 is the last before a checkpoint: it is looked at before that is written.
    assert checkpoint.Checkpoints(tmp_path / "checkpoints").latest() == 6
    assert max(row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl") if "loss" in row) == 7
    report = read_json(tmp_path / "not_finite.json")
    assert (report["step"], report["records"]) == (8, ["document 8", "another"])
    assert "nan" in (report["loss"], report["grad_norm"]) or report["grad_norm"] == "inf"
    same(run(tmp_path), run(tmp_path / "other"))  # fixed, it resumes
    assert not (tmp_path / "not_finite.json").exists()


def test_the_host_does_not_wait_for_the_step_that_it_has_just_sent(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scalars of a step are asked for only when the next step is on its way."""
    events = []

    class Scalar:
        def __init__(self, step: int):
            self.step = step

        def __float__(self) -> float:
            events.append(("read", self.step))
            return 1.0

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Any]:
        number = int(batch["number"][0])
        events.append(("sent", number))
        return state, {"loss": Scalar(number)}

    monkeypatch.setattr(jax, "device_get", lambda tree: tree)
    state = TrainState({"embedding": jnp.ones((2, 2))}, ())
    settings = dataclasses.replace(SETTINGS, steps=4, checkpoint_every=9)
    fit(tmp_path, settings, layout, state, step, lambda n, _: ({"number": np.array([n])}, {}))
    sent_and_read = [("sent", 0), ("sent", 1), ("read", 0), ("sent", 2), ("read", 1), ("sent", 3), ("read", 2)]
    assert events == [*sent_and_read, ("read", 3)]


def test_batches_are_made_ahead_in_order_and_errors_come_at_their_step() -> None:
    made, gate = [], threading.Event()

    def make(step: int) -> dict[str, np.ndarray]:
        made.append((step, threading.current_thread() is threading.main_thread()))
        if step == 4:
            raise ValueError("broken")
        if step == 2:
            gate.set()
        return {"x": np.array([step])}

    prefetch = Prefetch(make, steps=6)
    assert int(prefetch(0)["x"][0]) == 0
    assert gate.wait(60)  # step 2 is made although nobody has asked for it
    assert [int(prefetch(step)["x"][0]) for step in (1, 2, 3)] == [1, 2, 3]
    with pytest.raises(ValueError, match="broken"):
        prefetch(4)
    assert int(prefetch(5)["x"][0]) == 5
    assert made == [(step, False) for step in range(6)]  # each once, none after the last


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_preempted_run_saves_and_resumes(
    run: Callable[..., TrainState], tmp_path: Path, number: signal.Signals
) -> None:
    tell = lambda at: lambda step, batch: os.kill(os.getpid(), number) if step == at else None  # noqa: E731
    before = signal.getsignal(number)
    with pytest.raises(
        Preempted, match=rf"^{tmp_path.name}: preempted, saved at step 6 of 12; run the same command again"
    ):
        run(tmp_path, spoil=tell(4))
    assert signal.getsignal(number) == before
    assert checkpoint.Checkpoints(tmp_path / "checkpoints").latest() == 6
    again = run(tmp_path, cut_at=5)  # from step 6 on: the cut is never reached
    same(again, run(tmp_path / "whole"))
    rows = [(folder / "metrics.jsonl").read_bytes() for folder in (tmp_path, tmp_path / "whole")]
    assert rows[0] == rows[1]


def test_preempted_in_the_last_step(run: Callable[..., TrainState], tmp_path: Path) -> None:
    tell = lambda step, batch: os.kill(os.getpid(), signal.SIGTERM) if step == 11 else None  # noqa: E731
    with pytest.raises(Preempted, match="saved at step 12 of 12"):
        run(tmp_path, spoil=tell)
    assert not (tmp_path / "params").exists()
    same(run(tmp_path, cut_at=11), run(tmp_path / "whole"))


def test_a_signal_after_the_last_step_acts_when_training_has_ended(layout: Layout, tmp_path: Path) -> None:
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    settings = dataclasses.replace(SETTINGS, steps=1)
    state = TrainState({"embedding": jnp.ones((2, 2))}, ())

    def evaluate(params: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        assert not received
        return {"eval_loss": 1.0}

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Any]:
        return state, {"loss": jnp.float32(2.0)}

    steps = iter([lambda params: {}, evaluate])  # before the first step, after the last
    try:
        fit(
            tmp_path, settings, layout, state, step, lambda n, _: ({"x": np.ones(2)}, {}),
            evaluate=lambda params: next(steps)(params),
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_times_go_to_a_file_of_their_own(
    run: Callable[..., TrainState], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "once")
    rows = list(read_jsonl(tmp_path / "once" / "timing.jsonl"))
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert rows[3].keys() == {"step", "seconds", "memory_peak", "useful_seconds", "goodput"}
    assert rows[0]["useful_seconds"] == 0  # it compiles
    assert rows[-1]["useful_seconds"] == pytest.approx(sum(row["seconds"] for row in rows[1:]))
    assert 0 < rows[-1]["goodput"] < 1

    with pytest.raises(Cut):
        run(tmp_path / "cut", 8)
    first_start = (tmp_path / "cut" / "first_start.json").read_bytes()
    lost = [row["useful_seconds"] for row in read_jsonl(tmp_path / "cut" / "timing.jsonl")]
    assert len(lost) == 8
    run(tmp_path / "cut")
    again = [row["useful_seconds"] for row in read_jsonl(tmp_path / "cut" / "timing.jsonl")]
    assert again[:7] == [*lost[:6], lost[5]]  # what was done again does not count, nor the first step after the start
    assert again[7] > again[6]
    assert (tmp_path / "cut" / "first_start.json").read_bytes() == first_start


def test_tokens_and_mfu_are_logged(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chip = dataclasses.replace(CHIPS["h100"], device_kinds=(jax.devices()[0].device_kind,), peak_flops=1e9)
    monkeypatch.setitem(CHIPS, "here", chip)
    state = TrainState({"embedding": jnp.ones((2, 2))}, ())
    settings = dataclasses.replace(SETTINGS, steps=3)

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Any]:
        return state, {"loss": jnp.float32(2.0)}

    batch = {"tokens": np.zeros((4, 8), np.int32)}
    more = {"flops_per_token": 1e3, "perplexity": True}
    fit(tmp_path, settings, layout, state, step, lambda n, _: (batch, {}), **more)
    for row in read_jsonl(tmp_path / "timing.jsonl"):
        assert row["tokens_per_second"] == pytest.approx(32 / row["seconds"])
        assert row["mfu"] == pytest.approx(row["tokens_per_second"] * 1e3 / 1e9 / jax.device_count())
    assert [row["perplexity"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [math.exp(2.0)] * 3


def test_a_profiler_trace_of_the_steps_asked_for(run: Callable[..., TrainState], tmp_path: Path) -> None:
    run(tmp_path, changes={"profile": (2, 3)})
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    with pytest.raises(UserError, match=r"profile is \(3, 2\); give \(\) or the first and the last step"):
        run(tmp_path / "wrong", changes={"profile": (3, 2)})
    with pytest.raises(Cut):  # a trace under way is written
        run(tmp_path / "cut", 3, changes={"profile": (2, STEPS - 1)})
    assert list((tmp_path / "cut" / "profile").rglob("*.xplane.pb"))


def test_rounds_of_steps_resume_each_other(run: Callable[..., TrainState], layout: Layout, tmp_path: Path) -> None:
    """`steps(until)` ends with a checkpoint, and the rounds together are the run as a whole."""
    optimizer = make_optimizer(SETTINGS)
    make = lambda: {"embedding": jax.random.normal(jax.random.key(0), (5, 2))}  # noqa: E731
    train_step = make_train_step(squares, None, optimizer, layout, init_state(make, optimizer, layout))
    taken = []
    for until in (4, 4, 12):  # the second has nothing left to do
        with TrainLoop(tmp_path / "rounds", SETTINGS, layout, init_state(make, optimizer, layout)) as loop:
            for step in loop.steps(until):
                taken.append(step)
                loop.update(train_step, make_batch(step))
        if until < STEPS:
            assert checkpoint.Checkpoints(tmp_path / "rounds" / "checkpoints").latest() == until
    assert taken == list(range(STEPS))
    same(loop.state, run(tmp_path / "whole"))
