"""One training loop for every stage: restore, step, log, checkpoint."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from dsmath_jax.progress import track
from dsmath_jax.sharding import Layout
from dsmath_jax.training import checkpoint
from dsmath_jax.training.goodput import Stopwatch, first_start
from dsmath_jax.training.metrics import Metrics
from dsmath_jax.training.optimizer import make_schedule
from dsmath_jax.training.preemption import Notice, Preempted
from dsmath_jax.training.prefetch import HostBatch
from dsmath_jax.training.profiling import Trace
from dsmath_jax.training.step import TrainState
from dsmath_jax.workdir import UserError, remove, write_json

NOT_FINITE = "not_finite.json"
PERPLEXITY_LIMIT = 700.0  # nats; e to the power of more is no float


def loop_fields(
    steps: int,
    checkpoint_every: int,
    keep: int = checkpoint.KEEP,
    eval_every: int = 0,
    eval_rows: int = 64,
    accumulate: int = 1,
    profile: tuple[int, ...] = (),
    wandb: str = "",
) -> dict:
    """The loop's fields of a stage's config.

    Args:
      steps: optimizer steps.
      checkpoint_every: steps between checkpoints.
      keep: checkpoints kept.
      eval_every: steps between evaluations; 0: only before the first step and after the last.
      eval_rows: held-out rows looked at, at most.
      accumulate: micro-batches of a step.
      profile: first and last step of a profiler trace, () for none.
      wandb: project of Weights & Biases, "" for none.
    """
    return {
        "steps": steps, "checkpoint_every": checkpoint_every, "keep": keep, "eval_every": eval_every,
        "eval_rows": eval_rows, "accumulate": accumulate, "profile": profile, "wandb": wandb,
    }  # fmt: skip


def fit(
    what: str,
    folder: Path,
    config: ConfigDict,
    layout: Layout,
    state: TrainState,
    train_step: Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Array]]],
    batch_at: Callable[[int, Any], tuple[HostBatch, dict[str, float]]],
    evaluate: Callable[[Any], dict[str, float]] | None = None,
    records_at: Callable[[int], Sequence[str]] | None = None,
    flops_per_token: float | None = None,
    perplexity: bool = False,
    until: int | None = None,
    exported: Callable[[Any], Any] = lambda params: params,
) -> TrainState:
    """Trains for `config.steps` steps, going on from the newest sound checkpoint below `folder`.

    The host is one step ahead of the devices: the scalars of a step are read when the next one is on its way, and
    before anything is saved, so that no checkpoint holds an update that came of a loss that is not finite.

    Args:
      what: the name beside the progress bar.
      folder: gets `checkpoints/`, `metrics.jsonl`, `timing.jsonl`, `tensorboard/` and at the end `params/`.
      config: `loop_fields` and the optimizer's fields.
      layout: where batches are put.
      state: the state at step 0; donated, and freed where a checkpoint takes its place.
      train_step: from `make_train_step`.
      batch_at: `(step, params) -> this process's rows, metrics of making them`; called in the order of the steps.
        Metrics that end in `_seconds` depend on the clock and go to `timing.jsonl`.
        `prefetch.Ahead` makes batches that do not depend on params while a step runs.
      evaluate: `params -> metrics` on held-out data.
      records_at: ids of the records in a step's batch, for the report of a loss that is not finite.
      flops_per_token: of the model, for MFU.
      perplexity: the loss is in nats a token, and its exponential is logged beside it.
      until: ends after so many steps instead, with a checkpoint from which the next call goes on, and no `params/`.
      exported: the part of the parameters that becomes `params/`.

    Raises:
      UserError: a loss or a gradient norm that is not finite; the newest checkpoint is from before it.
      Preempted: the run was told to end, and its state is saved.
    """
    checkpoints = checkpoint.Checkpoints(folder / "checkpoints", config.get("keep", checkpoint.KEEP))
    state, first = checkpoints.restore_latest(state)
    end = config.steps if until is None else until
    with (
        checkpoints,
        Metrics(folder, first, config.get("wandb", "")) as metrics,
        Trace(folder / "profile", config.get("profile", ())) as trace,
        Notice(layout) as notice,
    ):
        steps = _Steps(what, folder, config, metrics, records_at, flops_per_token, perplexity)
        for step in track(range(first, end), what, config.steps, first):
            if evaluate and (step == 0 or (config.eval_every and step % config.eval_every == 0)):
                steps.settle()
                metrics.write(step, evaluate(state.params))
            if step == trace.first:
                steps.settle()
                trace.start()
            began = time.monotonic()
            batch, extra = batch_at(step, state.params)
            placed = layout.batch(batch)
            tokens = placed["tokens"].size if "tokens" in placed else 0
            state, scalars = train_step(state, placed)
            steps.add(_Dispatched(step, scalars, extra, notice.ask(), began, tokens))
            last = step + 1 == end
            if last or step == trace.last:
                steps.settle()
            if step == trace.last:
                trace.stop()
            due = end < config.steps if last else (step + 1) % config.checkpoint_every == 0
            if steps.told_to_end or due:
                steps.settle()
                checkpoints.save(step + 1, state)
            if steps.told_to_end:
                checkpoints.wait()
                raise Preempted(
                    f"{what}: told to end, saved at step {step + 1} of {config.steps}; run the same command again, it "
                    "goes on from there."
                )
            checkpoints.check()
        if evaluate and end == config.steps:
            metrics.write(end, evaluate(state.params))
    if end == config.steps:
        checkpoint.save(folder / "params", exported(state.params))
    return state


class _Dispatched(NamedTuple):
    """A step on its way: what the devices have still to tell of it, and what the host knows."""

    step: int
    scalars: dict[str, Array]
    extra: dict[str, float]
    told_to_end: Array | bool
    began: float
    tokens: int


class _Steps:
    """Reads the steps' scalars, one step behind: checks them and writes them down."""

    def __init__(
        self,
        what: str,
        folder: Path,
        config: ConfigDict,
        metrics: Metrics,
        records_at: Callable[[int], Sequence[str]] | None,
        flops_per_token: float | None,
        perplexity: bool,
    ):
        self._what, self._report, self._metrics = what, folder / NOT_FINITE, metrics
        self._records_at, self._perplexity = records_at, perplexity
        # All rates at once: a schedule asked step by step would queue behind the step on the device, and wait for it.
        self._rates = np.asarray(jax.vmap(make_schedule(config, config.steps))(jnp.arange(config.steps)))
        self._stopwatch: Stopwatch | None = None
        if jax.process_index() == 0:
            remove(self._report)
            useful = (metrics.last_timing or {}).get("useful_seconds", 0.0)
            self._stopwatch = Stopwatch(first_start(folder), useful, flops_per_token)
        self._waiting: _Dispatched | None = None
        self.told_to_end = False

    def add(self, step: _Dispatched) -> None:
        """Takes a step that was just dispatched; settles the one before it."""
        self.settle()
        self._waiting = step

    def settle(self) -> None:
        """Waits for the step on its way, if there is one, and writes its row.

        Raises:
          UserError: its loss or its gradient norm is not finite.
        """
        if self._waiting is None:
            return
        done, self._waiting = self._waiting, None
        scalars, told_to_end = jax.device_get((done.scalars, done.told_to_end))
        self.told_to_end |= bool(told_to_end)
        values = {name: float(value) for name, value in scalars.items()}
        for name in ("loss", "grad_norm"):
            if name in values and not math.isfinite(values[name]):
                raise self._not_finite(done.step, name, values)
        if self._perplexity:
            values["perplexity"] = math.exp(min(values["loss"], PERPLEXITY_LIMIT))
        phases = {name: value for name, value in done.extra.items() if name.endswith("_seconds")}
        values |= {name: value for name, value in done.extra.items() if name not in phases}
        values["lr"] = float(self._rates[done.step])
        timing = self._stopwatch.row(done.began, done.tokens) | phases if self._stopwatch else None
        self._metrics.write(done.step, values, timing)

    def _not_finite(self, step: int, name: str, values: dict[str, float]) -> UserError:
        if jax.process_index() == 0:
            found = {key: str(values[key]) for key in ("loss", "grad_norm") if key in values}
            records = list(self._records_at(step)) if self._records_at else []
            write_json(self._report, {"step": step} | found | {"records": records})
        return UserError(
            f"{self._what}: the {name.replace('grad_norm', 'gradient norm')} of step {step} is {values[name]}; the run "
            f"stops before it is saved: lower peak_lr, or look at the records that {self._report} names."
        )
