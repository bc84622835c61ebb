"""Graded answers per second, compared with plain Math-Verify in the same run, and programs per second of the sandbox.

    python -m benchmarks.grading --data_dir=data --json=grading.json

Cases: `gsm8k`, worked solutions of the test split (of generated sums where the data folder does not have it), half of
them with another problem's gold answer; `math`, completions with boxed answers in several forms, half of them
incorrect; `programs`, short programs of thought, run in the sandbox and, as its peer, each in a new unsandboxed Python
process that imports its own modules. The peer of a grader is `math_verify.parse` and `verify` with their defaults, in
worker processes like ours. All sides have the same number of workers and CPUs and take turns, with other items in every
turn; medians over the turns. The workers' start, imports included, and a first turn to warm up are not counted. CPU
seconds are of all processes. Linux only.
"""

import concurrent.futures
import contextlib
import functools
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import comparison, resources, turns
from dsmath_jax.data import datasets
from dsmath_jax.grading.grade import Grader, Item
from dsmath_jax.grading.grades import Kind
from dsmath_jax.grading.sandbox import Program, Sandbox
from dsmath_jax.grading.workers import Workers
from dsmath_jax.workdir import UserError, exit_code

TARGET = 300  # graded answers per second on two CPUs
SECONDS = 10.0  # time limit of an answer or a program
GSM8K = "gsm8k/test"
TICKS = os.sysconf("SC_CLK_TCK")


class Task(NamedTuple):
    """A completion or a program, and whether it is correct; programs have no use for `gold` and `kind`."""

    text: str
    gold: str
    kind: Kind
    correct: bool


Side = Callable[[Sequence[Task]], list[bool]]  # whether each is correct


def word_problems(count: int, seed: int, data_dir: Path) -> list[Task]:
    """Returns completions in the style of GSM8K, half of them with the gold answer of another problem."""
    noise = random.Random(seed)
    if GSM8K in datasets.available(data_dir):
        solved = [(record.solution, record.answer) for record in _records(data_dir)]
        noise.shuffle(solved)
        solved = [solved[i % len(solved)] for i in range(count)]
    else:
        solved = [_sum(noise) for _ in range(count)]
    golds = [solved[(i + i % 2) % count][1] for i in range(count)]
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
    """Returns completions in the style of MATH in other forms than the gold answers; every second is incorrect."""
    del data_dir
    noise = random.Random(seed)
    tasks = []
    for i in range(count):
        a, b, c = noise.sample(range(2, 60), 3)
        off = i % 2  # 1 makes an answer incorrect
        gold, answer = FORMS[i // 2 % len(FORMS)](a, b, c, off)
        text = (
            f"We take $a={a}$ and $b={b}$, and get $a+b={a + b}$ on the way.\n\nSo the result is $\\boxed{{{answer}}}$."
        )
        tasks.append(Task(text, gold, "math", not off))
    return tasks


# Gold answer and answer; they are equal where `off` is 0 and differ where it is 1.
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
    """Returns programs of thought: one in four uses SymPy, one in ten is incorrect and raises."""
    del data_dir
    noise = random.Random(seed)
    tasks = []
    for i in range(count):
        a, b = noise.randrange(2, 99), noise.randrange(2, 99)
        if i % 4:
            body = f"    boxes, each = {a}, {b}\n    total = boxes * each\n"
        else:
            body = f"    from sympy import Symbol, solve\n    x = Symbol('x')\n    total = solve(x - {a * b}, x)[0]\n"
        correct = i % 10 != 9
        body += "    return total\n" if correct else "    raise ValueError(total)\n"
        tasks.append(Task(f"def solution():\n{body}", str(a * b), "number", correct))
    return tasks


def math_verify(gold: str, completion: str) -> bool:
    """Returns whether plain Math-Verify finds a completion correct; runs in a worker."""
    from math_verify import parse, verify

    return verify(parse(gold), parse(completion))


def run_plainly(task: Task) -> bool:
    """Runs a program of thought in a new unsandboxed Python process; returns whether it gives the expected value."""
    code = f"{task.text}\nprint(solution())"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return process.returncode == 0 and process.stdout.strip() == task.gold


def our_grader(workers: int, stack: contextlib.ExitStack) -> Side:
    """Starts our grader."""
    grader = stack.enter_context(Grader(workers, SECONDS))

    def side(tasks: Sequence[Task]) -> list[bool]:
        return [grade.correct for grade in grader.grades([Item(task.text, task.gold, task.kind) for task in tasks])]

    return side


def math_verify_workers(workers: int, stack: contextlib.ExitStack) -> Side:
    """Starts plain Math-Verify in workers like those of our grader."""
    pool = stack.enter_context(Workers(workers, SECONDS, preload=("math_verify",)))

    def side(tasks: Sequence[Task]) -> list[bool]:
        outcomes = pool.map("benchmarks.grading:math_verify", [(f"${task.gold}$", task.text) for task in tasks])
        return [outcome.value is True for outcome in outcomes]

    return side


def our_sandbox(workers: int, stack: contextlib.ExitStack) -> Side:
    """Starts our sandbox."""
    sandbox = stack.enter_context(Sandbox(workers))

    def side(tasks: Sequence[Task]) -> list[bool]:
        runs = sandbox.run([Program(task.text, "solution") for task in tasks])
        return [run.value == task.gold for run, task in zip(runs, tasks, strict=True)]

    return side


def plain_python(workers: int, stack: contextlib.ExitStack) -> Side:
    """Starts threads that run a new Python process for every program."""
    threads = stack.enter_context(concurrent.futures.ThreadPoolExecutor(workers))
    return lambda tasks: list(threads.map(run_plainly, tasks))


class Case(NamedTuple):
    """A benchmark case.

    Attributes:
      make: returns the tasks of a turn from their number, a seed and the data folder.
      sides: by name, functions that start a side with a number of workers; these end with the stack.
      share: the tasks of a turn as a share of `--answers`.
    """

    make: Callable[[int, int, Path], list[Task]]
    sides: Mapping[str, Callable[[int, contextlib.ExitStack], Side]]
    share: float


ANSWERS = {"ours": our_grader, "Math-Verify": math_verify_workers}
CASES = {
    "gsm8k": Case(word_problems, ANSWERS, 1),
    "math": Case(problems, ANSWERS, 1 / 4),
    "programs": Case(programs, {"ours": our_sandbox, "plain process": plain_python}, 1 / 40),
}


def measure(case: Case, count: int, workers: int, repetitions: int, data_dir: Path) -> dict:
    """Measures a case on both sides in turns.

    Raises:
      RuntimeError: our side fails a task of the case, so that its rate means nothing.
    """
    count = max(2 * workers, round(count * case.share))
    few = case.make(2 * workers, 0, data_dir)
    with contextlib.ExitStack() as stack:
        sides: dict[str, Side] = {}
        rows: dict[str, dict] = {}
        for name, start in case.sides.items():
            before = time.perf_counter()
            sides[name] = start(workers, stack)
            _turn(sides[name], few)  # starts all workers
            rows[name] = {"start_up_seconds": time.perf_counter() - before}
            _turn(sides[name], case.make(count, 1, data_dir))
        reports: dict[str, list[dict]] = {name: [] for name in sides}
        for seed in range(2, 2 + repetitions):
            tasks = case.make(count, seed, data_dir)
            for name, side in sides.items():
                reports[name].append(_turn(side, tasks))
    for name, row in rows.items():
        row |= _rates(reports[name]) | {"turns": reports[name]}
    for row in rows.values():
        row["ratio"] = rows["ours"]["rate"] / row["rate"]
        row |= comparison.ratios(row, rows["ours"], cpu="cpu_milliseconds")
    if incorrect := sum(turn["tasks"] - turn["agreed"] for turn in reports["ours"]):
        raise RuntimeError(f"our side has {incorrect} of {count * repetitions} answers incorrect")
    return rows


def _turn(side: Side, tasks: Sequence[Task]) -> dict:
    wall, cpu = time.perf_counter(), cpu_seconds()
    verdicts = side(tasks)
    resolution = 1 / TICKS
    report = {"cpu_seconds": max(resolution, cpu_seconds() - cpu), "seconds": time.perf_counter() - wall}
    agreed = sum(verdict == task.correct for verdict, task in zip(verdicts, tasks, strict=True))
    return report | {"tasks": len(tasks), "agreed": agreed}


def _rates(reports: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {
        "rate": statistics.median(turn["tasks"] / turn["seconds"] for turn in reports),
        "cpu_milliseconds": statistics.median(1000 * turn["cpu_seconds"] / turn["tasks"] for turn in reports),
        "agreement": sum(turn["agreed"] for turn in reports) / sum(turn["tasks"] for turn in reports),
    }


def cpu_seconds() -> float:
    """Returns the CPU seconds of this process and those below it, with those that ended and were waited for."""
    ticks = 0
    for pid in (os.getpid(), *resources.descendants(os.getpid())):
        with contextlib.suppress(OSError):  # it has just ended
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / TICKS


def table(result: dict) -> str:
    """Returns the result as Markdown."""
    rows = [
        [
            name, side, f"{row['rate']:,.0f}", f"{row['ratio']:.2f}", f"{row['cpu_milliseconds']:.2f}",
            f"{row['cpu_ratio']:.2f}", f"{100 * row['agreement']:.2f}", f"{row['start_up_seconds']:.1f}",
        ]
        for name, case in result["cases"].items()
        for side, row in case.items()
    ]  # fmt: skip
    titles = "case | side | per second | ours / it | CPU ms each | its CPU / ours | correct, % | start-up, s"
    return comparison.table(titles, rows, text_columns=2)


def main(argv: Sequence[str] | None = None) -> None:
    parser = comparison.parser(__doc__, "repetitions", "json")
    parser.add_argument("--cases", default=",".join(CASES), help="joined by commas")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="the folder that has gsm8k/test.jsonl")
    parser.add_argument(
        "--answers", type=int, default=2000, help="of a turn; a quarter of that in LaTeX, a fortieth programs"
    )
    parser.add_argument("--workers", type=int, default=2, help="and CPUs of every side")
    options = parser.parse_args(argv)
    names = comparison.choose("cases", options.cases, CASES)
    for option in ("answers", "workers", "repetitions"):
        if getattr(options, option) < 1:
            raise UserError(f"--{option} must be at least 1; got {getattr(options, option)}.")
    with turns.threads(options.workers):
        cases = {
            name: measure(CASES[name], options.answers, options.workers, options.repetitions, options.data_dir)
            for name in names
        }
    result = {"answers": options.answers, "workers": options.workers, "bar": TARGET, "cases": cases}
    comparison.publish(options, result, table(result))


if __name__ == "__main__":
    sys.exit(exit_code(main))
