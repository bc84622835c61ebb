"""Metrics of a stage: `metrics.jsonl` and TensorBoard events."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import jax
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from dsmath_jax.workdir import write_jsonl


class StepLog:
    """A JSONL file with a row a step. A resumed run drops the rows of steps that it will do again."""

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

    Events are written here, not by tensorboardX's thread: a full disk would end that thread alone, and the next `put`
    into its queue would wait for ever.
    """

    def __init__(self, folder: Path, first_step: int):
        self._log = StepLog(folder / "metrics.jsonl", first_step)
        self._board: EventsWriter | None = None
        if jax.process_index() == 0:
            (folder / "tensorboard").mkdir(parents=True, exist_ok=True)
            self._board = EventsWriter(str(folder / "tensorboard" / "events"))
            restart = SessionLog(status=SessionLog.START)  # what was shown from this step on no longer counts
            self._board.write_event(Event(wall_time=time.time(), step=first_step, session_log=restart))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        self._log.write({"step": step, **scalars})
        if self._board is not None:
            for name, value in scalars.items():
                scalar = summary.scalar(name, value)
                self._board.write_event(Event(wall_time=time.time(), step=step, summary=scalar))
            self._board.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()
        if self._board is not None:
            self._board.close()
