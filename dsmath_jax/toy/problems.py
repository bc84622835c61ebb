"""Generates word problems of a few arithmetic steps with worked solutions.

A problem is a short story: a person has a number of things, then `toy.steps` steps change that number, by default one
to three. The solution has one equation per line and ends in `The answer is N.`
"""

import dataclasses
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dsmath_jax.environments.calculator import CLOSE, OPEN
from dsmath_jax.workdir import UserError, write_jsonl

PEOPLE = (
    ("Jonas", "He"), ("Irene", "She"), ("Marta", "She"), ("Olive", "She"), ("Derek", "He"), ("Gina", "She"),
    ("Tom", "He"), ("Ana", "She"),
)  # fmt: skip
THINGS = (
    "apples", "pens", "coins", "books", "cards", "cups", "eggs", "tickets", "buttons", "cookies", "stones", "toys",
)  # fmt: skip
CONTAINERS = ("boxes", "bags", "baskets", "rows")


@dataclasses.dataclass(frozen=True)
class Step:
    """An arithmetic step: its sign in the solution and the sentences for it."""

    sign: str
    sentences: tuple[str, ...]


# {he} is the pronoun at the beginning of a sentence, {she} within it; {n} is the number of the step.
STEPS = (
    Step("+", ("{he} buys {n} more.", "{he} finds {n} more {things}.", "A friend gives {n} more.")),
    Step("-", ("{he} sells {n}.", "{he} gives {n} away.", "{n} {things} are lost.")),
    Step("*", ("Then {she} has {n} times as many.",)),
    Step("/", ("{he} makes {n} equal parts and takes one.",)),
)
OPENINGS = ("{name} has {n} {things}.", "There are {n} {things} and {name} owns them.")
GROUPED = "{name} has {a} {containers} with {b} {things} in each."
QUESTIONS = ("How many {things} does {name} have?", "How many {things} are left?")


def problem(rng: random.Random, steps: Sequence[int], largest: int) -> tuple[str, str, str]:
    """Generates one problem.

    Args:
      rng: the source of all random choices.
      steps: the numbers of steps to choose from, such as (1, 2, 3).
      largest: the largest number in the story or the solution; at least 4.

    Returns:
      question, solution, answer.
    """
    name, he = rng.choice(PEOPLE)
    words = {
        "name": name,
        "he": he,
        "she": he.lower(),
        "things": rng.choice(THINGS),
        "containers": rng.choice(CONTAINERS),
    }
    count = rng.choice(steps)
    lines: list[str] = []
    if rng.random() < 0.25:
        a = rng.randint(2, min(9, largest // 2))
        b = rng.randint(2, max(2, min(9, largest // a)))
        value = a * b
        story = [GROUPED.format(a=a, b=b, **words)]
        lines.append(f"{a} * {b} = {value}")
    else:
        value = rng.randint(2, largest)
        story = [rng.choice(OPENINGS).format(n=value, **words)]
    while len(lines) < count:
        possible = list(_possible_steps(value, largest))
        step = rng.choice([step for step in STEPS if any(step is s for s, _ in possible)])
        n = rng.choice([n for s, n in possible if s is step])
        after = {"+": value + n, "-": value - n, "*": value * n, "/": value // n}[step.sign]
        story.append(rng.choice(step.sentences).format(n=n, **words))
        lines.append(f"{value} {step.sign} {n} = {after}")
        value = after
    story.append(rng.choice(QUESTIONS).format(**words))
    return " ".join(story), "\n".join([*lines, f"The answer is {value}."]), str(value)


def _possible_steps(value: int, largest: int) -> Iterator[tuple[Step, int]]:
    add, take, times, share = STEPS
    yield from ((add, n) for n in range(2, largest - value + 1))
    yield from ((take, n) for n in range(2, value))
    yield from ((times, n) for n in range(2, 10) if value * n <= largest)
    yield from ((share, n) for n in range(2, 10) if value % n == 0 and value > n)


def distinct_problems(seed: int, count: int, steps: Sequence[int], largest: int) -> list[tuple[str, str, str]]:
    """Generates `count` problems with distinct questions. Raises a `UserError` if there are not that many."""
    rng = random.Random(f"problems {seed}")
    problems: dict[str, tuple[str, str, str]] = {}
    for _ in range(20 * count):
        if len(problems) == count:
            break
        new = problem(rng, steps, largest)
        problems.setdefault(new[0], new)
    if len(problems) < count:
        raise UserError(
            f"toy.problems asks for {count} problems, and only {len(problems)} distinct ones were found with "
            f"toy.largest={largest} and toy.steps={tuple(steps)}; set fewer problems or a larger toy.largest."
        )
    return list(problems.values())


def with_calls(solution: str) -> str:
    """Returns a solution whose equations call the calculator (`environments/calculator.py`): <<2 * 3>>6."""
    return re.sub(r"^(.+) = (\d+)$", rf"{OPEN}\1{CLOSE}\2", solution, flags=re.MULTILINE)


def write_problems(
    folder: Path, seed: int, sizes: dict[str, int], steps: Sequence[int] = (1, 2, 3), largest: int = 99,
    calculator: float = 0.0,
) -> None:  # fmt: skip
    """Writes `problems/<split>.jsonl` below `folder`, `sizes[split]` problems each; splits share no question.

    `calculator` is the share of solutions that call it.
    """
    problems, calls = iter(distinct_problems(seed, sum(sizes.values()), steps, largest)), random.Random(f"calls {seed}")
    for split, size in sizes.items():
        rows = []
        for index in range(size):
            question, solution, answer = next(problems)
            if calls.random() < calculator:
                solution = with_calls(solution)
            rows.append({"id": f"toy/{split}/{index}", "question": question, "solution": solution, "answer": answer})
        write_jsonl(folder / "problems" / f"{split}.jsonl", rows)


def check_steps(record: Any, steps: Sequence[str]) -> list[float]:
    """Returns 1 for each step that is the line of the solution at its place, else 0, for `rl.step_rewards`.

    A problem has one way to its answer, so this decides whether a step is correct.
    """
    lines = [" ".join(line.split()) for line in record.solution.splitlines()]
    return [float([" ".join(step.split())] == lines[i : i + 1]) for i, step in enumerate(steps)]
