"""The small recipe end to end in two processes that share a folder, as two hosts would."""

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dsmath_jax.workdir import read_json

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_two_processes_run_the_whole_recipe(tmp_path):
    small = runpy.run_path(str(ROOT / "tests" / "kill_resume.py"))["SMALL"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = [f"--config={ROOT / 'configs' / 'tiny.py'}", f"--workdir={tmp_path / 'run'}", *small]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    logs = [tmp_path / f"{process}.log" for process in "01"]
    running = []
    for process, log in enumerate(logs):
        with open(log, "w", encoding="utf-8") as file:
            among = [f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={process}"]
            command = [sys.executable, "-m", "dsmath_jax.main", *among, *arguments]
            running.append(subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(timeout=900) for process in running]
    finally:
        for process in running:
            process.kill()
    assert codes == [0, 0], "\n".join(log.read_text(encoding="utf-8")[-2000:] for log in logs)

    report = read_json(tmp_path / "run" / "report" / "report.json")
    assert report["evaluate"]["rl"]["n"] == 4
    assert report["rl"]["steps"] == 6
    # Process 0 alone writes and tells the result.
    assert ["index.html" in log.read_text(encoding="utf-8") for log in logs] == [True, False]
