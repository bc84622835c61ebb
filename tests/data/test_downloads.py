"""Files from the web: taken up again, compared with their checksums, found in a mirror; archives unpacked."""

import errno
import hashlib
import io
import json
import logging
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from dsmath_jax.data import downloads
from dsmath_jax.data.downloads import File, Repository, fetch
from dsmath_jax.workdir import UserError

CONTENT = random.Random(0).randbytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def file(server) -> File:
    server.files["/set/a.bin"] = CONTENT
    return File("deep/a.bin", f"{server.address}/set/a.bin", DIGEST)


def there(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_file_is_fetched_once_and_read_from_then_on(server, file, tmp_path):
    for _ in range(2):
        assert fetch(file, tmp_path / "set", tmp_path).read_bytes() == CONTENT
    assert server.asked == [("/set/a.bin", None)]
    assert there(tmp_path) == ["set/deep/a.bin"]


def test_a_download_resumes_after_lost_connections_and_refusals(server, file, tmp_path):
    server.behaviors = [{"until": 100_000}, {"status": 503}, {"status": 302, "headers": {"Location": "/set/a.bin"}}]
    assert fetch(file, tmp_path, tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=100000-", "bytes=100000-", "bytes=100000-"]


KILLED = """
import os, signal, sys
from pathlib import Path
from dsmath_jax.data import downloads, web
real, calls = web.HttpStream.read, []
def killed(self, size):
    calls.append(size)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, size)
web.HttpStream.read = killed
downloads.fetch(downloads.File("a.bin", sys.argv[1], sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[3]))
"""


def test_a_killed_download_is_resumed(server, file, tmp_path):
    command = [sys.executable, "-c", KILLED, file.url, DIGEST, str(tmp_path)]
    assert subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True).returncode < 0
    (part,) = there(tmp_path)
    size = (tmp_path / part).stat().st_size
    assert part == ".a.bin.part"
    assert 0 < size < len(CONTENT)
    assert fetch(File("a.bin", file.url, DIGEST), tmp_path, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == ("/set/a.bin", f"bytes={size - 1}-")
    assert there(tmp_path) == ["a.bin"]


def test_a_complete_part_is_finished(server, file, tmp_path):
    (tmp_path / ".a.bin.part").write_bytes(CONTENT)
    assert fetch(File("a.bin", file.url, DIGEST), tmp_path, tmp_path).read_bytes() == CONTENT
    assert server.asked == [("/set/a.bin", f"bytes={len(CONTENT) - 1}-")]


@pytest.mark.parametrize("lie", [CONTENT[:-1] + b"x", CONTENT[:99], CONTENT + b"x"])
def test_a_wrong_file_from_the_server_is_removed(server, file, tmp_path, lie):
    server.behaviors = [{"content": lie}]
    with pytest.raises(UserError, match=r"/set/a.bin gave a file of SHA-256 .* is stated; it was removed, run again"):
        fetch(file, tmp_path, tmp_path)
    assert there(tmp_path) == []
    assert fetch(file, tmp_path, tmp_path).read_bytes() == CONTENT


def test_a_part_of_another_file_is_detected(server, file, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/.a.bin.part").write_bytes(b"x" * 5_000)
    with pytest.raises(UserError, match="run again"):
        fetch(file, tmp_path, tmp_path)
    assert fetch(file, tmp_path, tmp_path).read_bytes() == CONTENT


def test_a_mirrored_file_that_differs_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT + b"x")
    with pytest.raises(UserError, match=r"a.bin has the SHA-256 .* and not .*, as its source states") as error:
        fetch(File("a.bin", "", DIGEST), tmp_path, tmp_path)
    assert "\n" not in str(error.value)


def test_without_a_stated_checksum_the_first_use_decides(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.bin").write_bytes(CONTENT)
    for _ in range(2):
        fetch(File("a.bin"), folder, tmp_path)
    assert json.loads((tmp_path / "checksums.json").read_text()) == {"set/a.bin": DIGEST}
    (folder / "a.bin").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(
        UserError, match=r"set/a.bin has .*, as at its first use; .* delete its line in .*checksums.json"
    ):
        fetch(File("a.bin"), folder, tmp_path)


def test_a_read_only_mirror_is_read_with_a_warning(tmp_path, caplog, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (tmp_path / "a.bin").write_bytes(CONTENT)
    monkeypatch.setattr(downloads, "write_json", refuse)
    with caplog.at_level(logging.WARNING):
        assert fetch(File("a.bin"), tmp_path, tmp_path).read_bytes() == CONTENT
    assert "its files go unchecked" in caplog.text


def test_what_cannot_be_fetched_is_named(server, tmp_path):
    with pytest.raises(UserError, match=r"gone.bin is missing and cannot be downloaded"):
        fetch(File("gone.bin"), tmp_path, tmp_path)
    with pytest.raises(UserError, match="answers 404 Not Found"):
        fetch(File("gone.bin", f"{server.address}/gone.bin"), tmp_path, tmp_path)


SET = {f"data/train-{n}.parquet": b"%d" % n for n in range(3)} | {"data/test.parquet": b"t"}
TRAIN = Repository("some/set", "data/train-*.parquet", "any")


def test_a_repository_is_listed_once_and_pinned_to_its_commit(server, hub, tmp_path):
    hub("some/set", SET)
    files = TRAIN.find(tmp_path)
    hub("some/set", SET, "later")
    assert TRAIN.find(tmp_path) == files
    assert [file.path for file in files] == [f"data/train-{n}.parquet" for n in range(3)]
    assert [file.url for file in files] == [
        f"{server.address}/datasets/some/set/resolve/c0ffee/{file.path}" for file in files
    ]
    assert fetch(files[1], tmp_path, tmp_path).read_bytes() == b"1"
    assert len(server.asked) == 2
    assert TRAIN.find(tmp_path) == files  # what is there is no mirror now


@pytest.mark.parametrize("folder", ["data", "."])
def test_a_mirror_needs_no_web(server, tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    for name in ("train-1.parquet", "train-0.parquet"):
        (tmp_path / folder / name).write_bytes(b"x")
    assert [Path(file.path).name for file in TRAIN.find(tmp_path)] == ["train-0.parquet", "train-1.parquet"]
    assert server.asked == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"<html>", "not a JSON object"),
        (b'{"error": "gone"}', r"gives no list of files \(KeyError\('sha'\)\); mirror some/set"),
        (b'{"sha": "1", "siblings": [{"rfilename": "README.md"}]}', r"data/train-\S+ \(its files are README"),
    ],
)
def test_an_invalid_list_of_files_is_an_error(server, tmp_path, answer, words):
    server.files["/api/datasets/some/set/revision/main?blobs=true"] = answer
    with pytest.raises(UserError, match=words):
        TRAIN.find(tmp_path)


def test_data_sets_that_need_a_login_are_only_mirrored(tmp_path):
    with pytest.raises(UserError, match=r"has no file \*.parquet, and they need a login \(terms\); mirror them"):
        Repository("", "*.parquet", "terms").find(tmp_path)


def tar_of(names: list[str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return packed.getvalue()


def test_an_archive_is_unpacked_completely_or_not_at_all(tmp_path):
    archive = tmp_path / "MATH.tar"
    archive.write_bytes(tar_of(["MATH/train/algebra/1.json", "MATH/test/algebra/2.json"]))
    downloads.unpack(archive, tmp_path / "MATH")
    assert there(tmp_path / "MATH") == ["test/algebra/2.json", "train/algebra/1.json"]
    for spoilt, words in ((b"no archive" * 99, "cannot be unpacked"), (tar_of(["MATH/../../x"]), "cannot be unpacked")):
        archive.write_bytes(spoilt)
        with pytest.raises(UserError, match=words):
            downloads.unpack(archive, tmp_path / "other")
        assert there(tmp_path) == ["MATH.tar", "MATH/test/algebra/2.json", "MATH/train/algebra/1.json"]
