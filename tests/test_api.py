"""The public API: its names, and the example of its documentation run as written."""

import dataclasses
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

import dsmath_jax as dm
from dsmath_jax.command_line import parse
from dsmath_jax.data.chat_template import DEEPSEEK_MATH
from dsmath_jax.workdir import UserError, read_json, read_jsonl, write_json, write_jsonl

DOCS = Path(__file__).parents[1] / "docs" / "api.md"
EXAMPLE_LINES = 40  # with blank ones
THINKING = "{{ bos_token }}{{ messages[0].content }}{% if add_generation_prompt %}<think>{% endif %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, checkpoint_hf: Path) -> Path:
    """A place to work in, with a tiny model in Hugging Face's format at `models/mine`."""
    folder = tmp_path_factory.mktemp("api")
    shutil.copytree(checkpoint_hf, folder / "models" / "mine")
    return folder


def test_ten_names_with_docstrings() -> None:
    assert len(dm.__all__) == 10
    for name in dm.__all__:
        found = getattr(dm, name)
        assert inspect.getdoc(found), name
        assert f"`{name}(" in DOCS.read_text(encoding="utf-8"), name
    with pytest.raises(AttributeError, match="has no attribute 'fit'; its public names are Record,"):
        _ = dm.fit


def test_the_package_alone_imports_no_jax() -> None:
    code = "import dsmath_jax, dsmath_jax.grading, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_the_example_of_the_documentation_runs(folder: Path) -> None:
    rewards, example = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(example.splitlines()) <= EXAMPLE_LINES
    (folder / "my_rewards.py").write_text(rewards, encoding="utf-8")
    (folder / "example.py").write_text(example.replace("steps=20", "steps=2"), encoding="utf-8")
    paths = os.pathsep.join([str(DOCS.parents[1]), str(folder)])
    command, env = [sys.executable, "example.py"], os.environ | {"PYTHONPATH": paths}
    ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "rl: done" in ran.stdout
    assert len(re.findall(r"^.* (?:True|False)$", ran.stdout, re.MULTILINE)) == 4
    rows = list(read_jsonl(folder / "runs" / "mine" / "rl" / "metrics.jsonl"))
    assert [row["step"] for row in rows] == [0, 1]


def test_other_settings_or_prompts_are_refused(folder: Path) -> None:
    prompts = [
        dm.Record(id=f"mine/{n}", question=f"What is {n} + {n}?", solution="", answer=str(2 * n)) for n in (1, 2)
    ]
    small = {"steps": 1, "prompts_per_step": 2, "group_size": 2, "max_new_tokens": 4}
    checkpoint, workdir = f"hf:{folder / 'models' / 'mine'}", folder / "refused"
    dm.train(checkpoint, prompts, workdir, **small)
    with pytest.raises(UserError, match=r"rl\.kl_coef was 0\.04, is 0\.0"):
        dm.train(checkpoint, prompts, workdir, kl_coef=0.0, **small)
    with pytest.raises(UserError, match=r"rl\.data was \['prompts-\w+\.jsonl'\], is \['prompts-\w+\.jsonl'\]"):
        dm.train(checkpoint, prompts[:1], workdir, **small)
    model = dm.train(checkpoint, prompts, workdir, **small)  # what was refused has changed nothing
    again = dm.load_model(str(workdir / "rl"))
    assert dm.generate(again, ["What is 1 + 1?"], max_new_tokens=4) == dm.generate(
        model, ["What is 1 + 1?"], max_new_tokens=4
    )
    with pytest.raises(UserError, match=r"rl\.beta is not a setting"):
        dm.train(checkpoint, prompts, folder / "other", beta=0.1)
    with pytest.raises(UserError, match="method=grpo_os needs a reward model"):
        dm.train(checkpoint, prompts, folder / "other", method="grpo_os")
    with pytest.raises(UserError, match=r"prompts must be Records; got 'What\?'"):
        dm.train(checkpoint, ["What?"], folder / "other")
    with pytest.raises(UserError, match=r"There is no folder .*nowhere"):
        dm.train("hf:nowhere", prompts, folder / "other")
    with pytest.raises(UserError, match="remove init"):
        dm.train(checkpoint, prompts, folder / "other", init="sft")
    assert not (folder / "other").exists()
    (folder / "file").write_text("")
    with pytest.raises(UserError, match=r"The folder \S+file cannot be used"):
        dm.train(checkpoint, prompts, folder / "file", **small)


def test_an_address_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, nothing = dm.load_recipe(str(DOCS.parents[1] / "configs" / "tiny.py")), cast(Any, None)
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("workdir", lambda: dm.run(recipe, "gs://bucket/run")),
        ("workdir", lambda: dm.run(recipe, Path("gs://bucket/run"))),
        ("workdir", lambda: dm.train(str(tmp_path), [], "gs://bucket/run")),
        ("checkpoint", lambda: dm.train("hf:gs://bucket/model", [], "run")),
        ("checkpoint", lambda: dm.load_model("gs://bucket/run/rl")),
        ("folder", lambda: dm.save_model(nothing, "gs://bucket/model")),
        ("out", lambda: dm.evaluate(nothing, ["gsm8k"], "data", "gs://bucket/out")),
    ]
    for name, call in calls:
        with pytest.raises(UserError, match=rf"^{name} is gs:/\S+, an address, and object storage is not supported"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_read_asked_and_written(folder: Path, tmp_path: Path) -> None:
    model = dm.load_model(f"hf:{folder / 'models' / 'mine'}", dtype="float32")
    sampling = dm.SamplingParams(samples=2, temperature=1.0, seed=1)
    first = dm.generate(model, ["What is 1 + 1?", "What is 2 + 2?"], sampling, max_new_tokens=6)
    assert [len(group) for group in first] == [2, 2]
    assert first == dm.generate(model, ["What is 1 + 1?", "What is 2 + 2?"], sampling, max_new_tokens=6)
    thinking = model._replace(chat=dataclasses.replace(model.chat, template=THINKING))
    [[thought]] = dm.generate(thinking, ["What is 1 + 1?"], max_new_tokens=6, max_thinking_tokens=2)
    assert thought.startswith("<think>")
    assert "</think>" in thought
    with pytest.raises(UserError, match="a list of strings; got a string"):
        dm.generate(model, "What is 1 + 1?")
    with pytest.raises(UserError, match=r"Prompt 1 has \d+ tokens, which leaves no room .* the model's context of 256"):
        dm.generate(model, ["What is 1 + 1?", "What is 1 + 1? " * 256])
    dm.save_model(model, tmp_path / "hf", "float32")
    again = dm.load_model(f"hf:{tmp_path / 'hf'}", dtype="float32")
    assert dm.generate(again, ["What is 1 + 1?", "What is 2 + 2?"], sampling, max_new_tokens=6) == first


def test_grades() -> None:
    correct, incorrect = dm.grade(["So the answer is $\\frac{1}{2}$.", "The answer is 3."], ["0.5", "4"])
    assert (correct.correct, incorrect.correct, incorrect.answer) == (True, False, "3")


def test_a_recipe_is_read_and_checked(tmp_path: Path) -> None:
    recipe = dm.load_recipe("configs/tiny.py")
    assert (recipe.rl.group_size, recipe.rl.algorithm.kl_coef) == (8, 0.04)
    with pytest.raises(UserError, match="Stage sft reads stage tokenizer"):
        dm.run(recipe, tmp_path, stages=("sft",))
    with pytest.raises(UserError, match=r"Unknown stage 'slf'"):
        dm.run(recipe, tmp_path, stages=("slf",))
    with pytest.raises(UserError, match=r"^group_size is 2\.5; it must be of the type int"):
        dataclasses.replace(recipe.rl, group_size=2.5)


@pytest.mark.slow
def test_a_recipe_is_run(tmp_path: Path) -> None:
    recipe = dm.load_recipe("configs/tiny.py")
    small = dataclasses.replace(recipe, toy=dataclasses.replace(recipe.toy, pages=60, problems={"rl": 20, "test": 20}))
    corpus = dataclasses.replace(recipe.corpus, iterations=1, ablation_tokens=())
    dm.run(dataclasses.replace(small, corpus=corpus), tmp_path, stages=("corpus", "tokenizer"))
    assert (tmp_path / "tokenizer" / "manifest.json").is_file()
    assert (tmp_path / "tokenizer" / "chat_template.jinja").read_text() == DEEPSEEK_MATH  # of models trained here


def test_a_recipe_is_the_same_on_the_command_line_and_in_code(tmp_path: Path) -> None:
    """Down to the order of dicts, on which the generated problems and the mixture of sources depend."""
    _, recipe = parse(["main", "--config=configs/tiny.py", f"--workdir={tmp_path}"])
    loaded = dm.load_recipe("configs/tiny.py")
    assert recipe == loaded
    assert [*recipe.toy.problems] == [*loaded.toy.problems] == ["rl", "test", "train"]
    assert [*recipe.pretrain.mixture] == [*loaded.pretrain.mixture]


@pytest.mark.slow
def test_a_model_is_trained_further_with_the_prompts_of_its_training(folder: Path, tmp_path: Path) -> None:
    """Its instruction and template go from stage to stage, and with it into Hugging Face's format."""
    export = tmp_path / "start"
    dm.save_model(dm.load_model(f"hf:{folder / 'models' / 'mine'}"), export, "float32")
    assert not (export / "chat.json").exists()  # nobody knows how that one was trained
    own = {"template": "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", "instruction": "Add."}
    own |= {"system": "", "template_kwargs": {}, "date": "2024-07-26"}
    write_json(export / "chat.json", own)
    prompts = [dm.Record("mine/0", "What is 1 + 1?", answer="2"), dm.Record("mine/1", "What is 2 + 2?", answer="4")]
    small = {"steps": 1, "prompts_per_step": 2, "group_size": 2, "max_new_tokens": 4}
    model = dm.train(f"hf:{export}", prompts, tmp_path / "run", **small)
    assert model.chat.prompt(prompts[0]).startswith("What is 1 + 1?\nAdd.")
    assert read_json(tmp_path / "run" / "rl" / "chat.json") == own
    dm.save_model(model, tmp_path / "hf", "float32")
    assert read_json(tmp_path / "hf" / "chat.json") == own
    assert (tmp_path / "hf" / "chat_template.jinja").read_text() == own["template"]
    assert dm.load_model(f"hf:{tmp_path / 'hf'}").chat.instruction == "Add."


def test_a_model_is_measured_on_a_task(folder: Path, tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} + {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"} for n in range(3)]
    write_jsonl(tmp_path / "gsm8k" / "test.jsonl", rows)
    model = dm.load_model(f"hf:{folder / 'models' / 'mine'}")
    [found] = dm.evaluate(
        model, ["gsm8k"], tmp_path, tmp_path / "out", style="chat", template="paper", max_new_tokens=4
    )
    assert (found["task"], found["total"]) == ("gsm8k", 3)
    with pytest.raises(UserError, match=r"evaluate has no setting 'stile' \(the nearest is 'style'\)"):
        dm.evaluate(model, ["gsm8k"], tmp_path, tmp_path / "other", stile="chat")
