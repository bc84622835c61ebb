"""Compares two evaluations: `python -m dsmath_jax.evaluation.compare A B [--out=FILE.md]`.

A and B are output folders of `python -m dsmath_jax.evaluation`. Both runs answered the same problems, so the comparison
is paired: only problems that one run solves and the other misses tell which is better. For greedy answers it reports
the problems that only one run solves, McNemar's exact test and Newcombe's interval of the difference; for maj@k and
pass@k the difference with its bootstrap interval over problems.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsmath_jax.evaluation.statistics import mcnemar
from dsmath_jax.evaluation.summary import NOT_CHECKED, Problem, read_problems, score
from dsmath_jax.evaluation.table import NONE, code, escape, grid, percent
from dsmath_jax.formatting import interval, points
from dsmath_jax.intervals import mean_intervals, paired_interval
from dsmath_jax.workdir import UserError, atomic_write, exit_code, local_path, read_json

Key = tuple[str, str]  # task, mode
HEAD = (
    "task", "mode", "problems", "A", "B", "B − A", "only A", "only B", "p", "k", "maj@k, B − A", "pass@k, B − A"
)  # fmt: skip
LEGEND = (
    "Greedy answers: percent of the problems that both runs answered, the difference in points with its 95 % interval "
    "(Newcombe, paired), the problems that only one run solves, and p of McNemar's exact two-sided test. maj@k and "
    "pass@k: the difference in points, with its 95 % interval (bootstrap over problems), at the largest k that both "
    "runs have. There is no correction for multiple tests: of twenty rows "
    "without any difference, one has p below 0.05 by chance."
)
UNKNOWN = [NOT_CHECKED, NOT_CHECKED, *[NONE] * 7]
EXPECTED_TO_DIFFER = ("checkpoint",)  # settings whose difference is not reported


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished evaluation: its folder, its settings, and its results by task and mode."""

    folder: Path
    settings: Mapping[str, Any]
    results: Mapping[Key, Mapping[str, Any]]

    def problems(self, key: Key) -> dict[str, Problem]:
        """Returns the problems by id."""
        return {problem.id: problem for problem in read_problems(self.folder / "-".join(key) / "samples.jsonl")}


def read(folder: Path) -> Run:
    """Reads a finished evaluation.

    Raises:
      UserError: the folder has none.
    """
    path = folder / "summary.json"
    if not path.is_file():
        raise UserError(f"{folder} has no summary.json; give the --out of a finished evaluation.")
    try:
        summary = read_json(path)
        results = {(one["task"], one["mode"]): one for one in summary["results"]}
        return Run(folder, summary["run"], results)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not a summary; give the --out of a finished evaluation.") from None


def compare(first: Sequence[Problem], second: Sequence[Problem], seed: int = 0) -> dict[str, Any]:
    """Compares two runs on the same problems, in the same order.

    Returns:
      n: number of problems. greedy, None unless both have it: the `shares` of both, their `difference` (second minus
      first) with its `interval`, `only` (number of problems that only the first solves, and only the second), `p`.
      k: the largest common k, None without samples. maj and pass at that k: (difference, interval).
    """
    scores = [score(problems) for problems in (first, second)]
    result: dict[str, Any] = {"n": len(first), "greedy": None, "k": None}
    ones, others = (one.greedy for one in scores)
    if ones is not None and others is not None:
        solved, missed = ones > 0, ones == 0
        table = [int(np.sum(a & b)) for a, b in ((solved, others > 0), (solved, others == 0), (missed, others > 0))]
        both, only_first, only_second = table
        low, high = paired_interval(both, only_second, only_first, len(first) - sum(table))
        result["greedy"] = {
            "shares": (float(ones.mean()), float(others.mean())),
            "difference": (only_second - only_first) / len(first),
            "interval": (low, high),
            "only": (only_first, only_second),
            "p": mcnemar(only_first, only_second),
        }
    if common := {*scores[0].ks} & {*scores[1].ks}:
        result["k"] = k = max(common)
        for name, field in (("maj", "maj"), ("pass", "passed")):
            before, after = (getattr(one, field)[:, one.ks.index(k)] for one in scores)
            ends = mean_intervals(after - before, seed, ends=(-1.0, 1.0))
            result[name] = (float(np.mean(after - before)), ends.tolist())
    return result


def markdown(first: Run, second: Run) -> str:
    """Returns the comparison of two evaluations in Markdown.

    Raises:
      UserError: they have no task and mode in common, or no problem of one; or a file is damaged.
    """
    keys = [key for key in first.results if key in second.results]
    if not keys:
        raise UserError(f"{first.folder} and {second.folder} have no task and mode in common.")
    rows, notes = [], []
    for key in keys:
        ones, others = first.problems(key), second.problems(key)
        common = [record_id for record_id in ones if record_id in others]
        if not common:
            raise UserError(f"{first.folder} and {second.folder} answered no problem of {', '.join(key)} in common.")
        checked = first.results[key]["checked"] and second.results[key]["checked"]
        result = compare([ones[i] for i in common], [others[i] for i in common]) if checked else None
        rows.append([*map(escape, key), f"{len(common):,}", *(_cells(result) if result else UNKNOWN)])
        notes += _left_out(key, [len(ones) - len(common), len(others) - len(common)])
        notes += _differences(", ".join(key), first.results[key], second.results[key], ("shots",))
    notes += _unmatched(first, second)
    notes += _differences(
        "", first.settings, second.settings, {*first.settings, *second.settings} - {*EXPECTED_TO_DIFFER}
    )
    lines = [*grid(HEAD, rows), "", LEGEND, ""]
    for name, run in (("A", first), ("B", second)):
        lines.append(f"- {name}: {code(run.folder)}, checkpoint {code(run.settings['checkpoint'])}")
    return "\n".join([*lines, *(f"- {note}" for note in notes), ""])


def _cells(result: Mapping[str, Any]) -> list[str]:
    greedy, k = result["greedy"], result["k"]
    cells = [NONE] * 6
    if greedy is not None:
        shares, only = map(percent, greedy["shares"]), map(str, greedy["only"])
        cells = [*shares, _difference(greedy["difference"], greedy["interval"]), *only, probability(greedy["p"])]
    return cells + ([NONE] * 3 if k is None else [str(k), _difference(*result["maj"]), _difference(*result["pass"])])


def _difference(difference: float, ends: Sequence[float]) -> str:
    """Formats a difference in points with its interval."""
    return f"{points(difference, '+.1f')} ({interval(ends, spec='+.1f')})"


def probability(p: float) -> str:
    """Formats a p-value."""
    return f"{p:.3g}"


def _left_out(key: Key, only: Iterable[int]) -> list[str]:
    """Lists the problems that only one run answered, which are left out."""
    parts = [f"{count:,} only in {name}" for name, count in zip("AB", only, strict=True) if count]
    return [f"{escape(', '.join(key))}: left out {' and '.join(parts)}"] if parts else []


def _unmatched(first: Run, second: Run) -> list[str]:
    return [
        f"{escape(', '.join(key))}: only in {name}"
        for name, run, other in (("A", first, second), ("B", second, first))
        for key in run.results
        if key not in other.results
    ]


def _differences(what: str, first: Mapping[str, Any], second: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Lists the named settings in which the runs differ."""
    pairs = {name: (first.get(name), second.get(name)) for name in sorted(names)}
    lead = f"{escape(what)}: " if what else ""
    return [f"{lead}{escape(name)} is {_value(a)} in A, {_value(b)} in B" for name, (a, b) in pairs.items() if a != b]


def _value(value: Any) -> str:
    return "none" if value in ("", None) else code(value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=local_path, metavar="A", help="the output folder of an evaluation")
    parser.add_argument("second", type=local_path, metavar="B", help="the output folder of another evaluation")
    parser.add_argument("--out", type=local_path, metavar="FILE.md", help="a file to write the table to as well")
    values = parser.parse_args(arguments)
    text = markdown(read(values.first), read(values.second))
    if values.out is not None:
        try:
            with atomic_write(values.out) as file:
                file.write(text)
        except OSError as error:
            raise UserError(f"{values.out} cannot be written ({error.strerror}); give another --out.") from None
    print(text, end="")


if __name__ == "__main__":
    sys.exit(exit_code(main))
