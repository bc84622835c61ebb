"""Logs: rows of steps that are done again go, times have a file of their own, Weights & Biases on request."""

import html
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from dsmath_jax.training.goodput import Stopwatch, memory
from dsmath_jax.training.metrics import Metrics, StepLog
from dsmath_jax.training.sample_table import MAX_ROWS
from dsmath_jax.workdir import UserError, read_jsonl


def test_a_log_drops_the_steps_to_come_and_a_line_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [json.dumps({"step": step}) for step in range(6)]
    path.write_text("\n".join(lines) + '\n{"step": 6, "lo')
    log = StepLog(path, first_step=4)
    log.write({"step": 4, "again": True})
    log.close()
    assert list(read_jsonl(path)) == [{"step": step} for step in range(4)] + [{"step": 4, "again": True}]


def test_clock_dependent_metrics_have_their_own_file_and_are_shown_together(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0) as metrics:
        metrics.write(0, {"eval_loss": 3.0})
        metrics.write(0, {"loss": 2.0}, {"seconds": 0.5})
    assert list(read_jsonl(tmp_path / "metrics.jsonl")) == [{"step": 0, "eval_loss": 3.0}, {"step": 0, "loss": 2.0}]
    assert list(read_jsonl(tmp_path / "timing.jsonl")) == [{"step": 0, "seconds": 0.5}]
    shown = next((tmp_path / "tensorboard").iterdir()).read_bytes()
    assert all(name in shown for name in (b"eval_loss", b"loss", b"seconds"))
    assert Metrics(tmp_path, 1).last_timing == {"step": 0, "seconds": 0.5}
    assert Metrics(tmp_path, 0).last_timing is None


class FakeWandb(types.ModuleType):
    """Keeps what is sent to it."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []
        self.ended: list[int] = []

    def init(self, **arguments: Any) -> "FakeWandb":
        self.runs.append(arguments)
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "train_step")

    def log(self, row: dict[str, Any]) -> None:
        self.logged.append(row)

    def Table(self, columns: list[str], data: list[list]) -> dict[str, list]:  # noqa: N802 - as wandb has it
        return {"columns": columns, "data": data}

    def finish(self, exit_code: int) -> None:
        self.ended.append(exit_code)


def test_weights_and_biases_resumes_the_run_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)

    def cut(folder: Path, first: int) -> None:
        with Metrics(folder, first, wandb="mathematics") as metrics:
            metrics.write(first, {"loss": 2.0}, {"seconds": 0.5})
            raise ValueError("cut")

    for first in (0, 4):
        with pytest.raises(ValueError, match="cut"):
            cut(tmp_path / "sft", first)
    with Metrics(tmp_path / "pretrain", 0, wandb="mathematics"):
        pass
    one, again, other = fake.runs
    assert one == again
    assert (one["project"], one["name"], one["resume"]) == ("mathematics", f"{tmp_path.name}/sft", "allow")
    assert other["id"] != one["id"]
    assert fake.logged == [{"loss": 2.0, "seconds": 0.5, "train_step": step} for step in (0, 4)]
    assert fake.ended == [1, 1, 0]


SAMPLES = [
    {
        "prompt": 0,
        "completion": "|x| = 3\n\n*so* <b>&amp; `5` [a](b) \\|",
        "reward": 1.0,
        "rule_reward": None,
        "runs": [3],
    },
    {"prompt": 0, "completion": "y" * 5_000, "reward": -0.25, "rule_reward": 0.0, "runs": []},
    *({"prompt": n, "completion": "", "reward": 0.0, "rule_reward": 0.0, "runs": []} for n in range(30)),
]


def read_events(path: Path) -> list[Event]:
    """The events of a file of TensorBoard: TFRecords of a length, its checksum, the data and its checksum."""
    data, events = path.read_bytes(), []
    while data:
        end = 12 + int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12:end]))
        data = data[end + 4 :]
    return events


def test_samples_are_a_table_of_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with Metrics(tmp_path / "rl", 0, wandb="mathematics") as metrics:
        metrics.write(4, {"loss": 2.0}, samples=SAMPLES)
        metrics.write(5, {"loss": 1.0})
    logged, without = fake.logged
    assert without == {"loss": 1.0, "train_step": 5}
    table = logged.pop("samples")
    assert logged == {"loss": 2.0, "train_step": 4}
    assert table["columns"] == ["prompt", "completion", "reward", "rule_reward"]
    assert len(table["data"]) == MAX_ROWS
    assert table["data"][0] == [0, SAMPLES[0]["completion"], 1.0, None]
    assert table["data"][1][1] == "y" * 2_000 + " … (3,000 more characters)"


def test_samples_are_a_markdown_table_of_tensorboard(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0) as metrics:
        metrics.write(4, {"loss": 2.0}, samples=SAMPLES)
    [path] = (tmp_path / "tensorboard").iterdir()
    [text] = [
        value for event in read_events(path) for value in event.summary.value if value.tag == "samples/text_summary"
    ]
    assert text.metadata.plugin_data.plugin_name == "text"
    head, rule, first, *others = text.tensor.string_val[0].decode().splitlines()
    assert head == "| prompt | completion | reward | rule_reward |"
    assert rule == "| --- | --- | --- | --- |"
    assert len(others) == MAX_ROWS - 1
    assert {line.count("|") for line in (first, *others)} == {5}
    cell = first.split(" | ")[1]
    assert not set(cell.replace("<br>", "")) & set("|*<>`[]\\")
    assert html.unescape(cell.replace("<br>", "\n")) == SAMPLES[0]["completion"]


def test_missing_weights_and_biases_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"^wandb='mathematics' needs the package wandb: .*\[wandb\]'.$"):
        Metrics(tmp_path, 0, wandb="mathematics")


def test_a_stopwatch_counts_every_second_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps overlap by what the host is ahead; what lies between two steps belongs to none."""
    clock = {"now": 0.0}
    monkeypatch.setattr("time.monotonic", lambda: clock["now"])
    monkeypatch.setattr("time.time", lambda: 1000.0 + clock["now"])
    watch = Stopwatch(began=990.0, useful_seconds=4.0, flops_per_token=None)

    def row(began: float, now: float) -> dict[str, float]:
        clock["now"] = now
        return watch.row(began, tokens=60)

    first = row(began=1.0, now=6.0)
    assert (first["seconds"], first["useful_seconds"], first["goodput"]) == (5.0, 4.0, 4 / 16)  # it compiled
    second = row(began=5.0, now=8.0)  # begun while the first was on its way
    assert (second["seconds"], second["tokens_per_second"], second["useful_seconds"]) == (2.0, 30.0, 6.0)
    third = row(began=18.0, now=20.0)  # ten seconds of evaluation before it
    assert (third["seconds"], third["useful_seconds"], third["goodput"]) == (2.0, 8.0, 8 / 30)
    assert "mfu" not in third


def test_memory_is_reported_without_device_statistics() -> None:
    assert memory().get("memory_peak", 0) > 1e7
