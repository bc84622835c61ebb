"""Tests of the workers: a bad item is lost alone, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmath_jax.grading.worker_process import resolve
from dsmath_jax.grading.workers import Outcome, Workers

GRADERS = "tests.grading.graders"
NO_JSON = "the function returned a value of type object, which JSON cannot hold"
SECONDS = 0.5  # the limit of items that hang; others have one that a busy machine keeps


def wait_until(done: Callable[[], bool], seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until:
        time.sleep(0.01)
    return done()


def runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(2, 60.0, 1 << 30) as found:
        yield found


@pytest.fixture(scope="module")
def hasty() -> Iterator[Workers]:
    with Workers(2, SECONDS) as found:
        yield found


BAD = {
    "hang": ((), "timed out", "after 0.5 s"),
    "hang_in_c": ((), "timed out", "after 0.5 s"),
    "killed": ((signal.SIGKILL,), "died", "SIGKILL"),
    "fill_memory": ((), "died", "out of memory"),
    "recurse": ((), "raised", "RecursionError: maximum recursion depth exceeded"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_item_is_lost_and_reported(workers: Workers, hasty: Workers, name: str) -> None:
    arguments, how, reason = BAD[name]
    (outcome,) = (hasty if how == "timed out" else workers).map(f"{GRADERS}:{name}", [arguments])
    assert outcome == Outcome(how, None, reason)


@pytest.mark.parametrize(
    ("function", "arguments", "outcome"),
    [
        ("os:_exit", (3,), Outcome("died", None, "exit code 3")),
        ("os:_exit", (0,), Outcome("died", None, "exit code 0")),
        ("os:abort", (), Outcome("died", None, "SIGABRT")),
        ("ctypes:string_at", (0,), Outcome("died", None, "SIGSEGV")),
        ("sys:exit", (1,), Outcome("raised", None, "SystemExit: 1")),
        ("math:sqrt", (-1,), Outcome("raised", None, "ValueError: math domain error")),
        ("math:sqrt", (4,), Outcome("ok", 2.0)),
        (f"{GRADERS}:alarm", (), Outcome("ok", 1)),
        ("builtins:object", (), Outcome("raised", None, f"TypeError: {NO_JSON}")),
        ("numpy:float32", (0.5,), Outcome("ok", 0.5)),
        (f"{GRADERS}:two_numbers", (), Outcome("ok", [0.5, 2.0])),
        ("builtins:float", ("inf",), Outcome("ok", float("inf"))),
        ("builtins:str", ("a\nline and \ud800",), Outcome("ok", "a\nline and \ud800")),
        ("no_such_module:f", (), Outcome("raised", None, "ModuleNotFoundError: No module named 'no_such_module'")),
        ("math:no_such", (), Outcome("raised", None, "AttributeError: module 'math' has no attribute 'no_such'")),
        ("math:pi", (), Outcome("raised", None, "ValueError: 'math:pi' is not a function")),
    ],
)  # fmt: skip
def test_the_outcome_of_an_item(workers: Workers, function: str, arguments: tuple, outcome: Outcome) -> None:
    assert workers.map(function, [arguments]) == [outcome]


def test_termination_signals_do_not_end_workers(workers: Workers) -> None:
    """Signals that a cluster sends to every process of a job are for the run to handle."""
    asked = [(int(number),) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)]
    assert workers.map(f"{GRADERS}:killed", asked) == 4 * [Outcome("ok")]


@given(st.lists(st.sampled_from(["ok", "raises", "dies", "killed"]), max_size=40), st.integers(1, 4))
@settings(max_examples=15)
def test_outcomes_are_in_order_and_do_not_depend_on_the_workers(kinds: list[str], count: int) -> None:
    programs = {
        "ok": ("1 + 1", "ok", 2),
        "raises": ("1 / 0", "raised", None),
        "dies": ("__import__('os')._exit(1)", "died", None),
        "killed": ("__import__('os').kill(__import__('os').getpid(), 9)", "died", None),
    }
    items = [(f"({place}, {programs[kind][0]})",) for place, kind in enumerate(kinds)]
    with Workers(count, 60.0) as several:
        found = [(outcome.status, outcome.value) for outcome in several.map("builtins:eval", items)]
    expected = [programs[kind][1:] for kind in kinds]
    assert found == [(how, value and [place, value]) for place, (how, value) in enumerate(expected)]


def test_nothing_starts_again_after_the_end() -> None:
    """The grading thread of an interrupted run makes its next call when the workers have been closed."""
    with Workers(1) as one:
        assert one.map("math:sqrt", [(9,)])[0].value == 3
    assert [outcome.status for outcome in one.map("math:sqrt", [(9,), (4,)])] == ["died"] * 2
    assert one._fork_server is None


def test_many_items_among_which_some_hang() -> None:
    sleepers = {3, 70, 150}
    items = [(place, 1000 if place in sleepers else 0) for place in range(200)]
    with Workers(2, 1.0) as two:
        found = two.map(f"{GRADERS}:square_after", items)
    late = Outcome("timed out", None, "after 1 s")
    assert found == [late if place in sleepers else Outcome("ok", place**2) for place in range(200)]


def test_no_items(workers: Workers) -> None:
    assert workers.map("math:sqrt", []) == []


def test_large_items_and_answers_pass(workers: Workers) -> None:
    texts = [(letter * 3_000_000,) for letter in "abcd"]
    assert [outcome.value for outcome in workers.map("builtins:str", texts)] == [text for (text,) in texts]


def test_time_limits_work_off_the_main_thread(workers: Workers, hasty: Workers) -> None:
    """An alarm signal would raise there or never arrive, and the reward would silently be zero."""
    found: dict[int, list[Outcome]] = {}

    def ask(number: int) -> None:
        found[number] = workers.map(f"{GRADERS}:square", [(number,)]) + hasty.map(f"{GRADERS}:hang", [()])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    late = Outcome("timed out", None, "after 0.5 s")
    assert found == {number: [Outcome("ok", number**2), late] for number in range(2)}


def test_a_function_that_prints_and_reads_disturbs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with Workers(1) as one:
        assert one.map(f"{GRADERS}:speak", [("first",), ("second",)]) == [
            Outcome("ok", "first"),
            Outcome("ok", "second"),
        ]
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("and more") == 2
    assert "first\n" in printed.err


def test_a_function_that_forks_answers_once(workers: Workers) -> None:
    found = workers.map(f"{GRADERS}:fork_and_come_back", 5 * [()])
    assert all(outcome.status == "ok" and outcome.value > 0 for outcome in found)


def test_workers_are_light() -> None:
    with Workers(1) as one:
        one.map("dsmath_jax.grading.grade:is_correct", [("The answer is 1,024.", "1024", "number")])
        (outcome,) = one.map("builtins:eval", [("sorted(__import__('sys').modules)",)])
    assert not {"jax", "numpy", "sympy", "dsmath_jax.sharding"} & set(outcome.value)


def test_hashes_are_the_same_in_every_worker_and_run() -> None:
    hashes = set()
    for count in (1, 3):
        with Workers(count) as several:
            hashes |= {outcome.value for outcome in several.map("builtins:hash", 9 * [("text",)])}
    assert len(hashes) == 1


def test_a_killed_fork_server_is_replaced() -> None:
    with Workers(2) as two:
        assert two.map("math:sqrt", [(4,)])[0].value == 2
        lost = two.map("builtins:eval", [("__import__('os').kill(__import__('os').getppid(), 9)",)])
        assert lost == [Outcome("died", None, "the fork server was killed")]
        assert two.map("math:sqrt", [(9,)])[0].value == 3


def test_an_interrupted_call_leaves_no_results_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with Workers(1) as one:
        with monkeypatch.context() as patch:
            patch.setattr(one, "_request", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                one.map("math:sqrt", [(4,)])
        assert one.map("math:sqrt", [(9,)])[0].value == 3


class TestNothingIsLeft:
    """A child of a worker ends with it, and both end with the run."""

    def test_after_the_time_limit(self, tmp_path: Path) -> None:
        with Workers(1, 2.0) as one:
            assert one.map(f"{GRADERS}:start_child", [(str(tmp_path / "pids"),)])[0].status == "timed out"
            processes = [int(word) for word in (tmp_path / "pids").read_text(encoding="ascii").split()]
            assert wait_until(lambda: not any(map(runs, processes)))

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_after_the_run_is_killed(self, tmp_path: Path, number: int) -> None:
        program = (
            "from dsmath_jax.grading.workers import Workers\n"
            f"Workers(2, 900.0).map('{GRADERS}:start_child', [({str(tmp_path / 'pids')!r},)])"
        )
        run = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2])
        try:
            assert wait_until(lambda: (tmp_path / "pids").is_file() and bool((tmp_path / "pids").read_text().strip()))
        finally:
            os.kill(run.pid, number)
            run.wait()
        processes = [int(word) for word in (tmp_path / "pids").read_text(encoding="ascii").split()]
        assert wait_until(lambda: not any(map(runs, processes)))

    def test_after_the_run_is_killed_while_a_worker_holds_the_interpreter(self, tmp_path: Path) -> None:
        program = (
            "import sys\nfrom dsmath_jax.grading.workers import Workers\nworkers = Workers(1, 900.0)\n"
            "print(workers.map('os:getpid', [()])[0].value, flush=True)\n"
            f"workers.map('{GRADERS}:hang_in_c', [()])"
        )
        run = subprocess.Popen(
            [sys.executable, "-c", program], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
        )
        assert run.stdout is not None
        worker = int(run.stdout.readline())
        time.sleep(0.3)
        run.kill()
        run.wait()
        run.stdout.close()
        assert wait_until(lambda: not runs(worker))


@pytest.mark.parametrize("name", ["math.sqrt", "math:", ":sqrt", ""])
def test_a_name_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"not of the form package\.module:NAME"):
        resolve(name)


def test_scalars_of_numpy_count_as_numbers(workers: Workers) -> None:
    kinds: list[Any] = [np.float32, np.int64, np.bool_]
    names = [f"numpy:{kind.__name__}" for kind in kinds]
    assert [workers.map(name, [(1,)])[0].value for name in names] == [1.0, 1, True]


# --- asynchronous functions ---


def test_calls_of_an_asynchronous_function_are_in_flight_together(workers: Workers) -> None:
    began = time.monotonic()
    items = [(value, 0.2) for value in range(100)]
    assert workers.map(f"{GRADERS}:square_later", items, in_flight=64) == [Outcome("ok", n * n) for n in range(100)]
    assert time.monotonic() - began < 10  # one after the other they take 20 s
    assert workers.map(f"{GRADERS}:square_later", items[:3]) == [Outcome("ok", n * n) for n in range(3)]
    assert workers.map(f"{GRADERS}:square_later", [], in_flight=64) == []


def test_no_more_calls_are_in_flight_than_allowed() -> None:
    with Workers(1, 60.0) as one:
        found = one.map(f"{GRADERS}:calls_at_a_time", 9 * [(0.02,)], in_flight=3)
        assert {outcome.value for outcome in found} == {3}
        assert {outcome.value for outcome in one.map(f"{GRADERS}:calls_at_a_time", 3 * [(0.01,)])} == {1}


def test_a_client_may_live_as_long_as_its_worker() -> None:
    with Workers(1, 60.0) as one:
        for _ in range(2):
            found = one.map(f"{GRADERS}:square_with_client", [(2,), (3,)], in_flight=2)
            assert found == [Outcome("ok", 4), Outcome("ok", 9)]


ASYNC_BAD = {
    "raise": ("raised", "KeyError: 5"),
    "leave": ("raised", "SystemExit: 1"),
    "cancel": ("raised", "CancelledError: "),
    "exit": ("died", "exit code 3"),
    "kill": ("died", "SIGKILL"),
    "memory": ("died", "out of memory"),
    "wait": ("timed out", "after 0.5 s"),
    "ignore": ("timed out", "after 0.5 s"),
    "thread": ("timed out", "after 0.5 s"),
    "block": ("timed out", "after 0.5 s"),
}


@pytest.mark.parametrize("how", ASYNC_BAD)
def test_a_bad_asynchronous_call_is_lost_alone(workers: Workers, hasty: Workers, how: str) -> None:
    """The calls in flight with it are repeated where it takes the worker with it."""
    status, reason = ASYNC_BAD[how]
    items = [(value, how if value == 5 else "") for value in range(12)]
    several = hasty if status == "timed out" else workers
    expected = [Outcome("ok", value * value) for value in range(12)]
    expected[5] = Outcome(status, None, reason)
    assert several.map(f"{GRADERS}:misbehave", items, in_flight=64) == expected
    assert several.map(f"{GRADERS}:square", [(4,)]) == [Outcome("ok", 16)]


def test_a_call_that_blocks_the_event_loop_costs_the_others_no_time() -> None:
    """Four of them take more than the time limit of those that wait with them."""
    items = [(value, "busy") for value in range(4)] + [(9, ""), (10, "wait")]
    with Workers(1, 0.5) as one:
        *found, waiting = one.map(f"{GRADERS}:misbehave", items, in_flight=64)
    assert found == [Outcome("ok", value * value) for value in (0, 1, 2, 3, 9)]
    assert waiting.status == "timed out"


@pytest.mark.slow
@given(st.lists(st.sampled_from(["", "", "", "raise", "exit", "kill"]), max_size=30), st.integers(1, 9))
@settings(max_examples=15)
def test_outcomes_of_asynchronous_calls_do_not_depend_on_the_workers(kinds: list[str], in_flight: int) -> None:
    items, found = list(enumerate(kinds)), []
    for count in (1, 3):
        with Workers(count, 60.0) as several:
            found.append(several.map(f"{GRADERS}:misbehave", items, in_flight))
    assert found[0] == found[1]
    assert [outcome.status == "ok" for outcome in found[0]] == [not kind for kind in kinds]


@pytest.mark.slow
def test_a_busy_machine_loses_no_item() -> None:
    """On one processor with four busy processes, half a second of work takes several."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    spin = [sys.executable, "-c", "while True: pass"]
    # Each in its own session, since the kernel may schedule by session.
    others = [subprocess.Popen(spin, start_new_session=True) for _ in range(4)]
    try:
        with Workers(1, seconds=1.0) as one:
            busy, asleep = one.map(f"{GRADERS}:work", [(0.5,), (None,)])
            late = one.map(f"{GRADERS}:work", [(100.0,)])
    finally:
        os.sched_setaffinity(0, processors)
        for other in others:
            other.kill()
            other.wait()
    assert busy.status == "ok"
    assert busy.value > 1.0
    assert asleep == late[0] == Outcome("timed out", reason="after 1 s")


def test_closing_ends_the_items_of_another_thread() -> None:
    """A run that is interrupted does not wait for the grading that overlaps with an update."""
    outcomes: list[Outcome] = []
    pool = Workers(1, 600.0)
    items = [(3, 0.0), (3, 500.0), (3, 500.0)]
    thread = threading.Thread(target=lambda: outcomes.extend(pool.map(f"{GRADERS}:square_after", items)))
    thread.start()
    assert wait_until(lambda: pool._fork_server is not None)
    time.sleep(SECONDS)
    pool.close()
    thread.join(20)
    assert not thread.is_alive()
    assert [outcome.status for outcome in outcomes[1:]] == ["died"] * 2
