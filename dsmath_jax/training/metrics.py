"""Metrics of a stage: `metrics.jsonl` and TensorBoard events."""

import json
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import jax
from tensorboardX import SummaryWriter

from dsmath_jax.workdir import write_jsonl


class StepLog:
    """A JSONL file with a row a step. A resumed run drops the rows of steps that it will do again."""

    def __init__(self, path: Path, first_step: int):
        kept = []
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    break  # a kill cut this line off; nothing follows it, and its step is done again
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
    """Scalars by step. `step` counts from 0; a row with `eval_` names tells of the parameters before that step."""

    def __init__(self, folder: Path, first_step: int):
        self._log = StepLog(folder / "metrics.jsonl", first_step)
        self._board = (
            SummaryWriter(str(folder / "tensorboard"), purge_step=first_step) if jax.process_index() == 0 else None
        )

    def write(self, step: int, scalars: dict[str, float]) -> None:
        self._log.write({"step": step, **scalars})
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()
        if self._board is not None:
            self._board.close()
