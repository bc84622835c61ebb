"""Metrics of a stage: `metrics.jsonl`, `timing.jsonl`, TensorBoard events and, when asked for, Weights & Biases."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import jax
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from dsmath_jax.extras import required_by
from dsmath_jax.training.goodput import first_start
from dsmath_jax.workdir import hash_json, write_jsonl


class StepLog:
    """A JSONL file with a row a step. A resumed run drops the rows of steps that it will do again.

    `last` is the row before the first one that is to come, if there is one.
    """

    def __init__(self, path: Path, first_step: int):
        kept = []
        if path.is_file():
            for line in path.read_bytes().splitlines():
                try:
                    row = json.loads(line)
                except ValueError:  # of JSON or of UTF-8
                    break  # a kill or a full disk cut this line off; nothing follows it, and its step is done again
                if row["step"] < first_step:
                    kept.append(row)
        self.last: dict[str, Any] | None = kept[-1] if kept else None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO | None = None
        if jax.process_index() == 0:
            write_jsonl(path, kept)
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open until `close`

    def write(self, row: dict) -> None:
        if self._file is not None:
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Metrics:
    """Scalars by step. `step` counts from 0; a row with `eval_` names tells of the parameters before that step.

    What depends on the clock goes to `timing.jsonl`, so that `metrics.jsonl` of a resumed run is that of an undisturbed
    one, byte for byte. TensorBoard and Weights & Biases show both. Process 0 alone writes.

    Events are written here, not by tensorboardX's thread: a full disk would end that thread alone, and the next `put`
    into its queue would wait for ever.
    """

    def __init__(self, folder: Path, first_step: int, wandb: str = ""):
        """`wandb` is the project of Weights & Biases to send to, "" for none.

        Raises:
          UserError: a project is named, but the package is not installed.
        """
        self._log = StepLog(folder / "metrics.jsonl", first_step)
        self._timing = StepLog(folder / "timing.jsonl", first_step)
        self.last_timing = self._timing.last
        self._board: EventsWriter | None = None
        self._run: Any = None
        if jax.process_index() == 0:
            (folder / "tensorboard").mkdir(parents=True, exist_ok=True)
            self._board = EventsWriter(str(folder / "tensorboard" / "events"))
            restart = SessionLog(status=SessionLog.START)  # what was shown from this step on no longer counts
            self._board.write_event(Event(wall_time=time.time(), step=first_step, session_log=restart))
            if wandb:
                self._run = _wandb_run(folder, wandb)

    def write(self, step: int, scalars: dict[str, float], timing: dict[str, float] | None = None) -> None:
        self._log.write({"step": step, **scalars})
        if timing:
            self._timing.write({"step": step, **timing})
        shown = scalars | (timing or {})
        if self._board is not None:
            for name, value in shown.items():
                scalar = summary.scalar(name, value)
                self._board.write_event(Event(wall_time=time.time(), step=step, summary=scalar))
            self._board.flush()
        if self._run is not None:
            self._run.log(shown | {"train_step": step})

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
    """The module of Weights & Biases.

    Raises:
      UserError: it is not installed.
    """
    with required_by(f"wandb='{project}'"):
        import wandb
    return wandb


def _wandb_run(folder: Path, project: str) -> Any:
    """The run of this folder, resumed where there is one already."""
    wandb, where = load_wandb(project), str(folder.absolute())
    identity = hash_json([where, first_start(folder)])[:16]
    run = wandb.init(
        project=project, name=f"{folder.parent.name}/{folder.name}", id=identity, resume="allow", dir=where
    )
    run.define_metric("*", step_metric="train_step")  # a resumed run shows some steps again
    return run
