"""Questions that are both trained on and measured on: which are found, and when they are refused."""

import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.data import overlap
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.overlap import Overlap
from dsmath_jax.workdir import UserError, write_json, write_jsonl

HELD_OUT = [
    Record("test/0", "What is 3 + 4?", answer="7"),
    Record("test/1", "What is 3 - 4?", answer="-1"),
    Record("test/2", "Which is even?", options=("1", "2"), answer="B"),
    Record("test/3", "What  is\n3 + 4 ?", answer="7"),
]


def places_in(*questions: Record) -> list[int]:
    return overlap.find(HELD_OUT, {"it": questions})["it"].indices


def test_case_white_space_and_forms_of_characters_do_not_count() -> None:
    assert places_in(Record("a", "WHAT IS\t3+4？")) == [0, 3]  # as Chinese keyboards type it
    assert places_in(Record("a", "What is 3 * 4?"), Record("b", "What is 4 + 3?")) == []


def test_options_are_part_of_a_question() -> None:
    assert places_in(Record("a", "Which is even?", options=("1", "2"))) == [2]
    assert places_in(Record("a", "Which is even?\n(A) 1\n(B) 2")) == [2]
    assert places_in(Record("a", "Which is even?", options=("3", "4")), Record("b", "Which is even?")) == []


def test_every_turn_of_a_conversation_asks(tmp_path: Path) -> None:
    texts = ["Hello.", "Hello!", "What is 3 - 4?", "The answer is -1."]
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    write_jsonl(tmp_path / "chats.jsonl", [{"messages": messages}])
    training = overlap.training_questions({"sft.data": ["chats.jsonl"]}, tmp_path)
    assert overlap.find(HELD_OUT, training) == {"sft.data 'chats.jsonl'": Overlap([1])}


@given(st.lists(st.text("ab \n", max_size=4), max_size=8), st.lists(st.text("AB \t", max_size=4), max_size=8))
def test_every_common_question_is_found(trained: list[str], held_out: list[str]) -> None:
    records = [Record(str(i), text) for i, text in enumerate(held_out)]
    found = overlap.find(records, {"it": (Record(str(i), text) for i, text in enumerate(trained))})
    known = {"".join(text.split()) for text in trained}
    assert found["it"].indices == [i for i, text in enumerate(held_out) if "".join(text.lower().split()) in known]


def test_questions_are_counted_once_however_many_sets_have_them() -> None:
    found = [Overlap([0, 2]), Overlap([2, 3]), Overlap([])]
    assert overlap.count(found) == 3
    assert overlap.count([]) == 0
    assert overlap.count([*found, Overlap([], "is not there")]) is None


def test_common_questions_are_refused_or_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    overlap.check("evaluate.tasks", HELD_OUT, {"sft.data 'a'": Overlap([])}, False)
    found = {"sft.data 'a'": Overlap([]), "rl.data 'b'": Overlap([1, 2])}
    with pytest.raises(UserError) as refused:
        overlap.check("evaluate.tasks", HELD_OUT, found, False)
    assert str(refused.value) == (
        "evaluate.tasks: 2 of 4 questions are also in the training data (test/1 is in rl.data 'b'); name other data, "
        "or set evaluate.allow_overlap=True, which counts them."
    )
    with caplog.at_level(logging.WARNING):
        overlap.check("evaluate.tasks", HELD_OUT, found, True)
    assert caplog.messages == [
        "evaluate.tasks: 2 of 4 questions are also in the training data (test/1 is in rl.data 'b')."
    ]


def test_a_data_set_that_is_gone_is_refused_or_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    training = overlap.training_questions({"rl.data": ["gone.jsonl"]}, tmp_path)
    found = overlap.find(HELD_OUT, training)
    with pytest.raises(
        UserError, match=r"^rl\.eval_data: whether rl\.data 'gone\.jsonl' has .*no file or folder .*gone\.jsonl"
    ):
        overlap.check("rl.eval_data", HELD_OUT, found, False)
    overlap.check("rl.eval_data", HELD_OUT, found, True)
    assert len(caplog.messages) == 1


def stage(workdir: Path, name: str, config: dict[str, Any], *inputs: str) -> None:
    write_json(workdir / name / "manifest.json", {"config": config, "inputs": dict.fromkeys(inputs, "hash")})


def test_what_stages_were_made_from_is_trained_on(tmp_path: Path) -> None:
    """A recipe may lack the sections of stages that another run made: their manifests have them, and their folder."""
    mine, others = tmp_path / "mine", tmp_path / "others"
    write_jsonl(others / "chats.jsonl", [{"problem": "What is 3 - 4?", "solution": "The answer is -1."}])
    write_jsonl(mine / "rl.jsonl", [{"question": "What is 3 + 4?", "answer": "7"}])
    write_jsonl(mine / "unused.jsonl", [{"question": "Which is even?", "answer": "B"}])
    workdir = tmp_path / "run"
    stage(workdir, "pretrain", {"data_dir": str(others), "pretrain.mixture": {"corpus": 1.0}}, "corpus")
    stage(workdir, "sft", {"data_dir": str(others), "sft.data": ["chats.jsonl"]}, "pretrain")
    stage(workdir, "process_model", {"data_dir": str(mine), "process_model.data": ["unused.jsonl"]}, "sft")
    stage(workdir, "rl", {"data_dir": str(mine), "rl.data": ["rl.jsonl"], "rl.eval_data": ["rl.jsonl"]}, "sft")
    found = overlap.find(HELD_OUT, overlap.questions_of_stages(["rl"], workdir))
    assert found == {"rl.data 'rl.jsonl'": Overlap([0, 3]), "sft.data 'chats.jsonl'": Overlap([1])}
    assert overlap.questions_of_stages(["pretrain"], workdir) == {}


def test_training_data_are_streamed(tmp_path: Path) -> None:
    """Instructions are read one by one."""
    write_jsonl(tmp_path / "many.jsonl", [{"question": f"{i}?", "solution": "x"} for i in range(3)])
    (questions,) = overlap.training_questions({"sft.data": ["many.jsonl"]}, tmp_path).values()
    assert next(iter(questions)).question == "0?"
    (tmp_path / "many.jsonl").unlink()
    assert [one.question for one in questions] == ["1?", "2?"]


def test_gsm8k_trains_on_none_of_its_test_questions(real_data: Path) -> None:
    """The recipes rely on it. CMATH's dev split, in contrast, has three of its test split's."""
    expected = {"gsm8k": 0, "cmath": 3}
    for name, count in expected.items():
        split = {"gsm8k": "train", "cmath": "dev"}[name]
        held_out = overlap.datasets.load(f"{name}/test", real_data)
        found = overlap.find(held_out, overlap.training_questions({"rl.data": [f"{name}/{split}"]}, real_data))
        assert overlap.count(found.values()) == count


def test_a_question_is_found_by_what_it_is_asked_with_too(tmp_path: Path) -> None:
    """As instructions a user's rows are what is asked, and as records both."""
    rows = [{"question": "Add.", "prompt": "Add 2 and 2, please.", "solution": "The answer is 4.", "answer": "4"}]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    held_out = overlap.datasets.load("mine.jsonl", tmp_path)
    for field in ("rl.data", "sft.data"):
        found = overlap.find(held_out, overlap.training_questions({field: ["mine.jsonl"]}, tmp_path))
        assert overlap.count(found.values()) == 1
