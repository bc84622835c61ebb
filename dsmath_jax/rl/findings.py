"""Logs the findings of a run (`rl.diagnosis`) and writes them to `rl/findings.jsonl`."""

import json
import logging
from pathlib import Path
from typing import Any, Self

import jax

from dsmath_jax.rl.diagnosis import Diagnosis, Finding, Row
from dsmath_jax.training.metrics import StepLog
from dsmath_jax.workdir import read_jsonl

FILE = "findings.jsonl"
SAMPLE_CHARS = 300  # of a sample's question or completion; of longer ones the middle is left out
TAIL_BYTES = 2**24  # of samples.jsonl, which may have all completions of a long run


class Findings:
    """The findings of a run, each logged and written at the step where it is seen, with a sample of its rollout.

    A resumed run has the findings of the earlier rows of `metrics.jsonl` again, without logging them. Only process 0
    has findings.
    """

    def __init__(self, folder: Path, diagnosis: Diagnosis, first_step: int, steps_per_rollout: int):
        """
        Args:
          folder: of the stage; it has `metrics.jsonl` and `samples.jsonl`, and gets `findings.jsonl`.
          diagnosis: without any rows.
          first_step: the step that the run starts or resumes at.
          steps_per_rollout: optimizer steps of each rollout.
        """
        self._folder, self._diagnosis, self._steps_per_rollout = folder, diagnosis, steps_per_rollout
        self._log = StepLog(folder / FILE, first_step)
        if jax.process_index() == 0 and first_step:
            for row in read_jsonl(folder / "metrics.jsonl"):
                if row["step"] < first_step and "loss" in row:
                    diagnosis.add(row)

    def observe(self, row: Row) -> None:
        """Logs and writes what the row of an update shows for the first time."""
        if jax.process_index():
            return
        for finding in self._diagnosis.add(row):
            step = int(row["step"])
            sample = sample_of(self._folder / "samples.jsonl", step - step % self._steps_per_rollout)
            self._log.write({"step": step, **finding._asdict(), "sample": sample})
            _report(step, finding, sample)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._log.close()


def sample_of(path: Path, step: int) -> dict[str, Any] | None:
    """Returns the first row of a step near the end of `samples.jsonl`, with shortened texts; None without one.

    If the rows of the step are more than TAIL_BYTES, it is the first one within these.
    """
    found = None
    for line in reversed(_tail(path)) if path.is_file() else ():
        row = json.loads(line)
        if row["step"] < step:
            break
        found = row if row["step"] == step else found
    return found and {name: shorten(x) if isinstance(x, str) else x for name, x in found.items() if name != "step"}


def _tail(path: Path) -> list[bytes]:
    """Returns the whole lines in the last TAIL_BYTES of a file."""
    with open(path, "rb") as file:
        start = max(0, path.stat().st_size - TAIL_BYTES)
        file.seek(start)
        return file.read().splitlines()[1 if start else 0 :]


def shorten(text: str, chars: int = SAMPLE_CHARS) -> str:
    """Returns the text, or its beginning and its end with "[...]" between them."""
    return text if len(text) <= chars else f"{text[: chars // 2]} [...] {text[-(chars // 2) :]}"


def _report(step: int, finding: Finding, sample: dict[str, Any] | None) -> None:
    message = f"rl: step {step}: {finding.message}"
    if finding.normal:
        print(message, flush=True)
    elif sample is None:
        logging.warning("%s", message)
    else:
        reward, completion = sample["reward"], sample["completion"]
        shown = "no reward" if reward is None else f"reward {reward:g}"
        facts = f"{shown}, ended by {sample['finish']}, the record's answer is {sample['answer']!r}"
        logging.warning("%s A sample (%s): %r", message, facts, completion)
