"""The small recipe end to end in two processes that share a folder, as two hosts would: uninterrupted, and killed."""

import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dsmath_jax.processes import LOST
from dsmath_jax.workdir import read_json, read_jsonl

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "tests" / "kill_resume.py"))
SECONDS = 900

pytestmark = pytest.mark.slow


class Run:
    """Two processes that run the recipe in a folder, each with its log next to it."""

    def __init__(self, workdir: Path, more: Sequence[str] = ()):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        arguments = [f"--config={ROOT / 'configs' / 'tiny.py'}", f"--workdir={workdir}", *SCRIPT["SMALL"], *more]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        self.logs = [workdir.with_name(f"{workdir.name}.{process}.log") for process in range(2)]
        self.processes = []
        for process, log in enumerate(self.logs):
            with open(log, "w", encoding="utf-8") as file:
                among = [f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={process}"]
                command = [sys.executable, "-m", "dsmath_jax.main", *among, *arguments]
                self.processes.append(subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT))

    def output(self, process: int) -> str:
        return self.logs[process].read_text(encoding="utf-8")

    def end(self) -> list[int]:
        """The processes' exit codes."""
        try:
            return [process.wait(timeout=SECONDS) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
                process.wait()

    def kill(self, process: int, reached: Callable[[], bool]) -> list[int]:
        """Kills one process when the condition holds; returns the exit codes of both."""
        for _ in range(SECONDS * 20):
            if reached() or any(each.poll() is not None for each in self.processes):
                break
            time.sleep(0.05)
        self.processes[process].send_signal(signal.SIGKILL)
        return self.end()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    run = Run(folder)
    assert run.end() == [0, 0], "\n".join(run.output(process)[-2000:] for process in range(2))
    return folder, run


def test_two_processes_run_the_whole_recipe(uninterrupted: tuple[Path, Run]) -> None:
    folder, run = uninterrupted
    report = read_json(folder / "report" / "report.json")
    assert report["evaluate"]["rl"]["n"] == 4
    assert report["rl"]["steps"] == 6
    # Only process 0 writes and prints the result.
    assert ["index.html" in run.output(process) for process in range(2)] == [True, False]


def test_one_process_killed_ends_the_other_and_resumed_the_run_is_the_uninterrupted_one(
    uninterrupted: tuple[Path, Run], tmp_path: Path
) -> None:
    """In training and among rollouts; with a compilation cache, which is cold at first and then warm."""
    folder = tmp_path / "run"
    cache = [f"--config.compilation_cache={tmp_path / 'cache'}"]
    for process, reached in ((1, folder / "sft/checkpoints/00000004.sha256.json"), (0, folder / "rl/metrics.jsonl")):
        run = Run(folder, cache)
        codes = run.kill(process, reached.is_file)
        assert reached.is_file(), run.output(0)[-2000:]
        assert codes[process] == -signal.SIGKILL
        # JAX may abort the other of process 0 before it has printed anything: its coordinator is gone.
        assert codes[1 - process] in ((LOST,) if process else (LOST, -signal.SIGABRT)), run.output(1 - process)[-2000:]
        if codes[1 - process] == LOST:
            assert f"error: Process {process} of 2 was killed" in run.output(1 - process)
    resumed = Run(folder, cache)
    assert resumed.end() == [0, 0], "\n".join(resumed.output(process)[-2000:] for process in range(2))
    assert list((tmp_path / "cache").rglob("*-cache"))

    one, other = SCRIPT["contents"](uninterrupted[0]), SCRIPT["contents"](folder)
    assert sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)) == []


def test_dialogues_of_two_processes_have_the_same_replies(tmp_path: Path) -> None:
    """Process 0 runs the environments; the other would end in an error if it sampled anything else."""
    settings = ["--config.rl.environment.name=calculator", "--config.rl.rollouts_ahead=1"]
    settings += ["--stages=corpus,tokenizer,pretrain,sft,rl"]
    run = Run(tmp_path / "run", settings)
    assert run.end() == [0, 0], "\n".join(run.output(process)[-2000:] for process in range(2))
    turns = [row["turns"] for row in read_jsonl(tmp_path / "run" / "rl" / "metrics.jsonl") if "turns" in row]
    assert len(turns) == 6
    assert min(turns) >= 1
