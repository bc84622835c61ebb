"""The training loop of pre-training, SFT, reward models and RL: restore, step, log, save.

with TrainLoop(folder, settings, layout, state) as loop:  # restores the newest valid checkpoint
    for step in loop.steps():
        loop.update(train_step, batch_at(step))
checkpoint.save(folder / "params", loop.state.params)
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dsmath_jax.progress import track
from dsmath_jax.sharding import Layout
from dsmath_jax.training.checkpoint import Checkpoints, steps_in
from dsmath_jax.training.goodput import Stopwatch, first_start
from dsmath_jax.training.metrics import Metrics, load_wandb
from dsmath_jax.training.optimizer import first_changed_lr, make_schedule
from dsmath_jax.training.preemption import Preempted, PreemptionListener
from dsmath_jax.training.prefetch import HostBatch
from dsmath_jax.training.profiling import Trace
from dsmath_jax.training.settings import TrainingSettings
from dsmath_jax.training.step import TrainState, TrainStep, check_batch_size
from dsmath_jax.workdir import UserError, remove, write_json

NOT_FINITE = "not_finite.json"
# Files of the loop other than checkpoints. Without a checkpoint, a run starts at step 0 and rewrites them.
LOGS = (
    "metrics.jsonl", "timing.jsonl", "first_start.json", NOT_FINITE, "tensorboard/**/*", "profile/**/*", "wandb/**/*"
)  # fmt: skip
MAX_LOG_PERPLEXITY = 700.0  # nats; larger ones overflow a float


class _Pending(NamedTuple):
    """A dispatched step: its results on the devices and its data on the host."""

    step: int
    scalars: dict[str, Array]
    metrics: Mapping[str, float]
    seconds: Mapping[str, float]
    preempted: Array | bool
    began: float
    tokens: int
    samples: Sequence[Mapping[str, Any]]


def check(settings: TrainingSettings, rows: int, layout: Layout) -> None:
    """Raises a `UserError` where batches of `rows` are not divisible over the mesh, or wandb is not installed."""
    check_batch_size(rows, settings.grad_accum_steps, layout)
    if settings.wandb:
        load_wandb(settings.wandb)


def why_not_extendable(folder: Path, settings: TrainingSettings, steps: int) -> str:
    """Returns why a stage of `steps` steps cannot be extended to `settings.steps`, "" if it can.

    It resumes from its newest checkpoint. A run of `settings.steps` from scratch reaches the same checkpoint if the
    learning rates of all earlier steps are equal.
    """
    steps_done = max(steps_in(folder / "checkpoints"), default=0)
    first = first_changed_lr(settings, steps, steps_done)
    if first is None:
        return ""
    return (
        f"its newest checkpoint is of step {steps_done}, and with schedule={settings.schedule} and "
        f"steps={settings.steps} the learning rate differs from step {first} on"
    )


class TrainLoop:
    """Runs the training loop of a stage: holds its state, counts its steps, logs and saves them.

    The host is one step ahead of the devices: it reads the scalars of a step after it has dispatched the next one, and
    before it saves anything, so that no checkpoint has an update from a loss that is not finite.

    Attributes:
      state: parameters and optimizer state after the last update.
      first_step: the step that the loop starts at: that of the newest valid checkpoint, or 0.
    """

    def __init__(
        self,
        folder: Path,
        settings: TrainingSettings,
        layout: Layout,
        state: TrainState,
        *,
        records_at: Callable[[int], Sequence[str]] | None = None,
        flops_per_token: float | None = None,
        perplexity: bool = False,
    ):
        """
        Args:
          folder: gets `checkpoints/`, `metrics.jsonl`, `timing.jsonl` and `tensorboard/`; messages use its name.
          settings: of the loop and the optimizer.
          layout: of the batches.
          state: the state at step 0; donated, and freed where a checkpoint replaces it.
          records_at: returns the ids of the records in a step's batch, for the report on a loss that is not finite.
          flops_per_token: of the model, for MFU.
          perplexity: whether to log the exponential of the loss (nats per token) too.
        """
        self.state, self.first_step = state, 0
        self._name, self._folder, self._settings, self._layout = folder.name, folder, settings, layout
        self._records_at, self._flops_per_token, self._perplexity = records_at, flops_per_token, perplexity
        self._checkpoints = Checkpoints(folder / "checkpoints", settings.keep_checkpoints)
        self._step, self._began, self._lap, self._preempted = 0, 0.0, 0.0, False
        self._pending: _Pending | None = None
        self._seconds: dict[str, float] = {}
        self._updated_at: float | None = None
        self._observe: Callable[[Mapping[str, float]], None] | None = None

    def __enter__(self) -> Self:
        """Restores the newest valid checkpoint, and opens the logs."""
        settings = self._settings
        with contextlib.ExitStack() as stack:
            checkpoints = stack.enter_context(self._checkpoints)
            self.state, self.first_step = checkpoints.restore_latest(self.state)
            self._metrics = stack.enter_context(Metrics(self._folder, self.first_step, settings.wandb))
            self._trace = stack.enter_context(Trace(self._folder / "profile", settings.profile))
            self._preemption = stack.enter_context(PreemptionListener(self._layout))
            # All learning rates at once: step by step, each would queue behind the step on the device.
            self._rates = np.asarray(jax.vmap(make_schedule(settings))(jnp.arange(settings.steps)))
            self._stopwatch: Stopwatch | None = None
            if jax.process_index() == 0:
                remove(self._folder / NOT_FINITE)
                useful = (self._metrics.last_timing or {}).get("useful_seconds", 0.0)
                self._stopwatch = Stopwatch(first_start(self._folder), useful, self._flops_per_token)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def steps(self, until: int | None = None) -> Iterator[int]:
        """Yields the step numbers; saves checkpoints in between.

        Args:
          until: stop before this step, with a checkpoint from which the next call resumes; None for the last step.

        Raises:
          UserError: a loss or a gradient norm is not finite; the newest checkpoint is from before it.
          Preempted: the run received SIGTERM or SIGUSR1, and its state is saved.
        """
        settings = self._settings
        end = settings.steps if until is None else until
        for step in track(range(self.first_step, end), self._name, settings.steps, self.first_step):
            if step == self._trace.first:
                self.flush()
                self._trace.start()
            self._step, self._began = step, time.monotonic()
            self._lap = self._began
            yield step
            last = step + 1 == end
            if last or step == self._trace.last:
                self.flush()
            if step == self._trace.last:
                self._trace.stop()
            due = end < settings.steps if last else (step + 1) % settings.checkpoint_every == 0
            if self._preempted or due:
                self.flush()
                self._checkpoints.save(step + 1, self.state)
            if self._preempted:
                self._checkpoints.wait()
                raise Preempted(
                    f"{self._name}: preempted, saved at step {step + 1} of {settings.steps}; run the same command "
                    "again to resume."
                )
            self._checkpoints.check()

    def eval_due(self, step: int) -> bool:
        """Whether an evaluation is due before this step."""
        return step == 0 or (self._settings.eval_every > 0 and step % self._settings.eval_every == 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes a row of metrics, such as those of an evaluation, after the rows of earlier steps."""
        self.flush()
        self._metrics.write(step, dict(metrics))
        self._began = time.monotonic()

    def observe_updates(self, observe: Callable[[Mapping[str, float]], None]) -> None:
        """Calls `observe` with the row of each update, when it is written and the next update is dispatched."""
        self._observe = observe

    def lap(self, name: str) -> None:
        """Adds the seconds since the last lap, or the step's start, to the next update's row of `timing.jsonl`."""
        now = time.monotonic()
        self._seconds[name], self._lap = self._seconds.get(name, 0.0) + now - self._lap, now

    def wait(self) -> None:
        """Waits until the devices have finished the last update; `update_seconds` are logged with the next one."""
        if self._updated_at is not None:
            jax.block_until_ready(self.state.params)
            self._seconds["update_seconds"] = time.monotonic() - self._updated_at
            self._updated_at = None
        self._lap = time.monotonic()

    def update(
        self, train_step: TrainStep, batch: HostBatch, metrics: Mapping[str, float] | None = None,
        samples: Sequence[Mapping[str, Any]] = (),
    ) -> None:  # fmt: skip
        """Dispatches one optimizer step, then waits for the one before it and logs that.

        Args:
          train_step: from `make_train_step`.
          batch: this process's rows.
          metrics: of the batch, logged with the step's own.
          samples: of the batch, logged as a table; see `Metrics.write`.
        """
        self._updated_at, seconds, self._seconds = time.monotonic(), self._seconds, {}
        placed = self._layout.put_batch(batch)
        tokens = placed["tokens"].size if "tokens" in placed else 0
        self.state, scalars = train_step(self.state, placed)
        pending = _Pending(
            self._step, scalars, metrics or {}, seconds, self._preemption.received(), self._began, tokens, samples
        )
        self.flush()
        self._pending = pending

    def flush(self) -> None:
        """Waits for the dispatched step, if there is one, and logs it.

        Raises:
          UserError: its loss or its gradient norm is not finite.
        """
        if self._pending is None:
            return
        done, self._pending = self._pending, None
        scalars, preempted = jax.device_get((done.scalars, done.preempted))
        self._preempted |= bool(preempted)
        values = {name: float(value) for name, value in scalars.items()}
        for name in ("loss", "grad_norm"):
            if name in values and not math.isfinite(values[name]):
                raise self._not_finite(done.step, name, values)
        if self._perplexity:
            values["perplexity"] = math.exp(min(values["loss"], MAX_LOG_PERPLEXITY))
        values |= {**done.metrics, "lr": float(self._rates[done.step])}
        timing = {**self._stopwatch.row(done.began, done.tokens), **done.seconds} if self._stopwatch else None
        self._metrics.write(done.step, values, timing, done.samples)
        if self._observe:
            self._observe({"step": done.step, **values})

    def _not_finite(self, step: int, name: str, values: dict[str, float]) -> UserError:
        report = self._folder / NOT_FINITE
        if jax.process_index() == 0:
            not_finite = {key: str(values[key]) for key in ("loss", "grad_norm") if key in values}
            records = list(self._records_at(step)) if self._records_at else []
            write_json(report, {"step": step} | not_finite | {"records": records})
        return UserError(
            f"{self._name}: the {name.replace('grad_norm', 'gradient norm')} of step {step} is {values[name]}; the run "
            f"stops before saving it: lower peak_lr, or look at the records that {report} names."
        )
