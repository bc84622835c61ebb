"""A finished workdir with plausible numbers, as the stages leave it, made up for the tests of the report."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsmath_jax.workdir import write_json, write_jsonl

HOSTILE = '</pre><script>alert("no")</script> & 1 < 2, see <img src="http://example.org/x.png">'
ITERATION = {
    "positives": 60,
    "negatives": 240,
    "threshold": 0.4183,
    "tokens": 131_072,
    "overlap": 0.0,
    "new_domains": 4,
    "precision": 0.981,
    "recall": 0.802,
}


def fabricate(workdir: Path) -> None:
    noise = random.Random(0)
    for number, stage in enumerate(("corpus", "tokenizer", "pretrain", "sft", "reward_model", "rl", "evaluate"), 1):
        manifest = {
            "stage": stage,
            "seconds": 11.25 * number,
            "counts": {"items": 7 * number},
            "config": {"seed": 0, "steps": 100 * number, "note": "<b>bold</b>"},
            "inputs": {},
            "versions": {"python": "3.11", "jax": "0.10.2"},
        }
        write_json(workdir / stage / "manifest.json", manifest)
    _corpus(workdir / "corpus")
    write_jsonl(workdir / "pretrain" / "metrics.jsonl", _losses(400, 6.2, 1.6, noise))
    write_jsonl(workdir / "sft" / "metrics.jsonl", _losses(200, 2.4, 0.35, noise))
    rows = [
        {"step": step, "loss": 0.7 * math.exp(-step / 60), "accuracy": 0.85 - 0.3 * math.exp(-step / 20)}
        for step in range(1, 101)
    ]
    write_jsonl(workdir / "reward_model" / "metrics.jsonl", rows)
    write_json(workdir / "reward_model" / "summary.json", {"accuracy": 0.83, "auc": 0.9, "n": 320})
    rows = [
        {
            "step": step,
            "loss": 0.01,
            "reward": 0.7 - 0.3 * math.exp(-step / 30) + noise.gauss(0, 0.04),
            "kl": 0.0004 * step + abs(noise.gauss(0, 0.002)),
            "completion_length": 40 - 0.05 * step + noise.gauss(0, 1),
            "clip_fraction": 0.0,
            "entropy": 0.4,
        }
        for step in range(1, 121)
    ]
    write_jsonl(workdir / "rl" / "metrics.jsonl", rows)
    _evaluate(workdir / "evaluate")


def _losses(steps: int, first: float, last: float, noise: random.Random) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        loss = last + (first - last) * math.exp(-5 * step / steps)
        rows.append({"step": step, "loss": loss + noise.gauss(0, 0.05), "learning_rate": 1e-3})
        if step % (steps // 8) == 0:
            rows.append({"step": step, "eval_loss": loss + 0.08})
    return rows


def _corpus(folder: Path) -> None:
    domains = [
        {"host": f"mathematics-{i:02d}.example", "pages": 60, "collected": 58 - i, "share": (58 - i) / 60}
        | {"math_related": i < 12}
        for i in range(24)
    ]
    summary = {
        "pages_read": 3620,
        "documents_kept": 931,
        "precision": 0.968,
        "recall": 0.947,
        "contaminated_removed": 24,
        "contaminated_planted": 24,
        "funnel": [
            ["pages read", 3620],
            ["after URL de-duplication", 3301],
            ["after near-duplicates", 2890],
            ["above the threshold", 955],
            ["after decontamination", 931],
        ],
        "domains": domains,
        "iterations": [
            {"iteration": 1, "pages": 802} | ITERATION,
            {"iteration": 2, "pages": 955} | ITERATION | {"overlap": 0.84, "recall": 0.947, "new_domains": 2},
        ],
        "languages": {"en": 702, "zh": 229},
        "damage": {"bad checksum": 2, "truncated": 1},
        "token_counter": "characters / 4",
    }
    write_json(folder / "summary.json", summary)


def _evaluate(folder: Path) -> None:
    def scores(greedy: float, vote: float, reach: float) -> dict[str, Any]:
        values = {"greedy": greedy, "maj_at_k": vote, "pass_at_k": reach}
        intervals = {
            f"{name}_interval": [max(0.0, value - 0.06), min(1.0, value + 0.06)] for name, value in values.items()
        }
        return values | intervals | {"n": 240, "k": 8, "temperature": 0.7}

    summary = {"base": scores(0.025, 0.03, 0.14), "sft": scores(0.475, 0.52, 0.81), "rl": scores(0.65, 0.67, 0.82)}
    write_json(folder / "summary.json", summary)
    for model in summary:
        rows = []
        for index in range(8):
            right = index % 2 == 0
            completion = f"She has {index} + 4 = {index + 4} apples.\nThe answer is {index + 4}."
            greedy = {"completion": completion if right else HOSTILE, "answer": str(index + 4) if right else None}
            rows.append(
                {"id": f"toy/test/{index}", "question": f"Mei has {index} apples and buys 4. How many has she now?"}
                | {"answer": str(index + 4), "greedy": greedy | {"correct": right}, "samples": []}
            )
        write_jsonl(folder / f"{model}.jsonl", rows)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    folder = tmp_path / "toy_run"
    fabricate(folder)
    return folder


@pytest.fixture
def change(workdir: Path) -> Callable[[str, dict[str, Any]], None]:
    """Replaces fields of a JSON file of the workdir; nested objects are merged one level deep."""
    from dsmath_jax.workdir import read_json

    def apply(path: str, fields: dict[str, Any]) -> None:
        value = read_json(workdir / path)
        for name, new in fields.items():
            value[name] = value[name] | new if isinstance(new, dict) and isinstance(value.get(name), dict) else new
        write_json(workdir / path, value)

    return apply
