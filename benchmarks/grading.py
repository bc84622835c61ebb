"""Graded answers per second, beside plain Math-Verify in one run, and programs per second of the sandbox.

    python -m benchmarks.grading --data_dir=DATA --json=grading.json

Cases: `gsm8k`, worked solutions of the test split (of sums made up here where the split is not below DATA), half of
them under another problem's gold answer; `math`, completions with boxed answers of several forms, half of them wrong;
`programs`, short programs of thought, run in the sandbox and, as its peer, each in an unprotected Python process that
has to import for itself. The peer of a grader is `math_verify.parse` and `verify` as they come, in worker processes
like ours. All sides have as many workers, on as many CPUs, and take turns, with other items in every turn; medians over
the turns. The workers' start, imports included, and a first turn to warm up are not part of them. CPU seconds are of
all processes. Linux only.
"""

import argparse
import concurrent.futures
import contextlib
import functools
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import resources, turns
from dsmath_jax.data import datasets
from dsmath_jax.grading.grade import Grader, Item
from dsmath_jax.grading.grades import Kind
from dsmath_jax.grading.sandbox import Program, Sandbox
from dsmath_jax.grading.workers import Workers
from dsmath_jax.workdir import UserError, exit_code, write_json

BAR = 300  # graded answers per second on two CPUs
SECONDS = 10.0  # that an answer or a program may take
GSM8K = "gsm8k/test"
HERE = "benchmarks.grading"
TICKS = os.sysconf("SC_CLK_TCK")


class Task(NamedTuple):
    """A completion or a program, and whether it is right; `gold` and `kind` are not used where it is run."""

    text: str
    gold: str
    kind: Kind
    right: bool


Side = Callable[[Sequence[Task]], list[bool]]  # what it finds right


def word_problems(count: int, seed: int, data_dir: Path) -> list[Task]:
    """Completions in the style of GSM8K, half of them under the gold answer of another problem."""
    noise = random.Random(seed)
    if GSM8K in datasets.available(data_dir):
        solved = [(record.solution, record.answer) for record in _records(data_dir)]
        noise.shuffle(solved)
        solved = [solved[place % len(solved)] for place in range(count)]
    else:
        solved = [_sum(noise) for _ in range(count)]
    golds = [solved[(place + place % 2) % count][1] for place in range(count)]
    return [Task(text, gold, "number", gold == answer) for (text, answer), gold in zip(solved, golds, strict=True)]


@functools.cache
def _records(data_dir: Path) -> list[datasets.Record]:
    return datasets.load(GSM8K, data_dir)


def _sum(noise: random.Random) -> tuple[str, str]:
    boxes, each, eaten = (noise.randrange(10, 100) for _ in range(3))
    left = boxes * each - eaten
    text = f"There are {boxes} * {each} = {boxes * each} apples in the boxes.\nWithout the {eaten} that are eaten"
    return f"{text}, {boxes * each} - {eaten} = {left} apples are left.\nThe answer is {left:,}.", str(left)


def problems(count: int, seed: int, data_dir: Path) -> list[Task]:
    """Completions in the style of MATH whose answers have other forms than the gold ones; every other one is wrong."""
    del data_dir
    noise = random.Random(seed)
    made = []
    for place in range(count):
        a, b, c = noise.sample(range(2, 60), 3)
        off = place % 2  # what makes an answer wrong
        gold, answer = FORMS[place // 2 % len(FORMS)](a, b, c, off)
        text = (
            f"We take $a={a}$ and $b={b}$, and get $a+b={a + b}$ on the way.\n\nSo the result is $\\boxed{{{answer}}}$."
        )
        made.append(Task(text, gold, "math", not off))
    return made


# Gold answer and answer, which are equal where `off` is 0 and not where it is 1.
FORMS: tuple[Callable[[int, int, int, int], tuple[str, str]], ...] = (
    lambda a, b, c, off: (str(a * b), str(a * b + off)),
    lambda a, b, c, off: (rf"\frac{{{a}}}{{{b}}}", rf"\dfrac{{{a * c}}}{{{b * c + off}}}"),
    lambda a, b, c, off: (f"{a * b * c}", f"{a * b * c + off:,}".replace(",", "{,}")),
    lambda a, b, c, off: (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b + off}}}"),
    lambda a, b, c, off: (f"x^2+{a + b}x+{a * b}", f"(x+{a + off})(x+{b})"),
    lambda a, b, c, off: (f"({a},{b})", rf"\left({a}, {b + off}\right)"),
    lambda a, b, c, off: (rf"[{a},\infty)", rf"{'(' if off else '['}{a}, \infty)"),
    lambda a, b, c, off: (f"{a},{b},{a + b + c}", f"{a + b + c + off}, {b}, {a}"),
    lambda a, b, c, off: (rf"{a * b}\pi", rf"{a * b + off} \pi \text{{ cm}}^2"),
    lambda a, b, c, off: (str(a * c), f"x = {a * c + off}"),
)


def programs(count: int, seed: int, data_dir: Path) -> list[Task]:
    """Programs of thought, one in four of which asks SymPy; every tenth one is wrong, and raises."""
    del data_dir
    noise = random.Random(seed)
    made = []
    for place in range(count):
        a, b = noise.randrange(2, 99), noise.randrange(2, 99)
        if place % 4:
            body = f"    boxes, each = {a}, {b}\n    total = boxes * each\n"
        else:
            body = f"    from sympy import Symbol, solve\n    x = Symbol('x')\n    total = solve(x - {a * b}, x)[0]\n"
        wrong = place % 10 == 9
        body += "    raise ValueError(total)\n" if wrong else "    return total\n"
        made.append(Task(f"def solution():\n{body}", str(a * b), "number", not wrong))
    return made


def math_verify(gold: str, completion: str) -> bool:
    """What plain Math-Verify says of a completion; runs in a worker."""
    from math_verify import parse, verify

    return verify(parse(gold), parse(completion))


def run_plainly(task: Task) -> bool:
    """Whether a program of thought gives its value, in a Python process of its own that nothing protects from it."""
    code = f"{task.text}\nprint(solution())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return ran.returncode == 0 and ran.stdout.strip() == task.gold


def ours_of_answers(workers: int, stack: contextlib.ExitStack) -> Side:
    """Our grader."""
    grader = stack.enter_context(Grader(workers, SECONDS))

    def side(tasks: Sequence[Task]) -> list[bool]:
        return [grade.correct for grade in grader.grades([Item(task.text, task.gold, task.kind) for task in tasks])]

    return side


def peer_of_answers(workers: int, stack: contextlib.ExitStack) -> Side:
    """Plain Math-Verify in the workers that our grader has."""
    pool = stack.enter_context(Workers(workers, SECONDS, preload=("math_verify",)))

    def side(tasks: Sequence[Task]) -> list[bool]:
        outcomes = pool.map(f"{HERE}:math_verify", [(f"${task.gold}$", task.text) for task in tasks])
        return [outcome.value is True for outcome in outcomes]

    return side


def ours_of_programs(workers: int, stack: contextlib.ExitStack) -> Side:
    """Our sandbox."""
    sandbox = stack.enter_context(Sandbox(workers))

    def side(tasks: Sequence[Task]) -> list[bool]:
        ran = sandbox.run([Program(task.text, "solution") for task in tasks])
        return [one.value == task.gold for one, task in zip(ran, tasks, strict=True)]

    return side


def peer_of_programs(workers: int, stack: contextlib.ExitStack) -> Side:
    """As many threads, each of which starts a Python process for every program."""
    threads = stack.enter_context(concurrent.futures.ThreadPoolExecutor(workers))
    return lambda tasks: list(threads.map(run_plainly, tasks))


class Case(NamedTuple):
    """What is measured.

    Attributes:
      make: the tasks of a turn, from their number, a seed and the data folder.
      sides: by name, what starts a side with a number of workers, which end with the stack.
      share: of the answers asked for, that a turn has.
    """

    make: Callable[[int, int, Path], list[Task]]
    sides: Mapping[str, Callable[[int, contextlib.ExitStack], Side]]
    share: float


ANSWERS = {"ours": ours_of_answers, "Math-Verify": peer_of_answers}
CASES = {
    "gsm8k": Case(word_problems, ANSWERS, 1),
    "math": Case(problems, ANSWERS, 1 / 4),
    "programs": Case(programs, {"ours": ours_of_programs, "plain process": peer_of_programs}, 1 / 40),
}


def measure(case: Case, count: int, workers: int, repetitions: int, data_dir: Path) -> dict:
    """A case on both sides in turns.

    Raises:
      RuntimeError: our side is wrong of something in the case, so that its rate means nothing.
    """
    count = max(2 * workers, round(count * case.share))
    few = case.make(2 * workers, 0, data_dir)
    with contextlib.ExitStack() as stack:
        sides: dict[str, Side] = {}
        found: dict[str, dict] = {}
        for name, start in case.sides.items():
            began = time.perf_counter()
            sides[name] = start(workers, stack)
            _turn(sides[name], few)  # which starts all workers
            found[name] = {"start_up_seconds": time.perf_counter() - began}
            _turn(sides[name], case.make(count, 1, data_dir))
        spent: dict[str, list[dict]] = {name: [] for name in sides}
        for seed in range(2, 2 + repetitions):
            tasks = case.make(count, seed, data_dir)
            for name, side in sides.items():
                spent[name].append(_turn(side, tasks))
    for name, done in spent.items():
        found[name] |= _rates(done) | {"turns": done}
    for row in found.values():
        row["ratio"] = found["ours"]["rate"] / row["rate"]
        row["cpu_ratio"] = row["cpu_milliseconds"] / found["ours"]["cpu_milliseconds"]
    if wrong := sum(turn["tasks"] - turn["agreed"] for turn in spent["ours"]):
        raise RuntimeError(f"our side is wrong of {wrong} of {count * repetitions} answers")
    return found


def _turn(side: Side, tasks: Sequence[Task]) -> dict:
    wall, cpu = time.perf_counter(), cpu_seconds()
    found = side(tasks)
    grain = 1 / TICKS  # of the clock
    spent = {"cpu_seconds": max(grain, cpu_seconds() - cpu), "seconds": time.perf_counter() - wall}
    agreed = sum(one == task.right for one, task in zip(found, tasks, strict=True))
    return spent | {"tasks": len(tasks), "agreed": agreed}


def _rates(done: Iterable[Mapping[str, float]]) -> dict[str, float]:
    done = list(done)
    return {
        "rate": statistics.median(turn["tasks"] / turn["seconds"] for turn in done),
        "cpu_milliseconds": statistics.median(1000 * turn["cpu_seconds"] / turn["tasks"] for turn in done),
        "agreement": sum(turn["agreed"] for turn in done) / sum(turn["tasks"] for turn in done),
    }


def cpu_seconds() -> float:
    """Of this process and those below it, with those that have ended and been waited for."""
    ticks = 0
    for pid in (os.getpid(), *resources.descendants(os.getpid())):
        with contextlib.suppress(OSError):  # it has just ended
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / TICKS


def table(result: dict) -> str:
    """The result as Markdown."""
    lines = [
        "| case | side | per second | ours / it | CPU ms each | its CPU / ours | right, % | start-up, s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, case in result["cases"].items():
        for side, row in case.items():
            cells = [
                name, side, f"{row['rate']:,.0f}", f"{row['ratio']:.2f}", f"{row['cpu_milliseconds']:.2f}",
                f"{row['cpu_ratio']:.2f}", f"{100 * row['agreement']:.2f}", f"{row['start_up_seconds']:.1f}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="joined by commas")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="the folder that has gsm8k/test.jsonl")
    parser.add_argument(
        "--answers", type=int, default=2000, help="of a turn; a quarter of that in LaTeX, a fortieth programs"
    )
    parser.add_argument("--workers", type=int, default=2, help="and CPUs of every side")
    parser.add_argument("--repetitions", type=int, default=5, help="turns of every side, whose median counts")
    parser.add_argument("--json", type=Path, help="FILE.json takes all numbers")
    values = parser.parse_args(argv)
    names = values.cases.split(",")
    if wrong := [name for name in names if name not in CASES]:
        raise UserError(f"--cases: there is no '{wrong[0]}'; give some of {', '.join(CASES)}, joined by commas.")
    for option in ("answers", "workers", "repetitions"):
        if getattr(values, option) < 1:
            raise UserError(f"--{option}={getattr(values, option)} is no count; give at least 1.")
    with turns.threads(values.workers):
        cases = {
            name: measure(CASES[name], values.answers, values.workers, values.repetitions, values.data_dir)
            for name in names
        }
    options = {option: getattr(values, option) for option in ("answers", "workers", "repetitions")}
    result = {"machine": turns.machine(), **options, "bar": BAR, "cases": cases}
    if values.json:
        write_json(values.json, result)
    print(table(result))


if __name__ == "__main__":
    sys.exit(exit_code(main))
