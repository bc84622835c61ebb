"""Methods side by side: `dsmath report --runs runs/fig5/* --out docs/fig5`.

Reads finished runs (their `evaluate/`, and `rl/` where they have it). Runs that differ in nothing but the seed are one
method, in the order in which the first of each is given. Writes `accuracy.svg` (greedy accuracy over the steps of RL,
where it was measured, else at the end), `votes.svg` (maj@k and pass@k over k), `comparison.json` with the numbers, and
`comparison.md` with tables.

Two intervals stand beside a mean over seeds, both 95 %. Over problems: the problems drawn anew, for these very models.
Over seeds: Student's t for the means of the runs, on these very problems. The first tells whether other problems, the
second whether other seeds could have given another result.
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

from dsmath_jax.intervals import bootstrap_interval
from dsmath_jax.report import comparison_plots
from dsmath_jax.report.outputs import greedy_answers, series
from dsmath_jax.report.words import duration, interval, percent
from dsmath_jax.workdir import (
    MANIFEST,
    UserError,
    atomic_write,
    exit_code,
    local_path,
    read_json,
    read_jsonl,
    write_json,
)

EVAL = "eval_greedy"  # the metric of RL that is accuracy during training
# Student's t at 97.5 % for 1, 2, ... degrees of freedom; for more of them the last is a little too wide.
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Result:
    """One evaluated model of one run.

    Attributes:
      workdir: of the run.
      method: "base", "sft" or the RL method.
      settings: the RL stage's config but for what its seed is; empty for models from before RL.
      seed: of the run.
      correct: task and problem -> whether the greedy answer is right.
      curve: maj@k and pass@k over k, from the evaluation's summary.
      steps, accuracy: greedy accuracy during RL, and the steps it was measured at.
      seconds: of the RL stage.
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
    """The runs of one method, one per seed; `greedy` is `[seeds, problems]`, right or wrong."""

    name: str
    results: Sequence[Result]
    greedy: np.ndarray


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds and problems with both intervals, as far as known: there is none over seeds of one run."""

    mean: float
    over_problems: Interval | None
    over_seeds: Interval | None


def read(workdir: Path) -> list[Result]:
    """The evaluated models of a run, but for the base model where there are others.

    Raises:
      UserError: its evaluation is not finished, or a file lacks what is read.
    """
    if not (workdir / "evaluate" / MANIFEST).is_file():
        raise UserError(f"{workdir} has no finished evaluation; run its command to the end, or leave it out of --runs.")
    summary = read_json(workdir / "evaluate" / "summary.json")
    chosen = [model for model in summary if model != "base" or len(summary) == 1]
    return [_result(workdir, model, summary[model]["pooled"]) for model in chosen]


def _result(workdir: Path, model: str, scores: Mapping[str, Any]) -> Result:
    stage = "rl" if model == "rl" else "evaluate"
    manifest = read_json(workdir / stage / MANIFEST)
    if "curve" not in scores:
        raise UserError(f"{workdir} was evaluated without maj@k and pass@k over k; --overwrite=evaluate tells them.")
    answers = greedy_answers(workdir / "evaluate" / model)
    correct = {f"{task.name}: {line['id']}": bool(line["correct"]) for task, line in answers}
    if model != "rl":
        return Result(workdir, model, {}, manifest["config"]["seed"], correct, scores["curve"], (), (), None)
    config = dict(manifest["config"])
    seed, method = config.pop("seed"), config["rl.method"]
    steps, accuracy = series(list(read_jsonl(workdir / "rl" / "metrics.jsonl")), EVAL)
    return Result(workdir, method, config, seed, correct, scores["curve"], steps, accuracy, manifest["seconds"])


def group(results: Iterable[Result]) -> list[Method]:
    """Runs with one config become one method, in the order they come.

    Raises:
      UserError: two runs of a method have one seed, or runs were evaluated on other problems than the first.
    """
    groups: dict[str, list[Result]] = {}
    for one in results:
        groups.setdefault(repr((one.method, sorted(one.settings.items()))), []).append(one)
    if not groups:
        raise UserError("--runs names no run.")
    first = next(iter(groups.values()))[0]
    for found in groups.values():
        seeds: dict[int, Result] = {}
        for one in found:
            if one.correct.keys() != first.correct.keys():
                raise UserError(
                    f"{one.workdir} was evaluated on other problems than {first.workdir}; compare runs with the same "
                    "evaluate.tasks and evaluate.problems."
                )
            if one.seed in seeds:
                raise UserError(
                    f"{one.workdir} and {seeds[one.seed].workdir} are both {one.method} with seed {one.seed}; leave "
                    "one out of --runs."
                )
            seeds[one.seed] = one
    names = _names([found[0] for found in groups.values()])
    return [
        Method(name, found, np.array([[one.correct[key] for key in first.correct] for one in found], float))
        for name, found in zip(names, groups.values(), strict=True)
    ]


def _names(firsts: Sequence[Result]) -> list[str]:
    """Each group's method, with the settings in which it is unlike others of the same method."""
    names = []
    for one in firsts:
        same = [other.settings for other in firsts if other.method == one.method]
        fields = sorted({field for settings in same for field in settings})
        unlike = [field for field in fields if any(other.get(field) != one.settings.get(field) for other in same)]
        names.append(" ".join([one.method, *(f"{field}={one.settings.get(field)}" for field in unlike)]))
    return names


def estimate(values: np.ndarray) -> Estimate:
    """The mean of `[seeds, problems]` with its intervals."""
    runs = values.mean(axis=1)
    over_seeds = None
    if len(runs) > 1:
        reach = T[min(len(runs) - 1, len(T)) - 1] * float(np.std(runs, ddof=1)) / math.sqrt(len(runs))
        over_seeds = (float(runs.mean()) - reach, float(runs.mean()) + reach)
    return Estimate(float(values.mean()), bootstrap_interval(values.mean(axis=0), seed=0), over_seeds)


def gain(one: Method, before: Method) -> Estimate:
    """How much more often the greedy answers of `one` are right than those of `before`, problem by problem."""
    return difference(one, before, one.greedy, before.greedy)


def votes_gain(one: Method, before: Method, name: str) -> Estimate:
    """By how much `one` goes beyond `before` in "maj" or "pass" at the largest k that both have.

    The problems' own values are in neither summary, so there is no interval over problems.
    """
    k = max({*one.results[0].curve["k"]} & {*before.results[0].curve["k"]})
    ours, theirs = (
        np.array([[result.curve[name][result.curve["k"].index(k)]] for result in method.results])
        for method in (one, before)
    )
    return dataclasses.replace(difference(one, before, ours, theirs), over_problems=None)


def difference(one: Method, before: Method, ours: np.ndarray, theirs: np.ndarray) -> Estimate:
    """The mean of `ours` - `theirs`, both `[seeds, problems]`, seed by seed where both have the same seeds.

    A method of one run stands for itself beside all runs of the other: the SFT model that all begin with. Where the
    seeds are neither the same nor one, there is no interval over seeds.
    """
    seeds, earlier = [[result.seed for result in method.results] for method in (one, before)]
    if sorted(seeds) == sorted(earlier):
        return estimate(ours[np.argsort(seeds)] - theirs[np.argsort(earlier)])
    if 1 in (len(seeds), len(earlier)):
        return estimate(ours - theirs)
    return estimate((ours.mean(axis=0) - theirs.mean(axis=0))[None])


def clear(difference: Estimate) -> str:
    """What a difference comes to: "more" or "less" where there are intervals and none holds 0, else "open"."""
    known = [ends for ends in (difference.over_problems, difference.over_seeds) if ends is not None]
    if known and all(low > 0 for low, _ in known):
        return "more"
    return "less" if known and all(high < 0 for _, high in known) else "open"


def numbers(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """A row per method: what `comparison.json` holds and the tables and plots are made of."""
    rows: list[dict[str, Any]] = []
    for place, method in enumerate(methods):
        spent = [one.seconds for one in method.results if one.seconds is not None]
        gains = _gains(method, methods[place - 1]) if place else {}
        rows.append(
            {
                "method": method.name,
                "seeds": [one.seed for one in method.results],
                "greedy": dataclasses.asdict(estimate(method.greedy)),
                "gains": {name: dataclasses.asdict(one) | {"is": clear(one)} for name, one in gains.items()},
                "curve": _mean_curve([one.curve for one in method.results]),
                "training": _mean_training(method.results),
                "seconds": sum(spent) / len(spent) if spent else None,
            }
        )
    return rows


def _gains(one: Method, before: Method) -> dict[str, Estimate]:
    votes = {name: votes_gain(one, before, name) for name in ("maj", "pass")}
    return {"greedy": gain(one, before)} | votes


def _mean_curve(curves: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """maj@k and pass@k, the mean over seeds; their ends are the lowest and highest seed, of one run its interval."""
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
    """Accuracy at the steps at which all runs were measured: the mean over seeds, the lowest and the highest."""
    measured = [dict(zip(one.steps, one.accuracy, strict=True)) for one in results]
    steps = [step for step in measured[0] if all(step in run for run in measured)]
    values = np.array([[run[step] for step in steps] for run in measured])
    ends = np.stack([values.min(axis=0), values.max(axis=0)], axis=1).tolist()
    return {"step": steps, "accuracy": values.mean(axis=0).tolist(), "ends": ends}


def markdown(rows: Sequence[dict[str, Any]], problems: int) -> str:
    """The tables and the plots' places, in Markdown."""
    k = rows[0]["curve"]["k"][-1]
    lines = [
        f"Greedy accuracy on {problems} held-out problems: mean over seeds with 95 % intervals over problems "
        "(bootstrap) and over seeds (Student's t; of one run there is none). A gain is over the row above, problem by "
        "problem and seed by seed; where an interval holds 0 it is open.",
        "",
        f"| method | seeds | greedy | over problems | over seeds | maj@{k} | pass@{k} | RL, wall clock |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_row(row) for row in rows),
        "",
        f"| from → to | greedy | over problems | over seeds | is | maj@{k}, over seeds | pass@{k}, over seeds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_gain(row, before) for before, row in itertools.pairwise(rows)),
        "",
        "![Greedy accuracy](accuracy.svg)",
        "",
        "![maj@k and pass@k](votes.svg)",
        "",
    ]
    return "\n".join(lines)


def _ends(ends: Interval | None) -> str:
    return "–" if ends is None else interval(ends)


def _row(row: Mapping[str, Any]) -> str:
    greedy, curve = row["greedy"], row["curve"]
    cells = (
        row["method"], ", ".join(map(str, row["seeds"])), percent(greedy["mean"]), _ends(greedy["over_problems"]),
        _ends(greedy["over_seeds"]), percent(curve["maj"][-1]), percent(curve["pass"][-1]),
        "–" if row["seconds"] is None else duration(row["seconds"]),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _gain(row: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    greedy, *votes = (row["gains"][name] for name in ("greedy", "maj", "pass"))
    cells = (
        f"{before['method']} → {row['method']}", f"{100 * greedy['mean']:+.1f}", _ends(greedy["over_problems"]),
        _ends(greedy["over_seeds"]), greedy["is"],
        *(f"{100 * one['mean']:+.1f}, {_ends(one['over_seeds'])}" for one in votes),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def write(runs: Sequence[Path], out: Path) -> str:
    """Compares the runs, writes the files of the module's docstring below `out` and returns the Markdown.

    Raises:
      UserError: a run cannot be read or does not fit the others.
    """
    methods = group(result for run in runs for result in read(run))
    rows = numbers(methods)
    text = markdown(rows, methods[0].greedy.shape[1])
    drawn = {"accuracy.svg": comparison_plots.accuracy(rows), "votes.svg": comparison_plots.votes(rows)}
    for name, svg in drawn.items():
        with atomic_write(out / name) as file:
            file.write(svg)
    write_json(out / "comparison.json", rows)
    with atomic_write(out / "comparison.md") as file:
        file.write(text)
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "dsmath report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", nargs="+", type=local_path, required=True, metavar="DIR", help="workdirs of finished runs"
    )
    parser.add_argument("--out", type=local_path, required=True, metavar="FOLDER", help="gets the tables and plots")
    values = parser.parse_args(arguments)
    print(write(values.runs, values.out))


if __name__ == "__main__":
    sys.exit(exit_code(main))
