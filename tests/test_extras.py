"""The core without the extras: every module imports, and what needs an extra says which in one sentence."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dsmath_jax.data.tokenizer import train_sentencepiece
from dsmath_jax.extras import required_by
from dsmath_jax.workdir import UserError

ROOT = Path(__file__).parents[1]

# Argument: a list of commands, each a module with its arguments. Prints [exit code, stderr] of each.
WITHOUT_EXTRAS = """
import contextlib, importlib, io, json, pkgutil, runpy, sys

import dsmath_jax as dm
from dsmath_jax.extras import EXTRAS

class Missing:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {package.partition(".")[0] for package in EXTRAS}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing)
for module in pkgutil.walk_packages(dm.__path__, "dsmath_jax."):
    if not module.name.endswith("__main__") and module.name.split(".")[1] not in ("benchmarks", "corpus", "mathml"):
        importlib.import_module(module.name)
assert [grade.correct for grade in dm.grade(["It is \\\\boxed{0.5}.", "So 3."], ["1/2", "4"])] == [True, False]

from dsmath_jax.main import run

done = []
for module, *arguments in json.loads(sys.argv[1]):
    sys.argv, errors = [module, *arguments], io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            code = run() if module == "dsmath_jax.main" else runpy.run_module(module, run_name="__main__")
        except SystemExit as error:
            code = error.code
    done.append([code, errors.getvalue()])
print(json.dumps(done))
"""

NEEDS = "needs the package daft: pip install 'dsmath-jax[corpus]'."


def without_extras(*commands: list[str]) -> list[list[Any]]:
    """The exit code and stderr of commands where no optional package is installed."""
    command = [sys.executable, "-c", WITHOUT_EXTRAS, json.dumps(commands)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_the_core_runs_and_a_missing_extra_is_one_sentence(tmp_path: Path) -> None:
    train_sentencepiece([f"The sum of {n} and {n + 1} is {2 * n + 1}." for n in range(100)], tmp_path / "a.model", 285)
    tiny, tokenizer = ["dsmath_jax.main", "--config=configs/tiny.py"], "--config.tokenizer."
    found = without_extras(
        [*tiny, f"--workdir={tmp_path / 'refused'}"],
        [*tiny, f"--workdir={tmp_path / 'refused'}", "--dry_run"],
        ["dsmath_jax.corpus.pages", "--input=a.warc.gz", f"--output={tmp_path / 'refused'}"],
        ["dsmath_jax.corpus.annotate", f"--workdir={tmp_path / 'refused'}"],
        [
            *tiny, f"--workdir={tmp_path / 'run'}", "--stages=tokenizer,report", f"--config.data_dir={tmp_path}",
            f"{tokenizer}path=a.model", f"{tokenizer}vocab_size=0",
        ],
    )  # fmt: skip
    assert found == [
        [2, f"error: Stage corpus {NEEDS}\n"],
        [2, f"error: Stage corpus {NEEDS}\n"],
        [2, f"error: This command {NEEDS}\n"],
        [2, "error: This command needs the package latex2mathml: pip install 'dsmath-jax[corpus]'.\n"],
        [0, ""],
    ]
    assert not (tmp_path / "refused").exists()
    assert (tmp_path / "run" / "report" / "index.html").is_file()


@pytest.mark.parametrize("module", ["backports.zstd", "daft.functions", "resiliparse.parse.html"])
def test_the_sentence_names_package_and_extra(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    package = module if module == "backports.zstd" else module.partition(".")[0]
    with pytest.raises(UserError) as error, required_by("Stage corpus"):
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)
    assert str(error.value) == f"Stage corpus needs the package {package}: pip install 'dsmath-jax[corpus]'."


def test_another_missing_module_is_a_bug() -> None:
    with pytest.raises(ModuleNotFoundError), required_by("Stage corpus"):
        import dsmath_jax.no_such_module  # noqa: F401
