"""Toy problems: an independent parser computes every line of every solution again."""

import operator
import re
from pathlib import Path

import pytest

from dsmath_jax.command_line import load_recipe
from dsmath_jax.data import datasets, overlap
from dsmath_jax.toy.problems import STEPS, distinct_problems, write_problems
from dsmath_jax.workdir import UserError, read_jsonl

CONFIGS = Path(__file__).parents[2] / "configs"
LINE = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
PROBLEMS = distinct_problems(seed=3, count=1500, steps=(1, 2, 3), largest=99)


def test_every_line_is_correct_and_continues_the_line_before() -> None:
    for question, solution, answer in PROBLEMS:
        *lines, last = solution.split("\n")
        value, numbers = None, []
        for line in lines:
            left, sign, right, result = LINE.fullmatch(line).groups()
            left, right, result = int(left), int(right), int(result)
            assert value in (None, left), solution
            assert OPERATORS[sign](left, right) == result, solution
            assert sign != "/" or left % right == 0, solution
            numbers += [right] if numbers else [left, right]
            value = result
        assert 1 <= len(lines) <= 3
        assert last == f"The answer is {answer}."
        assert value == int(answer) > 0
        assert [int(n) for n in re.findall(r"\d+", question)] == numbers, question


@pytest.mark.parametrize("largest", [99, 20, 8])
def test_no_number_is_above_the_largest(largest: int) -> None:
    made = distinct_problems(seed=3, count=300, steps=(1, 2, 3), largest=largest)
    assert max(int(n) for question, solution, _ in made for n in re.findall(r"\d+", question + solution)) == largest


def test_every_kind_of_step_and_every_number_of_steps_occurs() -> None:
    lines = [solution.split("\n")[:-1] for _, solution, _ in PROBLEMS]
    assert {len(equations) for equations in lines} == {1, 2, 3}
    assert {line.split()[1] for equations in lines for line in equations} == {step.sign for step in STEPS}
    only_two = distinct_problems(seed=3, count=50, steps=(2,), largest=99)
    assert {solution.count("=") for _, solution, _ in only_two} == {2}


def test_every_field_of_a_sentence_is_filled() -> None:
    assert not [question for question, _, _ in PROBLEMS if "{" in question or "}" in question]


def test_splits_share_no_question(tmp_path: Path) -> None:
    sizes = {"train": 300, "rl": 200, "test": 100}
    write_problems(tmp_path, seed=1, sizes=sizes)
    splits = {split: list(read_jsonl(tmp_path / "problems" / f"{split}.jsonl")) for split in sizes}
    assert {split: len(rows) for split, rows in splits.items()} == sizes
    assert splits["rl"][7].keys() == {"id", "question", "solution", "answer"}
    assert splits["rl"][7]["id"] == "toy/rl/7"
    assert len({row["question"] for rows in splits.values() for row in rows}) == 600


def test_a_seed_gives_the_same_bytes_and_another_seed_other_problems(tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_problems(tmp_path / folder, seed, {"test": 100})
    one, same, other = ((tmp_path / folder / "problems" / "test.jsonl").read_bytes() for folder in "abc")
    assert one == same
    questions = [{row["question"] for row in read_jsonl(tmp_path / f / "problems" / "test.jsonl")} for f in "ac"]
    assert len(questions[0] & questions[1]) < 10
    assert one != other


def test_too_many_problems_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"^toy\.problems asks for 7000 problems, and only \d+ distinct ones were found"
    ):
        distinct_problems(seed=0, count=7000, steps=(1,), largest=4)


def test_no_recipe_trains_on_its_toy_test_questions(tmp_path: Path) -> None:
    for name in ("tiny.py", "paper/fig5_rl_methods.py:start"):
        toy = load_recipe(f"{CONFIGS}/{name}").toy
        write_problems(tmp_path, 0, toy.problems, toy.steps, toy.largest)
        trained = [f"toy/{split}" for split in toy.problems if split != "test"]
        training = overlap.training_questions({"rl.data": trained}, tmp_path)
        assert overlap.count(overlap.find(datasets.load("toy/test", tmp_path), training).values()) == 0
