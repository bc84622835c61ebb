"""The stage `evaluate`: what it makes of graded completions, and that it samples only models that have no file yet."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import pytest

from dsmath_jax.data import chat, tokenizer
from dsmath_jax.data.draw import EVALUATION_SEED, load_evenly
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.evaluation.evaluate import run, stage_of
from dsmath_jax.evaluation.settings import MODELS, EvaluateSettings
from dsmath_jax.grading.grade import grade
from dsmath_jax.models.llama import Llama, initial_params
from dsmath_jax.sharding import Layout
from dsmath_jax.training import checkpoint, model_files
from dsmath_jax.workdir import UserError, read_json, read_jsonl, write_json, write_jsonl


def graded(answer: str | None, gold: str) -> dict[str, Any]:
    return {"completion": f"The answer is {answer}.", "answer": answer, "correct": answer == gold, "class": 0}


def row(gold: str, greedy: str | None, samples: list[str | None]) -> dict[str, Any]:
    question = {"id": "x", "question": "?", "answer": gold}
    return question | {"greedy": graded(greedy, gold), "samples": [graded(sample, gold) for sample in samples]}


def problem(number: int) -> dict[str, Any]:
    answer = str(2 * number)
    return {"question": f"{number} and {number}?", "solution": f"The answer is {answer}.", "answer": answer}


def test_an_unknown_model_is_refused() -> None:
    assert [stage_of(name) for name in ("base", "sft", "rl")] == ["pretrain", "sft", "rl"]
    with pytest.raises(UserError, match=r"evaluate\.models must be one of 'base', 'sft', 'rl'; got 'dpo'"):
        stage_of("dpo")
    with pytest.raises(UserError, match="models must be one of 'base', 'sft', 'rl'; got 'dpo'"):
        EvaluateSettings(data=("toy/test",), models=("sft", "dpo"))


@pytest.fixture
def workdir(tmp_path: Path, make_model: Any, layout: Layout) -> Path:
    """Three finished models (one, in fact), a tokenizer, three problems, and answers of two models given already."""
    texts = [f"Tom has {i} apples.\nThe answer is {i}." for i in range(100)]
    tokenizer.train_sentencepiece(texts, tmp_path / "tokenizer" / "tokenizer.model", 300, chat.MARKERS)
    model = make_model(vocab_size=300, tie_word_embeddings=True)
    params = jax.jit(lambda: initial_params(Llama(model.config), jax.random.key(0)))()
    checkpoint.save(tmp_path / "rl" / "params", params)
    model_files.write_config(tmp_path / "rl", model.config)
    for split, first in (("test", 0), ("train", 50)):
        problems = [{"id": f"{split}/{i}"} | problem(first + i) for i in range(5)]
        write_jsonl(tmp_path / "problems" / f"{split}.jsonl", problems)
    for name in MODELS.keys() - {"rl"}:
        write_jsonl(tmp_path / "evaluate" / f"{name}.jsonl", [row("7", "7", ["7", "3"])] * 3)
    return tmp_path


def test_only_models_without_a_file_are_sampled(workdir: Path, layout: Layout) -> None:
    settings = EvaluateSettings(
        models=("base", "sft", "rl"), data=("toy/test",), problems=3, samples=2, temperature=0.7, max_new_tokens=4,
        decode_slots=8, examples=("toy/train",), shots=1,
    )  # fmt: skip
    counts = run(settings, ChatSettings(), workdir, workdir, layout, seed=0)
    summary = read_json(workdir / "evaluate" / "summary.json")
    assert counts == {name: summary[name]["greedy"] for name in ("base", "sft", "rl")}
    assert summary["base"]["greedy"] == summary["sft"]["greedy"] == 1.0
    rows = list(read_jsonl(workdir / "evaluate" / "rl.jsonl"))
    drawn = load_evenly(("toy/test",), workdir, 3, EVALUATION_SEED)
    assert [(r["id"], r["question"], r["answer"]) for r in rows] == [(r.id, r.question, r.answer) for r in drawn]
    for r in rows:
        assert len(r["samples"]) == summary["rl"]["k"] == 2
        for one in (r["greedy"], *r["samples"]):
            assert [one["answer"], one["correct"], one["reason"]] == grade(one["completion"], r["answer"], "number")
    before = (workdir / "evaluate" / "rl.jsonl").read_bytes()
    lines = [one for r in rows for one in (r["greedy"], *r["samples"])]
    kept = sorted(lines, key=lambda one: one["sample"] >= 0)[:4]  # what a run that was killed had written
    (workdir / "evaluate" / "rl.jsonl").unlink()
    write_jsonl(workdir / "evaluate" / "rl.made.jsonl", [one | {"finish": "kept"} for one in kept])
    run(settings, ChatSettings(), workdir, workdir, layout, seed=0)
    again = (workdir / "evaluate" / "rl.jsonl").read_bytes()
    assert again.count(b'"kept"') == 3  # the greedy ones: the problem whose samples were not all there is asked anew
    assert [{**one, "finish": ""} for one in lines] == [
        {**one, "finish": ""}
        for r in read_jsonl(workdir / "evaluate" / "rl.jsonl")
        for one in (r["greedy"], *r["samples"])
    ]
    (workdir / "rl" / "model.json").unlink()  # a model that has answered is not even opened
    run(settings, ChatSettings(), workdir, workdir, layout, seed=0)
    assert (workdir / "evaluate" / "rl.jsonl").read_bytes() == again != before


def test_problems_are_drawn_evenly_and_those_trained_on_are_refused_or_counted(workdir: Path, layout: Layout) -> None:
    """The model rl has learned from problems 0 to 19 itself, and from 40 to 44 as its stage sft did."""
    write_jsonl(workdir / "trained.jsonl", [problem(i) for i in range(20)])
    write_jsonl(workdir / "chats.jsonl", [problem(i) for i in range(40, 45)])
    write_jsonl(workdir / "long.jsonl", [problem(i) for i in range(19, 39)])
    write_jsonl(workdir / "short.jsonl", [problem(i) for i in range(38, 42)])
    shutil.copytree(workdir / "rl", workdir / "sft")
    for name, names, inputs in (("sft", ["chats.jsonl"], {}), ("rl", ["trained.jsonl"], {"sft": ""})):
        manifest = {"config": {"data_dir": str(workdir), f"{name}.data": names}, "inputs": inputs}
        write_json(workdir / name / "manifest.json", manifest)
    for path in (workdir / "evaluate").iterdir():
        path.unlink()
    settings = EvaluateSettings(
        models=("sft", "rl"), data=("long.jsonl", "short.jsonl"), samples=1, max_new_tokens=4, decode_slots=8
    )
    with pytest.raises(
        UserError, match=r"^evaluate\.data: 3 of 24 questions are also in the training data \(long/0 is in rl\.data"
    ):
        run(settings, ChatSettings(), workdir, workdir, layout, seed=0)
    assert not list((workdir / "evaluate").iterdir())
    settings = dataclasses.replace(settings, allow_overlap=True)
    run(settings, ChatSettings(), workdir, workdir, layout, seed=0)
    summary = read_json(workdir / "evaluate" / "summary.json")
    assert {name: scores["num_overlapping"] for name, scores in summary.items()} == {"sft": 2, "rl": 3}
    asked = []
    for seed in (0, 1):
        for path in (workdir / "evaluate").iterdir():
            path.unlink()
        run(dataclasses.replace(settings, problems=8, models=("rl",)), ChatSettings(), workdir, workdir, layout, seed)
        asked.append([r["id"] for r in read_jsonl(workdir / "evaluate" / "rl.jsonl")])
    assert [one.split("/")[0] for one in asked[0]] == ["long"] * 4 + ["short"] * 4
    assert asked[0] == asked[1]  # whatever the run's seed


def test_an_example_that_is_asked_is_refused(workdir: Path, layout: Layout) -> None:
    settings = EvaluateSettings(models=("base",), data=("toy/test",), examples=("toy/test",), shots=1, max_new_tokens=4)
    with pytest.raises(
        UserError, match=r"1 of 5 questions are also in the training data \(test/0 is in evaluate\.examples\)"
    ):
        run(settings, ChatSettings(), workdir, workdir, layout, seed=0)
