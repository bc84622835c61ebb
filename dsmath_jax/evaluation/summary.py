"""Summarizes the graded completions of an evaluation: accuracies with 95 % intervals, by k and by subject, and counts.

The numbers depend on the lines of `samples.jsonl` only. Accuracies are shares of problems (micro averages). For data
sets with several subjects or tasks the mean of their accuracies (macro average) is reported too; the paper does not say
which it reports. The mean over tasks is usual for BBH, the share of problems for MMLU.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsmath_jax.evaluation.statistics import doublings, maj_at_k, pass_at_k
from dsmath_jax.intervals import mean_intervals, mean_share_interval, wilson_interval
from dsmath_jax.workdir import UserError, read_jsonl

Line = Mapping[str, Any]
GREEDY = -1  # the number of the greedy sample
FIELDS = ("answer", "correct", "correct_deepseek", "class", "reason", "finish", "ran")
LOST = ("timed out after ", "died: ", "raised: ")  # the start of reasons where a worker was lost
CUT = ("length", "rounds")  # finish reasons of truncated completions
MEANS = ("subject", "task")  # groups whose mean accuracy is reported
NOT_CHECKED = "not checked"  # the start of the reason where nothing could check an answer


@dataclasses.dataclass(frozen=True)
class Problem:
    """The graded completions of one problem.

    Attributes:
      id: of its record.
      greedy: the graded greedy completion or None: "answer" (or None), "correct", optionally "correct_deepseek",
        "reason", "finish", "ran" (the status of its program).
      samples: the graded samples; they also have "class", the index of the first sample with an equal answer, None
        without an answer.
      groups: its groups, such as "subject" -> "Algebra", "level" -> "3".
    """

    id: str
    greedy: Line | None
    samples: Sequence[Line] = ()
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of problems in order; None where they were not measured.

    Attributes:
      greedy, greedy_deepseek: `[problems]` 0 or 1.
      mean, mean_deepseek: `[problems]` share of correct samples.
      ks: 1, 2, 4, ... up to the number of samples; empty without samples.
      maj, passed: `[problems, ks]` chance that the vote of k samples, or one of them, is correct.
    """

    greedy: np.ndarray | None
    greedy_deepseek: np.ndarray | None
    mean: np.ndarray | None
    mean_deepseek: np.ndarray | None
    ks: Sequence[int]
    maj: np.ndarray
    passed: np.ndarray


def read_problems(path: Path, groups: Mapping[str, Mapping[str, str]] | None = None) -> list[Problem]:
    """Reads the problems of `samples.jsonl` in order, without texts.

    Args:
      path: the file.
      groups: the `Problem.groups` by id.

    Raises:
      UserError: a line lacks a field or occurs twice, or a problem has fewer samples than others.
    """
    by_problem: dict[str, dict[int, Line]] = {}
    for number, line in enumerate(read_jsonl(path), 1):
        where = f"{path}, sample {number}"
        missing = [name for name in ("id", "sample", "correct") if name not in line]
        if not missing and line["sample"] != GREEDY and "class" not in line:
            missing = ["class"]
        if missing:
            raise UserError(f"{where}: the field '{missing[0]}' is missing; evaluate again with another --out.")
        if type(line["correct"]) is not bool:
            raise UserError(f"{where}: the field 'correct' is not true or false; evaluate again with another --out.")
        of_problem = by_problem.setdefault(line["id"], {})
        if line["sample"] in of_problem:
            raise UserError(f"{where}: sample {line['sample']} of {line['id']} occurs twice; remove one.")
        of_problem[line["sample"]] = {name: line[name] for name in FIELDS if name in line}
    expected = max(by_problem.values(), key=len, default={}).keys()
    for record_id, lines in by_problem.items():
        if lines.keys() != expected:
            raise UserError(f"{path}: {record_id} lacks samples; run the evaluation's command to the end.")
    return [
        Problem(
            record_id,
            lines.get(GREEDY),
            [lines[sample] for sample in sorted(lines.keys() - {GREEDY})],
            (groups or {}).get(record_id, {}),
        )
        for record_id, lines in by_problem.items()
    ]


def score(problems: Sequence[Problem]) -> Scores:
    """Returns the scores of problems with equal numbers of samples."""
    count = len(problems[0].samples) if problems else 0
    greedy = [[problem.greedy] for problem in problems if problem.greedy is not None]
    samples = [problem.samples for problem in problems]
    one, several = _marks(greedy, "correct"), _marks(samples, "correct") if count else None
    one_lenient = _marks(greedy, "correct_deepseek")
    lenient = _marks(samples, "correct_deepseek") if count else None
    ks, maj, passed = doublings(count), np.zeros((len(problems), 0)), np.zeros((len(problems), 0))
    if several is not None:
        votes = [[line["class"] for line in group] for group in samples]
        maj = np.array([maj_at_k(vote, correct, ks) for vote, correct in zip(votes, several, strict=True)])
        chances = np.array([[pass_at_k(count, correct, k) for k in ks] for correct in range(count + 1)])
        passed = chances[several.sum(axis=1)]
    return Scores(_share(one), _share(one_lenient), _share(several), _share(lenient), ks, maj, passed)


def _marks(groups: Sequence[Sequence[Line]], field: str) -> np.ndarray | None:
    """Returns `[problems, lines]` of a boolean field; None where a line lacks it."""
    marks = [[line.get(field) for line in group] for group in groups]
    known = bool(marks) and all(mark is not None for group in marks for mark in group)
    return np.array(marks, dtype=bool) if known else None


def _share(marks: np.ndarray | None) -> np.ndarray | None:
    return None if marks is None else marks.mean(axis=1)


def summarize(problems: Sequence[Problem], seed: int = 0) -> dict[str, Any]:
    """Returns the summary of one task as JSON values.

    `greedy` and `greedy_deepseek` (by the paper's lenient grader) have Wilson intervals; the others have bootstrap
    intervals over problems: `mean`, `mean_deepseek` (of the samples), `maj_at_k` and `pass_at_k` (of all k samples),
    and `curve` (maj and pass for k = 1, 2, 4, ...). `groups` has greedy accuracies by subject and level, `macro` their
    means, `counts` numbers of completions. Values that were not measured or not checked are None.

    Args:
      problems: at least one, with equal numbers of samples.
      seed: seed of the bootstrap.

    Raises:
      ValueError: there are no problems.
    """
    if not problems:
        raise ValueError("A summary needs at least one problem.")
    counts = _counts(problems)
    checked = not counts["not_checked"]
    scores = score(problems if checked else [dataclasses.replace(p, greedy=None, samples=()) for p in problems])
    summary: dict[str, Any] = {"n": len(problems), "k": len(problems[0].samples), "checked": checked}
    for name, marks in (("greedy", scores.greedy), ("greedy_deepseek", scores.greedy_deepseek)):
        summary[name] = None if marks is None else float(marks.mean())
        summary[f"{name}_interval"] = None if marks is None else list(wilson_interval(int(marks.sum()), len(marks)))
    for name, values in (("mean", scores.mean), ("mean_deepseek", scores.mean_deepseek)):
        summary[name] = None if values is None else float(values.mean())
        summary[f"{name}_interval"] = None if values is None else mean_intervals(values, seed).tolist()
    curve: dict[str, list] = {"k": list(scores.ks)}
    for name, values in (("maj", scores.maj), ("pass", scores.passed)):
        curve[name] = values.mean(axis=0).tolist()
        curve[f"{name}_interval"] = mean_intervals(values, seed).tolist() if scores.ks else []
        summary[f"{name}_at_k"] = curve[name][-1] if scores.ks else None
        summary[f"{name}_at_k_interval"] = curve[f"{name}_interval"][-1] if scores.ks else None
    groups = _groups(problems) if scores.greedy is not None else {}
    return summary | {"curve": curve, "groups": groups, "macro": _macro(groups), "counts": counts}


def _groups(problems: Sequence[Problem]) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns greedy accuracy by name for each kind of group with several names."""
    by_kind: dict[str, dict[str, list[bool]]] = {}
    for problem in problems:
        for kind, name in problem.groups.items():
            if name and problem.greedy is not None:
                by_kind.setdefault(kind, {}).setdefault(name, []).append(bool(problem.greedy["correct"]))
    return {
        kind: {name: _accuracy(marks) for name, marks in sorted(names.items(), key=lambda item: _natural(item[0]))}
        for kind, names in by_kind.items()
        if len(names) > 1
    }


def _accuracy(marks: Sequence[bool]) -> dict[str, Any]:
    correct, n = sum(marks), len(marks)
    return {"n": n, "correct": correct, "greedy": correct / n, "greedy_interval": list(wilson_interval(correct, n))}


def _natural(name: str) -> list[tuple[int, str]]:
    """Returns a key that sorts "Level 10" after "Level 9"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _macro(groups: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Returns the mean over each kind of group in `MEANS`."""
    return {
        kind: {
            "of": len(names),
            "greedy": sum(each["greedy"] for each in names.values()) / len(names),
            "greedy_interval": list(mean_share_interval([(each["correct"], each["n"]) for each in names.values()])),
        }
        for kind, names in groups.items()
        if kind in MEANS
    }


def _counts(problems: Sequence[Problem]) -> dict[str, Any]:
    """Counts all completions, and those without an answer, truncated, lost or unchecked."""
    lines = [line for problem in problems for line in (problem.greedy, *problem.samples) if line is not None]
    reasons = [str(line.get("reason", "")) for line in lines]
    programs = Counter(line["ran"] for line in lines if isinstance(line.get("ran"), str))
    return {
        "completions": len(reasons),
        "no_answer": sum(line.get("answer") is None for line in lines),
        "cut": sum(line.get("finish") in CUT for line in lines),
        "lost": sum(reason.startswith(LOST) for reason in reasons),
        "not_checked": sum(reason.startswith(NOT_CHECKED) for reason in reasons),
        "programs": dict(sorted(programs.items())),
    }
