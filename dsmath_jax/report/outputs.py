"""Reads the outputs of a run's stages from its workdir.

A stage is finished once its `manifest.json` exists. Stages that are unfinished or were not asked for are left out and
listed in `missing`.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dsmath_jax.workdir import MANIFEST, UserError, read_json, read_jsonl

STAGE_LABELS = {
    "corpus": "corpus",
    "tokenizer": "tokenizer",
    "pretrain": "pre-training",
    "sft": "supervised fine-tuning",
    "reward_model": "reward model",
    "process_model": "process reward model",
    "rl": "reinforcement learning",
    "evaluate": "evaluation",
}
REWARD_STAGES = ("reward_model", "process_model")  # optional: only some RL methods use them, so never `missing`
MODEL_LABELS = {"base": "Base", "sft": "SFT", "rl": "RL"}

# The metrics of each training stage that the report summarizes by their first, last, lowest and highest values.
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
# The phases of an RL step, in `timing.jsonl`.
PHASES = {"sample_seconds": "sampling", "score_seconds": "scoring", "update_seconds": "updates"}

CORPUS_FIELDS = (
    "pages_read",
    "documents_kept",
    "precision",
    "recall",
    "contaminated_removed",
    "contaminated_labeled",
    "funnel",
    "iterations",
    "languages",
    "damage",
    "token_counter",
)
REWARD_MODEL_FIELDS = ("accuracy", "auc", "n")
SCORES = {"greedy": "greedy", "maj_at_k": "maj@k", "pass_at_k": "pass@k"}  # field -> label
TASK_FIELDS = (*SCORES, *(f"{score}_interval" for score in SCORES), "n", "k")
EVALUATE_FIELDS = (*TASK_FIELDS, "temperature")
GREEDY = -1  # the sample index of a greedy completion in an evaluation's samples

COMPLETION_MODELS = ("rl", "sft")
COMPLETIONS_SHOWN = 3
SAMPLES_SHOWN = 3  # for each of three steps

DEFINITIONS = {
    "*_first, *_last": "mean over the first and the last tenth of the steps at which it was measured (at least one)",
    "evaluate": "fractions of n held-out problems, over all tasks and for each task; intervals are 95 %; "
    "num_overlapping counts the problems that are in the model's training data (null: not known)",
    "corpus.precision, corpus.recall": "of the pages collected, against page labels; null without labels",
    "rl": "means over a step's completions, or tokens; reward_std is over completions; reward_errors, reward_abstained "
    "and num_masked are counts; step_skipped is 1 or 0; findings has the first step of each",
    "seconds": "wall time; the only values here that differ between two runs of the same seed on one machine",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """The results of a run: `report` is written as `report.json`, everything else is only on the page.

    Attributes:
      report: the contents of `report.json`.
      manifests: stage -> its manifest.
      metrics: training stage -> rows of its metrics.jsonl and, for RL, its timing.jsonl.
      domains: hosts of the crawl, most collected first.
      completions: model -> "correct" or "incorrect" -> greedy completions of the evaluation.
      samples: rollout samples of the first, a middle and the last RL step.
      findings: reasons why the RL run may not have learned, each with the step where it was seen and a sample.
    """

    report: dict[str, Any]
    manifests: dict[str, dict[str, Any]]
    metrics: dict[str, list[dict[str, Any]]]
    domains: list[dict[str, Any]]
    completions: dict[str, dict[str, list[dict[str, Any]]]]
    samples: list[dict[str, Any]]
    findings: list[dict[str, Any]]


def read(workdir: Path) -> Run:
    """Reads the finished stages below `workdir`.

    Raises:
      UserError: no stage has finished, or a file of a finished stage is missing, broken or lacks a field.
    """
    manifests = {
        stage: _pick(workdir / stage / MANIFEST, ("seconds", "config", "versions"))
        for stage in STAGE_LABELS
        if (workdir / stage / MANIFEST).is_file()
    }
    if not manifests:
        raise UserError(f"No stage has finished below {workdir}; run the stages before the report.")
    report: dict[str, Any] = {
        "missing": [stage for stage in STAGE_LABELS if stage not in manifests and stage not in REWARD_STAGES]
    }
    metrics, domains, completions, samples, findings = {}, [], {}, [], []
    if "corpus" in manifests:
        path = workdir / "corpus" / "summary.json"
        report["corpus"] = _pick(path, CORPUS_FIELDS)
        domains = _pick(path, ("domains",))["domains"]
    for stage in METRICS:
        if stage in manifests:
            metrics[stage] = _read_metrics(workdir / stage / "metrics.jsonl", METRICS[stage])
            report[stage] = _summarize(metrics[stage], METRICS[stage])
    for stage in REWARD_STAGES:
        if stage in manifests:
            path = workdir / stage / "summary.json"
            report[stage] |= _pick(path, REWARD_MODEL_FIELDS) | {"majority_class": _json(path).get("majority_class")}
    if "rl" in manifests:
        timing = workdir / "rl" / "timing.jsonl"
        rows = _read_metrics(timing, PHASES) if timing.is_file() else []
        metrics["rl"] += rows
        seconds = {name: math.fsum(series(rows, phase)[1]) for phase, name in PHASES.items() if series(rows, phase)[1]}
        report["rl"] |= {"seconds": seconds} if seconds else {}
        samples = _rollout_samples(workdir / "rl" / "samples.jsonl")
        findings = _findings(workdir / "rl" / "findings.jsonl")
        seen = {finding["kind"]: finding["step"] for finding in reversed(findings) if not finding["normal"]}
        report["rl"] |= {"findings": seen} if seen else {}
        best = workdir / "rl" / "best" / "best.json"
        report["rl"] |= {"best": _pick(best, ("step", "eval_greedy"))} if best.is_file() else {}
    if "evaluate" in manifests:
        path = workdir / "evaluate" / "summary.json"
        scores = {model: _scores(summary, path) for model, summary in _json(path).items()}
        # A model whose answers could not be checked has no scores.
        report["evaluate"] = {model: score for model, score in scores.items() if score["greedy"] is not None}
        completions = {
            model: _completions(workdir / "evaluate" / model)
            for model in COMPLETION_MODELS
            if model in report["evaluate"]
        }
    report["definitions"] = DEFINITIONS
    report["seconds"] = {stage: manifest["seconds"] for stage, manifest in manifests.items()}
    return Run(report, manifests, metrics, domains, completions, samples, findings)


def greedy_answers(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yields the greedy completions in `evaluate/MODEL`, each with the folder of its task."""
    for path in sorted(folder.glob("*/samples.jsonl")):
        for line in read_jsonl(path):
            if line.get("sample") == GREEDY:
                yield path.parent, line


def series(rows: list[dict[str, Any]], metric: str) -> tuple[list[int], list[float]]:
    """Returns the steps at which `metric` was measured, and its values."""
    measured = [row for row in rows if row.get(metric) is not None]
    return [row["step"] for row in measured], [row[metric] for row in measured]


def _summarize(rows: list[dict[str, Any]], metrics: Iterable[str]) -> dict[str, Any]:
    summary: dict[str, Any] = {"steps": sum("loss" in row or "reward" in row for row in rows)}
    for metric in metrics:
        values = series(rows, metric)[1]
        if values:
            tenth = max(1, len(values) // 10)
            summary[f"{metric}_first"] = math.fsum(values[:tenth]) / tenth
            summary[f"{metric}_last"] = math.fsum(values[-tenth:]) / tenth
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


def _scores(summary: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns a model's scores on all problems together, and by task."""
    summary = _require(summary, ("pooled", "tasks"), path)
    tasks = {name: _require(scores, TASK_FIELDS, path) for name, scores in summary["tasks"].items()}
    overlapping = {"num_overlapping": summary["pooled"].get("num_overlapping")}
    return _require(summary["pooled"], EVALUATE_FIELDS, path) | overlapping | {"tasks": tasks}


def _completions(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the first few correct and incorrect greedy completions in file order, so that none is picked by hand."""
    chosen: dict[str, list[dict[str, Any]]] = {"correct": [], "incorrect": []}
    problems: dict[Path, dict[str, dict[str, Any]]] = {}
    for task, line in greedy_answers(folder):
        line = _require(line, ("id", "completion", "answer", "correct"), task / "samples.jsonl")
        rows = chosen["correct" if line["correct"] else "incorrect"]
        if len(rows) < COMPLETIONS_SHOWN:
            path = task / "problems.jsonl"
            if task not in problems:
                problems[task] = {row["id"]: row for row in read_jsonl(path)}
            problem = _require(problems[task].get(line["id"], {}), ("question", "answer"), path)
            rows.append(problem | {"greedy": line})
    return chosen


def _rollout_samples(path: Path) -> list[dict[str, Any]]:
    """Returns the first few samples of the first, the middle and the last step that has samples, if any has."""
    by_step: dict[int, list[dict[str, Any]]] = {}
    for row in read_jsonl(path) if path.is_file() else ():
        step = _require(row, ("step", "question", "completion", "reward"), path)["step"]
        by_step.setdefault(step, []).append({"answer": "", "finish": ""} | row)
    steps = sorted(by_step)
    shown = sorted({steps[0], steps[len(steps) // 2], steps[-1]}) if steps else []
    return [row for step in shown for row in by_step[step][:SAMPLES_SHOWN]]


def _findings(path: Path) -> list[dict[str, Any]]:
    fields = ("step", "kind", "message", "normal", "sample")
    return [_require(row, fields, path) for row in read_jsonl(path)] if path.is_file() else []


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
