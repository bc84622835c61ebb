"""The launchers: clean for shellcheck, short, printing with `--dry-run` exactly what would run; and `make install`."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAUNCHERS = {
    "local.sh": [],
    "tpu_pod.sh": ["--name=pod", "--zone=us-east5-a"],
    "slurm.sbatch": [],
    "ray_cluster.sh": ["--head"],
}
MAIN_ARGUMENTS = ["--config=configs/tiny.py", "--workdir=/mnt/my runs/it's $HOME", "--config.rl.steps=20"]


def run(name: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    command = ["bash", str(ROOT / "launch" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **options)


def dry_run(name: str, *arguments: str) -> list[list[str]]:
    """The commands that a dry run prints, parted into words as a shell would."""
    result = run(name, "--dry-run", *arguments)
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return [shlex.split(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_shellcheck_finds_nothing(name):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shellcheck = shutil.which("shellcheck", path=path)
    assert shellcheck, "shellcheck is not installed: it comes with the extra `dev`"
    result = subprocess.run([shellcheck, ROOT / "launch" / name], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launchers_are_short_and_executable(name):
    path = ROOT / "launch" / name
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_help_is_printed_and_missing_arguments_are_refused(name):
    asked = run(name, "-h")
    assert asked.returncode == 0
    assert asked.stdout.startswith("usage: ")
    refused = run(name)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == asked.stdout


@pytest.mark.parametrize("separator", [[], ["--"]])
@pytest.mark.parametrize("name", ["local.sh", "slurm.sbatch"])
def test_main_gets_its_arguments_word_for_word(name, separator):
    *_, start = dry_run(name, *separator, *MAIN_ARGUMENTS)
    distributed = ["--distributed"] if name == "slurm.sbatch" else []
    main = start.index(".venv/bin/python")
    assert start[main:] == [".venv/bin/python", "-m", "dsmath_jax.main", *distributed, *MAIN_ARGUMENTS]


def test_local_installs_first():
    assert dry_run("local.sh", *MAIN_ARGUMENTS)[0] == ["make", "install"]


def test_slurm_starts_one_process_per_gpu_and_shows_each_all_gpus():
    script = (ROOT / "launch" / "slurm.sbatch").read_text(encoding="utf-8")
    settings = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", script, flags=re.MULTILINE))
    assert settings["ntasks-per-node"] == settings["gpus-per-node"]
    assert "gpus-per-task" not in settings
    (start,) = dry_run("slurm.sbatch", *MAIN_ARGUMENTS)
    assert start[0] == "srun"


def test_slurm_runs_in_the_folder_it_was_submitted_from(tmp_path):
    """sbatch runs a copy of the script, so the folder must come from SLURM; a stand-in `srun` tells where it is."""
    (tmp_path / "srun").write_text("#!/bin/sh\npwd\nprintf '%s\\n' \"$@\"\n", encoding="utf-8")
    (tmp_path / "srun").chmod(0o755)
    spooled = shutil.copy(ROOT / "launch" / "slurm.sbatch", tmp_path / "slurm_script")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(ROOT)}
    command = ["bash", str(spooled), *MAIN_ARGUMENTS]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd="/")
    folder, *words = result.stdout.splitlines()
    assert folder == str(ROOT)
    assert words[-len(MAIN_ARGUMENTS) :] == MAIN_ARGUMENTS


def test_tpu_pod_installs_and_starts_on_all_workers():
    archive, copy, install, start = dry_run("tpu_pod.sh", *LAUNCHERS["tpu_pod.sh"], "--", *MAIN_ARGUMENTS)
    assert archive[:2] == ["git", "archive"]
    assert copy[4] == "scp"
    for command in (copy, install, start):
        assert command[:4] == ["gcloud", "compute", "tpus", "tpu-vm"]
        assert "--zone=us-east5-a" in command
        assert "--worker=all" in command
    assert install[4:6] == start[4:6] == ["ssh", "pod"]
    assert '-e ".[all,tpu]" -c constraints.txt' in install[-1]
    # The worker's shell parts the command once more: main must still get every argument whole.
    remote = shlex.split(start[-1].removeprefix("--command="))
    assert remote[:3] == ["cd", "dsmath-jax", "&&"]
    assert remote[3:] == [".venv/bin/python", "-m", "dsmath_jax.main", "--distributed", *MAIN_ARGUMENTS]


def test_tpu_pod_makes_the_slice_when_asked():
    create, *_ = dry_run("tpu_pod.sh", *LAUNCHERS["tpu_pod.sh"], "--create=v5p-256", *MAIN_ARGUMENTS)
    assert create[4:7] == ["create", "pod", "--zone=us-east5-a"]
    assert create[7:] == ["--accelerator-type=v5p-256", "--version=v2-alpha-tpuv5"]


@pytest.mark.parametrize("missing", LAUNCHERS["tpu_pod.sh"])
def test_tpu_pod_wants_name_and_zone(missing):
    given = [option for option in LAUNCHERS["tpu_pod.sh"] if option != missing]
    result = run("tpu_pod.sh", "--dry-run", *given, *MAIN_ARGUMENTS)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("usage: ")


def make(venv: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = ["make", "install", f"VENV={venv}", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("python", ["", "/nowhere/python3", "false"])
def test_make_says_which_python_it_wants(tmp_path, python):
    result = make(tmp_path / "venv", f"PYTHON={python}")
    assert result.returncode == 2
    assert "dsmath-jax needs Python 3.11, 3.12 or 3.13" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_make_installs_once_and_stamps_only_what_succeeded(tmp_path):
    """With a stand-in for the environment's Python, which first fails as an interrupted installation does."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pip").touch()
    python, stamp = tmp_path / "bin" / "python", tmp_path / ".installed"
    python.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    python.chmod(0o755)
    assert make(tmp_path).returncode == 2
    assert not stamp.exists()
    python.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(tmp_path))}/log\n', encoding="utf-8")
    for _ in range(2):
        assert make(tmp_path).returncode == 0
    assert stamp.exists()
    assert (tmp_path / "log").read_text(encoding="utf-8") == "-m pip install -e .[all] -c constraints.txt\n"
