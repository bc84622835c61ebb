"""Atomic files under every kind of failure, the lock of a workdir, what counts as a full disk."""

import contextlib
import errno
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsmath_jax import workdir
from dsmath_jax.workdir import (
    UserError,
    atomic_path,
    atomic_write,
    full_disk,
    hash_json,
    lock,
    read_json,
    read_jsonl,
    remove_temporaries,
    write_json,
    write_jsonl,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture
def small_disk():
    """A context in which no file may grow beyond 4 KiB; Python ignores the signal that goes with it."""

    @contextlib.contextmanager
    def limit():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_written_file_has_its_name_and_no_other(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"é": [1, 2.5, None]})
    assert read_json(tmp_path / "deep" / "a.json") == {"é": [1, 2.5, None]}
    write_jsonl(tmp_path / "b.jsonl", ({"n": n} for n in range(3)))
    assert list(read_jsonl(tmp_path / "b.jsonl")) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert names(tmp_path) == ["b.jsonl", "deep", "deep/a.json"]


@pytest.mark.parametrize("opened", [atomic_write, atomic_path])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, opened, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with opened(path) as file:
            (file if opened is atomic_path else Path(file.name)).write_text("half of the new")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, small_disk):
    path = tmp_path / "a.jsonl"
    path.write_text("old")
    with small_disk():
        with pytest.raises(OSError, match="too large") as caught:
            write_jsonl(path, ({"n": n} for n in range(10_000)))
        with pytest.raises(OSError, match="too large"), atomic_write(path, "wb") as file:
            file.write(b"x" * 5000)  # smaller than the buffer of some builds: fails in the flush at the latest
        with pytest.raises(OSError, match="too large"), atomic_path(path) as temporary:
            temporary.write_bytes(b"x" * 5000)
    assert full_disk(caught.value) == os.strerror(errno.EFBIG)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.jsonl"]


def test_a_folder_is_replaced_whole(tmp_path):
    for content in ("one", "two"):
        with atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert names(tmp_path) == ["folder", "folder/two"]


def test_sweep_removes_what_a_killed_process_left(tmp_path):
    folder = tmp_path / "stage"
    (folder / "rows").mkdir(parents=True)
    killed = f"""
import os, signal
from dsmath_jax.workdir import atomic_path, atomic_write
with atomic_write({str(folder / "a.json")!r}) as file, atomic_path({str(folder / "rows" / "b")!r}) as temporary:
    temporary.mkdir()
    (temporary / "part").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", killed], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    (tmp_path / ".stage.dropped.tmp").mkdir()
    (tmp_path / ".stage-of-another-name.tmp").touch()
    (folder / "kept.tmp").touch()
    assert len(names(folder)) == 5
    remove_temporaries(folder)
    assert names(folder) == ["kept.tmp", "rows"]
    assert names(tmp_path) == [".stage-of-another-name.tmp", "stage", "stage/kept.tmp", "stage/rows"]


@pytest.mark.parametrize("line", [b"[1]", b'{"n": ', b'{"n": "\xff"}', b"NaN"])
def test_a_bad_line_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_bytes(b'{"n": 1}\n\n' + line + b"\n")
    rows = read_jsonl(tmp_path / "a.jsonl")
    assert next(rows) == {"n": 1}
    with pytest.raises(UserError, match=r"a\.jsonl, line 3: not a JSON object"):
        next(rows)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl cannot be read \(No such file"):
        next(read_jsonl(tmp_path / "none.jsonl"))


def test_hash_does_not_depend_on_the_order_of_fields():
    assert hash_json({"a": 1, "b": [2]}) == hash_json({"b": [2], "a": 1}) != hash_json({"a": 1, "b": [3]})


def test_a_workdir_is_held_once(tmp_path):
    with lock(tmp_path / "new" / "run"):
        with (
            pytest.raises(UserError, match=rf"run is in use by process {os.getpid()} on "),
            lock(tmp_path / "new" / "run"),
        ):
            pass
        with lock(tmp_path / "other"):
            pass
    with lock(tmp_path / "new" / "run"):
        pass


def test_a_killed_process_lets_go_of_its_workdir(tmp_path):
    holds = "import sys, time\nfrom pathlib import Path\nfrom dsmath_jax.workdir import lock\n"
    holds += "with lock(Path(sys.argv[1])):\n    print(flush=True)\n    time.sleep(60)\n"
    command = [sys.executable, "-c", holds, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(UserError, match=f"in use by process {process.pid}"), lock(tmp_path):
            pass
        process.kill()
    with lock(tmp_path):
        pass


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"file.* cannot be used \(.+\); give another --workdir"), lock(path):
            pass


def wrapped(inner: Exception) -> Exception:
    try:
        try:
            raise inner
        except Exception as error:
            raise RuntimeError("writing failed") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "x"),
        OSError(errno.EDQUOT, "x"),
        wrapped(OSError(errno.ENOSPC, "x")),
        RuntimeError("write() failed: No space left on device; writing rows"),
        wrapped(ValueError("RESOURCE_EXHAUSTED: Disk quota exceeded [os_error_code='122']")),
    ],
)
def test_a_full_disk_is_known_in_every_guise(error):
    assert full_disk(error) in (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "x"), ValueError("no space in the name"), KeyError(28)])
def test_other_errors_are_no_full_disk(error):
    assert full_disk(wrapped(error)) is None


def test_a_large_file_is_stamped_without_reading_it(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"1234")
    assert workdir.file_fingerprint(path) == workdir.hash_file(path)
    monkeypatch.setattr(workdir, "LARGE_FILE", 3)
    monkeypatch.setattr(workdir, "hash_file", None)
    first = workdir.file_fingerprint(path)
    assert first.startswith("4 bytes of ")
    os.utime(path, ns=(0, 1))
    assert workdir.file_fingerprint(path) != first


def test_half_a_character_becomes_a_replacement_character_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [
        {"a": ["x \ud800 y", {"\udfff": 1}]}, {"whole": "\U0001f600 written as a pair"}, {"a": "plain \\ud800"},
        {"a": "\ud83d \ud83d\ude00"},
    ]  # fmt: skip
    raw = b'{"a": "raw \xed\xa0\x80"}\n'
    (tmp_path / "a.jsonl").write_bytes("".join(json.dumps(line) + "\n" for line in lines).encode() + raw)
    found = list(read_jsonl(tmp_path / "a.jsonl"))
    assert found == [
        {"a": ["x \ufffd y", {"\ufffd": 1}]},
        lines[1],
        lines[2],
        {"a": "\ufffd \U0001f600"},
        {"a": "raw \ufffd"},
    ]
    json.dumps(found, ensure_ascii=False).encode()
    assert "a.jsonl: lone surrogates in 3 lines became U+FFFD." in caplog.text


@pytest.mark.parametrize(
    "path",
    ["gs://bucket/run", "hf:gs://bucket/model", "hf://owner/model", "s3://b", Path("gs://bucket/run"), "https:/host/x"],
)
def test_an_address_is_no_local_path(path, tmp_path, monkeypatch):
    """Of which `Path` would make a folder `gs:` here; also once it has been made a `Path`."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"^--workdir is \S+, an address, and object storage is not supported yet; give"
    ):
        workdir.local_path(path, "--workdir")
    with pytest.raises(UserError, match=r"^\S+ is an address, and object storage is not supported yet; give a local"):
        workdir.local_path(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["runs/tiny", "/abs/run", "hf:/abs/model", "a:b", "run: 3/x", "", Path("runs/tiny")])
def test_other_paths_are_local(path):
    assert workdir.local_path(path) == Path(path)
