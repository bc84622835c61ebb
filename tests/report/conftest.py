"""A finished workdir with plausible numbers, as the stages leave it, fabricated for the tests of the report."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsmath_jax.report import outputs, plots
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
    for number, stage in enumerate(outputs.STAGE_LABELS, 1):
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
    for stage, n in (("reward_model", 320), ("process_model", 1030)):
        write_jsonl(workdir / stage / "metrics.jsonl", rows)
        summary = {"accuracy": 0.83, "auc": 0.9, "n": n, "majority_class": 0.61}
        write_json(workdir / stage / "summary.json", summary)
    _rl(workdir / "rl", noise)
    _evaluate(workdir / "evaluate")


def _rl(folder: Path, noise: random.Random) -> None:
    """120 steps, two updates on every rollout, as GRPO with a reward model leaves them."""
    metrics: list[dict[str, Any]] = []
    timing, samples = [], []
    for step in range(120):
        metrics.append(
            {
                "step": step,
                "loss": 0.01,
                "reward": 0.7 - 0.3 * math.exp(-step / 30) + noise.gauss(0, 0.04),
                "reward_std": 0.4 + noise.gauss(0, 0.02),
                "rule_reward": 0.6 - 0.3 * math.exp(-step / 30) + noise.gauss(0, 0.04),
                "frac_reward_zero_std": 0.25 + 0.002 * step,
                "kl": 0.0004 * step + abs(noise.gauss(0, 0.002)),
                "clip_low": 0.001 * (step % 2),
                "clip_high": 0.002 * (step % 2),
                "entropy": 0.4 - 0.001 * step,
                "completion_length": 40 - 0.05 * step + noise.gauss(0, 1),
                "frac_truncated": 0.03125 if step % 4 == 0 else 0.0,
                "sampler_logprob_diff": 0.0002 + abs(noise.gauss(0, 0.0001)),
                "reward_errors": float(step % 40 == 7),
                "reward_abstained": float(step == 50),
                "num_masked": float(step % 40 == 7) + float(step == 50),
                "step_skipped": float(step == 51),
                "grad_norm": 0.3,
                "lr": 1e-5,
            }
        )
        if step % 30 == 0:
            metrics.append({"step": step, "eval_greedy": 0.5 + 0.001 * step})
        rollout = {"sample_seconds": 0.5, "score_seconds": 0.125} if step % 2 == 0 else {}
        timing.append({"step": step, "seconds": 1.0, **rollout, "update_seconds": 0.25})
        if step % 2 == 0:
            question = {"id": f"toy/rl/{step}", "question": f"Ana has {step} pens and gives 1 away. How many are left?"}
            correct = f"{step} - 1 = {step - 1}\nThe answer is {step - 1}."
            samples += [
                {"step": step, **question, "answer": str(step - 1), "completion": text, "reward": reward, "finish": end}
                for text, reward, end in (
                    (correct, 2.5, "eos"), (HOSTILE if step else "3 + " * 200, -1.25, "length"), ("", None, "eos"),
                    ("a fourth that is not shown", 0.0, "stop"),
                )
            ]  # fmt: skip
    write_jsonl(folder / "metrics.jsonl", metrics)
    write_jsonl(folder / "timing.jsonl", timing)
    write_jsonl(folder / "samples.jsonl", samples)


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
        "contaminated_labeled": 24,
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

    pooled = {"base": scores(0.025, 0.03, 0.14), "sft": scores(0.475, 0.52, 0.81), "rl": scores(0.65, 0.67, 0.82)}
    write_json(
        folder / "summary.json",
        {model: {"pooled": found, "tasks": {"toy/test": found}} for model, found in pooled.items()},
    )
    for model in pooled:
        problems, lines = [], []
        for index in range(8):
            correct = index % 2 == 0
            completion = f"She has {index} + 4 = {index + 4} apples.\nThe answer is {index + 4}."
            greedy = {"completion": completion if correct else HOSTILE, "answer": str(index + 4) if correct else None}
            problem, question = f"toy/test/{index}", f"Mei has {index} apples and buys 4. How many has she now?"
            problems.append({"id": problem, "question": question, "answer": str(index + 4)})
            lines.append({"id": problem, "sample": -1, "correct": correct} | greedy)
            lines.append({"id": problem, "sample": 0, "correct": correct, "class": 0} | greedy)
        write_jsonl(folder / model / "toy_test-cot" / "problems.jsonl", problems)
        write_jsonl(folder / model / "toy_test-cot" / "samples.jsonl", lines)


@pytest.fixture
def drawn() -> None:
    """Requested by tests of the drawings themselves."""


@pytest.fixture(autouse=True)
def without_drawing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives all other tests empty plots, since drawing those of a page takes a second."""
    if "drawn" not in request.fixturenames:

        def empty(name: str, title: str, description: str, *_: object) -> plots.Plot:
            canvas = '<svg viewBox="0 0 1 1"><g id="figure_1"></g></svg>'
            return plots.Plot(title, description, plots._embed(canvas, name, title, description))

        monkeypatch.setattr(plots, "_plot", empty)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    folder = tmp_path / "toy_run"
    fabricate(folder)
    return folder


@pytest.fixture
def change(workdir: Path) -> Callable[[str, dict[str, Any]], None]:
    """Replaces fields of a JSON file of the workdir; nested objects are merged."""
    from dsmath_jax.workdir import read_json

    def merged(value: Any, new: Any) -> Any:
        if not (isinstance(value, dict) and isinstance(new, dict)):
            return new
        return value | {name: merged(value.get(name), one) for name, one in new.items()}

    def apply(path: str, fields: dict[str, Any]) -> None:
        write_json(workdir / path, merged(read_json(workdir / path), fields))

    return apply
