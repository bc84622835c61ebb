"""Instructions as rows: what is learned, whole examples, random order, some held out."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from dsmath_jax.data import chat, chat_template, instruction_rows, rows, tokenizer
from dsmath_jax.data.batches import Batches
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.instructions import Conversation, split
from dsmath_jax.data.packing import batch_of_rows, pack_whole
from dsmath_jax.workdir import UserError

LENGTH = 63
TORA = "Add.\n```python\nprint(2+3)\n```\n```output\n5\n```\nSo 5."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of the chat template's and some other pieces."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    tokenizer.train_sentencepiece(
        ["What is 1 + 1? Add. So 2.", "```python print(2+3) ```output"], path, 320, chat.MARKERS
    )
    chat_template.write(path.parent, chat_template.DEEPSEEK_MATH)
    return path.parent


def numbered(count: int) -> list[Conversation]:
    return [make(f"toy/{i}", f"What is {i} + 1?", f"So {i + 1}.") for i in range(count)]


def make(identity: str, question: str, solution: str, style: str = "cot") -> Conversation:
    messages = chat.user(question), chat.Message("assistant", tuple(split(solution)))
    return Conversation(identity, messages, "en", style)


def test_a_plain_solution_is_the_completion_of_the_chat_template(folder):
    text_chat = chat.read(chat.ChatSource(folder))
    (instruction,) = numbered(1)
    made = instruction_rows.example(text_chat, instruction)
    prompt = text_chat.prompt_ids(Record("", instruction.question))
    completion = [*text_chat.tokenizer.encode(" So 1."), text_chat.tokenizer.eos_id]
    assert made.tokens.tolist() == prompt + completion
    assert made.loss_mask.tolist() == [False] * len(prompt) + [True] * len(completion)
    assert made.id == "toy/0"


def test_a_conversation_that_the_template_refuses_is_named(folder):
    refusing = dataclasses.replace(chat.read(chat.ChatSource(folder)), template="{{ raise_exception('too short') }}")
    with pytest.raises(UserError, match=r"toy/0: chat\.template fails \(too short\); correct it, or the messages"):
        instruction_rows.example(refusing, *numbered(1))


def test_the_loss_is_on_the_solution_and_eos_but_not_on_the_tools_output(folder):
    text_tokenizer = tokenizer.load(folder)
    instruction = make("a:1", "What is 2 + 3?", TORA, "tora")
    examples = [instruction_rows.example(chat.Chat(text_tokenizer), one) for one in (*numbered(1), instruction)]
    batch = batch_of_rows(np.stack([packed.row for packed in pack_whole(examples, 200)]))
    weighted = batch["loss_weights"][0] > 0
    second = batch["segment_ids"][0] == 2
    learned = text_tokenizer.decode(batch["targets"][0][weighted & second].tolist())
    assert learned.strip() == "Add.\n```python\nprint(2+3)\n```\n```output\nSo 5."
    assert batch["targets"][0][weighted & second][-1] == text_tokenizer.eos_id
    first = text_tokenizer.decode(batch["targets"][0][weighted & ~second].tolist())
    assert first.strip() == "So 1."


def write(folder: Path, target: Path, count: int, **changes: int) -> dict[str, int]:
    settings = {"length": LENGTH, "seed": 3, "held_out": 4} | changes
    train, apart = target / "train" / rows.shard_name(0), target / "apart" / rows.shard_name(0)
    return instruction_rows.write(
        numbered(count), chat.ChatSource(folder), train_shard=train, held_out_shard=apart, **settings
    )


def ids(folder: Path) -> list[str]:
    found = rows.Rows(folder, LENGTH)
    return [one for i in range(len(found)) for one in found[i].ids]


def test_every_example_is_whole_in_one_row_and_shuffled(folder, tmp_path):
    assert write(folder, tmp_path, 100) == {"examples": 100, "too_long": 0, "held_out": 10}
    learned, apart = ids(tmp_path / "train"), ids(tmp_path / "apart")
    assert sorted(learned + apart) == sorted(one.id for one in numbered(100))
    assert learned != sorted(learned)
    found = rows.Rows(tmp_path / "train", LENGTH)
    text_tokenizer = tokenizer.load(folder)
    for i in range(len(found)):
        row, names = found[i]
        for segment, name in enumerate(names, 1):
            text = text_tokenizer.decode(row[0][row[1] == segment].tolist())
            assert f"What is {name[4:]} + 1?" in text
            assert text.endswith(f"So {int(name[4:]) + 1}.")
    batches = Batches([(tmp_path / "train", 1.0)], LENGTH, 2, 0)
    assert set(batches.records(0)) <= {f"train/{one}" for one in learned}


def test_no_more_is_held_out_than_is_read(folder, tmp_path):
    counts = write(folder, tmp_path, 400, held_out=2)
    assert len(rows.Rows(tmp_path / "apart", LENGTH)) in (2, 3)
    assert counts["held_out"] < 40
    assert write(folder, tmp_path / "none", 400, held_out=0)["held_out"] == 0


def test_workers_make_the_same_files(folder, tmp_path, monkeypatch):
    write(folder, tmp_path / "one", 60)
    monkeypatch.setattr(instruction_rows, "CHUNK", 25)
    monkeypatch.setattr(instruction_rows, "IN_PROCESS", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    write(folder, tmp_path / "two", 60)
    for name in ("train", "apart"):
        one, two = (tmp_path / which / name / rows.shard_name(0) for which in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_examples_longer_than_a_row_are_counted_and_too_few_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="gives 0 examples that fit 8 tokens; at least 10 are needed"):
        write(folder, tmp_path, 20, length=8)
    long = [make("toy/long", "x" * 99, "y" * 99)]
    counts = instruction_rows.write(
        numbered(20) + long, chat.ChatSource(folder), LENGTH, 0, 4, tmp_path / "a", tmp_path / "b"
    )
    assert counts == {"examples": 20, "too_long": 1, "held_out": 2}
