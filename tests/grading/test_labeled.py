"""Tests the grader on labeled pairs of answers and completions, each with the rule that decides it.

The labels come from mathematics and from the conventions of the data sets, not from the grader. Pairs have
`gold`, `answer`, `kind`, perhaps `options`; completions have a data set's own `gold` field and its `task`.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import pytest

from dsmath_jax.grading.extraction import gold_of
from dsmath_jax.grading.grade import Grader, Item
from dsmath_jax.grading.grades import Kind
from dsmath_jax.grading.workers import Workers

FOLDER = Path(__file__).parent / "labeled"
KINDS: dict[str, Kind] = {
    "gsm8k": "number", "mgsm_zh": "number", "cmath": "number", "math": "math", "ocw": "math",
    "gaokao_mathcloze": "math", "gaokao_mathqa": "choices", "sat": "choice", "mmlu": "choice", "mmlu_stem": "choice",
}  # fmt: skip


def labeled(name: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines()]


PAIRS, COMPLETIONS = labeled("pairs"), labeled("completions")


@functools.cache
def verdicts() -> list[bool | str]:
    """Returns for each pair whether the grader finds it equal, or the outcome of a lost worker."""
    with Workers(seconds=4, preload=("dsmath_jax.grading.equivalence.symbolic",)) as workers:
        asked = [(row["gold"], row["answer"], row["kind"], row.get("options", ())) for row in PAIRS]
        outcomes = workers.map("dsmath_jax.grading.equivalence:equal", asked)
    return [
        outcome.value[0] if outcome.status == "ok" else f"{outcome.status} {outcome.reason}" for outcome in outcomes
    ]


@functools.cache
def graded() -> list[bool]:
    """Returns for each completion whether the grader finds it correct."""

    def item(row: dict) -> Item:
        kind = KINDS[row["task"]]
        return Item(row["completion"], gold_of(row["gold"], kind), kind, row.get("options", ()))

    with Grader(seconds=4) as grader:
        return [grade.correct for grade in grader.grades([item(row) for row in COMPLETIONS])]


def disagreements(rows: Iterable[tuple[dict, bool | str]], label: str) -> list[str]:
    """Returns where the grader contradicts the labels; a lost worker counts as unequal."""

    def message(row: dict, found: bool | str) -> str:
        what = row.get("answer") or row.get("completion") or ""
        return f"gold {row['gold'][:200]!r}, given {what[:200]!r}: labeled {row[label]} ({row['rule']}), found {found}"

    return [message(row, found) for row, found in rows if (found is True) != row[label]]


@pytest.mark.parametrize("group", dict.fromkeys(row["group"] for row in PAIRS))
def test_pairs_are_graded_as_labeled(group: str) -> None:
    rows = [(row, found) for row, found in zip(PAIRS, verdicts(), strict=True) if row["group"] == group]
    disagreeing = disagreements(rows, "equal")
    assert not disagreeing, "\n".join(disagreeing)


@pytest.mark.parametrize("task", dict.fromkeys(row["task"] for row in COMPLETIONS))
def test_completions_are_graded_as_labeled(task: str) -> None:
    rows = [(row, found) for row, found in zip(COMPLETIONS, graded(), strict=True) if row["task"] == task]
    disagreeing = disagreements(rows, "correct")
    assert not disagreeing, "\n".join(disagreeing)


def test_only_monsters_cost_a_worker() -> None:
    lost = [(row["gold"], row["answer"], found) for row, found in zip(PAIRS, verdicts(), strict=True)
            if isinstance(found, str) and row["group"] != "monsters"]  # fmt: skip
    assert not lost


def test_there_are_many_balanced_labels() -> None:
    assert len(PAIRS) >= 400
    assert len(COMPLETIONS) >= 120
    for rows, label in ((PAIRS, "equal"), (COMPLETIONS, "correct")):
        assert 0.4 < sum(row[label] for row in rows) / len(rows) < 0.6
    assert all(row["rule"] for row in PAIRS + COMPLETIONS)
    assert {row["kind"] for row in PAIRS} == set(get_args(Kind)) - {"program", "theory"}
    keys = Counter(json.dumps([row[field] for field in ("gold", "answer", "kind")]) for row in PAIRS)
    assert len(keys) > 0.99 * len(PAIRS)
