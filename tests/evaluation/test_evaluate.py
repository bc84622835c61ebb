"""Tests of the stage `evaluate`: its files, its resuming, and its equality with the command."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import pytest

from dsmath_jax.data import chat, questions, tokenizer
from dsmath_jax.data.chat_template import DEEPSEEK_MATH
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.data.subsample import EVALUATION_SEED, load_subsample
from dsmath_jax.evaluation import __main__ as command
from dsmath_jax.evaluation.evaluate import data_sets, run, stages_of_models
from dsmath_jax.evaluation.policy import Policy, TextCompletion, with_chat_settings
from dsmath_jax.evaluation.settings import EvaluateSettings
from dsmath_jax.grading.grade import grade
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.sampling.sampler import SamplingParams
from dsmath_jax.sharding import Layout
from dsmath_jax.training import checkpoint, model_files
from dsmath_jax.workdir import UserError, read_json, read_jsonl, write_json, write_jsonl


def test_an_unknown_model_is_refused() -> None:
    assert stages_of_models(("base", "hf:model", "sft", "rl")) == ("pretrain", "sft", "rl")
    with pytest.raises(UserError, match=r"models\[1\] must be one of 'base', 'sft', 'rl', 'hf:DIR'; got 'dpo'"):
        EvaluateSettings(tasks=("toy/test",), models=("sft", "dpo"))


def test_the_data_sets_of_tasks_are_known() -> None:
    settings = EvaluateSettings(tasks=("gsm8k", "toy/test", "mine.jsonl"))
    assert data_sets(settings, few_shot=True) == ("gsm8k/test", "toy/test", "mine.jsonl", "gsm8k/train")
    assert data_sets(settings, few_shot=False) == ("gsm8k/test", "toy/test", "mine.jsonl")
    chosen = dataclasses.replace(settings, tasks=("gsm8k",), examples=("toy/train",), shots=1)
    assert data_sets(chosen, few_shot=True) == ("gsm8k/test", "toy/train")


@pytest.fixture
def workdir(tmp_path: Path, make_model: Any) -> Path:
    """A workdir with three finished models (one, in fact), a tokenizer and problems."""
    texts = [f"Tom has {i} apples.\nThe answer is {i}." for i in range(100)]
    tokenizer.train_sentencepiece(texts, tmp_path / "tokenizer" / "tokenizer.model", 300, chat.MARKERS)
    model = make_model(vocab_size=300, num_hidden_layers=1, tie_word_embeddings=True, max_position_embeddings=128)
    params = jax.jit(lambda: initial_params(Decoder(model.config), jax.random.key(0)))()
    own = chat.read(chat.ChatSource(tmp_path / "tokenizer", CHAT))
    for stage in ("pretrain", "sft", "rl"):
        checkpoint.save(tmp_path / stage / "params", params)
        model_files.write_config(tmp_path / stage, model.config, None if stage == "pretrain" else own)
    for split in ("test", "train"):
        problems = [
            {"id": f"{split}/{i}", "question": f"{i}+{i}?", "solution": f"The answer is {2 * i}.", "answer": str(2 * i)}
            for i in range(5)
        ]
        write_jsonl(tmp_path / "problems" / f"{split}.jsonl", problems)
    choices = [{"question": "Which?", "options": ["one", "two"], "answer": "B"}, {"question": "2*3?", "answer": "6"}]
    write_jsonl(tmp_path / "mine.jsonl", choices)
    return tmp_path


CHAT = ChatSettings(template="paper", instruction="Go on.")
SETTINGS = EvaluateSettings(
    models=("base", "sft", "rl"), tasks=("toy/test", "mine.jsonl"), problems=3, samples=2, temperature=0.7,
    max_new_tokens=4, decode_slots=8, examples=("toy/train",), shots=1,
)  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_model_answers_each_task(workdir: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[str]] = {}
    complete = Policy.complete

    def noted(self: Policy, prompts: Any, *arguments: Any, **more: Any) -> Any:
        asked.setdefault(self.chat.instruction, []).extend(prompts)
        return complete(self, prompts, *arguments, **more)

    monkeypatch.setattr(Policy, "complete", noted)
    counts = run(SETTINGS, CHAT, workdir, workdir, layout, seed=0)
    summary = read_json(workdir / "evaluate" / "summary.json")
    assert counts == {name: summary[name]["pooled"]["greedy"] for name in ("base", "sft", "rl")}
    for found in summary.values():
        assert (found["pooled"]["n"], found["pooled"]["k"], found["pooled"]["temperature"]) == (5, 2, 0.7)
        assert {name: (one["n"], one["total"]) for name, one in found["tasks"].items()} == {
            "toy/test": (3, 5), "mine.jsonl": (2, 2)
        }  # fmt: skip
        assert found["pooled"]["macro"]["task"]["of"] == 2
    # The base model continues a dialogue after few-shot examples, the others are asked in their chats.
    base, sft = asked[""], asked["Go on."]
    # The first training problem is the first test problem, so that the second is its example.
    assert base[0].endswith("User: 1+1?\n\nAssistant: The answer is 2.\n\nUser: 0+0?\n\nAssistant:")
    drawn = load_subsample(("toy/test",), workdir, 3, EVALUATION_SEED)
    other = drawn[1].question
    assert base[1].endswith(f"User: 0+0?\n\nAssistant: The answer is 0.\n\nUser: {other}\n\nAssistant:")
    assert any(prompt.endswith("User: Which?\n(A) one\n(B) two\nGo on.\n\nAssistant:") for prompt in sft)
    folder = workdir / "evaluate" / "rl" / "toy_test-cot"
    problems = {row["id"]: row for row in read_jsonl(folder / "problems.jsonl")}
    assert [(row["question"], row["answer"]) for row in problems.values()] == [(r.question, r.answer) for r in drawn]
    lines = list(read_jsonl(folder / "samples.jsonl"))
    assert [line["sample"] for line in lines] == [-1] * 3 + [0, 1] * 3
    for line in lines:
        expected = grade(line["completion"], problems[line["id"]]["answer"], "number")
        assert [line["answer"], line["correct"], line["reason"]] == expected


@pytest.mark.slow
def test_a_killed_stage_resumes_to_the_same_files(workdir: Path, layout: Layout) -> None:
    run(SETTINGS, CHAT, workdir, workdir, layout, seed=0)
    whole = files(workdir / "evaluate")
    samples = workdir / "evaluate" / "rl" / "toy_test-cot" / "samples.jsonl"
    lines = samples.read_bytes().splitlines(keepends=True)
    marked = [line.replace(b'"sample"', b'"kept": true, "sample"') for line in lines]
    samples.write_bytes(b"".join(marked[:4]) + b'{"id": "toy')  # what a kill left: one of two samples of a group
    for path in (workdir / "evaluate").rglob("summary.json"):
        if "rl" in path.parts or path.parent.name == "evaluate":
            path.unlink()
    (workdir / "sft" / "model.json").unlink()  # a finished model is not even opened
    run(SETTINGS, CHAT, workdir, workdir, layout, seed=0)
    assert samples.read_bytes() == b"".join(marked[:3] + lines[3:])
    resumed = files(workdir / "evaluate") | {"rl/toy_test-cot/samples.jsonl": b"".join(lines)}
    assert resumed.keys() == whole.keys()
    assert {name for name in whole if whole[name] != resumed[name]} == set()


@pytest.mark.slow
def test_the_command_gives_the_numbers_of_the_stage(
    workdir: Path, layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command asks a checkpoint as the stage does, down to the samples."""
    run(SETTINGS, CHAT, workdir, workdir, layout, seed=0)
    common = [f"--data_dir={workdir}", "--limit=3", "--samples=2", "--max_new_tokens=4", "--decode_slots=8"]
    common.append("--tasks=toy/test,mine.jsonl")
    sft, base = f"--checkpoint={workdir / 'sft'}", f"--checkpoint={workdir / 'pretrain'}"
    command.main([sft, "--style=chat", f"--out={workdir / 'sft_out'}", *common])
    assert 'with the instruction "Go on."' in capsys.readouterr().out
    command.main([base, f"--out={workdir / 'base_out'}", "--exemplars=toy/train", "--shots=1", *common])
    for name in ("sft", "base"):
        stage_files, command_files = files(workdir / "evaluate" / name), files(workdir / f"{name}_out")
        for task in ("toy_test-cot", "mine-cot"):
            for file in ("samples.jsonl", "problems.jsonl", "settings.json"):
                assert stage_files[f"{task}/{file}"] == command_files[f"{task}/{file}"]
        pooled = [
            read_json(workdir / folder / "summary.json")["pooled"] for folder in (f"evaluate/{name}", f"{name}_out")
        ]
        assert pooled[0] == pooled[1]
    settings = read_json(workdir / "sft_out" / "settings.json")
    assert (settings["instruction"], settings["template"]) == ("Go on.", DEEPSEEK_MATH)
    for more, instruction in ((["--instruction="], ""), (["--instruction=paper"], "paper")):
        command.main([sft, "--style=chat", f"--out={workdir / f'out{instruction}'}", *common, *more])
        assert read_json(workdir / f"out{instruction}" / "settings.json")["instruction"] == instruction
    with pytest.raises(UserError, match="instruction belongs to questions in a chat; set style to chat, or"):
        command.main([sft, f"--out={workdir / 'none'}", *common, "--instruction=paper"])


def test_a_model_of_unknown_training_is_asked_with_the_papers_instruction(workdir: Path, layout: Layout) -> None:
    load = functools.partial(model_files.load_model, layout=layout)
    assert with_chat_settings(load(str(workdir / "pretrain"))).chat.instruction == questions.PAPER
    sft = load(str(workdir / "sft"))
    assert with_chat_settings(sft).chat == sft.chat
    assert with_chat_settings(sft, {"instruction": ""}).chat.instruction == ""
    model_files.export_params(
        workdir / "hf", sft.model.config, sft.params, sft.tokenizer_file, chat=sft.chat
    )  # fmt: skip
    assert with_chat_settings(load(f"hf:{workdir / 'hf'}")).chat.instruction == "Go on."
    assert (workdir / "hf" / "chat_template.jinja").read_text() == DEEPSEEK_MATH
    (workdir / "hf" / "chat.json").unlink()
    assert with_chat_settings(load(f"hf:{workdir / 'hf'}")).chat.instruction == questions.PAPER


def test_a_checkpoint_with_another_chat_is_refused(workdir: Path, layout: Layout) -> None:
    with pytest.raises(UserError, match=r"chat\.instruction is '', but the model in .*sft was trained with 'Go on.'"):
        run(SETTINGS, ChatSettings(template="paper"), workdir, workdir, layout, seed=0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "1+1?", "answer": ""}], "The record mine/0 has no answer to grade completions by"),
        (
            [{"question": f"1+{n}?", "answer": "2", "id": "x"} for n in (1, 2)],
            "mine.jsonl has several records with the id x",
        ),
        (
            [{"question": "f", "answer": "assert f()", "kind": "program"}, {"question": "1+1?", "answer": "2"}],
            "The records of mine.jsonl are of the kinds math, program; give each its own file",
        ),
    ],
)
def test_ungradable_records_are_refused(workdir: Path, layout: Layout, rows: list[dict], message: str) -> None:
    write_jsonl(workdir / "mine.jsonl", rows)
    with pytest.raises(UserError, match=message):
        run(SETTINGS, CHAT, workdir, workdir, layout, seed=0)


def test_two_files_of_one_name_do_not_share_results(workdir: Path, layout: Layout) -> None:
    write_jsonl(workdir / "toy_test.jsonl", [{"question": "1+1?", "answer": "2"}])
    with pytest.raises(
        UserError, match=r"results of toy/test and toy_test\.jsonl would have one folder; rename a file"
    ):
        run(dataclasses.replace(SETTINGS, tasks=("toy/test", "toy_test.jsonl")), CHAT, workdir, workdir, layout, seed=0)
    for models in (("hf:a/b", "hf:a_b"), ("sft", "sft")):
        with pytest.raises(
            UserError, match=rf"results of {models[0]} and {models[1]} would have one folder; remove one"
        ):
            dataclasses.replace(SETTINGS, models=models)
    with pytest.raises(UserError, match=r"Unknown task 'toy/tset', did you mean 'toy/test'"):
        dataclasses.replace(SETTINGS, tasks=("toy/tset",))


def problem(number: int) -> dict[str, str]:
    return {"question": f"{number} and {number}?", "solution": "The answer.", "answer": str(2 * number)}


@pytest.mark.slow
def test_problems_that_a_model_was_trained_on_are_refused_or_counted(
    workdir: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refuses rl.data 0 to 19, and 40 to 44 of the stage sft before it."""

    def complete(_: Policy, prompts: Sequence[str], sampling: SamplingParams, **__: Any) -> list[list[TextCompletion]]:
        return [[TextCompletion("The answer is 1.", "eos")] * sampling.samples for _ in prompts]

    monkeypatch.setattr(Policy, "complete", complete)
    for name, numbers in {
        "rl": range(20),
        "chats": range(40, 45),
        "long": range(19, 39),
        "short": range(38, 42),
    }.items():
        write_jsonl(workdir / f"{name}.jsonl", map(problem, numbers))
    for name, file, inputs in (("sft", "chats.jsonl", []), ("rl", "rl.jsonl", ["sft"])):
        config = {"data_dir": str(workdir), f"{name}.data": [file]}
        write_json(workdir / name / "manifest.json", {"config": config, "inputs": dict.fromkeys(inputs, "")})
    settings = dataclasses.replace(
        SETTINGS, models=("base", "sft", "rl"), tasks=("long.jsonl", "short.jsonl"), problems=0, samples=1
    )
    message = (
        r"^evaluate\.tasks: 3 of 24 questions are also in the training data \(long/0 is in rl\.data 'rl\.jsonl'\); .*"
    )
    with pytest.raises(UserError, match=message + r"evaluate\.allow_overlap=True"):
        run(settings, CHAT, workdir, workdir, layout, seed=0)
    assert not (workdir / "evaluate").exists()
    run(dataclasses.replace(settings, allow_overlap=True), CHAT, workdir, workdir, layout, seed=0)
    summary = read_json(workdir / "evaluate" / "summary.json")
    found = {name: scores["pooled"]["num_overlapping"] for name, scores in summary.items()}
    assert found == {"base": 0, "sft": 2, "rl": 3}
