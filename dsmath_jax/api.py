"""The public API: the names in `dsmath_jax.__all__`, which follow semantic versioning."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from dsmath_jax import command_line, runner
from dsmath_jax.data import chat as chats
from dsmath_jax.data.dataset_formats import Record as Record
from dsmath_jax.data.hub import HUGGING_FACE
from dsmath_jax.data.settings import TokenizerSettings
from dsmath_jax.evaluation import run as evaluation
from dsmath_jax.evaluation.answering import Settings, check_chat_settings
from dsmath_jax.evaluation.policy import GREEDY, Policy, with_chat_settings
from dsmath_jax.grading.grade import Grader, Item
from dsmath_jax.grading.grades import Grade, Kind
from dsmath_jax.grading.sandbox import Sandbox
from dsmath_jax.recipe import Recipe
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.runner import Stage
from dsmath_jax.sampling.sampler import SamplingParams as SamplingParams
from dsmath_jax.sampling.thinking import thinking_budget
from dsmath_jax.settings import build, nearest
from dsmath_jax.sharding import Layout, MeshSettings, barrier, make_mesh
from dsmath_jax.stage_inputs import required
from dsmath_jax.stages import PARAMS, STAGES, fetch_models
from dsmath_jax.training import checkpoint as checkpoints
from dsmath_jax.training import lora, model_files
from dsmath_jax.training.model_files import LanguageModel
from dsmath_jax.workdir import UserError, hash_json, local_path, lock, read_json, write_jsonl

ALL_DEVICES = MeshSettings()
START = "model"  # the stage of `train` that copies the model of another run's stage


def load_model(
    checkpoint: str, *, tokenizer: str = "", dtype: str = "", mesh: MeshSettings = ALL_DEVICES
) -> LanguageModel:
    """Loads a model onto all devices.

    Args:
      checkpoint: a folder in Hugging Face's format, "hf:models/llama", or that of a training stage, "runs/tiny/rl".
      tokenizer: its file or folder; "" for the model's own.
      dtype: the compute dtype, such as "bfloat16"; "" for the model's own (Hugging Face: bfloat16, float32 on CPUs).
      mesh: the sizes of the mesh axes.

    Raises:
      UserError: there is no model or no tokenizer, or the tokenizer belongs to another model.
    """
    return model_files.load_model(checkpoint, Layout(make_mesh(mesh)), tokenizer, dtype)


def save_model(model: LanguageModel, folder: str | Path, dtype: str = "bfloat16") -> None:
    """Writes a model with its tokenizer and chat template in Hugging Face's format.

    The folder is created when it is complete.

    Raises:
      UserError: the folder exists already.
    """
    target = local_path(folder, "folder")
    chat = model.chat if model.chat_stored else None
    model_files.export_params(target, model.model.config, model.params, model.tokenizer_file, dtype, chat=chat)


def generate(
    model: LanguageModel,
    prompts: Sequence[str],
    sampling: SamplingParams = GREEDY,
    *,
    max_new_tokens: int = 256,
    max_thinking_tokens: int = 0,
    decode_slots: int = 256,
    chat: bool = True,
) -> list[list[str]]:
    """Generates `sampling.samples` completions of each prompt, in the order of the prompts.

    A completion ends after `max_new_tokens` or where it fills the model's context. In a chat it begins with the mark of
    a thought that the prompt opened, so that `grade` knows what is a thought.

    Args:
      model: from `load_model` or `train`.
      prompts: questions or, without `chat`, texts to continue.
      sampling: the sampling parameters; greedy by default.
      max_new_tokens: length limit of a completion.
      max_thinking_tokens: those before an open thought is ended; 0 for no limit.
      decode_slots: number of completions decoded at a time.
      chat: whether to put each question into the model's chat template.

    Raises:
      UserError: an argument is invalid, or a prompt fills the model's context.
    """
    if isinstance(prompts, str):
        raise UserError("prompts must be a list of strings; got a string.")
    policy = Policy.of(model, max_new_tokens, decode_slots)
    thinking = thinking_budget(model.chat, max_thinking_tokens, plain=not chat)
    if thinking is not None:
        sampling = dataclasses.replace(sampling, thinking=thinking)
    rendered = [model.chat.prompt(Record("", prompt)) if chat else model.chat.plain(prompt) for prompt in prompts]
    policy.sampler.check([policy.encode(prompt) for prompt in rendered])
    opened = model.chat.opens_thought if chat else ""
    return [[opened + completion.text for completion in group] for group in policy.complete(rendered, sampling)]


def grade(completions: Sequence[str], answers: Sequence[str], kind: Kind = "math") -> list[Grade]:
    """Grades completions as the evaluation does, in worker processes with time limits.

    Args:
      completions: a model's completions.
      answers: the correct final answer of each.
      kind: the kind of answers: "math", "number", "choice", "choices" or "text".

    Raises:
      UserError: the numbers of answers and completions differ.
    """
    if len(completions) != len(answers):
        raise UserError(
            f"grade got {len(completions)} completions and {len(answers)} answers; give one answer per completion."
        )
    with Grader() as grader:
        return grader.grades([Item(c, answer, kind) for c, answer in zip(completions, answers, strict=True)])


def evaluate(
    model: LanguageModel,
    tasks: Sequence[str],
    data_dir: str | Path,
    out: str | Path,
    *,
    max_new_tokens: int = 1024,
    decode_slots: int = 256,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Evaluates a model on tasks as `python -m dsmath_jax.evaluation` does; after a kill, the same call resumes.

    Args:
      model: from `load_model` or `train`.
      tasks: names such as "gsm8k", data sets such as "toy/test" or files of records below `data_dir`.
      data_dir: the folder of their files.
      out: the folder for samples, summaries and the table.
      max_new_tokens: length limit of a completion.
      decode_slots: number of completions decoded at a time.
      settings: fields of `evaluation.answering.Settings`: style="chat", samples=8, limit=100; in a chat also fields of
        `ChatSettings`, by default those of the model's training: instruction="paper" (the default where that is
        unknown), template="paper".

    Returns:
      The summary of each task, as in `summary.json`.

    Raises:
      UserError: a task or its data cannot be used, or `out` has the results of other settings.
    """
    known = {*chats.SETTINGS, *(field.name for field in dataclasses.fields(Settings))}
    for name in settings.keys() - known:
        raise UserError(f"evaluate has no setting '{name}'{nearest(name, known)}.")
    chat = _pop_chat_settings(settings)
    options, out = Settings(**settings), local_path(out, "out")
    check_chat_settings(options, chat)
    policy = Policy.of(with_chat_settings(model, chat), max_new_tokens, decode_slots)
    provenance = evaluation.Provenance("a model in memory", "dsmath_jax.evaluate")
    with lock(out, "out") if jax.process_index() == 0 else contextlib.nullcontext():
        evaluation.run(policy, tasks, options, local_path(data_dir, "data_dir"), out, provenance, Sandbox)
    return read_json(out / "summary.json")["results"]


def _pop_chat_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Removes the fields of `ChatSettings` from keyword arguments, and returns them."""
    return {name: settings.pop(name) for name in chats.SETTINGS if name in settings}


def load_recipe(config: str) -> Recipe:
    """Loads a recipe by name (`tiny`, `tiny:sft_continued`) or config file, as frozen dataclasses with all defaults.

    Change fields with `dataclasses.replace`.

    Raises:
      UserError: there is no such file or variant, or the recipe is invalid.
    """
    return command_line.load_recipe(config)


def run(recipe: Recipe, workdir: str | Path, stages: Sequence[str] = (), overwrite: Sequence[str] = ()) -> None:
    """Runs the stages of a recipe as `python -m dsmath_jax.main` does; complete ones are skipped, killed ones resume.

    Args:
      recipe: from `load_recipe`, or built in code.
      workdir: the folder of the run.
      stages: names of stages; () for all that the recipe has a section for.
      overwrite: the stages to redo, with those that read them.

    Raises:
      UserError: the recipe, an input or the workdir cannot be used.
    """
    workdir = local_path(workdir, "workdir")
    fetch_models(recipe, workdir, stages, overwrite)
    runner.run(STAGES, recipe, workdir, stages, overwrite)


def train(
    checkpoint: str,
    prompts: Sequence[Record],
    workdir: str | Path,
    *,
    seed: int = 0,
    mesh: MeshSettings = ALL_DEVICES,
    **settings: Any,
) -> LanguageModel:
    """Trains a model by RL on your prompts, by default with GRPO; after a kill, the same call resumes.

    Supports the methods of Table 10 without a reward model.

    Args:
      checkpoint: the model to start from, as in `load_model`; its parameters are trained in float32.
      prompts: questions with the fields that the reward functions need: `answer` for "correct". They are rendered with
        the chat template and the instruction that the model was trained with, if it has any.
      workdir: the folder for `tokenizer/`, `rl/` (the trained model and its logs), `data/` and, with a stage's model,
        `model/`, a copy of it.
      seed: seed of all random draws.
      mesh: the sizes of the mesh axes.
      settings: fields of the stage `rl`: steps=100, kl_coef=0.0, reward_fns=(("my_rewards:brief", 1.0),); or of
        `ChatSettings`, where the model's training is unknown: template="paper".

    Returns:
      The trained model; `load_model("WORKDIR/rl")` loads it again.

    Raises:
      UserError: a setting, a record or the model cannot be used, or `workdir` was made with others.
    """
    if not isinstance(checkpoint, str):
        raise UserError(f"checkpoint is a {type(checkpoint).__name__}; give the name of a folder, or hf:DIR.")
    prompts, workdir = list(prompts), local_path(workdir, "workdir").resolve()
    for record in prompts:
        if not isinstance(record, Record):
            raise UserError(f"prompts must be Records; got {record!r}: give Record(id, question, answer=...).")
    for name in ("init", "data", "columns"):
        if name in settings:
            raise UserError(f"train takes the model as checkpoint and the questions as prompts; remove {name}.")
    folder = local_path(checkpoint.removeprefix(HUGGING_FACE), "checkpoint").resolve()
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; give that of a stage, or hf:DIR, as the checkpoint.")
    tokenizer = model_files.find_tokenizer(folder)
    if tokenizer is None:
        raise UserError(f"There is no tokenizer in {folder} or next to it; add its .model or tokenizer.json.")
    chat = dataclasses.replace(chats.stored_settings(folder), **_pop_chat_settings(settings))
    rows = [dataclasses.asdict(record) for record in prompts]
    data, name = workdir / "data", f"prompts-{_hash(rows)}.jsonl"  # other prompts get another file
    is_stage = not checkpoint.startswith(HUGGING_FACE)
    fields = {"init": START if is_stage else f"{HUGGING_FACE}{folder}", "data": (name,)} | settings
    recipe = Recipe(
        seed=seed, data_dir=str(data), mesh=mesh, tokenizer=TokenizerSettings(path=str(tokenizer)),
        chat=chat, rl=build(RLSettings, fields, "rl."),
    )  # fmt: skip
    if required(recipe.rl).reward_stage:
        raise UserError(f"rl.method={required(recipe.rl).method} needs a reward model; `run` a recipe that trains one.")
    if jax.process_index() == 0:
        with lock(workdir, "workdir"):
            write_jsonl(data / name, rows)
    barrier("prompts")
    stages, start = (_stages_after(folder), (START,)) if is_stage else (STAGES, ())
    runner.run(stages, recipe, workdir, ("tokenizer", *start, "rl"), ())
    return load_model(str(workdir / "rl"), mesh=mesh)


def _hash(rows: list[dict[str, Any]]) -> str:
    try:
        return hash_json(rows)[:12]
    except TypeError as error:
        raise UserError(f"The field extra of a record must be JSON ({error}); correct it.") from None


def _stages_after(folder: Path) -> tuple[Stage, ...]:
    """Returns the stages of `train` from a stage's model: tokenizer, `START` (which copies the parameters) and rl."""

    def files(recipe: Recipe, workdir: Path) -> list[Path]:
        return sorted(path for path in folder.glob("*") if path.is_file())

    def run_start(recipe: Recipe, workdir: Path) -> dict[str, int]:
        target, layout = workdir / START, Layout(make_mesh(recipe.mesh))
        model = model_files.load_model(str(folder), layout)
        params = jax.tree.map(lambda x: x.astype("float32"), lora.merged(model.params, layout))
        checkpoints.save(target / "params", params)
        model_files.write_config(target, model.model.config, model.chat if model.chat_stored else None)
        return {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params))}

    known = {stage.name: stage for stage in STAGES}
    return (
        dataclasses.replace(known["tokenizer"], input_files=files),
        Stage(START, run_start, ("mesh",), lambda recipe: (), PARAMS, input_files=files),
        dataclasses.replace(known["rl"], depends_on=lambda recipe: ("tokenizer", START)),
    )
