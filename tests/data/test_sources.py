"""Sources by name: our corpus, public data sets, paths; which files they are and how they are read."""

import fnmatch
import gzip
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

from dsmath_jax.data import documents, sources
from dsmath_jax.data.downloads import File
from dsmath_jax.workdir import UserError, write_jsonl


def parquet(**columns: list) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


LINES = b'{"text": "one", "meta": {"a": 1}}\n\n{"text": "two", "meta": {}}\n'
# One file of each public data set as it is published: (its path in the repository, its bytes).
PUBLISHED = {
    "openwebmath": ("data/train-00000-of-00114-5a023365406cb9c4.parquet", parquet(url=["a", "b"], text=["one", "two"])),
    "algebraic_stack": ("algebraic-stack/train/lean_proofs0000.jsonl.zst", zstd.compress(LINES)),
    "arxiv": ("arxiv/train/arXiv_000.jsonl.zst", zstd.compress(LINES[:34]) + zstd.compress(LINES[34:])),
    "github_code": ("data/train-00000-of-00880.parquet", parquet(code=["one", "two"], license=["mit", "mit"])),
    "the_stack": ("data/python/train-00000-of-00144.parquet", parquet(content=["one", "two"], size=[3, 3])),
    "fineweb": ("sample/100BT/000_00000.parquet", parquet(text=["one", "two"], language=["en", "en"])),
    "skypile": ("data/2020-40_zh_head_0000.jsonl", LINES),
    "c4_zh": ("multilingual/c4-zh.tfrecord-00000-of-01024.json.gz", gzip.compress(LINES)),
}
OTHERS = ("README.md", "arxiv/test/arXiv_0.jsonl.zst", "multilingual/c4-zh-validation.tfrecord-00000-of-00002.json.gz")


def texts(found: sources.TextSource) -> list[str]:
    return [
        text for file in found.files
        for _, text in documents.documents(found.fetch(file), found.text, found.language)
    ]  # fmt: skip


@pytest.mark.parametrize("name", sources.PUBLIC)
def test_every_public_data_set_is_mirrored_or_fetched(server, hub, tmp_path, name):
    path, content = PUBLISHED[name]
    mirror = tmp_path / "mirror" / name / path
    mirror.parent.mkdir(parents=True)
    mirror.write_bytes(content)
    assert texts(sources.find(name, tmp_path / "mirror", tmp_path)) == ["one", "two"]
    assert not server.asked
    repository = sources.PUBLIC[name].name
    if repository:
        hub(repository, {path: content, **dict.fromkeys(OTHERS, b"")})
        found = sources.find(name, tmp_path / "data", tmp_path)
        assert [file.path for file in found.files] == [path]
        assert texts(found) == ["one", "two"]
        assert (tmp_path / "data" / name / path).read_bytes() == content
    assert not [other for other in OTHERS if fnmatch.fnmatch(other, sources.PUBLIC[name].files)]


def test_our_corpus_and_its_languages(tmp_path):
    table = pa.table({"id": ["a", "b", "c"], "language": ["en", "zh", "en"], "text": ["one", "二", "three"]})
    (tmp_path / "documents").mkdir()
    pq.write_table(table, tmp_path / "documents/00000-a.parquet")
    for name, expected in (("corpus", ["one", "二", "three"]), ("corpus/en", ["one", "three"]), ("corpus/zh", ["二"])):
        assert texts(sources.find(name, tmp_path / "elsewhere", tmp_path / "documents")) == expected
    assert [sources.is_corpus(name) for name in ("corpus", "corpus/en", "corpora", "arxiv")] == [
        True,
        True,
        False,
        False,
    ]


def test_paths_below_the_data_folder(tmp_path):
    folder = tmp_path / "mine" / "deep"
    folder.mkdir(parents=True)
    write_jsonl(folder / "b.jsonl", [{"text": "two"}])
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n'))
    (tmp_path / "mine" / "z.txt.zst").write_bytes(zstd.compress(b"drei\n"))
    (tmp_path / "mine" / ".hidden").mkdir()
    (tmp_path / "mine" / ".hidden" / "c.txt").write_text("no")
    found = sources.find("mine", tmp_path, tmp_path)
    assert texts(found) == ["one", "two", "drei\n"]
    assert texts(sources.find("mine/deep/b.jsonl", tmp_path, tmp_path)) == ["two"]
    assert sources.user_files(("mine", "arxiv", "corpus/en", "absent"), tmp_path) == [
        tmp_path / "mine" / file.path for file in found.files
    ]


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"no texts at .*arxive; .*\(corpus, corpus/en, .*openwebmath.*\) or paths"):
        sources.find("arxive", tmp_path, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"No text files at .*empty"):
        sources.find("empty", tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.gz", gzip.compress(LINES * 99, mtime=0)[:-9]),
        ("a.jsonl.zst", zstd.compress(LINES * 999)[:-9]),
        ("a.jsonl.zst", b"no zstd"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\3\xff"),
        ("a.parquet", b"PAR1"),
        ("a.txt", b"\xff\xfe"),
    ],
)
def test_a_broken_file_is_an_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        UserError, match=f"{name} cannot be read .*; check the path and that the file is complete"
    ) as error:
        list(documents.texts(tmp_path))
    assert "\n" not in str(error.value)


def test_invalid_records_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES + b"[1]\n")
    with pytest.raises(UserError, match=r"a.jsonl, line 4: not a JSON object"):
        list(documents.texts(tmp_path))
    (tmp_path / "a.jsonl").write_bytes(LINES + b'{"text": 3}\n')
    with pytest.raises(UserError, match=r"a.jsonl, line 4: the field 'text' is missing or not text"):
        list(documents.texts(tmp_path))
    with pytest.raises(UserError, match=r"a.jsonl, line 1: the field 'code' is missing"):
        list(documents.documents(tmp_path / "a.jsonl", "code"))


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([3, 3, 3, 3], [[0, 1, 2], [3]]),
        ([20, 1, 1, 20], [[0], [1, 2], [3]]),
        ([5, 5, 1], [[0, 1], [2]]),
        ([0, 0], [[0, 1]]),
    ],
)
def test_small_files_share_a_shard_and_public_files_do_not(tmp_path, sizes, groups):
    for number, size in enumerate(sizes):
        (tmp_path / str(number)).write_bytes(b"x" * size)
    files = tuple(File(str(number)) for number in range(len(sizes)))
    found = sources.grouped(sources.TextSource(tmp_path, files), 10)
    assert [[int(file.path) for file in group] for group in found] == groups
    assert sources.grouped(sources.TextSource(tmp_path, files, public=True), 10) == [(file,) for file in files]


def test_a_data_set_that_changed_after_its_first_use_is_refused(tmp_path):
    mirror = tmp_path / "arxiv"
    mirror.mkdir()
    (mirror / "a.jsonl.zst").write_bytes(zstd.compress(LINES))
    found = sources.find("arxiv", tmp_path, tmp_path)
    assert texts(found) == ["one", "two"]
    (mirror / "a.jsonl.zst").write_bytes(zstd.compress(LINES.replace(b"two", b"six")))
    with pytest.raises(UserError, match=r"as at its first use"):
        texts(found)


def test_a_path_may_be_absolute(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one")
    assert texts(sources.find(str(tmp_path / "a.txt"), Path("elsewhere"), tmp_path)) == ["one"]
