"""The import arrows: the contracts in pyproject.toml bite; what a fresh interpreter loads; what setup.py declares."""

import ast
import functools
import importlib.metadata
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from dsmath_jax.extras import EXTRAS

ROOT = Path(__file__).parents[1]

# (the module that gets a forbidden import, that import, the contract that must break)
FORBIDDEN = [
    ("workdir.py", "import dsmath_jax.progress", "layers"),
    ("sharding.py", "import dsmath_jax.training.step", "layers"),
    ("report/__init__.py", "import dsmath_jax.toy", "layers"),
    ("a_module_in_no_layer.py", "", "layers"),
    ("data/datasets.py", "import jax", "no-jax"),
    ("toy/__init__.py", "from flax import linen", "no-jax"),
    ("corpus/__init__.py", "from dsmath_jax.data import batches", "no-jax"),
    ("evaluation/__init__.py", "import daft", "corpus-extra"),
    ("data/documents.py", "from backports import zstd", "corpus-extra"),
    ("toy/web.py", "from resiliparse.parse.html import HTMLTree", "corpus-extra"),
    ("models/__init__.py", "from dsmath_jax import sharding", "models"),
    ("rl/settings.py", "from ml_collections import ConfigDict", "settings"),
    ("stages.py", "import ml_collections", "settings"),
    ("aot/step.py", "from ml_collections import config_dict", "settings"),
    ("grading/grade.py", "from benchmarks import turns", "benchmarks"),
]


def lint_imports(folder: Path, contract: str) -> subprocess.CompletedProcess:
    program = Path(sys.executable).with_name("lint-imports")
    command = [
        str(program),
        "--config",
        str(ROOT / "pyproject.toml"),
        "--no-cache",
        "--no-logo",
        "--contract",
        contract,
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


FIRST = {contract: module for module, _, contract in reversed(FORBIDDEN)}


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [pytest.param(*each, marks=[] if FIRST[each[2]] == each[0] else pytest.mark.slow) for each in FORBIDDEN],
)
def test_contract_breaks_on_a_forbidden_import(tmp_path, module, line, contract):
    package = shutil.copytree(
        ROOT / "dsmath_jax", tmp_path / "dsmath_jax", ignore=shutil.ignore_patterns("__pycache__")
    )
    with open(package / module, "a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    result = lint_imports(tmp_path, contract)
    assert result.returncode == 1
    assert "0 kept, 1 broken" in result.stdout, result.stdout + result.stderr


@pytest.mark.slow  # `make lint` has just said so
@pytest.mark.parametrize("contract", sorted({contract for *_, contract in FORBIDDEN}))
def test_contract_holds(contract):
    result = lint_imports(ROOT, contract)
    assert result.returncode == 0, result.stdout + result.stderr


def holders_asked(path: Path) -> set[str]:
    """The expressions of a module whose `.get(...)` is called and that are named as settings are."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    asked = {ast.unparse(call.value) for call in calls if isinstance(call, ast.Attribute) and call.attr == "get"}
    return {name for name in asked if re.fullmatch(r"((self|ctx)\.)?_?(settings|recipe|sizes|sampling)(\.\w+)*", name)}


def test_settings_are_not_read_as_mappings():
    """A setting that is absent has its default where the settings are built, and nowhere else."""
    package = ROOT / "dsmath_jax"
    found = {path.relative_to(package).as_posix(): holders_asked(path) for path in package.rglob("*.py")}
    assert {name: holders for name, holders in found.items() if holders} == {}


LOADED = """
import importlib, pkgutil, sys

room = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(getattr(room, "__path__", []), room.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(*sorted(name for name in sys.argv[2:] if name in sys.modules))
"""


@pytest.mark.parametrize("room", ["corpus", "toy", "report", "grading", "data.datasets"])
def test_rooms_without_jax_load_none(room):
    """Also through third parties, which the contracts cannot follow."""
    command = [sys.executable, "-c", LOADED, f"dsmath_jax.{room}", "jax", "jaxlib", "grain"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""


def stated(variable: str) -> Any:
    """The value of a variable of setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (node,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == variable
    ]
    return ast.literal_eval(node)


def distributions(requirements: Iterable[str]) -> set[str]:
    """The names in a list of requirements, normalized as package indexes do."""
    return {normalized(re.split(r"[\[<>=!~; ]", line)[0]) for line in requirements}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> set[str]:
    """The distributions that modules of the package import by name, anywhere in their code."""
    names = set()
    for path in (ROOT / "dsmath_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    third_party = names - sys.stdlib_module_names - {"dsmath_jax"}
    return {distribution(name) for name in third_party}


def distribution(module: str) -> str:
    """The distribution that has a top-level module; of one that is not installed, the module's name."""
    return normalized(distributions_of_modules().get(module, [module])[0])


distributions_of_modules = functools.cache(importlib.metadata.packages_distributions)


def test_setup_declares_what_is_imported_and_no_more():
    not_imported = {"importlib-resources"}  # TFDS imports it without declaring it
    core, optional = distributions(stated("RUNTIME")), distributions(itertools.chain(*stated("EXTRAS").values()))
    assert imported() <= core | optional
    assert core <= imported() | not_imported


def test_the_sentences_name_the_extra_that_has_the_package():
    extras = {name: distributions(lines) for name, lines in stated("EXTRAS").items()}
    named = {(distribution(package.partition(".")[0]), extra) for package, extra in EXTRAS.items()}
    assert {name for name, extra in named if name not in extras[extra]} == {"libtpu"}  # it comes with jax[tpu]
    assert extras["corpus"] == {name for name, extra in named if extra == "corpus"}


def test_every_declared_package_is_pinned():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {normalized(line.split("==")[0]) for line in lines if "==" in line}
    assert distributions([*stated("RUNTIME"), *itertools.chain(*stated("EXTRAS").values())]) <= {*pinned, "dsmath-jax"}
