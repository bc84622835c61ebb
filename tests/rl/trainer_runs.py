"""Runs of `rl.trainer` at a tiny size, and what tests compare of them. The fixtures of conftest.py make them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.rl import trainer
from dsmath_jax.rl.rollout_files import RolloutFiles
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sharding import Layout
from dsmath_jax.training.model_files import read_model, read_params
from dsmath_jax.workdir import read_jsonl

SEED = 3
LOGS = ("metrics.jsonl", "samples.jsonl", "findings.jsonl", "best/best.json")


@dataclasses.dataclass(frozen=True)
class RLRun:
    """What `trainer.run` takes besides the workdir."""

    settings: RLSettings
    data_dir: Path
    layout: Layout

    def run(self, workdir: Path) -> None:
        trainer.run(self.settings, None, ChatSettings(), workdir, self.data_dir, self.layout, SEED)

    def interrupt(self, workdir: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        """Runs until the rollout of this step is read, and no further."""
        read = RolloutFiles.read

        def stop_at_step(self: RolloutFiles, at: int) -> Any:
            found = read(self, at)
            if at == step:
                raise KeyboardInterrupt
            return found

        self.run_interrupted(workdir, monkeypatch, RolloutFiles, "read", stop_at_step)

    def run_interrupted(
        self, workdir: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, replacement: Callable[..., Any]
    ) -> None:
        """Runs with the function `name` of `owner` replaced by one that raises `KeyboardInterrupt` at some call."""
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, replacement)
            with pytest.raises(KeyboardInterrupt):
                self.run(workdir)


def metrics(workdir: Path) -> list[dict]:
    """The rows of the stage's metrics."""
    return list(read_jsonl(workdir / "rl" / "metrics.jsonl"))


def weights(workdir: Path, layout: Layout, stage: str = "rl") -> dict[str, Any]:
    """The parameters that a stage has left."""
    model = read_model(workdir / stage, layout)
    return jax.tree.map(np.asarray, read_params(workdir / stage, model.config, layout))


def equal(one: Any, other: Any) -> bool:
    """Whether two trees of parameters are equal bit by bit."""
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def assert_same_results(one: Path, other: Path, layout: Layout) -> None:
    """Asserts that two workdirs have the same logs, findings, parameters and best policy, byte by byte."""
    logs = [
        {name: path.read_bytes() for name in LOGS if (path := workdir / "rl" / name).is_file()}
        for workdir in (one, other)
    ]
    assert logs[0] == logs[1]
    assert {"metrics.jsonl", "findings.jsonl"} <= logs[0].keys()
    assert equal(weights(one, layout), weights(other, layout))
    if "best/best.json" in logs[0]:
        assert equal(*(weights(workdir, layout, "rl/best") for workdir in (one, other)))
