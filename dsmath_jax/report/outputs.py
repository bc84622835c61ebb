"""What the stages of a run left below its workdir, read back as numbers.

A stage counts as finished when its `manifest.json` is there. Stages that are unfinished or were not asked for are left
out, and their names are in `missing`.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dsmath_jax.workdir import MANIFEST, UserError, read_json, read_jsonl

STAGES = ("corpus", "tokenizer", "pretrain", "sft", "reward_model", "process_model", "rl", "evaluate")
REWARD_STAGES = ("reward_model", "process_model")
OPTIONAL = REWARD_STAGES  # only some methods of RL have a use for them: not missed where they are not there

# The metrics of a training stage whose first and last values stand in the report.
METRICS = {
    "pretrain": ("loss", "eval_loss"),
    "sft": ("loss", "eval_loss"),
    "reward_model": ("loss", "accuracy"),
    "process_model": ("loss", "accuracy"),
    "rl": (
        "reward",
        "reward_std",
        "rule_reward",
        "eval_greedy",
        "kl",
        "clip_low",
        "clip_high",
        "entropy",
        "completion_length",
        "frac_truncated",
        "num_masked",
        "frac_reward_zero_std",
        "sampler_logprob_diff",
        "reward_errors",
        "reward_abstained",
        "step_skipped",
    ),
}
# The phases of a step of RL, in `timing.jsonl`.
PHASES = {"sample_seconds": "sampling", "score_seconds": "scoring", "update_seconds": "updates"}

CORPUS_FIELDS = (
    "pages_read",
    "documents_kept",
    "precision",
    "recall",
    "contaminated_removed",
    "contaminated_planted",
    "funnel",
    "iterations",
    "languages",
    "damage",
    "token_counter",
)
REWARD_MODEL_FIELDS = ("accuracy", "auc", "n")
SCORES = ("greedy", "maj_at_k", "pass_at_k")
TASK_FIELDS = (*SCORES, *(f"{score}_interval" for score in SCORES), "n", "k")
EVALUATE_FIELDS = (*TASK_FIELDS, "temperature")
GREEDY = -1  # the number of a greedy completion in an evaluation's samples

COMPLETION_MODELS = ("rl", "sft")
COMPLETIONS_SHOWN = 3
SAMPLES_SHOWN = 3  # of each of three steps

DEFINITIONS = {
    "*_first, *_last": "mean over the first and the last tenth of the steps at which it was measured (at least one)",
    "evaluate": "fractions of n held-out problems, of all tasks together and of each; intervals are 95 %; "
    "num_overlapping of the problems are in the data sets that the model was trained on (null: not known)",
    "corpus.precision, corpus.recall": "of the documents kept, against page labels; null without labels",
    "rl": "means over a step's completions, or tokens; reward_std is over completions, reward_errors, reward_abstained "
    "and num_masked count; step_skipped is 1 or 0",
    "seconds": "wall time; the only values here that differ between two runs of the same seed on one machine",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's results: `report` is `report.json`, the rest is what only the page shows."""

    report: dict[str, Any]
    manifests: dict[str, dict[str, Any]]  # stage -> its manifest
    metrics: dict[str, list[dict[str, Any]]]  # training stage -> rows of its metrics.jsonl, RL's timing.jsonl
    domains: list[dict[str, Any]]  # hosts of the crawl, most collected first
    completions: dict[str, dict[str, list[dict[str, Any]]]]  # model -> "right", "wrong" -> rows
    samples: list[dict[str, Any]]  # what the policy sampled at the begin, in the middle and at the end of RL


def read(workdir: Path) -> Run:
    """Reads the finished stages below `workdir`.

    Raises:
      UserError: no stage has finished, or a file of a finished one is missing, broken or lacks a field.
    """
    manifests = {
        stage: _pick(workdir / stage / MANIFEST, ("seconds", "config", "versions"))
        for stage in STAGES
        if (workdir / stage / MANIFEST).is_file()
    }
    if not manifests:
        raise UserError(f"No stage has finished below {workdir}; run the stages before the report.")
    report: dict[str, Any] = {
        "missing": [stage for stage in STAGES if stage not in manifests and stage not in OPTIONAL]
    }
    metrics, domains, completions, samples = {}, [], {}, []
    if "corpus" in manifests:
        path = workdir / "corpus" / "summary.json"
        report["corpus"] = _pick(path, CORPUS_FIELDS)
        domains = _pick(path, ("domains",))["domains"]
    for stage in METRICS:
        if stage in manifests:
            metrics[stage] = _read_metrics(workdir / stage / "metrics.jsonl", METRICS[stage])
            report[stage] = _first_and_last(metrics[stage], METRICS[stage])
    for stage in REWARD_STAGES:
        if stage in manifests:
            path = workdir / stage / "summary.json"
            report[stage] |= _pick(path, REWARD_MODEL_FIELDS) | {"majority_class": _json(path).get("majority_class")}
    if "rl" in manifests:
        timing = workdir / "rl" / "timing.jsonl"
        rows = _read_metrics(timing, PHASES) if timing.is_file() else []
        metrics["rl"] += rows
        spent = {name: math.fsum(series(rows, phase)[1]) for phase, name in PHASES.items() if series(rows, phase)[1]}
        report["rl"] |= {"seconds": spent} if spent else {}
        samples = _sampled(workdir / "rl" / "samples.jsonl")
    if "evaluate" in manifests:
        path = workdir / "evaluate" / "summary.json"
        scores = {model: _scores(found, path) for model, found in _json(path).items()}
        # A model whose answers nothing could check has no scores.
        report["evaluate"] = {model: found for model, found in scores.items() if found["greedy"] is not None}
        completions = {
            model: _choose(workdir / "evaluate" / model) for model in COMPLETION_MODELS if model in report["evaluate"]
        }
    report["definitions"] = DEFINITIONS
    report["seconds"] = {stage: manifest["seconds"] for stage, manifest in manifests.items()}
    return Run(report, manifests, metrics, domains, completions, samples)


def greedy_answers(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The greedy completions of a model's evaluation, `evaluate/MODEL`: each with the folder of its task."""
    for path in sorted(folder.glob("*/samples.jsonl")):
        for line in read_jsonl(path):
            if line.get("sample") == GREEDY:
                yield path.parent, line


def series(rows: list[dict[str, Any]], metric: str) -> tuple[list[int], list[float]]:
    """The steps at which `metric` was measured, and its values there."""
    measured = [row for row in rows if row.get(metric) is not None]
    return [row["step"] for row in measured], [row[metric] for row in measured]


def tenth(values: list[float]) -> int:
    """How many values a tenth is: at least one."""
    return max(1, len(values) // 10)


def _first_and_last(rows: list[dict[str, Any]], metrics: Iterable[str]) -> dict[str, Any]:
    summary: dict[str, Any] = {"steps": sum("loss" in row or "reward" in row for row in rows)}
    for metric in metrics:
        values = series(rows, metric)[1]
        if values:
            count = tenth(values)
            summary[f"{metric}_first"] = math.fsum(values[:count]) / count
            summary[f"{metric}_last"] = math.fsum(values[-count:]) / count
            summary[f"{metric}_min"], summary[f"{metric}_max"] = min(values), max(values)
    return summary


def _read_metrics(path: Path, metrics: Iterable[str]) -> list[dict[str, Any]]:
    rows = list(read_jsonl(path))
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("step"), int):
            raise UserError(f"{path}, record {number}: 'step' is not a whole number; {_redo(path)}")
        for metric in metrics:
            value = row.get(metric)
            if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
                raise UserError(f"{path}, record {number}: '{metric}' is not a finite number; {_redo(path)}")
    return rows


def _scores(found: dict[str, Any], path: Path) -> dict[str, Any]:
    """A model's scores on all problems, and by task."""
    found = _require(found, ("pooled", "tasks"), path)
    tasks = {name: _require(scores, TASK_FIELDS, path) for name, scores in found["tasks"].items()}
    overlapping = {"num_overlapping": found["pooled"].get("num_overlapping")}
    return _require(found["pooled"], EVALUATE_FIELDS, path) | overlapping | {"tasks": tasks}


def _choose(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The first few greedy completions in file order, right and wrong: not picked by hand or by beauty."""
    chosen: dict[str, list[dict[str, Any]]] = {"right": [], "wrong": []}
    problems: dict[Path, dict[str, dict[str, Any]]] = {}
    for task, line in greedy_answers(folder):
        line = _require(line, ("id", "completion", "answer", "correct"), task / "samples.jsonl")
        kind = chosen["right" if line["correct"] else "wrong"]
        if len(kind) < COMPLETIONS_SHOWN:
            path = task / "problems.jsonl"
            if task not in problems:
                problems[task] = {row["id"]: row for row in read_jsonl(path)}
            problem = _require(problems[task].get(line["id"], {}), ("question", "answer"), path)
            kind.append(problem | {"greedy": line})
    return chosen


def _sampled(path: Path) -> list[dict[str, Any]]:
    """The first few samples of the first, the middle and the last step that have some; not all methods sample."""
    steps: dict[int, list[dict[str, Any]]] = {}
    for row in read_jsonl(path) if path.is_file() else ():
        found = _require(row, ("step", "question", "completion", "reward"), path)
        steps.setdefault(found["step"], []).append({"answer": "", "finish": ""} | row)
    chosen = sorted(steps)
    places = sorted({0, len(chosen) // 2, len(chosen) - 1}) if chosen else []
    return [row for place in places for row in steps[chosen[place]][:SAMPLES_SHOWN]]


def _json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except (OSError, ValueError):
        raise UserError(f"{path} cannot be read as JSON; {_redo(path)}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object; {_redo(path)}")
    return value


def _pick(path: Path, fields: Iterable[str]) -> dict[str, Any]:
    return _require(_json(path), fields, path)


def _require(value: dict[str, Any], fields: Iterable[str], path: Path) -> dict[str, Any]:
    for field in fields:
        if field not in value:
            raise UserError(f"{path}: the field '{field}' is missing; {_redo(path)}")
    return {field: value[field] for field in fields}


def _redo(path: Path) -> str:
    stage = next((folder for folder in path.parents if (folder / MANIFEST).is_file()), path.parent)
    return f"redo the stage with --overwrite={stage.name}."
