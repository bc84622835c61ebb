"""The engine and the pipeline on a real Ray cluster of two machines, here two `ray start` on this one.

The work runs in separate processes (`ray_run`), since Daft chooses its runner once per process.
"""

import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import daft
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsmath_jax.corpus import pipeline
from dsmath_jax.workdir import write_jsonl

from .conftest import member
from .ray_run import NODE, TASKS, corpus_settings, relate

pytest.importorskip("ray", reason="Ray is not installed: it comes with the extra `cluster`")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TIMEOUT = 120.0  # seconds


class Cluster:
    """A head and a worker with one CPU each; everything of a machine is in the process group of its `ray start`."""

    def __init__(self) -> None:
        self.port, self.client_port = unused_port(), unused_port()
        self.address = f"127.0.0.1:{self.port}"
        self.folder = tempfile.mkdtemp(prefix="ray-")  # a short path: sockets are below it
        self.machines: dict[str, subprocess.Popen] = {}

    def start(self, name: str) -> None:
        """Starts a machine as `launch/ray_cluster.sh` does, but for small and quick tests."""
        if name in self.machines:
            return
        role = [f"--head={self.port}"] if name == "head" else [f"--worker={self.address}"]
        launch = [ROOT / "launch" / "ray_cluster.sh", "--dry-run", *role]
        *_, command = subprocess.run(launch, capture_output=True, text=True, check=True).stdout.splitlines()
        ray = shutil.which("ray", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        assert ray, "Ray's command is not next to this Python"
        small = ["--num-cpus=1", "--object-store-memory=100000000", "--node-ip-address=127.0.0.1"]
        if name == "head":
            small += ["--include-dashboard=false", f"--temp-dir={self.folder}"]
            small += [f"--ray-client-server-port={self.client_port}"]
        environment = os.environ | {
            NODE: name,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
            "RAY_health_check_period_ms": "500",  # detects a dead machine soon
            "RAY_health_check_failure_threshold": "2",
        }
        with open(f"{self.folder}/{name}.log", "a", encoding="utf-8") as log:
            self.machines[name] = subprocess.Popen(
                [ray, *shlex.split(command)[1:], *small],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        log_file = Path(f"{self.folder}/{name}.log")
        wait(lambda: "Ray runtime started" in log_file.read_text(), self.machines[name], log=log_file)

    def kill(self, name: str) -> None:
        machine = self.machines.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(machine.pid, signal.SIGKILL)
        machine.wait()
        Path(f"{self.folder}/{name}.log").unlink()

    def stop(self) -> None:
        for name in list(self.machines):
            self.kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def machines() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        cluster.start("head")
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(machines: Cluster) -> Cluster:
    """Both machines running, also after a test that killed one."""
    machines.start("worker")
    return machines


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait(condition: Callable[[], object], running: subprocess.Popen | None = None, log: Path | None = None) -> None:
    """Waits until a condition holds, while a process runs."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert not running or running.poll() is None, f"ended too early: {log.read_text() if log else running.args}"
        assert time.monotonic() < end, f"waited for {TIMEOUT:.0f} seconds"
        time.sleep(0.02)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts `ray_run.main` in a process that ends with the test."""
    started = []

    def start(*arguments: object) -> subprocess.Popen:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
        command = [sys.executable, "-c", "import ray_run; ray_run.main()", *map(str, arguments)]
        with open(tmp_path / "log", "w", encoding="utf-8") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def finish(process: subprocess.Popen, tmp_path: Path) -> str:
    """Waits for the end of what `run` started; returns what it printed."""
    code = process.wait(TIMEOUT)
    printed = (tmp_path / "log").read_text()
    assert code == 0, printed
    return printed


def squares(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "out").iterdir()}


SQUARES = {f"{n}.txt": f"{n * n}\n" for n in range(TASKS)}


@pytest.mark.parametrize("way", ["", "ray://"])
def test_tasks_go_to_both_machines(cluster, run, tmp_path, way):
    address = f"{way}127.0.0.1:{cluster.client_port}" if way else cluster.address
    finish(run("tasks", address, tmp_path), tmp_path)
    assert squares(tmp_path) == SQUARES
    ran = [path.name.split("-")[:2] for path in (tmp_path / "notes").iterdir()]
    assert len(ran) == TASKS
    shares = [sum(machine == name for machine, _ in ran) for name in ("head", "worker")]
    assert min(shares) >= TASKS // 4, shares


def test_tasks_of_a_machine_that_dies_run_on_the_other(cluster, run, tmp_path):
    process = run("tasks", cluster.address, tmp_path)
    notes = tmp_path / "notes"
    wait(lambda: list(notes.glob("worker-*")) and list(notes.glob("head-*")), process, tmp_path / "log")
    cluster.kill("worker")
    assert len(list((tmp_path / "out").glob("*.txt"))) < TASKS
    finish(process, tmp_path)
    assert squares(tmp_path) == SQUARES


def test_a_user_error_comes_back_from_the_cluster(cluster, run, tmp_path):
    assert finish(run("refuse", cluster.address, tmp_path), tmp_path).endswith("Record 7 is bad; fix it.\n")


def test_a_process_cannot_change_its_cluster(cluster, run, tmp_path):
    messages = finish(run("change", cluster.address, tmp_path), tmp_path).splitlines()
    assert messages == [
        f"This process works on the Ray cluster {cluster.address} and cannot change to this machine; "
        "start another process for that.",
        f"This process works on the Ray cluster {cluster.address} and cannot change to auto; "
        "start another process for that.",
    ]


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Six files of pages with a host and bands that some share, as de-duplication has them."""
    state = np.random.default_rng(0)
    for file in range(6):
        numbers = np.arange(file * 4_000, (file + 1) * 4_000)
        columns = {
            "number": numbers,
            "host": [f"host{n}" for n in state.integers(0, 50, len(numbers))],
            "bands": list(state.integers(0, 60_000, (len(numbers), 8)).astype(np.uint64)),
        }
        (tmp_path / "tables").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), tmp_path / "tables" / f"{file}.parquet")
    return tmp_path / "tables"


def test_dataframes_are_the_same_on_a_cluster(cluster, run, tables, tmp_path):
    finish(run("relate", cluster.address, tmp_path), tmp_path)
    here = relate(daft.read_parquet(f"{tables}/*.parquet"))
    there = pq.read_table(tmp_path / "related.parquet")
    assert here.num_rows > 10_000
    assert there.to_pydict() == here.to_pydict()
    pairs = daft.read_parquet(f"{tmp_path}/written/*.parquet").sort(["number", "first"]).to_pydict()
    assert pairs == {name: here[name].to_pylist() for name in pairs}


def test_a_query_that_lost_its_data_with_a_machine_is_run_again(cluster, run, tables, tmp_path):
    """The first try keeps a table in the memory of both machines, and uses it after one is dead."""
    process = run("relate_kept", cluster.address, tmp_path)
    wait((tmp_path / "kept-1").exists, process, tmp_path / "log")
    cluster.kill("worker")
    (tmp_path / "killed").touch()
    printed = finish(process, tmp_path)
    assert "A machine of the cluster was lost" in printed
    assert (tmp_path / "kept-2").exists()
    here = relate(daft.read_parquet(f"{tables}/*.parquet"))
    assert pq.read_table(tmp_path / "related.parquet").to_pydict() == here.to_pydict()


MATH = "prime integer sum root proof angle \\(x^2\\) \\(\\frac{1}{2}\\) divide fraction even odd term limit".split()
OTHER = "weather town shoes goal price film star garden tea bus winter music dress boat hotel river".split()
QUESTION = "Mara buys nine green lamps and sells four of them to her old uncle on Sunday. How many are left?"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six WARC files with mathematics of three hosts and other pages, duplicates and a planted problem."""
    state = random.Random(0)

    def page(words: list[str], more: str = "") -> bytes:
        text = " ".join(state.choice(words) + state.choice(["", " the", " of a", " and"]) for _ in range(120))
        return f"<html><body><main><h1>Page</h1><p>{text}</p><p>{more}</p></main></body></html>".encode()

    pages = [(f"http://seed.test/lessons/{n}", page(MATH)) for n in range(20)]
    pages += [(f"http://far.test/math/{n}", page(MATH, QUESTION if n == 7 else "")) for n in range(30)]
    pages += [
        (f"http://mixed.test/{kind}/{n}", page(words))
        for kind, words in (("sums", MATH), ("news", OTHER))
        for n in range(15)
    ]
    pages += [(f"http://o{n % 4}.test/a/{n}", page(OTHER)) for n in range(80)]
    pages += [(f"http://copy.test/{n}", pages[20 + n][1].replace(b"Page", b"Copy")) for n in range(10)]
    state.shuffle(pages)
    data = tmp_path_factory.mktemp("web")
    (data / "crawl").mkdir()
    for file in range(6):
        (data / f"crawl/{file}.warc.gz").write_bytes(b"".join(member(url, body) for url, body in pages[file::6]))
    (data / "crawl/seeds.txt").write_text("http://seed.test/lessons/\n")
    problem = {"id": "t/0", "question": QUESTION, "solution": "9 - 4 = 5", "answer": "5"}
    write_jsonl(data / "problems/test.jsonl", [problem])
    return data


def outputs(out: Path) -> dict[str, object]:
    """The documents, the decisions and the summary."""
    tables = [out / "decisions.parquet", out / "prefixes.parquet", *sorted((out / "documents").glob("*.parquet"))]
    read = {path.name: pq.read_table(path).to_pydict() for path in tables}
    return read | {"summary": json.loads((out / "summary.json").read_text())}


@pytest.fixture(scope="module")
def here(web: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The output of the pipeline on this machine."""
    out = tmp_path_factory.mktemp("here")
    pipeline.mine(corpus_settings(""), 0, web, out)
    return outputs(out)


def test_the_pipeline_finds_the_same_documents_on_a_cluster(cluster, run, here, web, tmp_path):
    finish(run("mine", cluster.address, tmp_path / "corpus", web), tmp_path)
    assert len(here) == 3 + 6
    assert outputs(tmp_path / "corpus") == here


@pytest.mark.parametrize("landmark", ["pages/*.parquet", ".duplicates*"])
def test_the_pipeline_survives_the_death_of_a_machine(cluster, run, here, web, tmp_path, landmark):
    process = run("mine", cluster.address, tmp_path / "corpus", web)
    wait(lambda: list((tmp_path / "corpus").glob(landmark)), process, tmp_path / "log")
    cluster.kill("worker")
    finish(process, tmp_path)
    assert outputs(tmp_path / "corpus") == here
