"""Compares methods: `dsmath report --runs runs/fig5/* --out docs/fig5`.

Reads the `evaluate/` folders of finished runs and, where they have them, the `rl/` folders. RL runs that differ only in
the seed are one method, and so are all SFT models; methods are in the order of their first runs. Writes `accuracy.svg`
(greedy accuracy over the RL steps, or at the end if it was not measured during training), `votes.svg` (maj@k and pass@k
over k), `comparison.json` with the numbers, and `comparison.md` with tables.

Each mean over seeds has two 95 % intervals. Over problems: the problems are resampled (bootstrap), the models stay the
same. Over seeds: Student's t for the means of the runs, the problems stay the same. The first covers other problems,
the second other seeds.
"""

import argparse
import dataclasses
import itertools
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsmath_jax.formatting import duration, interval, percent, points
from dsmath_jax.intervals import bootstrap_interval
from dsmath_jax.report import comparison_plots
from dsmath_jax.report.outputs import greedy_answers, series
from dsmath_jax.workdir import (
    MANIFEST,
    UserError,
    atomic_write,
    exit_code,
    folder_name,
    local_path,
    read_json,
    read_jsonl,
    write_json,
)

EVAL = "eval_greedy"  # the RL metric that is accuracy during training
# The 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; for more, the last is slightly conservative.
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Result:
    """One evaluated model of one run.

    Attributes:
      workdir: the run's workdir.
      method: "base", "sft" or the RL method.
      settings: the RL stage's config without its seed; empty for models from before RL.
      seed: the run's seed.
      correct: task and problem -> whether the greedy answer is correct.
      curve: maj@k and pass@k over k, from the evaluation's summary.
      steps: the RL steps at which greedy accuracy was measured.
      accuracy: greedy accuracy at those steps.
      seconds: wall time of the RL stage.
    """

    workdir: Path
    method: str
    settings: Mapping[str, Any]
    seed: int
    correct: Mapping[str, bool]
    curve: Mapping[str, Any]
    steps: Sequence[int]
    accuracy: Sequence[float]
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class Method:
    """The runs of one method, one per seed; `greedy` is `[seeds, problems]`: 1 where the greedy answer is correct."""

    name: str
    results: Sequence[Result]
    greedy: np.ndarray


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds and problems with both intervals; a single run has no interval over seeds."""

    mean: float
    over_problems: Interval | None
    over_seeds: Interval | None


def read(workdir: Path) -> list[Result]:
    """Returns the evaluated models of a run, without the base model where there are others.

    Raises:
      UserError: the evaluation is not finished, or its summary has no maj@k and pass@k.
    """
    if not (workdir / "evaluate" / MANIFEST).is_file():
        raise UserError(f"{workdir} has no finished evaluation; run its command to the end, or remove it from --runs.")
    summary = read_json(workdir / "evaluate" / "summary.json")
    chosen = [model for model in summary if model != "base" or len(summary) == 1]
    return [_result(workdir, model, summary[model]["pooled"]) for model in chosen]


def _result(workdir: Path, model: str, scores: Mapping[str, Any]) -> Result:
    stage = "rl" if model == "rl" else "evaluate"
    manifest = read_json(workdir / stage / MANIFEST)
    if "curve" not in scores:
        raise UserError(
            f"{workdir} was evaluated without maj@k and pass@k over k; evaluate it again with --overwrite=evaluate."
        )
    answers = greedy_answers(workdir / "evaluate" / folder_name(model))
    correct = {f"{task.name}: {line['id']}": bool(line["correct"]) for task, line in answers}
    if model != "rl":
        return Result(workdir, model, {}, manifest["config"]["seed"], correct, scores["curve"], (), (), None)
    config = dict(manifest["config"])
    seed, method = config.pop("seed"), config["rl.method"]
    steps, accuracy = series(list(read_jsonl(workdir / "rl" / "metrics.jsonl")), EVAL)
    return Result(workdir, method, config, seed, correct, scores["curve"], steps, accuracy, manifest["seconds"])


def group(results: Iterable[Result]) -> list[Method]:
    """Groups results by config into methods, in the order of their first results.

    Raises:
      UserError: two runs of a method have the same seed, or runs were evaluated on different problems.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(repr((result.method, sorted(result.settings.items()))), []).append(result)
    if not groups:
        raise UserError("--runs names no run.")
    first = next(iter(groups.values()))[0]
    for members in groups.values():
        seeds: dict[int, Result] = {}
        for result in members:
            if result.correct.keys() != first.correct.keys():
                raise UserError(
                    f"{result.workdir} and {first.workdir} were evaluated on different problems; compare runs with the "
                    "same evaluate.tasks and evaluate.problems."
                )
            if result.seed in seeds:
                raise UserError(
                    f"{result.workdir} and {seeds[result.seed].workdir} are both {result.method} with seed "
                    f"{result.seed}; remove one from --runs."
                )
            seeds[result.seed] = result
    names = _names([members[0] for members in groups.values()])
    return [
        Method(name, members, np.array([[result.correct[key] for key in first.correct] for result in members], float))
        for name, members in zip(names, groups.values(), strict=True)
    ]


def _names(firsts: Sequence[Result]) -> list[str]:
    """Returns each group's method, followed by the settings in which groups of the same method differ."""
    names = []
    for result in firsts:
        same = [other.settings for other in firsts if other.method == result.method]
        fields = sorted({field for settings in same for field in settings})
        varying = [field for field in fields if any(other.get(field) != result.settings.get(field) for other in same)]
        names.append(" ".join([result.method, *(f"{field}={result.settings.get(field)}" for field in varying)]))
    return names


def estimate(values: np.ndarray) -> Estimate:
    """Returns the mean of `values`, `[seeds, problems]`, with its intervals."""
    runs = values.mean(axis=1)
    over_seeds = None
    if len(runs) > 1:
        margin = STUDENT_T[min(len(runs) - 1, len(STUDENT_T)) - 1] * float(np.std(runs, ddof=1)) / math.sqrt(len(runs))
        over_seeds = (float(runs.mean()) - margin, float(runs.mean()) + margin)
    return Estimate(float(values.mean()), bootstrap_interval(values.mean(axis=0), seed=0), over_seeds)


def gain(method: Method, baseline: Method) -> Estimate:
    """Returns the difference in greedy accuracy, paired by problem."""
    return difference(method, baseline, method.greedy, baseline.greedy)


def votes_gain(method: Method, baseline: Method, name: str) -> Estimate:
    """Returns the difference in "maj" or "pass" at the largest k that both methods have.

    The summaries have no values per problem, so there is no interval over problems.
    """
    k = max({*method.results[0].curve["k"]} & {*baseline.results[0].curve["k"]})
    values, baseline_values = (
        np.array([[result.curve[name][result.curve["k"].index(k)]] for result in one.results])
        for one in (method, baseline)
    )
    return dataclasses.replace(difference(method, baseline, values, baseline_values), over_problems=None)


def difference(method: Method, baseline: Method, values: np.ndarray, baseline_values: np.ndarray) -> Estimate:
    """Returns the mean of `values - baseline_values`, both `[seeds, problems]`, paired by problem.

    It is also paired by seed where both methods have the same seeds. A method with a single run, such as the SFT model
    that all others start from, is paired with every run of the other. Otherwise there is no interval over seeds.
    """
    seeds, baseline_seeds = [[result.seed for result in one.results] for one in (method, baseline)]
    if sorted(seeds) == sorted(baseline_seeds):
        return estimate(values[np.argsort(seeds)] - baseline_values[np.argsort(baseline_seeds)])
    if 1 in (len(seeds), len(baseline_seeds)):
        return estimate(values - baseline_values)
    return estimate((values.mean(axis=0) - baseline_values.mean(axis=0))[None])


def comparison_rows(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Returns a row per method: the contents of `comparison.json`, from which tables and plots are made."""
    rows: list[dict[str, Any]] = []
    for index, method in enumerate(methods):
        seconds = [result.seconds for result in method.results if result.seconds is not None]
        gains = _gains(method, methods[index - 1]) if index else {}
        rows.append(
            {
                "method": method.name,
                "seeds": [result.seed for result in method.results],
                "greedy": dataclasses.asdict(estimate(method.greedy)),
                "gains": {name: dataclasses.asdict(gain) for name, gain in gains.items()},
                "curve": _mean_curve([result.curve for result in method.results]),
                "training": _mean_training(method.results),
                "seconds": sum(seconds) / len(seconds) if seconds else None,
            }
        )
    return rows


def _gains(method: Method, baseline: Method) -> dict[str, Estimate]:
    votes = {name: votes_gain(method, baseline, name) for name in ("maj", "pass")}
    return {"greedy": gain(method, baseline)} | votes


def _mean_curve(curves: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """Averages maj@k and pass@k over seeds; bands are the range over seeds, or a single run's own interval."""
    ks = [k for k in curves[0]["k"] if all(k in curve["k"] for curve in curves)]
    mean: dict[str, list] = {"k": ks}
    for name in ("maj", "pass"):
        values = np.array([[curve[name][curve["k"].index(k)] for k in ks] for curve in curves])
        ends = np.stack([values.min(axis=0), values.max(axis=0)], axis=1).tolist()
        mean |= {name: values.mean(axis=0).tolist(), f"{name}_ends": ends}
        if len(curves) == 1:
            mean[f"{name}_ends"] = curves[0][f"{name}_interval"]
    return mean


def _mean_training(results: Sequence[Result]) -> dict[str, list]:
    """Averages accuracy over seeds, at the steps at which all runs measured it; `ends` is the range over seeds."""
    measured = [dict(zip(result.steps, result.accuracy, strict=True)) for result in results]
    steps = [step for step in measured[0] if all(step in run for run in measured)]
    values = np.array([[run[step] for step in steps] for run in measured])
    ends = np.stack([values.min(axis=0), values.max(axis=0)], axis=1).tolist()
    return {"step": steps, "accuracy": values.mean(axis=0).tolist(), "ends": ends}


def markdown(rows: Sequence[dict[str, Any]], problems: int) -> str:
    """Returns the tables and the links to the plots in Markdown."""
    k = rows[0]["curve"]["k"][-1]
    lines = [
        f"Greedy accuracy on {problems} held-out problems: mean over seeds with 95 % intervals over problems "
        "(bootstrap) and over seeds (Student's t; none for a single run). A gain is over the row above, paired by "
        "problem and by seed.",
        "",
        f"| method | seeds | greedy | over problems | over seeds | maj@{k} | pass@{k} | RL, wall clock |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_row(row) for row in rows),
        "",
        f"| from → to | greedy | over problems | over seeds | maj@{k}, over seeds | pass@{k}, over seeds |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_gain_row(row, baseline) for baseline, row in itertools.pairwise(rows)),
        "",
        "![Greedy accuracy](accuracy.svg)",
        "",
        "![maj@k and pass@k](votes.svg)",
        "",
    ]
    return "\n".join(lines)


def _ends(ends: Interval | None) -> str:
    return "–" if ends is None else f"{interval(ends)} %"


def _row(row: Mapping[str, Any]) -> str:
    greedy, curve = row["greedy"], row["curve"]
    cells = (
        row["method"], ", ".join(map(str, row["seeds"])), percent(greedy["mean"]), _ends(greedy["over_problems"]),
        _ends(greedy["over_seeds"]), percent(curve["maj"][-1]), percent(curve["pass"][-1]),
        "–" if row["seconds"] is None else duration(row["seconds"]),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _gain_row(row: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    greedy, *votes = (row["gains"][name] for name in ("greedy", "maj", "pass"))
    cells = (
        f"{baseline['method']} → {row['method']}", points(greedy["mean"], "+.1f"), _ends(greedy["over_problems"]),
        _ends(greedy["over_seeds"]),
        *(f"{points(vote['mean'], '+.1f')}, {_ends(vote['over_seeds'])}" for vote in votes),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def write(runs: Sequence[Path], out: Path) -> str:
    """Compares runs: writes `accuracy.svg`, `votes.svg`, `comparison.json` and `comparison.md`; returns the Markdown.

    Raises:
      UserError: a run cannot be read, or cannot be compared with the others.
    """
    methods = group(result for run in runs for result in read(run))
    rows = comparison_rows(methods)
    text = markdown(rows, methods[0].greedy.shape[1])
    plots = {"accuracy.svg": comparison_plots.accuracy(rows), "votes.svg": comparison_plots.votes(rows)}
    for name, svg in plots.items():
        with atomic_write(out / name) as file:
            file.write(svg)
    write_json(out / "comparison.json", rows)
    with atomic_write(out / "comparison.md") as file:
        file.write(text)
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; `arguments` default to those of the process."""
    parser = argparse.ArgumentParser(
        "dsmath report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", nargs="+", type=local_path, required=True, metavar="DIR", help="workdirs of finished runs"
    )
    parser.add_argument(
        "--out", type=local_path, required=True, metavar="FOLDER", help="folder for the tables and plots"
    )
    values = parser.parse_args(arguments)
    print(write(values.runs, values.out))


if __name__ == "__main__":
    sys.exit(exit_code(main))
