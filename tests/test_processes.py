"""Real processes that join, of which one is killed or fails: the others end with one sentence, within seconds."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dsmath_jax.processes import CRASHED, LOST, join_processes
from dsmath_jax.workdir import UserError

ROOT = Path(__file__).parents[1]
SECONDS = 120  # after which the test gives up; JAX would wait for 100 to 300
KILLED = "was killed, or its host is gone; run the same command again on all to resume."

# ADDRESS PROCESSES PROCESS, then who ends, how, and where the others are meanwhile.
PEER = """
import os, signal, sys, time

from dsmath_jax import processes
from dsmath_jax.sharding import barrier
from dsmath_jax.workdir import UserError, exit_code

address, count, own, who, how, where = sys.argv[1:]


def work():
    with processes.join_processes(address, int(count), int(own)):
        barrier("joined")
        if who in (own, "all"):
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "term":
                os.kill(os.getpid(), signal.SIGTERM)
            if how == "bug":
                raise ValueError("a bug\\nin lines")
            raise UserError("sft.data names no file; put it there.")
        barrier("end") if where == "barrier" else time.sleep(600)


processes.START_SECONDS = 10 if how == "alone" else 300
sys.exit(exit_code(work))
"""


def run(count: int, who: str, how: str, where: str = "barrier", started: int | None = None) -> list[tuple[int, str]]:
    """Runs processes that join; returns the exit code of each, and what it printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PEER, address, str(count), str(own), who, how, where],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for own in range(count if started is None else started)
    ]  # fmt: skip
    try:
        printed = [process.communicate(timeout=SECONDS)[0] for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    return [(process.returncode, text) for process, text in zip(running, printed, strict=True)]


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("[Gloo]")]


def test_flags_are_given_whole_or_not_at_all() -> None:
    with (
        pytest.raises(UserError, match=r"--processes, --process is missing: give --coordinator"),
        join_processes("host:1234"),
    ):
        pass
    with pytest.raises(UserError, match=r"--process=2 must be below --processes=2"), join_processes("host:1234", 2, 2):
        pass


def test_where_one_of_three_is_killed_the_others_say_which_and_end() -> None:
    *others, killed = run(3, "2", "kill")
    assert killed[0] == -signal.SIGKILL
    for code, text in others:
        assert (code, lines(text)) == (LOST, [f"error: Process 2 of 3 {KILLED}"])


@pytest.mark.slow
@pytest.mark.parametrize("where", ["barrier", "elsewhere"])
@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize(("how", "ended"), [("kill", -signal.SIGKILL), ("term", -signal.SIGTERM)])
def test_where_one_is_killed_the_other_ends(who: int, how: str, ended: int, where: str) -> None:
    found = run(2, str(who), how, where)
    assert found[who][0] == ended
    code, text = found[1 - who]
    sentence = f"error: Process {who} of 2 {KILLED}"
    if who == 1:
        assert (code, lines(text)) == (LOST, [sentence])
    else:  # JAX's own lines may come in between, or first: its coordinator is gone
        assert (code == LOST and sentence in text) or code == -signal.SIGABRT, text


@pytest.mark.slow
@pytest.mark.parametrize("where", ["barrier", "elsewhere"])
@pytest.mark.parametrize("who", [0, 1])
def test_where_one_fails_the_other_says_why(who: int, where: str) -> None:
    found = run(2, str(who), "user", where)
    assert (found[who][0], lines(found[who][1])) == (2, ["error: sft.data names no file; put it there."])
    message = f"error: Process {who} of 2 failed: sft.data names no file; put it there."
    assert (found[1 - who][0], lines(found[1 - who][1])) == (2, [message])


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_a_bug_in_one_leaves_its_traceback_there_and_a_line_with_the_other(who: int) -> None:
    found = run(2, str(who), "bug")
    assert found[who][0] == found[1 - who][0] == CRASHED
    assert "Traceback" in found[who][1]
    message = f"error: Process {who} of 2 failed: ValueError: a bug (its output has the traceback)"
    assert lines(found[1 - who][1]) == [message]


@pytest.mark.slow
def test_where_all_fail_each_has_its_own_sentence() -> None:
    for code, text in run(2, "all", "user"):
        assert (code, lines(text)) == (2, ["error: sft.data names no file; put it there."])


@pytest.mark.slow
def test_a_process_that_none_joins_ends_with_a_sentence() -> None:
    [(code, text)] = run(2, "none", "alone", started=1)
    assert code == 2
    assert "error: The processes of the run did not find each other within 10 seconds at 127.0.0.1:" in text
