"""A user's own data: every format gives the same records, `columns`, folders, the Hub, modules, and what is refused."""

import csv
import dataclasses
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmath_jax.data import datasets, instructions, overlap, own_data
from dsmath_jax.data import hub as hubs
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.own_data import Columns
from dsmath_jax.data.settings import DataSettings
from dsmath_jax.evaluation import registry
from dsmath_jax.training.settings import SFTSettings
from dsmath_jax.workdir import UserError, write_jsonl

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
WORDS = TEXT.filter(str.strip)
ROWS = st.fixed_dictionaries(
    {"question": WORDS, "answer": TEXT, "solution": WORDS, "level": TEXT, "options": st.lists(TEXT, max_size=3),
     "kind": st.sampled_from(["math", "text"]), "source": TEXT},
)  # fmt: skip


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([json.dumps(row[name]) if isinstance(row[name], list) else row[name] for name in rows[0]])
    return text.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    return table(pa.Table.from_pylist(rows))


def table(content: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(content, file)
    return file.getvalue()


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


FORMATS = {
    "jsonl": as_jsonl,
    "json": lambda rows: json.dumps(rows, indent=1).encode(),
    "csv": as_csv,
    "parquet": as_parquet,
    "jsonl.gz": lambda rows: gzip.compress(as_jsonl(rows)),
    "csv.zst": lambda rows: zstd.compress(as_csv(rows)),
}


@settings(max_examples=30)
@given(st.lists(ROWS, min_size=1, max_size=3))
def test_all_formats_give_the_same_records(tmp_path_factory: pytest.TempPathFactory, rows: list[dict]) -> None:
    folder = tmp_path_factory.mktemp("own")
    read, learned = [], []
    for suffix, encode in FORMATS.items():
        (folder / f"mine.{suffix}").write_bytes(encode(rows))
        read.append(datasets.load(f"mine.{suffix}", folder))
        learned.append(list(instructions.load(f"mine.{suffix}", folder)))
    assert [record.id for record in read[0]] == [f"mine/{n}" for n in range(len(rows))]
    assert [record.question for record in read[0]] == [row["question"].strip() for row in rows]
    assert [record.extra for record in read[0]] == [{"source": row["source"]} for row in rows]
    assert all(records == read[0] for records in read)
    assert all(conversations == learned[0] for conversations in learned)


@given(ROWS)
def test_columns_and_a_renamed_file_give_the_same_records(row: dict) -> None:
    columns = {field: f"my {field}" for field in row if field != "source"}
    renamed = {columns.get(field, field): value for field, value in row.items()}
    assert own_data.renamed(renamed, columns) == own_data.renamed(row, {})


@pytest.mark.parametrize(
    ("columns", "row", "record"),
    [
        ({"question": "problem", "answer": "final"}, {"problem": "?", "final": 4, "answer": "so 4"},
         Record("mine/0", "?", answer="4")),
        ({"question": "prompt.1.content", "answer": "reward_model.ground_truth"},
         {"prompt": [{"content": "Be good."}, {"content": "?"}], "reward_model": {"ground_truth": "4"}, "index": 7},
         Record("mine/0", "?", answer="4", extra={"reward_model": {"ground_truth": "4"}, "index": 7})),
        ({"answer": "a.b"}, {"question": "?", "a.b": "4"}, Record("mine/0", "?", answer="4")),
        ({"category": "topic"}, {"question": "?", "topic": None, "difficulty": None}, Record("mine/0", "?")),
        ({}, {"question": "?", "extra": {"tests": [1]}, "unit": "cm"},
         Record("mine/0", "?", extra={"tests": [1], "unit": "cm"})),
    ],
)  # fmt: skip
def test_columns(tmp_path: Path, columns: Columns, row: dict, record: Record) -> None:
    write_jsonl(tmp_path / "mine.jsonl", [row])
    assert datasets.load("mine.jsonl", tmp_path, columns) == [record]
    write_jsonl(tmp_path / "mine.jsonl", [dataclasses.asdict(record)])
    assert datasets.load("mine.jsonl", tmp_path) == [record]


def test_columns_of_instructions(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "S"}]
    write_jsonl(tmp_path / "mine.jsonl", [{"question": "shown", "answer": "on a page", "talk": said, "text": "T"}])
    found = [
        next(instructions.load("mine.jsonl", tmp_path, columns))
        for columns in ({"messages": "talk"}, {"question": "text", "solution": "answer"}, {})
    ]
    assert [(one.question, one.messages[-1].content) for one in found] == [
        ("Q", "S"), ("T", "on a page"), ("shown", "on a page")
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"mine\.jsonl, line 1: the field 'chat' is missing; fix or remove"):
        instructions.check("mine.jsonl", tmp_path, {"messages": "chat"})


def test_a_folder(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.csv", "deep/a.csv"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(FORMATS[name.rpartition(".")[2]]([{"question": name}]))
    (tmp_path / "mine/README.md").write_text("About these.")
    expected = [("mine/a.csv/0", "a.csv"), ("mine/b.jsonl/0", "b.jsonl"), ("mine/deep/a.csv/0", "deep/a.csv")]
    assert [(record.id, record.question) for record in datasets.load("mine/", tmp_path)] == expected
    with pytest.raises(UserError, match=r"Unknown data set 'mine', .* your own as mine\.jsonl, .* folder/"):
        datasets.load("mine", tmp_path)
    assert registry.task("mine/").folder == "mine"
    assert len(registry.records("mine/", tmp_path)) == 3
    assert datasets.files("mine/", tmp_path) == [
        tmp_path / "mine" / name for name in ("a.csv", "b.jsonl", "deep/a.csv")
    ]


def test_numbers_of_parquet_are_those_that_were_meant(tmp_path: Path) -> None:
    values = pa.array([0.1, 2.0, None, 1e-7], pa.float32())
    (tmp_path / "a.parquet").write_bytes(table(pa.table({"question": ["?"] * 4, "answer": values})))
    assert [record.answer for record in datasets.load("a.parquet", tmp_path)] == ["0.1", "2.0", "", "1e-07"]


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("a.jsonl", b'{"question": "?"}\n\n{"q": "?"}', {}, r"a\.jsonl, line 3: the field 'question' is missing; fix"),
        ("a.jsonl", b'{"q": 1}\n{"q": []}', {"question": "q"}, r"a\.jsonl, line 2: the field 'q' is not text"),
        ("a.jsonl", b'{"question": "?", "m": [0]}', {"answer": "m.1"}, r"line 1: the field 'm\.1' is missing"),
        ("a.jsonl", b'{"question": "?", "extra": 3}', {}, r"line 1: the field 'extra' is not an object"),
        ("a.json", b'[{"question": "?"}, {"question": " "}]', {}, r"a\.json, record 2: the field 'question' is empty"),
        ("a.csv", b'question,answer\n"a\nb",1\n,2\n', {}, r"a\.csv, line 4: the field 'question' is empty"),
        ("a.csv", b"question,answer\n?,1,2\n", {}, r"a\.csv, line 2: 3 cells, but line 1 names 2 columns"),
        ("a.csv", b"question,question\n?,1\n", {}, r"line 1: the column 'question' has the same name as another"),
        ("a.csv", b'question\n"?', {}, r"a\.csv, line 2: unexpected end of data; fix or remove the row"),
        ("a.csv", b'question\n?\n"a"b\n', {}, r"a\.csv, line 3: ',' expected after '\"'; fix or remove the row"),
        ("a.csv", b"question\n\xff\n", {}, r"a\.csv cannot be read \(.*utf-8.*\)"),
        ("a.csv", b'question,options\n?,"[3"\n', {}, r"a\.csv, line 2: the field 'options' is not a list of texts"),
        ("a.parquet", as_parquet([{"q": "?"}]), {}, r"a\.parquet, record 1: the field 'question' is missing"),
        ("a.parquet", b"PAR1", {}, r"a\.parquet cannot be read"),
        ("a.parquet", table(pa.table([["?"], ["!"]], names=["q", "q"])), {}, r"schema: the column 'q' has the same"),
        ("a.json", b"[" * 100_000, {}, r"a\.json cannot be read \(.*recursion"),
        ("a.csv", b"question\n", {}, r"The file .*a\.csv has no records"),
        ("a.jsonl", b"", {}, r"The file .*a\.jsonl has no records"),
        ("a.jsonl.gz", b"", {}, r"The file .*a\.jsonl\.gz has no records"),
        ("folder/", None, {}, r"folder/? has no file of the formats \.parquet, \.jsonl, \.json, \.csv; add one"),
        ("gone.csv", None, {}, r"There is no file or folder .*gone\.csv; correct the name"),
        ("hf:gsm8k/train", None, {}, r"The data set 'hf:gsm8k/train' must be hf:OWNER/NAME/SPLIT"),
        ("hf:a/../../b", None, {}, r"must be hf:OWNER/NAME/SPLIT"),
        ("gsm8k/tran", None, {}, r"Unknown data set 'gsm8k/tran', did you mean 'gsm8k/train'; .* your own as mine"),
        ("no_module:SUMS", None, {}, r"'no_module:SUMS' cannot be used \(ModuleNotFoundError: .*; name a Source"),
        ("json:loads", None, {}, r"'json:loads' is of the type function; it must be a Source"),
    ],
)  # fmt: skip
def test_refusals(tmp_path: Path, name: str, content: bytes | None, columns: Columns, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes.txt").write_text("no records")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        datasets.load(name, tmp_path, columns)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"qestion": "q"}, r"columns\.qestion is not a field of a record \(the nearest is 'question'\); give one"),
        ({"question": ""}, r"columns\.question is empty; give the name of a column"),
        ({"question": 3}, r"columns\.question is 3; it must be of the type str"),
    ],
)  # fmt: skip
def test_columns_are_checked_as_settings(columns: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataSettings(columns=columns)


def test_files_whose_records_would_have_the_same_ids_are_refused() -> None:
    for other in ("mine.csv", "mine/"):
        with pytest.raises(UserError, match=rf"data: the records of mine\.jsonl and {other} would have the same ids"):
            SFTSettings(data=("mine.jsonl", other))


# --- the Hub ---

REPOSITORY = {
    "main/train-00000-of-00002.parquet": as_parquet([{"q": "1?"}]),
    "main/train-00001-of-00002.parquet": as_parquet([{"q": "2?"}]),
    "main/test-00000-of-00001.parquet": as_parquet([{"q": "3?"}]),
    "socratic/train.jsonl": b'{"q": "4?"}',
}


@pytest.mark.parametrize(
    ("name", "questions"),
    [
        ("hf:some/set/main/train", ["1?", "2?"]),
        ("hf:some/set/test", ["3?"]),
        ("hf:some/set/socratic/train.jsonl", ["4?"]),
        ("hf:some/set/train.jsonl", None),
        ("hf:some/set/rain", None),
        ("hf:some/set/validation", None),
    ],
)
def test_a_split_of_the_hub(server, hub, tmp_path: Path, name: str, questions: list[str] | None) -> None:
    hub("some/set", REPOSITORY)
    columns = {"question": "q"}
    if questions is None:
        with pytest.raises(UserError, match=r"some/set has no file \S+ \(its files are README\.md, main/train-0000"):
            datasets.load(name, tmp_path, columns)
        return
    assert own_data.find_local(name, tmp_path) == []
    records = datasets.load(name, tmp_path, columns)
    assert [record.question for record in records] == questions
    assert len({record.id for record in records}) == len(records)
    assert records[0].id.startswith(name.removeprefix("hf:"))
    server.files.clear()  # from now on it is a mirror
    assert datasets.load(name, tmp_path, columns) == records
    assert len(own_data.find_local(name, tmp_path)) == len(own_data.find(name, tmp_path))
    training = overlap.training_questions({"rl.data": [name], "rl.columns": columns}, tmp_path)
    assert overlap.find(records[:1], training) == {f"rl.data '{name}'": overlap.Overlap([0])}


def test_checks_download_nothing_and_compute_no_checksums(server, hub, tmp_path: Path) -> None:
    hub("some/set", REPOSITORY)
    name, columns = "hf:some/set/main/train", {"question": "q"}
    datasets.load(name, tmp_path, columns)
    first, second = sorted((tmp_path / "some/set/main").iterdir())
    whole = second.read_bytes()
    second.unlink()  # as if a download was interrupted
    asked = len(server.asked)
    with own_data.local_only():
        assert datasets.load(name, tmp_path, columns) == []
    assert (len(server.asked), second.exists()) == (asked, False)
    second.write_bytes(whole)
    first.write_bytes(whole)  # `fetch` notices this, at the cost of reading it
    with own_data.local_only():
        assert [record.question for record in datasets.load(name, tmp_path, columns)] == ["2?", "2?"]
    with pytest.raises(UserError, match="SHA-256"):
        datasets.load(name, tmp_path, columns)


def test_a_split_of_several_sets_is_refused(server, hub, tmp_path: Path) -> None:
    hub("some/set", REPOSITORY)
    with pytest.raises(
        UserError, match=r"several sets of the split train \(main/train, socratic/train\); name one, as"
    ):
        datasets.load("hf:some/set/train", tmp_path)


@pytest.mark.parametrize(
    ("split", "paths", "found"),
    [
        ("train", ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"], 1),
        ("train", ["train_0000.jsonl", "train_0001.jsonl"], 2),
        ("train", ["data/train/a.jsonl", "data/train/b.jsonl", "README.md"], 2),
        ("train", ["data/train_sft-00000-of-00002-a3ecf.parquet", "data/train_sft-00001-of-00002-b3ec.parquet"], 2),
        ("train", ["data/train_sft-00000-of-00001.parquet", "data/train_gen-00000-of-00001.parquet"], None),
        ("data/train_sft", ["data/train_sft-00000-of-00001.parquet", "data/train_gen-00000-of-00001.parquet"], 1),
        ("train", ["data/train_1M-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"], 1),
        ("train", ["train.jsonl", "train.parquet"], None),
        ("train", ["MetaMath.json", "dataset_infos.json"], 1),
        ("train", ["a.parquet", "b.parquet", "config.json", "statistics.json"], 2),
        ("train", ["test.jsonl", "data.jsonl"], 0),
    ],
)
def test_files_of_a_split(split: str, paths: list[str], found: int | None) -> None:
    if found is None:
        with pytest.raises(UserError, match=r"o/n has several sets of the split train \(.*\); name one, as hf:o/n/"):
            hubs.Split("o/n", split).matching(paths)
    else:
        assert len(hubs.Split("o/n", split).matching(paths)) == found


def test_a_repository_without_splits_is_one_of_training(server, hub, tmp_path: Path) -> None:
    hub("some/set", {"MetaMath.json": b'[{"query": "Q", "response": "R"}]'})
    assert [one.question for one in instructions.load("hf:some/set/train", tmp_path)] == ["Q"]


# --- modules ---

MODULE = """
from dsmath_jax.data.dataset_formats import columns
from dsmath_jax.data.datasets import Source
from dsmath_jax.evaluation.registry import CHOICE, Task

SUMS = Source("sums.jsonl", columns(question="sum", answer="is"))
BAD = Source("sums.jsonl", lambda record_id, fields: fields["misspelt"])
TASK = Task("sums", "own_sums:SUMS", "number", {"cot": CHOICE})
FILE = Task("file", "mine.csv", "math", {"cot": CHOICE})
"""


def test_data_sets_and_tasks_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_sums.py").write_text(MODULE)
    write_jsonl(tmp_path / "sums.jsonl", [{"sum": "1 + 1", "is": 2}])
    (tmp_path / "mine.csv").write_bytes(as_csv([{"question": "1 + 1?"}]))
    assert datasets.load("own_sums:SUMS", tmp_path) == [Record("own_sums:SUMS/0", "1 + 1", answer="2", kind="number")]
    assert datasets.files("own_sums:SUMS", tmp_path) == [Path("own_sums.py"), tmp_path / "sums.jsonl"]
    task = registry.task("own_sums:TASK")
    assert (task.name, task.folder, task.modes) == ("own_sums:TASK", "own_sums_TASK", ("cot",))
    assert [record.answer for record in registry.records("own_sums:TASK", tmp_path)] == ["2"]
    assert [record.question for record in registry.records("own_sums:FILE", tmp_path)] == ["1 + 1?"]
    with pytest.raises(UserError, match=r"sums\.jsonl, line 1: the parser of own_sums:BAD raises KeyError: 'misspelt'"):
        datasets.load("own_sums:BAD", tmp_path)
    with pytest.raises(UserError, match=r"'own_sums:SUMS' is of the type Source; it must be a Task"):
        registry.task("own_sums:SUMS")
