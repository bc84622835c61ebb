"""Logs the metrics of a stage to `metrics.jsonl`, `timing.jsonl`, TensorBoard and, optionally, Weights & Biases."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import jax
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from dsmath_jax.extras import required_by
from dsmath_jax.training.goodput import first_start
from dsmath_jax.training.sample_table import markdown, sample_table
from dsmath_jax.workdir import hash_json


class StepLog:
    """A JSONL file with a row per step. A resumed run drops the rows of steps that it repeats.

    `last` is the last row kept, None without rows.
    """

    def __init__(self, path: Path, first_step: int):
        self.last: dict[str, Any] | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = 0  # bytes
        if path.is_file():
            with open(path, "rb") as rows:
                for line in rows:
                    row = _whole_row(line)
                    if row is None or row["step"] >= first_step:
                        break
                    self.last, kept = row, kept + len(line)
        self._file: TextIO | None = None
        if jax.process_index() == 0:
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open until `close`
            self._file.truncate(kept)

    def write(self, row: dict) -> None:
        """Appends a row and flushes it."""
        if self._file is not None:
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _whole_row(line: bytes) -> dict[str, Any] | None:
    """Returns the row of a line; None for one cut off by a kill or a full disk, which is the last: its step repeats."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:  # of JSON or of UTF-8
        return None


class Metrics:
    """Writes scalars by step, and tables of samples.

    Steps count from 0; `eval_` metrics are of the parameters before the step.

    Metrics that depend on the clock go to `timing.jsonl`, so that `metrics.jsonl` of a resumed run equals that of an
    uninterrupted one, byte for byte. TensorBoard and Weights & Biases get both, and the tables. Only process 0 writes.

    Events are written here, not by tensorboardX's thread: a full disk would end only that thread, and the next `put`
    into its queue would block forever.
    """

    def __init__(self, folder: Path, first_step: int, wandb: str = ""):
        """`wandb` is the project of Weights & Biases to log to, "" for none.

        Raises:
          UserError: there is a project, but the package is not installed.
        """
        self._log = StepLog(folder / "metrics.jsonl", first_step)
        self._timing = StepLog(folder / "timing.jsonl", first_step)
        self.last_timing = self._timing.last
        self._board: EventsWriter | None = None
        self._run: Any = None
        self._wandb: Any = None
        if jax.process_index() == 0:
            (folder / "tensorboard").mkdir(parents=True, exist_ok=True)
            self._board = EventsWriter(str(folder / "tensorboard" / "events"))
            restart = SessionLog(status=SessionLog.START)  # discards events from this step on
            self._board.write_event(Event(wall_time=time.time(), step=first_step, session_log=restart))
            if wandb:
                self._wandb = load_wandb(wandb)
                self._run = _wandb_run(self._wandb, folder, wandb)

    def write(
        self, step: int, scalars: dict[str, float], timing: dict[str, float] | None = None,
        samples: Sequence[Mapping[str, Any]] = (),
    ) -> None:  # fmt: skip
        """Logs the metrics of a step, and some of its samples, which have the same fields."""
        self._log.write({"step": step, **scalars})
        if timing:
            self._timing.write({"step": step, **timing})
        logged = scalars | (timing or {})
        table = sample_table(samples) if samples else None
        if self._board is not None:
            summaries = [summary.scalar(name, value) for name, value in logged.items()]
            if table:
                summaries.append(summary.text("samples", markdown(table)))
            for each in summaries:
                self._board.write_event(Event(wall_time=time.time(), step=step, summary=each))
            self._board.flush()
        if self._run is not None:
            tables = {"samples": self._wandb.Table(columns=table.columns, data=table.rows)} if table else {}
            self._run.log(logged | tables | {"train_step": step})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()
        self._timing.close()
        if self._board is not None:
            self._board.close()
        if self._run is not None:
            self._run.finish(exit_code=0 if error is None else 1)


def load_wandb(project: str) -> Any:
    """Imports the module of Weights & Biases.

    Raises:
      UserError: it is not installed.
    """
    with required_by(f"wandb='{project}'"):
        import wandb
    return wandb


def _wandb_run(wandb: Any, folder: Path, project: str) -> Any:
    """Returns the run of this folder, resumed if it exists."""
    directory = str(folder.absolute())
    run_id = hash_json([directory, first_start(folder)])[:16]
    run = wandb.init(
        project=project, name=f"{folder.parent.name}/{folder.name}", id=run_id, resume="allow", dir=directory
    )
    run.define_metric("*", step_metric="train_step")  # a resumed run repeats some steps
    return run
