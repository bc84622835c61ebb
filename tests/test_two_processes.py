"""Two real processes train, are killed or preempted, and resume: as two, as one process, on one device."""

import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from dsmath_jax.sharding import Layout, make_mesh, path_name
from dsmath_jax.training.checkpoint import restore
from dsmath_jax.training.model_files import abstract_params
from dsmath_jax.workdir import read_jsonl
from tests.devices import cpu_devices

ROOT = Path(__file__).parents[1]
PEER = Path(__file__).parent / "training" / "resume_peer.py"
SIZES = runpy.run_path(str(PEER))["SIZES"]
EIGHT = '{"fsdp": 4, "tensor": 2}'
ONE = '{"fsdp": 1}'
SECONDS = 240

pytestmark = pytest.mark.slow


class Run:
    """A run in `folder`: its processes, each with its log next to the folder."""

    def __init__(self, folder: Path, mesh: str, processes: int, devices: int, pause: float):
        environment = cpu_devices(devices)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        self.folder = folder
        self.logs = [folder.with_name(f"{folder.name}.{number}.log") for number in range(processes)]
        self.processes = []
        for number, log in enumerate(self.logs):
            several = [port, str(number)] if processes > 1 else []
            command = [sys.executable, str(PEER), str(folder), mesh, str(pause), *several]
            with open(log, "w", encoding="utf-8") as file:
                self.processes.append(subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT))

    def outputs(self) -> list[str]:
        return [log.read_text(encoding="utf-8") for log in self.logs]

    def end(self) -> list[int]:
        """The processes' exit codes."""
        try:
            return [process.wait(timeout=SECONDS) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
                process.wait()

    def reach(self, step: int, checkpoint: int = 0) -> None:
        """Returns when the row of `step` is written, and that checkpoint complete."""
        rows, hashes = self.folder / "metrics.jsonl", self.folder / "checkpoints" / f"{checkpoint:08d}.sha256.json"
        for _ in range(SECONDS * 20):
            if rows.is_file() and rows.read_bytes().count(b"\n") > step and (not checkpoint or hashes.is_file()):
                return
            if any(process.poll() is not None for process in self.processes):
                break
            time.sleep(0.05)
        raise AssertionError("\n".join(self.outputs())[-4000:])


@pytest.fixture
def start() -> Iterator[Callable[..., Run]]:
    """Starts runs; whatever is still alive at the end of the test is killed."""
    runs: list[Run] = []

    def go(folder: Path, mesh: str = EIGHT, processes: int = 2, devices: int = 4, pause: float = 0.0) -> Run:
        runs.append(Run(folder, mesh, processes, devices, pause))
        return runs[-1]

    yield go
    for run in runs:
        for process in run.processes:
            process.kill()
            process.wait()


def finish(run: Run) -> None:
    assert set(run.end()) == {0}, "\n".join(run.outputs())[-4000:]


def kill(run: Run) -> None:
    """kill -9 of all processes."""
    for process in run.processes:
        process.send_signal(signal.SIGKILL)
    assert set(run.end()) == {-signal.SIGKILL}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(Run(folder, EIGHT, processes=2, devices=4, pause=0.0))
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run killed after step 9: it has checkpoints of steps 4 and 8."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    run = Run(folder, EIGHT, processes=2, devices=4, pause=0.5)
    try:
        run.reach(9, checkpoint=8)
    finally:
        kill(run)
    assert not (folder / "params").exists()
    return folder


def params(folder: Path) -> dict[str, np.ndarray]:
    """On this process's one device, whatever wrote them."""
    like = abstract_params(SIZES, Layout(make_mesh()))
    leaves = jax.tree_util.tree_leaves_with_path(restore(folder / "params", like))
    return {path_name(path): np.asarray(leaf) for path, leaf in leaves}


def assert_bitwise(one: Path, other: Path) -> None:
    """The same metrics, byte for byte, and the same parameters, bit for bit."""
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    mine, expected = params(one), params(other)
    assert mine.keys() == expected.keys()
    for name in mine:
        assert mine[name].tobytes() == expected[name].tobytes(), name


def test_killed_and_resumed_on_the_same_mesh_is_bitwise_the_uninterrupted_run(
    start: Callable[..., Run], uninterrupted: Path, killed: Path, tmp_path: Path
) -> None:
    shutil.copytree(killed, tmp_path / "run")
    finish(start(tmp_path / "run"))
    assert_bitwise(tmp_path / "run", uninterrupted)
    losses = [row["loss"] for row in read_jsonl(uninterrupted / "metrics.jsonl")]
    assert len(losses) == 12
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("mesh", "devices"), [(EIGHT, 8), (ONE, 1)])
def test_resumed_as_one_process(
    start: Callable[..., Run], uninterrupted: Path, killed: Path, tmp_path: Path, mesh: str, devices: int
) -> None:
    """Of eight devices, and of one: the data are the same, and the losses but for the order of sums."""
    shutil.copytree(killed, tmp_path / "run")
    finish(start(tmp_path / "run", mesh, processes=1, devices=devices))
    rows, expected = (list(read_jsonl(folder / "metrics.jsonl")) for folder in (tmp_path / "run", uninterrupted))
    assert rows[:8] == expected[:8]  # the steps before the checkpoint are not done again
    assert [row["step"] for row in rows] == list(range(12))
    assert [row["data"] for row in rows] == [row["data"] for row in expected]
    for name in ("loss", "grad_norm", "param_norm"):
        np.testing.assert_allclose(
            [row[name] for row in rows], [row[name] for row in expected], rtol=1e-5, err_msg=name
        )
    mine, others = params(tmp_path / "run"), params(uninterrupted)
    for name in others:
        np.testing.assert_allclose(mine[name], others[name], atol=1e-4, err_msg=name)


def test_a_damaged_checkpoint_is_reported_and_all_processes_use_the_one_before(
    start: Callable[..., Run], uninterrupted: Path, killed: Path, tmp_path: Path
) -> None:
    shutil.copytree(killed, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "00000008"
    path = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    run = start(tmp_path / "run")
    finish(run)
    message = f"{newest} is not used: its file {path.relative_to(newest)} does not match its hash"
    assert [message in output for output in run.outputs()] == [True, False]  # process 0 reports it
    assert_bitwise(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("number", [0, 1])
def test_sigterm_to_one_process_makes_both_save_and_end(
    start: Callable[..., Run], uninterrupted: Path, tmp_path: Path, number: int
) -> None:
    run = start(tmp_path / "run", pause=0.5)
    run.reach(5)
    run.processes[number].send_signal(signal.SIGTERM)
    assert run.end() == [128 + signal.SIGTERM] * 2, "\n".join(run.outputs())[-4000:]
    steps = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").glob("????????"))
    assert len(steps) == 2
    assert steps[0] < steps[1] < 12
    assert all(f"run: preempted, saved at step {steps[1]} of 12; run the same" in output for output in run.outputs())
    rows = [row["step"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")]
    assert rows == list(range(steps[1]))
    finish(start(tmp_path / "run"))
    assert_bitwise(tmp_path / "run", uninterrupted)
