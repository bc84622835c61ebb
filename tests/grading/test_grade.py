"""Tests of the grader: a completion that breaks its worker loses its grade only."""

import doctest
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dsmath_jax import grading
from dsmath_jax.grading.extraction import MAX_CHARS
from dsmath_jax.grading.grade import Grader, Item, grade
from dsmath_jax.grading.grades import Grade

HANGING = "import time; equal = classes = lambda *_: time.sleep(1000)"


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(2, 30.0) as found:
        yield found


def test_grades_come_in_order_with_answer_and_reason(grader: Grader) -> None:
    items = [Item(f"So the answer is {number}.", str(number // 2 * 2), "number") for number in range(40)]
    grades = grader.grades(items)
    assert [found.answer for found in grades] == [str(number) for number in range(40)]
    assert [found.correct for found in grades] == [number % 2 == 0 for number in range(40)]
    assert all(found.reason for found in grades)


def test_each_kind_of_answer_is_graded(grader: Grader) -> None:
    items = [
        Item("It costs \\boxed{\\$1,234.50}.", "1234.5", "number"),
        Item("The final answer is $\\frac{2}{4}$. I hope it is correct.", "\\frac{1}{2}", "math"),
        Item("The answer is (B).", "B", "choice", ("2", "4")),
        Item("故选 CA", "AC", "choices", ("1", "2", "3")),
        Item("So the answer is Yes.", "yes", "text"),
    ]
    assert [found.correct for found in grader.grades(items)] == [True] * 5
    others = [item._replace(gold=gold) for item, gold in zip(items, ["12345", "1/3", "A", "A", "no"], strict=True)]
    assert [found.correct for found in grader.grades(others)] == [False] * 5


def test_without_an_answer_nothing_is_correct(grader: Grader) -> None:
    assert grader.grades([Item("I do not know.", "5", "number")]) == [Grade(None, False, "no answer")]


def test_no_items_give_no_grades(grader: Grader) -> None:
    assert grader.grades([]) == []
    assert grader.correct_deepseek([]) == []
    assert grader.classes([]) == []


HOSTILE = {
    "a tower of powers": "\\boxed{9^{9^{9^{9}}}}",
    "factorials": "\\boxed{10!!!!!!}",
    "ten megabytes": "1+" * 5_000_000 + "\\boxed{5}",
    "deep nesting": "\\boxed{" + "\\sqrt{" * 20_000 + "2" + "}" * 20_001,
    "brackets": "The answer is $" + "(" * 5000 + "$",
    "NUL": "\\boxed{4\0}",
    "half a surrogate": "\\boxed{\ud800}",
    "Python": "\\boxed{__import__('os').system('exit 3')}",
}


def test_hostile_completions_are_incorrect_and_affect_no_others(grader: Grader) -> None:
    items = [Item(completion, "\\sqrt{5}", "math") for completion in HOSTILE.values()]
    items[2] = items[2]._replace(gold="5")
    fine = Item("\\boxed{\\sqrt{5}}", "\\sqrt{5}", "math")
    with Grader(2, 3.0) as hasty:
        grades = hasty.grades([fine, *items, fine])
    assert grades[0].correct
    assert grades[-1].correct
    assert [found.correct for found in grades[1:-1]] == [name == "ten megabytes" for name in HOSTILE]
    assert all(found.reason for found in grades)
    json.dumps(grades)


def test_a_hanging_grader_loses_one_item_and_reports_it() -> None:
    """Runs in a subprocess with a grader that hangs."""
    program = f"""
import sys, types
from dsmath_jax.grading import workers
workers.START_FORK_SERVER = (
    "import sys, types; module = types.ModuleType('dsmath_jax.grading.equivalence');"
    "exec({HANGING!r}, module.__dict__); sys.modules[module.__name__] = module;"
    "import dsmath_jax.grading; dsmath_jax.grading.equivalence = module; sys.argv[4] = '';" + workers.START_FORK_SERVER
)
from dsmath_jax.grading.grade import Grader, Item
with Grader(1, 1.0) as grader:
    print(grader.grades([Item("The answer is 7.", "5", "number"), Item("Nothing.", "5", "number")]))
    print(grader.classes([(["5", "6", None, "5"], "number", ())]))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=True)
    assert ran.stdout.splitlines() == [
        "[Grade(answer='7', correct=False, reason='timed out after 1 s'), "
        "Grade(answer=None, correct=False, reason='no answer')]",
        "[[0, 1, None, 0]]",
    ]


def test_answers_of_a_group_fall_into_classes(grader: Grader) -> None:
    groups = [
        (["0.5", None, "1/2", "2", "\\frac12"], "math", ()),
        (["(A)", "B", "A"], "choice", ("1", "2")),
        ([], "number", ()),
    ]
    assert grader.classes(groups) == [[0, None, 0, 3, 0], [0, 1, 0], []]


def test_the_lenient_grader_is_the_papers(grader: Grader) -> None:
    items = [Item("\\boxed{50}", "0.5", "number"), Item("\\boxed{51}", "0.5", "number")]
    assert grader.correct_deepseek(items) == [True, False]
    assert [found.correct for found in grader.grades(items)] == [False, False]


def test_a_grade_is_a_json_value() -> None:
    found = grade("The answer is 5.", "5", "number")
    assert json.loads(json.dumps(found)) == found
    assert Grade(*found).correct


def test_the_end_of_a_long_completion_is_graded(grader: Grader) -> None:
    (found,) = grader.grades([Item("5 " * MAX_CHARS + "The answer is 7.", "7", "number")])
    assert found.correct


def test_the_example_of_the_package_runs() -> None:
    assert doctest.testmod(grading) == (0, 2)
