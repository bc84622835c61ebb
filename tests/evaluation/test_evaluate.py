"""The stage `evaluate`: what it makes of graded completions, and that it samples only models that have no file yet."""

from pathlib import Path
from typing import Any

import jax
import pytest

from dsmath_jax.data import chat, tokenizer
from dsmath_jax.evaluation.evaluate import run, stage_of
from dsmath_jax.evaluation.settings import MODELS, EvaluateSettings
from dsmath_jax.grading.grade import grade
from dsmath_jax.models.llama import Llama, initial_params
from dsmath_jax.sharding import Layout
from dsmath_jax.training import checkpoint, model_files
from dsmath_jax.workdir import UserError, read_json, read_jsonl, write_jsonl


def graded(answer: str | None, gold: str) -> dict[str, Any]:
    return {"completion": f"The answer is {answer}.", "answer": answer, "correct": answer == gold, "class": 0}


def row(gold: str, greedy: str | None, samples: list[str | None]) -> dict[str, Any]:
    question = {"id": "x", "question": "?", "answer": gold}
    return question | {"greedy": graded(greedy, gold), "samples": [graded(sample, gold) for sample in samples]}


def test_an_unknown_model_is_refused() -> None:
    assert [stage_of(name) for name in ("base", "sft", "rl")] == ["pretrain", "sft", "rl"]
    with pytest.raises(UserError, match=r"evaluate\.models must be one of 'base', 'sft', 'rl'; got 'dpo'"):
        stage_of("dpo")
    with pytest.raises(UserError, match=r"^models\[1\] must be one of 'base', 'sft', 'rl'; got 'dpo'"):
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
    for split in ("test", "train"):
        problems = [
            {
                "id": f"{split}/{i}",
                "question": f"{i} and {i}?",
                "solution": f"The answer is {2 * i}.",
                "answer": str(2 * i),
            }
            for i in range(5)
        ]
        write_jsonl(tmp_path / "problems" / f"{split}.jsonl", problems)
    for name in MODELS.keys() - {"rl"}:
        write_jsonl(tmp_path / "evaluate" / f"{name}.jsonl", [row("7", "7", ["7", "3"])] * 3)
    return tmp_path


def test_only_models_without_a_file_are_sampled(workdir: Path, layout: Layout) -> None:
    settings = EvaluateSettings(
        models=("base", "sft", "rl"), data=("toy/test",), problems=3, samples=2, temperature=0.7, max_new_tokens=4,
        decode_slots=8, examples=("toy/train",), shots=1,
    )  # fmt: skip
    counts = run(settings, workdir, workdir, layout, seed=0)
    summary = read_json(workdir / "evaluate" / "summary.json")
    assert counts == {name: summary[name]["greedy"] for name in ("base", "sft", "rl")}
    assert summary["base"]["greedy"] == summary["sft"]["greedy"] == 1.0
    rows = list(read_jsonl(workdir / "evaluate" / "rl.jsonl"))
    assert [(r["id"], r["question"], r["answer"]) for r in rows] == [
        (f"test/{i}", f"{i} and {i}?", str(2 * i)) for i in range(3)
    ]
    for r in rows:
        assert len(r["samples"]) == summary["rl"]["k"] == 2
        for one in (r["greedy"], *r["samples"]):
            assert [one["answer"], one["correct"], one["reason"]] == grade(one["completion"], r["answer"], "number")
    before = (workdir / "evaluate" / "rl.jsonl").read_bytes()
    lines = [one for r in rows for one in (r["greedy"], *r["samples"])]
    kept = sorted(lines, key=lambda one: one["sample"] >= 0)[:4]  # what a run that was killed had written
    (workdir / "evaluate" / "rl.jsonl").unlink()
    write_jsonl(workdir / "evaluate" / "rl.made.jsonl", [one | {"finish": "kept"} for one in kept])
    run(settings, workdir, workdir, layout, seed=0)
    again = (workdir / "evaluate" / "rl.jsonl").read_bytes()
    assert again.count(b'"kept"') == 3  # the greedy ones: the problem whose samples were not all there is asked anew
    assert [{**one, "finish": ""} for one in lines] == [
        {**one, "finish": ""}
        for r in read_jsonl(workdir / "evaluate" / "rl.jsonl")
        for one in (r["greedy"], *r["samples"])
    ]
    (workdir / "rl" / "model.json").unlink()  # a model that has answered is not even opened
    run(settings, workdir, workdir, layout, seed=0)
    assert (workdir / "evaluate" / "rl.jsonl").read_bytes() == again != before
