"""The wheel and its command: what the wheel holds, `dsmath` in each of its forms, a recipe run from an empty folder."""

import email
import json
import os
import runpy
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import dsmath_jax
from dsmath_jax.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
SOURCES = ("dsmath_jax", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")
REWARD = "def brief(completion, record):\n    return -len(completion) / 1000\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of its sources: a build leaves files next to them."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "out", "."]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    [path] = (folder / "out").iterdir()
    return path


def started(*arguments: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "dsmath_jax", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(process: subprocess.Popen) -> tuple[int, str, str]:
    out, error = process.communicate()
    return process.returncode, out, error


def test_the_wheel_holds_the_package_and_the_recipes(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
        stated = email.message_from_bytes(file.read(metadata))
    assert {name.split("/")[0] for name in names} == {"dsmath_jax", Path(metadata).parent.name}
    recipes = {f"dsmath_jax/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.py")}
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dsmath_jax").rglob("*.*")}
    assert recipes | {name for name in files if not name.endswith(".pyc")} <= names
    assert (stated["Version"], stated["License-Expression"]) == (dsmath_jax.__version__, "Apache-2.0")
    assert (stated["Author"], stated["Home-page"]) == (None, None)


@pytest.mark.slow
def test_every_command_has_help() -> None:
    processes = {name: started(name, "--help") for name in COMMANDS}
    for name, process in processes.items():
        code, out, error = outcome(process)
        assert (code, error) == (0, ""), name
        assert f"dsmath {'run' if name == 'mine' else name}" in out


def test_exit_codes_pass_through(tmp_path: Path) -> None:
    code, out, _ = outcome(started("--help"))
    assert (code, [line.split()[0] for line in out.splitlines() if line.startswith("  ")]) == (0, [*COMMANDS])
    assert outcome(started("--version")) == (0, f"dsmath {dsmath_jax.__version__}\n", "")
    code, _, error = outcome(started("evalute"))
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith("error: Unknown command 'evalute' (the nearest is 'evaluate'); the commands are run, ")
    assert outcome(started())[0] == 2
    (tmp_path / "in.jsonl").write_text('{"task": "gsm8k", "gold": "#### 7", "completion": "7"}\n{"task": "gsm8k"}\n')
    code, out, _ = outcome(started("grade", f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'out.jsonl'}"))
    assert (code, json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["correct"]) == (1, True), out
    code, _, error = outcome(started("mine", "--config=tiny:full", "--workdir=gs://bucket/run"))
    assert (code, error.count("\n")) == (2, 1)
    assert "--workdir is gs://bucket/run, an address" in error


@pytest.mark.slow
def test_a_recipe_runs_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """In an environment with the wheel and, from the tests' own, its dependencies; with a reward of the user's."""
    environment, folder = tmp_path / "venv", tmp_path / "empty"
    venv.create(environment)
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    python, dsmath = environment / "bin" / "python", environment / "bin" / "dsmath"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    folder.mkdir()
    (folder / "my_rewards.py").write_text(REWARD)
    small = runpy.run_path(str(ROOT / "tests" / "kill_resume.py"))["SMALL"]
    own = os.environ.copy()
    own.pop("PYTHONPATH", None)
    command = [str(dsmath), "run", "--config=tiny:full", "--workdir=run", *small]
    command += ["--config.rl.reward_fns=(('correct', 1.0), ('my_rewards:brief', 0.1))"]
    ran = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "report: done" in ran.stdout
    used = subprocess.run(
        [str(python), "-c", "import dsmath_jax; print(dsmath_jax.__file__)"],
        cwd=folder, env=own, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(used.stdout).is_relative_to(packages)
    again = [str(dsmath), "mine", *command[2:4], *small[1:]]  # without --stages
    mined = subprocess.run(again, cwd=folder, env=own, capture_output=True, text=True, check=False)
    skipped = [line for line in mined.stdout.splitlines() if line.endswith(" skipped")]
    assert (mined.returncode, skipped) == (0, ["corpus: complete, skipped"])
