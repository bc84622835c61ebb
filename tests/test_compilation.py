"""The persistent compilation cache: where it is, what a second process loads, what is dropped, what cannot be used."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax import compilation
from dsmath_jax.compilation import drop_oldest, use_compilation_cache

ROOT = Path(__file__).parents[1]
OPTIONS = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")

# FOLDER: compiles with the cache there; prints a result and how many programs came from the cache.
PROGRAM = """
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from dsmath_jax.compilation import use_compilation_cache

hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None)
use_compilation_cache(sys.argv[1], Path("unused"))
found = jax.jit(lambda x: jnp.tanh(x @ x.T).sum())(jnp.arange(12.0).reshape(3, 4) / 9)
print(float(found).hex(), len(hits))
"""


@pytest.fixture(autouse=True)
def options() -> Iterator[None]:
    before = {name: jax.config.values[name] for name in OPTIONS}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def program(folder: Path) -> tuple[str, int]:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=True)
    assert "Error" not in done.stderr, done.stderr
    result, hits = done.stdout.split()
    return result, int(hits)


@pytest.mark.slow
def test_a_second_process_loads_what_the_first_compiled_and_an_entry_that_a_kill_cut_off_is_written_again(tmp_path):
    cold, none = program(tmp_path)
    entries = sorted(tmp_path.rglob("*-cache"))
    warm, hits = program(tmp_path)
    assert (warm, none, hits) == (cold, 0, len(entries))
    assert hits > 0

    newest = max(entries, key=lambda path: path.stat().st_mtime_ns)
    whole = newest.stat().st_size
    newest.write_bytes(newest.read_bytes()[: whole // 2])
    assert program(tmp_path) == (cold, hits - 1)
    assert newest.stat().st_size > whole // 2
    assert program(tmp_path) == (cold, hits)


@pytest.mark.parametrize("backend", ["tpu", "gpu", "cpu"])
def test_it_is_in_the_workdir_on_accelerators_and_on_a_cpu_only_where_a_folder_is_given(tmp_path, monkeypatch, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    use_compilation_cache("", tmp_path / "run")
    used = jax.config.values["jax_compilation_cache_dir"]
    assert used is None if backend == "cpu" else Path(used).parent == tmp_path / "run" / ".compilation_cache"
    use_compilation_cache(str(tmp_path / "given"), tmp_path / "run")
    assert Path(jax.config.values["jax_compilation_cache_dir"]).parent == tmp_path / "given"


def test_that_of_the_environment_is_kept_unless_the_recipe_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    use_compilation_cache("", tmp_path)
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "mine")
    assert jax.config.values["jax_enable_compilation_cache"]
    use_compilation_cache("off", tmp_path)
    assert not jax.config.values["jax_enable_compilation_cache"]
    use_compilation_cache(str(tmp_path / "given"), tmp_path)
    assert jax.config.values["jax_enable_compilation_cache"]
    assert Path(jax.config.values["jax_compilation_cache_dir"]).parent == tmp_path / "given"


def test_hosts_with_other_processors_do_not_share_programs(tmp_path, monkeypatch):
    folders = set()
    for flags in ("sse2 avx2", "sse2 avx2 avx512f"):
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\nMHz : 1\n")
        monkeypatch.setattr(compilation, "CPUINFO", tmp_path / "cpuinfo")
        use_compilation_cache(str(tmp_path / "shared"), tmp_path)
        folders.add(jax.config.values["jax_compilation_cache_dir"])
    assert len(folders) == 2
    assert all(Path(folder).name.startswith("jaxlib-") for folder in folders)


def test_a_folder_that_cannot_be_used_is_one_line_and_the_run_has_none(tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        use_compilation_cache(str(tmp_path / "file" / "cache"), tmp_path)
    [record] = caplog.records
    assert "cannot be used (Not a directory); all programs are compiled" in record.getMessage()
    assert jax.config.values["jax_compilation_cache_dir"] is None


@given(sizes=st.lists(st.integers(0, 50), max_size=8), limit=st.integers(0, 200))
def test_what_is_dropped_has_been_unused_for_longest(tmp_path_factory, sizes, limit):
    root = tmp_path_factory.mktemp("cache")
    files = [root / f"jaxlib-{age % 2}" / f"{age}-cache" for age in range(len(sizes))]
    for age, (path, size) in enumerate(zip(files, sizes, strict=True)):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
        os.utime(path, (1000 - age, 1000 - age))
    drop_oldest(root, limit)
    kept = [path.is_file() for path in files]
    whole = [sum(sizes[: n + 1]) <= limit for n in range(len(sizes))]
    assert kept == whole


def test_other_files_of_a_shared_folder_are_left_alone(tmp_path):
    (tmp_path / "thesis-cache").write_bytes(bytes(100))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "checkpoint").write_bytes(bytes(100))
    entries = tmp_path / "jaxlib-1-x"
    entries.mkdir()
    (entries / "a-cache").write_bytes(bytes(100))
    compilation.drop_oldest(tmp_path, 10)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["checkpoint", "thesis-cache"]
