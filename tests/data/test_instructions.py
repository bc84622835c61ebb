"""Instruction records: their shapes, styles and languages, which parts are learned, and where they come from."""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

from dsmath_jax.data import instructions
from dsmath_jax.data.chat import Message, assistant, user
from dsmath_jax.data.dataset_formats import BadField
from dsmath_jax.data.downloads import File
from dsmath_jax.data.hub import PUBLIC
from dsmath_jax.data.instructions import Conversation, load, parse, split
from dsmath_jax.workdir import UserError, write_jsonl

TORA = (
    "We count.\n```python\nprint(2 + 3)\n```\n```output\n5\n```\nThen we double.\n"
    "```python\nprint(10)\n```\n```output\n10\n```\nThe answer is $\\boxed{10}$."
)


def test_the_tools_output_is_not_learned_but_its_call_is():
    parts = split(TORA)
    assert "".join(text for text, _ in parts) == TORA
    assert [text for text, learn in parts if not learn] == ["5\n```\n", "10\n```\n"]
    assert parts[0] == ("We count.\n```python\nprint(2 + 3)\n```\n```output\n", True)
    assert parts[-1] == ("The answer is $\\boxed{10}$.", True)


@pytest.mark.parametrize(
    ("solution", "parts"),
    [
        ("no tool", [("no tool", True)]),
        ("```output\n```\nafter", [("```output\n", True), ("```\n", False), ("after", True)]),
        ("```output\ncut off", [("```output\ncut off", True)]),
        ("a\n```output\nlast\n```", [("a\n```output\n", True), ("last\n```", False)]),
        ("```output\na\n\nb\n```\n", [("```output\n", True), ("a\n\nb\n```\n", False)]),
    ],
)
def test_odd_outputs(solution, parts):
    assert split(solution) == parts


@pytest.mark.parametrize(
    ("fields", "question", "solution", "style", "language"),
    [
        ({"instruction": "Q", "output": "because", "source": "data/CoT/gsm_rft.json"}, "Q", "because", "cot", "en"),
        ({"instruction": "Q", "output": "x = 3", "source": "data/PoT/aqua.json"}, "Q", "x = 3", "pot", "en"),
        ({"instruction": "Q", "output": "from math import pi\npi"}, "Q", "from math import pi\npi", "pot", "en"),
        ({"instruction": "小明有苹果", "input": "几个", "output": "三个"}, "小明有苹果\n几个", "三个", "cot", "zh"),
        ({"problem": "P", "solution": TORA, "messages": []}, "P", TORA, "tora", "en"),
        ({"question": " Q ", "answer": "<<2=2>>2.\n#### 1,024"}, "Q", "2.\nThe answer is 1024.", "cot", "en"),
        ({"question": "Q", "answer": "plain"}, "Q", "plain", "cot", "en"),
        ({"question": "Q", "answer": "Ways:\n#### Sort\nCall it."}, "Q", "Ways:\n#### Sort\nCall it.", "cot", "en"),
        ({"question": "Q", "answer": "B", "options": ["3", "4"]}, "Q\n(A) 3\n(B) 4", "B", "cot", "en"),
        ({"question": "Q", "solution": "S", "style": "pot", "language": "zh"}, "Q", "S", "pot", "zh"),
        ({"query": "Q", "response": "R"}, "Q", "R", "cot", "en"),
        ({"prompt": "Q", "completion": "R"}, "Q", "R", "cot", "en"),
        ({"question": "Q", "solution": "S", "options": ["3", "4"], "answer": "A"}, "Q\n(A) 3\n(B) 4", "S", "cot", "en"),
        ({"question": "Q", "solution": "S", "prompt": "P"}, "P", "S", "cot", "en"),
    ],
)  # fmt: skip
def test_shapes(fields, question, solution, style, language):
    found = parse("a:1", fields)
    assert found.question == question
    assert found.messages[-1].content == solution
    assert (found.id, found.style, found.language) == ("a:1", style, language)


def test_conversations():
    said = [("system", "Be good."), ("user", " Q "), ("assistant", "```python\nprint(1)\n```"), ("tool", "1\n"),
            ("assistant", "One.")]  # fmt: skip
    found = parse("a:1", {"messages": [{"role": role, "content": text} for role, text in said]})
    parts = (("```python\nprint(1)\n```", True), ("1\n", False), ("One.", True))
    system = Message("system", (("Be good.", False),))
    assert found == Conversation("a:1", (system, user("Q"), Message("assistant", parts)), "en", "tora")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"question": "Q"}, "the field 'solution' is missing"),
        ({"text": "T"}, "the field 'question' is missing"),
        ({"question": "Q", "solution": " \n"}, "the field 'solution' is empty"),
        ({"instruction": 3, "output": "S"}, "the field 'instruction' is not text"),
        ({"question": "Q", "solution": "S", "style": "essay"}, "the field 'style' must be one of cot, pot, tora"),
        ({"question": "Q", "solution": "S", "language": "fr"}, "the field 'language' must be one of en, zh"),
        ({"messages": [{"role": "assistant", "content": "A"}]}, "message of the assistant at its beginning"),
        ({"messages": [{"role": "user", "content": "Q"}]}, "does not end with a message of the assistant"),
        ({"messages": [{"role": "judge", "content": "Q"}]}, "has a role that is not one of system, user"),
        ({"messages": [{"role": "user"}]}, "the field 'content' is missing"),
        (
            {"messages": [None, {"role": "user", "content": "Q"}]},
            "the field 'messages' has an item that is not an object",
        ),
        ({"instruction": "Q", "input": ["X"], "output": "S"}, "the field 'input' is not text"),
    ],
)
def test_invalid_records_are_refused(fields, words):
    with pytest.raises(BadField, match=words):
        parse("a:1", fields)


MATHINSTRUCT = [
    {"source": "data/CoT/MATH_train.json", "output": "It is 2.", "instruction": "What is 1 + 1?"},
    {"source": "data/PoT/gsm_gpt4.json", "output": "print(1 + 1)", "instruction": "Add. Let's write a program."},
]
BELLE = {"instruction": "一加一是多少？\n", "input": "", "output": "一加一等于二。"}


def parquet(rows: list[dict]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


# The path in the repository, the file as it is published, and the (id, style, language) that it gives.
PUBLISHED = {
    "mathinstruct": (
        "MathInstruct.json", json.dumps(MATHINSTRUCT, indent=4).encode(),
        [("mathinstruct/0", "cot", "en"), ("mathinstruct/1", "pot", "en")],
    ),
    "numina_tir": (
        "data/train-00000-of-00001.parquet",
        parquet([{"problem": "P", "solution": TORA, "messages": [{"content": "P", "role": "user"}]}]),
        [("numina_tir/0", "tora", "en")],
    ),
    "belle_math_zh": (
        "school_math_0.25M.json", json.dumps(BELLE, ensure_ascii=False).encode() + b"\n",
        [("belle_math_zh/0", "cot", "zh")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_data_set_is_fetched(server, hub, tmp_path, name):
    path, content, expected = PUBLISHED[name]
    hub(PUBLIC[name].name, {path: content, "other.json": b"", "data/test-00000-of-00001.parquet": b""})
    assert [(one.id, one.style, one.language) for one in load(name, tmp_path)] == expected
    assert (tmp_path / name / path).read_bytes() == content
    server.files.clear()
    assert len(list(load(name, tmp_path))) == len(expected)


def test_gsm8k_is_fetched_and_its_marks_dropped(server, tmp_path, monkeypatch):
    line = json.dumps({"question": "Q", "answer": "4+5=<<4+5=9>>9\n#### 9"}).encode() + b"\n"
    server.files["/train.jsonl"] = line
    file = File("gsm8k/train.jsonl", f"{server.address}/train.jsonl", hashlib.sha256(line).hexdigest())
    monkeypatch.setitem(instructions.FETCHED, "gsm8k/train", file)
    (found,) = load("gsm8k/train", tmp_path)
    assert found == Conversation("gsm8k/train/0", (user("Q"), assistant("4+5=9\nThe answer is 9.")), "en", "cot")
    (tmp_path / "gsm8k/train.jsonl").write_bytes(line + line)
    with pytest.raises(UserError, match=r"gsm8k/train.jsonl has the SHA-256"):
        list(load("gsm8k/train", tmp_path))


def math_archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in ("train/algebra/1", "train/geometry/7", "test/algebra/2"):
            problem = {"problem": name, "level": "Level 1", "type": "Algebra", "solution": "So $\\boxed{2}$."}
            member = tarfile.TarInfo(f"MATH/{name}.json")
            content = json.dumps(problem).encode()
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def test_math_is_fetched_and_unpacked_unless_it_is_there(server, tmp_path, monkeypatch):
    archive = math_archive()
    server.files["/MATH.tar"] = archive
    file = File("MATH.tar", f"{server.address}/MATH.tar", hashlib.sha256(archive).hexdigest())
    monkeypatch.setitem(instructions.FETCHED, "math/train", file)
    for _ in range(2):
        found = list(load("math/train", tmp_path))
        assert [one.question for one in found] == ["train/algebra/1", "train/geometry/7"]
    assert len(server.asked) == 1
    write_jsonl(
        tmp_path / "mirror/math/train.jsonl", [{"problem": "P", "level": "1", "type": "A", "solution": "$\\boxed{2}$"}]
    )
    assert [one.question for one in load("math/train", tmp_path / "mirror")] == ["P"]
    assert len(server.asked) == 1


def test_own_files_in_every_packing(tmp_path):
    lines = b'{"question": "Q", "solution": "S"}\n'
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "c.jsonl.zst").write_bytes(zstd.compress(lines))
    (folder / "d.json").write_bytes(b"[" + lines + b"]")
    (folder / "e.parquet").write_bytes(parquet([{"question": "Q", "solution": "S"}]))
    found = list(load("mine/", tmp_path))
    names = ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.json", "e.parquet")
    assert [one.id for one in found] == [f"mine/{name}/0" for name in names]
    assert {one.messages for one in found} == {(user("Q"), assistant("S"))}
    assert [path.name for path in instructions.user_files(("mine/", "numina_tir", "gsm8k/train"), tmp_path)] == list(
        names
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"query": "Q", "response": "S"}\n{"question": "Q"}', "line 2: the field 'solution' is missing"),
        ("a.jsonl", b'{"question": "Q"', "a.jsonl, line 1: not a JSON object"),
        ("a.json", b'[{"question": "Q", "solution": "S"}, 3]', "a.json, record 2: not a JSON object"),
        ("a.json", b'[{"question": "Q"', "a.json cannot be read"),
    ],
)  # fmt: skip
def test_an_invalid_record_is_an_error(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        list(load(name, tmp_path))
    assert "\n" not in str(error.value)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"Unknown data set 'mathinstuct', did you mean 'mathinstruct'; .*gsm8k/train, .*your own as"
    ):
        list(load("mathinstuct", tmp_path))
    write_jsonl(tmp_path / "cmath/test.jsonl", [{"question": "Q", "golden": "3", "grade": 1}])
    with pytest.raises(UserError, match=r"'cmath/test' has no worked solution \(cmath/test/0\)"):
        list(load("cmath/test", tmp_path))


def test_the_real_gsm8k(real_data: Path):
    found = list(load("gsm8k/train", real_data))
    assert len(found) == 7473
    assert not [one for one in found if "<<" in one.messages[-1].content or one.style != "cot" or one.language != "en"]
