"""The documents as a TFDS dataset: what is read back, its order, its name, and what a killed preparation leaves."""

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from dsmath_jax.data import builders, corpus_builder
from dsmath_jax.workdir import UserError

ROOT = Path(__file__).parents[2]
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("host", pa.string()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("tokens", pa.int64()),
        ("score", pa.float32()),
        ("iteration", pa.int64()),
    ]
)


def document(shard: str, number: int, text: str = "") -> dict:
    return {
        "id": f"{shard}/{number:06d}",
        "url": f"https://a.test/{number}",
        "host": "a.test",
        "text": text or f"Seite {number}: $x^{number}$ 数学",
        "language": "zh",
        "tokens": number + 1,
        "score": 0.25 + number / 64,
        "iteration": 1 + number % 4,
    }


def write(folder: Path, shard: str, rows: list[dict], **options: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / f"{shard}.parquet", **options)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """23 documents in two files, with a file without any between them."""
    folder = tmp_path / "corpus/documents"
    write(folder, "00001-b", [document("00001-b", number) for number in range(10, 23)], row_group_size=4)
    write(folder, "00000-a.x", [])
    write(folder, "00000-a", [document("00000-a", number) for number in range(10)])
    return folder


def files(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_random_access_gives_every_field_in_the_order_of_ids(documents, tmp_path):
    made = builders.prepare(corpus_builder.config(documents), tmp_path / "tfds")
    source = made.as_data_source(split="train")
    assert len(source) == 23
    expected = [document("00000-a", n) for n in range(10)] + [document("00001-b", n) for n in range(10, 23)]
    for i in (22, 0, 9, 10):
        row = source[i]
        assert {name: row[name].decode() for name in ("id", "url", "host", "text", "language")} == {
            name: expected[i][name] for name in ("id", "url", "host", "text", "language")
        }
        assert (row["tokens"], row["score"], row["iteration"]) == (
            expected[i]["tokens"], np.float32(expected[i]["score"]), expected[i]["iteration"]
        )  # fmt: skip
    assert [row["id"].decode() for row in source] == [row["id"] for row in expected]


def test_it_is_read_without_the_documents_and_through_a_pickle(documents, tmp_path):
    made = builders.prepare(corpus_builder.config(documents), tmp_path / "tfds")
    again = pickle.loads(pickle.dumps(made))
    for file in documents.iterdir():
        file.unlink()
    assert again.as_data_source(split="train")[3]["id"] == b"00000-a/000003"
    assert tfds.builder_from_directory(made.data_dir).as_data_source(split="train")[3]["id"] == b"00000-a/000003"


def test_many_documents_are_cut_into_shards_of_one_order(documents, tmp_path, monkeypatch, capsys):
    one = builders.prepare(corpus_builder.config(documents), tmp_path / "one")
    monkeypatch.setattr(builders, "SHARD_BYTES", 1_000)
    several = builders.prepare(corpus_builder.config(documents), tmp_path / "several")
    lengths = several.info.splits["train"].shard_lengths
    assert one.info.splits["train"].shard_lengths == [23]
    assert len(lengths) > 2
    assert max(lengths) == lengths[0]
    assert sum(lengths) == 23
    ids = [[row["id"] for row in made.as_data_source(split="train")] for made in (one, several)]
    assert ids[0] == ids[1]
    assert "preparing documents: 23/23" in capsys.readouterr().err


def test_two_preparations_write_the_same_bytes(documents, tmp_path):
    first, second = (
        builders.prepare(corpus_builder.config(documents), tmp_path / name) for name in ("first", "second")
    )
    assert files(first.data_dir) == files(second.data_dir)


def test_the_same_documents_are_prepared_once_and_others_separately(documents, tmp_path):
    first = builders.prepare(corpus_builder.config(documents), tmp_path / "tfds")
    stamps = {path: path.stat().st_mtime_ns for path in Path(first.data_dir).iterdir()}
    assert builders.prepare(corpus_builder.config(documents), tmp_path / "tfds").data_dir == first.data_dir
    assert {path: path.stat().st_mtime_ns for path in Path(first.data_dir).iterdir()} == stamps

    write(documents, "00000-a", [document("00000-a", 0, "another text")])
    other = builders.prepare(corpus_builder.config(documents), tmp_path / "tfds")
    assert other.data_dir != first.data_dir
    assert other.as_data_source(split="train")[0]["text"] == b"another text"
    assert len(first.as_data_source(split="train")) == 23


KILLED = """
import os, signal, sys
from pathlib import Path
from dsmath_jax.data import builders, corpus_builder
real = corpus_builder.examples
def until_killed(files):
    for number, example in enumerate(real(files)):
        if number == 15:
            os.kill(os.getpid(), signal.SIGKILL)
        yield example
corpus_builder.examples = until_killed
builders.SHARD_BYTES = 1_000
builders.prepare(corpus_builder.config(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def test_a_killed_preparation_leaves_nothing_that_the_next_one_keeps(documents, tmp_path):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(documents), str(tmp_path / "tfds")], cwd=ROOT, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    place = Path(builders.builder(corpus_builder.config(documents), tmp_path / "tfds").data_dir)
    assert not place.exists()
    assert list(place.parent.glob("incomplete.*/*"))
    made = builders.prepare(corpus_builder.config(documents), tmp_path / "tfds")
    assert len(made.as_data_source(split="train")) == 23
    assert [path.name for path in place.parent.iterdir()] == ["1.0.0"]
    assert files(made.data_dir) == files(
        builders.prepare(corpus_builder.config(documents), tmp_path / "uninterrupted").data_dir
    )


def test_the_command_says_how_to_load_without_tensorflow_or_jax(documents, tmp_path):
    code = (
        "import sys; from dsmath_jax.data import corpus_builder; "
        f"corpus_builder.main(['--workdir={tmp_path}']); "
        "print([name for name in ('tensorflow', 'jax', 'daft', 'dsmath_jax.corpus') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *_, counts, imports, load, look, loaded = done.stdout.splitlines()
    assert counts == "23 examples in 1 shard(s); to load them:"
    assert loaded == "[]"
    script = "\n".join(line.strip() for line in (imports, load, f"assert {look.strip()}.startswith('Seite 0')"))
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: [path.unlink() for path in folder.iterdir()], "There are no documents"),
        (lambda folder: [write(folder, path.stem, []) for path in folder.iterdir()], "have no documents"),
        (lambda folder: (folder / "00000-a.parquet").write_bytes(b"no Parquet"), "cannot be read"),
        (lambda folder: pq.write_table(pa.table({"id": ["a"]}), folder / "00000-a.parquet"), "has no field 'url'"),
        (lambda folder: write(folder, "00002-c", [document("00001-b", 12)]), "comes after '00001-b/000022'"),
    ],
)
def test_invalid_documents_are_refused(documents, tmp_path, spoil, words):
    spoil(documents)
    with pytest.raises(UserError, match=words) as error:
        builders.prepare(corpus_builder.config(documents), tmp_path / "tfds")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "tfds").glob("*/*/*"))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_documents(tmp_path):
    peaks = []
    text = os.urandom(50_000).hex()
    for shards in (2, 8):  # 200 and 800 MB of text
        folder = tmp_path / f"{shards}/corpus/documents"
        for shard in (f"{number:05d}-a" for number in range(shards)):
            write(folder, shard, [document(shard, n, f"{n} {text}") for n in range(1_000)], row_group_size=100)
        code = (
            "from dsmath_jax.data import corpus_builder; "
            f"corpus_builder.main(['--workdir={folder.parents[1]}']); "
            "print(open('/proc/self/status').read())"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (peak,) = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("VmHWM")]
        peaks.append(int(peak) / 1024)  # MB
    assert peaks[1] < 400
    assert peaks[1] < peaks[0] + 50
