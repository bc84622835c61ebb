"""Texts and instructions as TFDS datasets: read back in order without TensorFlow; changed data are another dataset."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from backports import zstd

from dsmath_jax.data import builders, instructions
from dsmath_jax.workdir import UserError, write_jsonl

ROOT = Path(__file__).parents[2]


def lines(rows: list[dict]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def test_texts_are_read_back_in_order(server, hub, tmp_path):
    texts = [f"Satz {number}: 数学" for number in range(7)]
    hub(
        "EleutherAI/proof-pile-2",
        {
            "arxiv/train/arXiv_000.jsonl.zst": zstd.compress(lines([{"text": text} for text in texts[:4]])),
            "arxiv/train/arXiv_001.jsonl.zst": zstd.compress(lines([{"text": text} for text in texts[4:]])),
        },
    )
    made = builders.prepare(builders.text_config("arxiv", tmp_path), tmp_path / "tfds")
    server.files.clear()
    source = tfds.builder_from_directory(made.data_dir).as_data_source(split="train")
    assert [row["text"].decode() for row in source] == texts
    assert [row["id"].decode() for row in source][3:5] == [
        "arxiv/train/arXiv_000.jsonl.zst:4",
        "arxiv/train/arXiv_001.jsonl.zst:1",
    ]
    assert builders.prepare(builders.text_config("arxiv", tmp_path), tmp_path / "tfds").data_dir == made.data_dir


TORA = "```python\nprint(2)\n```\n```output\n2\n```\nTwo."


def test_instructions_are_read_back_with_their_parts(tmp_path):
    rows = [{"question": "Q", "solution": TORA}, {"instruction": "问", "output": "答"}]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    made = builders.prepare(builders.instruction_config("mine.jsonl", tmp_path), tmp_path / "tfds")
    source = made.as_data_source(split="train")
    found = [
        (
            row["id"].decode(),
            list(zip(*(row["parts"][field] for field in ("message", "role", "text", "learn")), strict=True)),
            row["language"].decode(),
            row["style"].decode(),
        )
        for row in source
    ]
    assert found == [
        (
            one.id,
            [
                (number, message.role.encode(), text.encode(), learn)
                for number, message in enumerate(one.messages)
                for text, learn in message.parts
            ],
            one.language,
            one.style,
        )
        for one in instructions.load("mine.jsonl", tmp_path)
    ]
    write_jsonl(tmp_path / "mine.jsonl", [*rows, rows[0]])
    changed = builders.prepare(builders.instruction_config("mine.jsonl", tmp_path), tmp_path / "tfds")
    assert len(changed.as_data_source(split="train")) == 3
    assert len(made.as_data_source(split="train")) == 2


def test_many_examples_are_cut_into_shards(tmp_path, monkeypatch):
    (tmp_path / "mine.jsonl").write_bytes(lines([{"text": f"{number} " + "x" * 100} for number in range(50)]))
    monkeypatch.setattr(builders, "SHARD_BYTES", 1_000)
    made = builders.prepare(builders.text_config("mine.jsonl", tmp_path), tmp_path / "tfds")
    assert len(made.info.splits["train"].shard_lengths) > 5
    found = [row["text"].decode().split()[0] for row in made.as_data_source(split="train")]
    assert found == [str(number) for number in range(50)]


def command(*arguments: str) -> subprocess.CompletedProcess:
    code = (
        "import sys; from dsmath_jax.data import builders; builders.main(sys.argv[1:]); "
        "print([name for name in ('tensorflow', 'jax', 'grain') if name in sys.modules])"
    )
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "first"),
    [(["gsm8k/test"], "Q"), (["mine.jsonl"], "T")],
)
def test_the_command_says_how_to_load_without_tensorflow_or_jax(tmp_path, arguments, first):
    write_jsonl(tmp_path / "gsm8k/test.jsonl", [{"question": "Q", "answer": "A\n#### 1"}])
    write_jsonl(tmp_path / "mine.jsonl", [{"question": "Q", "text": "T"}])
    done = command(f"--data_dir={tmp_path}", "--source", *arguments)
    assert done.returncode == 0, done.stderr
    *_, counts, imports, load, look, loaded = done.stdout.splitlines()
    assert counts == "1 examples in 1 shard(s); to load them:"
    assert loaded == "[]"
    script = "\n".join(line.strip() for line in (imports, load, f"assert {look.strip()} == {first!r}"))
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_invalid_record_is_an_error_and_leaves_no_files(tmp_path):
    write_jsonl(tmp_path / "mine.jsonl", [{"question": "Q"}])
    with pytest.raises(UserError, match=r"mine.jsonl, line 1: the field 'solution' is missing"):
        builders.prepare(builders.instruction_config("mine.jsonl", tmp_path), tmp_path / "tfds")
    with pytest.raises(UserError, match=r"mine.jsonl, line 1: the field 'text' is missing"):
        builders.prepare(builders.text_config("mine.jsonl", tmp_path), tmp_path / "tfds")
    assert not list((tmp_path / "tfds").glob("*/*/*"))
