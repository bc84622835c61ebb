"""Tests of the paper's grader, where it is more lenient or stricter than the default one."""

import pytest

from dsmath_jax.grading.deepseek import cleaned, correct
from dsmath_jax.grading.grade import grade
from dsmath_jax.grading.grades import Kind

TOO_LENIENT: list[tuple[Kind, str, str]] = [
    ("number", "\\boxed{1,2}", "12"),
    ("number", "\\boxed{50}", "0.5"),
    ("number", "\\boxed{5000}", "50"),
    ("number", "The answer is 18.0009.", "18"),
    ("math", "\\boxed{0.0009}", "0"),
    ("math", "\\boxed{(1,2]}", "[1,2)"),
    ("math", "\\boxed{5\\text{ km}}", "5\\text{ m}"),
    ("math", "\\boxed{50}", "0.5"),
]
TOO_STRICT: list[tuple[Kind, str, str]] = [
    ("choices", "答案是 AC", "AC"),
    ("choice", "\\boxed{B}", "B"),
    ("number", "答案是三十六", "36"),
    ("text", "So the answer is YES.", "yes"),
]
BOTH_RIGHT: list[tuple[Kind, str, str]] = [
    ("number", "The answer is 18.", "18"),
    ("number", "答案是 1/2。", "1/2"),
    ("number", "So she has 18", "18"),
    ("math", "\\boxed{x^2+1}", "1+x^2"),
    ("math", "\\boxed{x=5}", "5"),
    ("math", "\\boxed{\\frac12}", "1/2"),
    ("math", "答案是 1;2", "1;2"),
    ("math", "The final answer is $\\frac{1}{2}$. I hope it is correct.", "0.5"),
    ("math", "\\boxed{\\begin{pmatrix}1\\\\2\\end{pmatrix}}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("choice", "The final answer is (b). I hope it is correct.", "B"),
    ("choices", "答案是 C", "C"),
    ("text", "So the answer is True.", "True"),
]
BOTH_WRONG: list[tuple[Kind, str, str]] = [
    ("number", "The answer is 17.", "18"),
    ("number", "", "18"),
    ("math", "\\boxed{x^2+2}", "1+x^2"),
    ("math", "答案是 2;1", "1;2"),
    ("math", "\\boxed{5e-10}", "3.89e-10"),
    ("choice", "The answer is (A).", "B"),
    ("choices", "答案是 C", "A"),
    ("text", "So the answer is False.", "True"),
]
OPTIONS = ("1", "2", "3", "4")


def both(kind: Kind, completion: str, gold: str) -> tuple[bool, bool]:
    options = OPTIONS if kind.startswith("choice") else ()
    return grade(completion, gold, kind, options)[1], correct(completion, gold, kind, options)


@pytest.mark.parametrize(("kind", "completion", "gold"), TOO_LENIENT)
def test_it_accepts_incorrect_answers(kind: Kind, completion: str, gold: str) -> None:
    assert both(kind, completion, gold) == (False, True)


@pytest.mark.parametrize(("kind", "completion", "gold"), TOO_STRICT)
def test_it_refuses_correct_answers(kind: Kind, completion: str, gold: str) -> None:
    assert both(kind, completion, gold) == (True, False)


@pytest.mark.parametrize(("kind", "completion", "gold"), BOTH_RIGHT)
def test_both_graders_accept_correct_answers(kind: Kind, completion: str, gold: str) -> None:
    assert both(kind, completion, gold) == (True, True)


@pytest.mark.parametrize(("kind", "completion", "gold"), BOTH_WRONG)
def test_both_graders_refuse_incorrect_answers(kind: Kind, completion: str, gold: str) -> None:
    assert both(kind, completion, gold) == (False, False)


def test_several_boxes_are_a_set() -> None:
    assert correct("\\boxed{2} and \\boxed{3}", "3\\text{ and }2", "math")
    assert not correct("\\boxed{2} and \\boxed{4}", "3\\text{ and }2", "math")


def test_the_last_output_of_a_tool_counts_without_a_statement() -> None:
    assert correct("```python\nprint(18)\n```\n```output\n17\n```\nand\n```output\n18\n```\n", "18", "number")


@pytest.mark.parametrize(
    ("answer", "clean"),
    [
        ("\\dfrac{1}{2}", "\\frac{1}{2}"),
        ("\\frac12", "\\frac{1}{2}"),
        ("1/2", "\\frac{1}{2}"),
        ("90^\\circ", "90"),
        ("\\$5.00", "5"),
        (".5", "0.5"),
        ("\\left(1, 2\\right)", "(1,2)"),
        ("\\text{Monday}", "Monday"),
        ("5\\text{ cm}", "5"),
        ("\\sqrt2", "\\sqrt{2}"),
    ],
)
def test_answers_are_cleaned(answer: str, clean: str) -> None:
    assert cleaned(answer) == clean


def test_text_of_a_model_is_never_evaluated(tmp_path: object) -> None:
    assert not correct(f"\\boxed{{open('{tmp_path}/x', 'w')}}", "5", "math")
    assert not any(tmp_path.iterdir())  # type: ignore[attr-defined]
