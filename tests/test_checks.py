"""What is refused before the first stage starts: parts of a recipe that do not fit each other, or what they name."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsmath_jax import runner
from dsmath_jax.data import chat_template, downloads, tokenizer
from dsmath_jax.recipe import Recipe
from dsmath_jax.settings import build
from dsmath_jax.stages import STAGES
from dsmath_jax.workdir import FORMAT, UserError, write_json, write_jsonl

TEXTS = [f"The sum of {n} and {n + 1} is {2 * n + 1}." for n in range(100)]
PROBLEM = {"question": "What is 3 + 4?", "solution": "3 + 4 = 7\nThe answer is 7.", "answer": "7"}
TRAINING = {"steps": 4, "batch_size": 8, "checkpoint_every": 2, "peak_lr": 1e-3}
SIZES = {
    "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 32,
    "max_position_embeddings": 128, "compute_dtype": "float32", "remat": "none",
}  # fmt: skip
REWARDS = "def short(completion, record):\n    return -len(completion)\n\ndef of_one(completion):\n    return 1\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder of the user's."""
    folder = tmp_path / "data"
    write_jsonl(folder / "mine/a.jsonl", [{"text": text} for text in TEXTS])
    write_jsonl(folder / "instructions.jsonl", [PROBLEM] * 20)
    for split, number in (("train", 4), ("test", 5)):
        rows = [{"question": f"What is 3 + {number}?", "answer": f"It is so.\n#### {3 + number}"}] * 20
        write_jsonl(folder / f"gsm8k/{split}.jsonl", rows)
    write_jsonl(folder / "unanswered.jsonl", [{"question": "What is 9 + 9?"}])
    write_jsonl(folder / "long.jsonl", [{"question": "9 + " * 99, "answer": "891"}])
    for name in ("a/b", "a_b"):
        write_jsonl(folder / f"{name}.jsonl", [{"question": "What is 8 + 9?", "answer": "17"}])
    tokenizer.train_sentencepiece(TEXTS, folder / "tokenizer" / "tokenizer.model", 285)
    chat_template.write(folder / "tokenizer", chat_template.DEEPSEEK_MATH)
    (folder / "crawl").mkdir()
    (folder / "crawl/a.warc.gz").touch()
    (folder / "crawl/seeds.txt").write_text("https://a.org/\n")
    return folder


@pytest.fixture
def recipe(data: Path) -> dict[str, Any]:
    """A valid recipe with every part."""
    reward_model = {**TRAINING, "data": ("gsm8k/train",), "max_new_tokens": 16}
    return {
        "data_dir": str(data),
        "mesh": {"fsdp": 1},
        "corpus": {"input": "crawl/*.warc.gz", "benchmarks": ("gsm8k/test",)},
        "tokenizer": {"path": "tokenizer", "vocab_size": 0},
        "model": SIZES,
        "pretrain": {**TRAINING, "mixture": {"corpus": 0.5, "mine": 0.5}, "sequence_length": 64},
        "sft": {**TRAINING, "data": ("instructions.jsonl", "gsm8k/train"), "sequence_length": 64},
        "reward_model": {**reward_model, "kind": "pairwise"},
        "process_model": {**reward_model, "kind": "process"},
        "rl": {
            "method": "grpo_iterative", "reward": "process", "rounds": 2, "steps": 4, "data": ("gsm8k/train",),
            "eval_data": ("gsm8k/test",), "prompts_per_step": 4, "group_size": 4, "max_prompt_tokens": 64,
            "max_new_tokens": 16, "retrain": {**reward_model, "kind": "process"},
        },
        "evaluate": {"tasks": ("gsm8k/test",), "examples": ("gsm8k/train",), "shots": 1, "max_new_tokens": 16},
    }  # fmt: skip


def planned(recipe: dict[str, Any], workdir: Path, *names: str) -> dict[str, UserError]:
    """The refused stages with their reasons."""
    made = runner.plan(STAGES, build(Recipe, recipe), workdir, names, [])
    return {one.stage.name: one.error for one in made if one.error}


def with_field(recipe: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The recipe with a field, named by its path, or a part changed; a part that is None is left out."""
    part, _, field = name.partition(".")
    new = with_field(recipe[part], field, value) if field else value
    return {key: one for key, one in {**recipe, part: new}.items() if one is not None}


def test_a_valid_recipe_has_no_errors(recipe: dict[str, Any], tmp_path: Path) -> None:
    assert planned(recipe, tmp_path / "run") == {}
    assert not (tmp_path / "run").exists()


def test_data_sets_of_the_hub_are_not_downloaded(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for field in ("sft.data", "reward_model.data", "rl.data", "evaluate.tasks"):
        recipe = with_field(
            recipe, field, ("hf:some/set/train", *recipe[field.partition(".")[0]][field.partition(".")[2]])
        )
    recipe = with_field(recipe, "corpus.benchmarks", ("hf:other/set/test",))
    assert planned(recipe, tmp_path / "run") == {}
    assert not (tmp_path / "data/some").exists()
    shards = [f"{split}-0000{number}-of-00002.jsonl" for split in ("train", "test") for number in range(2)]
    for name in ("some/set", "other/set"):  # as if their downloads were interrupted
        folder = tmp_path / "data" / name
        write_json(folder / ".datasets.json", {shard: {"url": "https://a.invalid", "sha256": ""} for shard in shards})
        for shard in shards[::2]:
            write_jsonl(folder / shard, [PROBLEM])
    monkeypatch.setattr(downloads.web, "HttpStream", lambda *_: pytest.fail("a check downloads"))
    monkeypatch.setattr(downloads, "hash_file", lambda _: pytest.fail("a check computes a checksum"))
    assert planned(recipe, tmp_path / "run") == {}
    for name in ("some/set", "other/set"):
        for shard in shards[1::2]:
            write_jsonl(tmp_path / "data" / name / shard, [{"text": "no question"}])
    errors = planned(recipe, tmp_path / "run")
    assert {*errors} == {"corpus", "sft", "reward_model", "rl", "evaluate"}
    assert all("the field 'question' is missing" in str(error) for error in errors.values())


RL: dict[str, Any] = {"data": ("gsm8k/train",), "max_new_tokens": 16, "prompts_per_step": 2, "group_size": 2}
WRONG_FIELDS = [
    ("corpus.input", "crawl/*.wet.gz", "corpus", "No input file matches"),
    ("corpus.seeds", "crawl/sedes.txt", "corpus", "The seed file"),
    ("corpus.labels", "crawl/labels.jsonl", "corpus", "labels.jsonl cannot be read"),
    ("corpus.annotations", "crawl/annotations.jsonl", "corpus", "annotations.jsonl"),
    ("corpus.benchmarks", ("gsm8k/tset",), "corpus", "Unknown data set 'gsm8k/tset'"),
    ("corpus.benchmarks", ("none.jsonl",), "corpus", "There is no file or folder"),
    ("corpus.tokenizer", "none.model", "corpus", "No tokenizer at"),
    ("corpus.ray_address", "auto", "corpus", "needs the package ray: pip install 'dsmath-jax[cluster]'."),
    ("corpus.input", "s3://a/*.warc.gz", "corpus", "needs the package s3fs: pip install 'dsmath-jax[s3]'."),
    ("corpus.input_root", "gs://a/", "corpus", "gs://a/ needs the package gcsfs: pip install 'dsmath-jax[gcp]'."),
    ("tokenizer.path", "tokenzier", "tokenizer", "No tokenizer at"),
    ("model", None, "pretrain", "The recipe has no section 'model'"),
    ("model.vocab_size", 77, "pretrain", "The tokenizer has ids up to 284 and config.model.vocab_size"),
    ("model.max_position_embeddings", 32, "pretrain", "pretrain.sequence_length 64 exceeds the model's context 32"),
    ("model.attention", "splash", "pretrain", "The attention 'splash' needs a TPU"),
    ("mesh.fsdp", 3, "pretrain", "does not multiply to the 1 devices"),
    ("pretrain.mixture", {"mien": 1.0}, "pretrain", "There are no texts at"),
    ("pretrain.mixture", {"the_stack": 1.0}, "pretrain", "mirror them"),
    ("pretrain.init", "hf:none", "pretrain", "none/config.json is missing"),
    ("pretrain.wandb", "project", "pretrain", "needs the package wandb: pip install 'dsmath-jax[wandb]'."),
    ("sft.data", ("instructoins.jsonl",), "sft", "There is no file or folder"),
    ("sft.data", ("mine/a.jsonl",), "sft", "a.jsonl, line 1: the field 'question' is missing"),
    ("sft.data", ("cmath/test",), "sft", "The data set 'cmath/test' needs the file"),
    ("sft.sequence_length", 256, "sft", "sft.sequence_length 256 exceeds the model's context 128"),
    ("sft.init", "hf:none", "sft", "none/config.json is missing"),
    ("chat", {"template": "{% if %}"}, "sft", "chat.template is not a Jinja template"),
    ("chat", {"template": "{{ messages[0].content }}"}, "sft", "chat.template must end the assistant's turn with a"),
    ("chat", {"template_kwargs": {"thinks": False}}, "sft", "chat.template_kwargs.thinks is not a variable of the"),
    ("chat", {"template": "{{ raise_exception('no') }}"}, "rl", "chat.template fails (no)"),
    ("reward_model.kind", "process", "reward_model", "reward_model.kind must be one of 'pointwise', 'pairwise'"),
    ("reward_model.init", "sftt", "reward_model", "Stage reward_model reads 'sftt', which must be an earlier stage"),
    ("reward_model.init", "rl", "reward_model", "Stage reward_model reads 'rl', which must be an earlier stage"),
    ("reward_model.init", "tokenizer", "reward_model", "Stage tokenizer trains no language model"),
    ("process_model.max_new_tokens", 60, "process_model", "None of 20 prompts fits the model's context of 128"),
    ("process_model.data", ("none.jsonl",), "process_model", "There is no file or folder"),
    ("rl.data", ("gsm8k/tran",), "rl", "Stage rl: Unknown data set 'gsm8k/tran', did you mean 'gsm8k/train'"),
    ("rl.data", ("mine/a.jsonl",), "rl", "a.jsonl, line 1: the field 'question' is missing"),
    ("rl.eval_data", ("none.jsonl",), "rl", "There is no file or folder"),
    ("rl.reward_fns", (("corect", 1.0),), "rl", "Unknown reward function 'corect'"),
    ("rl.init", "sfft", "rl", "Stage rl reads 'sfft', which must be an earlier stage (the nearest is 'sft')"),
    ("rl.init", "reward_model", "rl", "Stage reward_model trains no language model to start from"),
    ("rl.max_new_tokens", 120, "rl", "more than the model's context of 128; lower rl.max_prompt_tokens"),
    ("rl.max_prompt_tokens", 4, "rl", "no prompt of rl.data has at most 4 tokens"),
    ("rl.grad_accum_steps", 3, "rl", "A batch of 16 rows is not divisible by grad_accum_steps=3"),
    ("rl.wandb", "project", "rl", "needs the package wandb: pip install 'dsmath-jax[wandb]'."),
    ("rl.eval_data", ("long.jsonl",), "rl", "the record long/0 of rl.eval_data has"),
    ("rl.retrain.data", ("unanswered.jsonl",), "rl", "The record unanswered/0 has no answer"),
    ("rl.retrain.data", ("long.jsonl",), "rl", "None of 1 prompts fits the model's context of 128"),
    ("rl.max_thinking_tokens", 8, "rl", "max_thinking_tokens is 8, but <think> is not a token"),
    ("rl.retrain.max_thinking_tokens", 8, "rl", "max_thinking_tokens is 8, but <think> is not a token"),
    ("process_model.max_thinking_tokens", 8, "process_model", "max_thinking_tokens is 8, but <think> is not a token"),
    ("evaluate.max_thinking_tokens", 8, "evaluate", "max_thinking_tokens is 8, but <think> is not a token"),
    ("rl", {**RL, "method": "distill"}, "rl", "rl.teacher is empty; method=distill needs one"),
    ("rl", {**RL, "method": "distill", "teacher": "hf:none"}, "rl", "none/config.json is missing"),
    ("rl", {**RL, "method": "grpo_rule", "reference_model": "hf:none"}, "rl", "none/config.json is missing"),
    ("rl", {**RL, "method": "grpo_ps", "step_rewards": "nowhere:f"}, "rl",
     "rl.step_rewards: 'nowhere:f' cannot be used (raised ModuleNotFoundError: No module named 'nowhere')"),
    ("rl.retrain.kind", "pointwise", "rl", "rl.retrain.kind must be one of 'process'; got 'pointwise'"),
    ("process_model", None, "rl", "add process_model to --stages and the section process_model to the recipe"),
    ("pretrain", None, "evaluate", "Stage evaluate reads stage pretrain, which is not complete"),
    ("evaluate.tasks", ("unanswered.jsonl",), "evaluate", "The record unanswered/0 has no answer"),
    ("evaluate.tasks", ("a/b.jsonl", "a_b.jsonl"), "evaluate", "would have one folder; rename a file"),
    ("rl", {"data": ("unanswered.jsonl",), "max_new_tokens": 16}, "rl", "The record unanswered/0 has no answer"),
    ("rl", {"data": ("instructions.jsonl",), "columns": {"question": "q"}, "max_new_tokens": 16}, "rl",
     "instructions.jsonl, line 1: the field 'q' is missing"),
    ("sft", {**TRAINING, "columns": {"messages": "talk"}, "data": ("instructions.jsonl",)}, "sft",
     "instructions.jsonl, line 1: the field 'talk' is missing"),
    ("evaluate", {"tasks": ("unanswered.jsonl",), "columns": {"answer": "final"}}, "evaluate",
     "unanswered.jsonl, line 1: the field 'final' is missing"),
    ("rl.eval_data", ("unanswered.jsonl",), "rl", "The record unanswered/0 has no answer"),
    ("evaluate.tasks", ("gsm8k/train",), "evaluate", "evaluate.tasks: 20 of 20 questions are also in the"),
    ("rl.eval_data", ("gsm8k/train",), "rl", "rl.eval_data: 20 of 20 questions are also in the training data"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "stage", "sentence"), WRONG_FIELDS, ids=[f"{name}={value}" for name, value, *_ in WRONG_FIELDS]
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any, stage: str,
    sentence: str,
) -> None:  # fmt: skip
    for package in ("gcsfs", "ray", "s3fs", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    errors = planned(with_field(recipe, name, value), tmp_path / "run")
    assert sentence in str(errors[stage]), errors
    assert not any("\n" in str(error) for error in errors.values())
    with pytest.raises(UserError) as caught:
        runner.run(STAGES, build(Recipe, with_field(recipe, name, value)), tmp_path / "run", (), [])
    assert str(caught.value) == str(next(iter(errors.values())))
    assert not (tmp_path / "run").exists()


def test_a_model_without_a_template_needs_one_where_it_is_asked_in_a_chat(
    recipe: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    (data / "tokenizer" / chat_template.FILE).unlink()
    errors = planned(recipe, tmp_path / "run")
    assert [*errors] == ["sft", "reward_model", "process_model", "rl", "evaluate"]
    assert all("have no chat template" in str(error) for error in errors.values())
    assert planned(recipe | {"chat": {"template": "paper"}}, tmp_path / "run") == {}
    base = recipe | {"evaluate": recipe["evaluate"] | {"models": ("base",)}}
    assert "evaluate" not in planned(base, tmp_path / "run")


def broken_line(data: Path) -> None:
    with open(data / "gsm8k/train.jsonl", "a") as file:
        file.write('{"question": "cut o')


def no_answer(data: Path) -> None:
    write_jsonl(data / "gsm8k/train.jsonl", [{"question": "What is 3 + 4?", "answer": "It is 7."}])


@pytest.mark.parametrize("spoil", [broken_line, no_answer])
def test_every_record_of_questions_is_read(recipe: dict[str, Any], data: Path, tmp_path: Path, spoil: Callable) -> None:
    spoil(data)
    errors = planned(recipe, tmp_path / "run")
    assert {"sft", "reward_model", "process_model", "rl", "evaluate"} <= errors.keys()
    assert all("train.jsonl, line" in str(error) for error in errors.values())


def test_records_without_answers_are_refused_where_samples_are_labeled(
    recipe: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    write_jsonl(data / "open.jsonl", [PROBLEM, {"question": "Why?"}])
    for name in ("reward_model", "rl"):
        invalid = with_field(recipe, f"{name}.data", ("open.jsonl",))
        if name == "rl":
            invalid["rl"] = {key: invalid["rl"][key] for key in ("data", "prompts_per_step", "steps", "max_new_tokens")}
            invalid["rl"] |= {"method": "rft", "group_size": 4}
        errors = planned(invalid, tmp_path / "run")
        assert list(errors) == [name]
        assert "The record open/1 has no answer to grade completions by" in str(errors[name])


def test_solutions_that_are_all_too_long_are_refused(recipe: dict[str, Any], tmp_path: Path) -> None:
    rl = {"method": "sft", "data": ("gsm8k/train",), "prompts_per_step": 4, "group_size": 4, "max_new_tokens": 3}
    invalid = {**recipe, "rl": rl}
    assert "no solution of rl.data has at most 3 tokens" in str(planned(invalid, tmp_path / "run")["rl"])


def test_a_model_to_start_from_is_held_against_its_files(
    recipe: dict[str, Any], data: Path, real_data: Path, tmp_path: Path
) -> None:
    """The headers of its tensors are read, which costs nothing."""
    shutil.copytree(real_data / "checkpoints/stories260k_hf", data / "stories", copy_function=shutil.copyfile)
    valid = with_field(with_field(recipe, "tokenizer.path", "stories"), "pretrain.init", "hf:stories")
    valid = with_field(valid, "chat", {"template": "paper"})
    assert planned(valid, tmp_path / "run") == {}
    config = json.loads((data / "stories/config.json").read_text())
    write_json(data / "stories/config.json", config | {"num_hidden_layers": 9})
    errors = planned(valid, tmp_path / "run")
    assert "the tensors are not those of its config.json (missing:" in str(errors["pretrain"])
    write_json(data / "stories/config.json", config | {"max_position_embeddings": 32})
    errors = planned(valid, tmp_path / "run")
    assert "pretrain.sequence_length 64 exceeds the model's context 32" in str(errors["pretrain"])
    assert "sft.sequence_length 64 exceeds the model's context 32" in str(errors["sft"])
    assert "more than the model's context of 32" in str(errors["rl"])


def test_nothing_is_fetched(
    recipe: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is to be fetched by an earlier stage of the run is missing for none of the later ones."""
    monkeypatch.setattr(downloads.web, "HttpStream", lambda *_: pytest.fail("the network was asked"))
    (data / "gsm8k/train.jsonl").unlink()
    fetches = with_field(recipe, "pretrain.mixture", {"openwebmath": 1.0})
    fetches = with_field(fetches, "sft.data", ("gsm8k/train", "math/train", "numina_tir"))
    fetches = with_field(fetches, "rl.data", ("gsm8k/train", "math/train"))
    assert planned(fetches, tmp_path / "run") == {}
    assert list(planned(with_field(fetches, "sft.data", ("math/train",)), tmp_path / "run")) == [
        "reward_model", "process_model", "rl", "evaluate"
    ]  # fmt: skip


def test_generated_data_are_known_by_their_names(recipe: dict[str, Any], tmp_path: Path) -> None:
    toy: dict[str, Any] = {
        **recipe, "data_dir": "toy", "tokenizer": {"vocab_size": 300}, "sft": {**TRAINING, "sequence_length": 64},
        "pretrain": {**TRAINING, "sequence_length": 64}, "rl": {"data": ("toy/rl",), "max_new_tokens": 16},
        "reward_model": None, "process_model": None,
        "evaluate": {"tasks": ("toy/test",), "examples": ("toy/train",), "shots": 1},
    }  # fmt: skip
    toy = with_field(toy, "corpus.benchmarks", ("toy/rl",))
    toy = {name: part for name, part in toy.items() if part is not None}
    assert planned(toy, tmp_path / "run") == {}
    invalid = with_field(with_field(toy, "rl.data", ("toy/lr",)), "evaluate.tasks", ("toy/dev",))
    errors = planned(with_field(invalid, "corpus.benchmarks", ("toy/tset",)), tmp_path / "run")
    assert "Unknown data set 'toy/lr'" in str(errors["rl"])
    assert "The data set 'toy/dev' needs the file" in str(errors["evaluate"])
    assert "Unknown data set 'toy/tset'" in str(errors["corpus"])
    assert "more than the model's context of 128" in str(
        planned(with_field(toy, "rl.max_new_tokens", 128), tmp_path / "run")["rl"]
    )


def test_a_reward_function_of_the_users_is_tried_and_is_part_of_what_a_stage_is_made_with(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code/mine").mkdir(parents=True)
    (tmp_path / "code/mine/__init__.py").write_text("raise AssertionError('the run itself imports nothing')")
    (tmp_path / "code/check_rewards.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    given = lambda name: with_field(recipe, "rl.reward_fns", ((name, 1.0), ("correct", 1.0)))  # noqa: E731
    assert planned(given("check_rewards:short"), tmp_path / "run") == {}
    for name in ("check_rewards:of_one", "check_rewards:none", "mine.rewards:short"):
        assert f"'{name}' cannot be used" in str(planned(given(name), tmp_path / "run")["rl"])
    rl = next(stage for stage in STAGES if stage.name == "rl")
    found = rl.input_files(build(Recipe, given("check_rewards:short")), tmp_path / "run")
    assert tmp_path / "code/check_rewards.py" in found
    monkeypatch.chdir(tmp_path)  # what is below the folder that a run starts in may move with it
    assert Path("code/check_rewards.py") in rl.input_files(build(Recipe, given("check_rewards:short")), tmp_path)
    (tmp_path / "code/mine/rewards.py").write_text(REWARDS)
    assert Path("code/mine/rewards.py") in rl.input_files(build(Recipe, given("mine.rewards:short")), tmp_path)
    assert [
        path for path in rl.input_files(build(Recipe, given("none.at.all:short")), tmp_path) if "none" in path.parts
    ] == []


def test_files_of_data_sets_are_part_of_what_a_stage_is_made_with(
    recipe: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    files = {
        stage.name: {path.relative_to(data).as_posix() for path in stage.input_files(build(Recipe, recipe), tmp_path)}
        for stage in STAGES
    }
    assert files["reward_model"] == files["process_model"] == {"gsm8k/train.jsonl"}
    assert files["rl"] == files["evaluate"] == {"gsm8k/train.jsonl", "gsm8k/test.jsonl"}
    in_a_chat = build(Recipe, with_field(recipe, "evaluate.models", ("sft", "rl")))
    (evaluate,) = (stage for stage in STAGES if stage.name == "evaluate")
    assert evaluate.input_files(in_a_chat, tmp_path) == [data / "gsm8k/test.jsonl"]
    toy = build(Recipe, {**recipe, "data_dir": "toy"})
    assert not any(list(stage.input_files(toy, tmp_path)) for stage in STAGES)  # generated


def test_all_files_of_a_model_are_part_of_what_a_stage_is_made_with(recipe: dict[str, Any], tmp_path: Path) -> None:
    for name in (names := ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja")):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / name).touch()
    recipe = with_field(recipe | {"data_dir": "toy"}, "evaluate.models", (f"hf:{tmp_path / 'model'}",))
    (evaluate,) = (stage for stage in STAGES if stage.name == "evaluate")
    assert {*evaluate.input_files(build(Recipe, recipe), tmp_path)} == {tmp_path / "model" / name for name in names}


def test_a_stage_of_another_workdir_is_looked_at_before_it_is_linked(
    recipe: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    for name in ("tokenizer", "pretrain", "sft"):
        write_json(
            tmp_path / "before" / name / "manifest.json", {"format": FORMAT, "results": "0", "config": {}, "inputs": {}}
        )
        write_json(tmp_path / "before" / name / "model.json", {**SIZES, "vocab_size": 285})
    shutil.copytree(data / "tokenizer", tmp_path / "before/tokenizer", dirs_exist_ok=True)
    rl = {name: value for name, value in recipe["rl"].items() if name not in ("reward", "rounds", "retrain", "method")}
    given = {"data_dir": str(data), "start": str(tmp_path / "before"), "rl": rl}
    assert planned(given, tmp_path / "run") == {}
    assert "more than the model's context of 128" in str(
        planned(with_field(given, "rl.max_new_tokens", 120), tmp_path / "run")["rl"]
    )
    assert not (tmp_path / "run").exists()


def test_questions_that_are_trained_on_and_asked_may_be_allowed(recipe: dict[str, Any], tmp_path: Path) -> None:
    overlapping = with_field(recipe, "evaluate.tasks", ("gsm8k/train",))
    assert planned(with_field(overlapping, "evaluate.allow_overlap", True), tmp_path / "run") == {}
    base = with_field(overlapping, "evaluate.models", ("base",))
    assert planned(base, tmp_path / "run") == {}, "the base model was trained on none of them"
