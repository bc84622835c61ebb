"""Tests summaries of graded completions against closed forms and counts made by hand."""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsmath_jax.evaluation.statistics import maj_at_k, pass_at_k
from dsmath_jax.evaluation.summary import Problem, read_problems, score, summarize
from dsmath_jax.intervals import wilson_interval
from dsmath_jax.workdir import UserError, write_jsonl


def line(answer: str | None, gold: str = "7", **more: Any) -> dict[str, Any]:
    return {"answer": answer, "correct": answer == gold, "reason": "same number", "finish": "eos"} | more


def problem(identity: str, greedy: str | None, samples: Sequence[str | None] = (), **groups: str) -> Problem:
    lines = [line(one, **{"class": None if one is None else list(samples).index(one)}) for one in samples]
    return Problem(identity, line(greedy), lines, groups)


ROWS = [
    problem("a", "7", ["7", "7", "3", None]),  # correct by vote
    problem("b", "3", ["3", "7", "3", "7"]),  # a tie: either may be seen first
    problem("c", None, [None, None, None, "7"]),  # no answer, no vote
    problem("d", "7", ["1", "2", None, "1"]),  # never correct
]


def test_a_summary_has_shares_votes_and_chances() -> None:
    found = summarize(ROWS)
    assert {name: found[name] for name in ("n", "k", "checked", "greedy", "mean", "maj_at_k", "pass_at_k")} == {
        "n": 4, "k": 4, "checked": True, "greedy": 0.5, "mean": 5 / 16, "maj_at_k": (1 + 0.5 + 1 + 0) / 4,
        "pass_at_k": 0.75,
    }  # fmt: skip
    assert found["greedy_interval"] == list(wilson_interval(2, 4))
    for name in ("mean", "maj_at_k", "pass_at_k"):
        low, high = found[f"{name}_interval"]
        assert 0 <= low < found[name] < high <= 1
    assert found["curve"]["k"] == [1, 2, 4]
    assert found["curve"]["pass"] == pytest.approx([5 / 16, (5 / 6 + 5 / 6 + 1 / 2) / 4, 3 / 4])
    assert found["curve"]["maj"][0] == pytest.approx(5 / 16)
    assert found["curve"]["maj"][-1] == found["maj_at_k"]
    assert found["curve"]["maj_interval"][-1] == found["maj_at_k_interval"]
    assert json.loads(json.dumps(found)) == found == summarize(ROWS)


def test_scores_are_those_of_each_problem_alone() -> None:
    scores = score(ROWS)
    for place, row in enumerate(ROWS):
        correct = [one["correct"] for one in row.samples]
        assert scores.maj[place] == pytest.approx(maj_at_k([s["class"] for s in row.samples], correct, scores.ks))
        assert scores.passed[place] == pytest.approx([pass_at_k(4, sum(correct), k) for k in scores.ks])


def test_the_lenient_grader_has_its_own_figures() -> None:
    assert summarize(ROWS)["greedy_deepseek"] is None
    rows = [Problem(str(i), line("8", correct_deepseek=i < 3), [line("8", correct_deepseek=True) | {"class": 0}])
            for i in range(4)]  # fmt: skip
    found = summarize(rows)
    assert (found["greedy"], found["greedy_deepseek"], found["mean"], found["mean_deepseek"]) == (0, 0.75, 0, 1)
    assert found["greedy_deepseek_interval"] == list(wilson_interval(3, 4))


def test_zero_accuracy_has_an_interval() -> None:
    found = summarize([problem(str(i), "1", ["1", "2"]) for i in range(50)])
    for name in ("greedy", "mean", "maj_at_k", "pass_at_k"):
        assert found[name] == 0
        assert found[f"{name}_interval"] == pytest.approx(wilson_interval(0, 50))


def test_greedy_or_samples_may_be_missing() -> None:
    alone = summarize([problem(str(i), "7") for i in range(3)])
    assert (alone["greedy"], alone["k"], alone["curve"]["k"]) == (1.0, 0, [])
    assert alone["mean"] is alone["maj_at_k"] is alone["pass_at_k_interval"] is None
    sampled = summarize([Problem("a", None, ROWS[0].samples, {"level": "1"}), Problem("b", None, ROWS[1].samples)])
    assert sampled["greedy"] is sampled["greedy_interval"] is None
    assert (sampled["mean"], sampled["groups"], sampled["counts"]["completions"]) == (0.5, {}, 8)
    with pytest.raises(ValueError, match="at least one problem"):
        summarize([])


def test_subjects_and_levels_are_broken_down() -> None:
    rows = [problem(str(i), "7" if i < 6 else "3", subject="algebra" if i < 8 else "geometry", level=f"Level {level}")
            for i, level in enumerate([1, 10, 9, 9, 9, 9, 9, 9, 1, 1])]  # fmt: skip
    found = summarize(rows)
    assert {name: (one["n"], one["correct"], one["greedy"]) for name, one in found["groups"]["subject"].items()} == {
        "algebra": (8, 6, 0.75), "geometry": (2, 0, 0.0)
    }  # fmt: skip
    assert list(found["groups"]["level"]) == ["Level 1", "Level 9", "Level 10"]
    assert found["groups"]["subject"]["algebra"]["greedy_interval"] == list(wilson_interval(6, 8))
    assert found["greedy"] == 0.6  # of problems
    assert list(found["macro"]) == ["subject"]
    assert (found["macro"]["subject"]["of"], found["macro"]["subject"]["greedy"]) == (2, 0.375)  # of subjects
    low, high = found["macro"]["subject"]["greedy_interval"]
    assert low < 0.375 < high
    assert summarize([problem("a", "7", subject="all the same")])["groups"] == {}


def test_truncated_and_lost_completions_are_counted() -> None:
    greedy = [
        line(None, finish="length", reason="no answer"),
        line("7", reason="timed out after 5 s"),
        line("7", reason="died: killed by signal 9"),
        line("7", finish="rounds", reason="timed out", ran="timed out"),  # the program, not its grader
        line("7", ran="ok"),
    ]
    counts = summarize([Problem(str(i), one) for i, one in enumerate(greedy)])["counts"]
    assert counts == {
        "completions": 5, "no_answer": 1, "cut": 2, "lost": 2, "not_checked": 0, "programs": {"ok": 1, "timed out": 1}
    }  # fmt: skip


def test_what_was_not_checked_has_no_accuracy() -> None:
    unknown = {"answer": "proof", "correct": False, "reason": "not checked: there is no isabelle"}
    found = summarize([Problem("a", unknown, [unknown | {"class": None}], {"level": "1"})] * 2)
    assert found["checked"] is False
    assert (found["n"], found["k"], found["counts"]["not_checked"]) == (2, 1, 4)
    for name in ("greedy", "greedy_deepseek", "mean", "maj_at_k", "pass_at_k"):
        assert found[name] is found[f"{name}_interval"] is None
    assert (found["curve"]["k"], found["groups"]) == ([], {})


def chance_of_a_right_vote(law: np.ndarray, k: int) -> float:
    """Returns maj@k of answers drawn from `law` (correct, two incorrect, none), summed over all counts of k of them."""
    total = 0.0
    for counts in itertools.product(range(k + 1), repeat=3):
        missing = k - sum(counts)
        if missing < 0 or counts[0] < max(counts) or counts[0] == 0:
            continue
        ways = math.factorial(k) / math.prod(math.factorial(count) for count in (*counts, missing))
        # Tied classes are equally likely to be seen first.
        total += ways * math.prod(law ** np.array([*counts, missing])) / counts.count(max(counts))
    return total


def test_known_chances_give_the_closed_forms() -> None:
    random = np.random.default_rng(0)
    laws, samples = random.dirichlet([1.0, 0.8, 0.5, 0.3], size=300), 16
    names = ["7", "3", "5", None]
    found = summarize(
        [problem(str(i), None, [names[j] for j in random.choice(4, samples, p=law)]) for i, law in enumerate(laws)]
    )
    curve = found["curve"]
    assert curve["k"] == [1, 2, 4, 8, 16]
    for place, k in enumerate(curve["k"]):
        truths = {
            "pass": float(np.mean(1 - (1 - laws[:, 0]) ** k)),
            "maj": float(np.mean([chance_of_a_right_vote(law, k) for law in laws])),
        }
        for name, truth in truths.items():
            low, high = curve[f"{name}_interval"][place]
            assert low < truth < high, (name, k)
            assert high - low < 0.12
            # The problems are the same, so only the samples vary.
            assert curve[name][place] == pytest.approx(truth, abs=0.03), (name, k)


class TestReadProblems:
    def write(self, path: Path, **changes: Any) -> Path:
        lines = [
            {"id": identity, "sample": sample, "completion": "…"} | line("7") | ({} if sample < 0 else {"class": 0})
            for identity in ("b", "a")
            for sample in (-1, 0, 1)
        ]
        lines[5].update(changes)
        write_jsonl(path, [{k: v for k, v in one.items() if v != "gone"} for one in lines])
        return path

    def test_groups_lines_by_problem(self, tmp_path: Path) -> None:
        found = read_problems(self.write(tmp_path / "samples.jsonl"), {"a": {"level": "3"}})
        assert [(one.id, len(one.samples), one.groups) for one in found] == [("b", 2, {}), ("a", 2, {"level": "3"})]
        assert found[0].greedy == line("7")
        assert found[0].samples[1] == line("7") | {"class": 0}  # texts are not kept

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"correct": "gone"}, "sample 6: the field 'correct' is missing"),
            ({"correct": "no"}, "sample 6: the field 'correct' is not true or false"),
            ({"class": "gone"}, "sample 6: the field 'class' is missing"),
            ({"sample": 0}, "sample 6: sample 0 of a occurs twice"),
            ({"id": "c"}, "lacks samples; run the evaluation's command to the end"),
        ],
    )
    def test_reports_damaged_lines(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            read_problems(self.write(tmp_path / "samples.jsonl", **changes))

    def test_reports_a_truncated_line(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "samples.jsonl")
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(UserError, match="line 6: not a JSON object"):
            read_problems(path)
