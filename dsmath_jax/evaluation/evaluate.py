"""Stage `evaluate`: greedy accuracy, maj@k and pass@k of the base, SFT and RL models on held-out problems.

Paper §5.2.2. Each model is evaluated as by `python -m dsmath_jax.evaluation`, into its own folder.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from dsmath_jax.data import chat as chats
from dsmath_jax.data import datasets, overlap
from dsmath_jax.data.datasets import ReadRecords, Record
from dsmath_jax.data.overlap import Questions
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.data.subsample import EVALUATION_SEED, subsample
from dsmath_jax.evaluation import exemplars, registry
from dsmath_jax.evaluation import run as evaluation
from dsmath_jax.evaluation.answering import Settings, check_records
from dsmath_jax.evaluation.policy import Policy
from dsmath_jax.evaluation.settings import MODELS, EvaluateSettings
from dsmath_jax.grading.sandbox import Sandbox
from dsmath_jax.settings import check_choice
from dsmath_jax.sharding import Layout, barrier
from dsmath_jax.training.model_files import load_model
from dsmath_jax.workdir import read_json, write_json


def stage_of(model: str) -> str:
    """Returns the stage that makes the model "base", "sft" or "rl".

    Raises:
      UserError: the model is unknown.
    """
    check_choice("evaluate.models", model, MODELS)
    return MODELS[model][0]


def asked_in_chat(model: str) -> bool:
    """Whether a model is asked with the chat template, not with few-shot examples."""
    return not MODELS[model][1]


def data_sets(settings: EvaluateSettings) -> tuple[str, ...]:
    """Returns the data sets and files of the tasks and the few-shot examples."""
    tasks = [registry.task(name) for name in settings.tasks]
    own_examples = [task.shots["cot"].source for task in tasks if "cot" in task.shots]
    return tuple(dict.fromkeys([*(task.source for task in tasks), *(settings.examples or own_examples)]))


def check(
    settings: EvaluateSettings,
    data_dir: Path,
    read: ReadRecords,
    trained_on: Mapping[str, Questions],
) -> None:
    """Raises a `UserError` if a task has no prompts or cannot be graded, or its questions are in training data.

    Args:
      settings: the stage's settings.
      data_dir: the data folder.
      read: see `datasets.ReadRecords`; returns none where an earlier stage makes them.
      trained_on: the questions of the training data by name, see `overlap.find`.
    """
    known = {name: read(name, settings.columns) for name in data_sets(settings)}
    for name in evaluation.distinct(settings.tasks):
        task = registry.task(name)
        check_records(name, subsample([known[task.source]], settings.problems, EVALUATION_SEED))
        if all(known.values()) and any(few_shot for _, few_shot in map(MODELS.__getitem__, settings.models)):
            exemplars.load(task, "cot", data_dir, settings.examples, settings.shots, settings.columns)
    if not settings.allow_overlap:
        records = evaluated_records(settings, known.__getitem__)
        overlap.check("evaluate.tasks", records, overlap.find(records, trained_on), allow=False)


def evaluated_records(settings: EvaluateSettings, read: Callable[[str], Sequence[Record]]) -> list[Record]:
    """Returns the problems of all tasks that the stage evaluates."""
    sources = dict.fromkeys(registry.task(name).source for name in settings.tasks)
    return [one for source in sources for one in subsample([read(source)], settings.problems, EVALUATION_SEED)]


def find_overlap(settings: EvaluateSettings, workdir: Path, data_dir: Path) -> dict[str, int | None]:
    """Counts the evaluated problems that each model was trained on, according to the stages' manifests.

    Few-shot examples do not count, since no question is its own example.

    Raises:
      UserError: there are some, and `evaluate.allow_overlap` is off.
    """
    records = evaluated_records(settings, lambda name: datasets.load(name, data_dir, settings.columns))
    trained_on = {model: overlap.questions_of_stages([stage_of(model)], workdir) for model in settings.models}
    overlaps = overlap.find(records, {name: each for sets in trained_on.values() for name, each in sets.items()})
    overlap.check("evaluate.tasks", records, overlaps, settings.allow_overlap)
    return {model: overlap.count(overlaps[name] for name in sets) for model, sets in trained_on.items()}


def run(
    settings: EvaluateSettings, chat_settings: ChatSettings, workdir: Path, data_dir: Path, layout: Layout, seed: int
) -> dict:
    """Writes `evaluate/<model>/`, the files of an evaluation (`evaluation.run`), and `evaluate/summary.json`.

    A finished model is skipped; an unfinished one resumes after its last complete group of samples.

    Returns:
      the greedy accuracy of each model over all problems; None where they could not be checked.
    """
    folder = workdir / "evaluate"
    chat = chats.read(chats.ChatSource(workdir / "tokenizer", chat_settings))
    overlapping = find_overlap(settings, workdir, data_dir)
    summary: dict[str, dict] = {}
    for name in settings.models:
        stage, few_shot = MODELS[name]
        if not (folder / name / "summary.json").exists():
            chats.check_same(chat, workdir / stage)
            policy = Policy.of(load_model(str(workdir / stage), layout), settings.max_new_tokens, settings.decode_slots)
            run_settings = Settings(
                style="few_shot" if few_shot else "chat", samples=settings.samples, temperature=settings.temperature,
                seed=seed, limit=settings.problems, exemplars=settings.examples if few_shot else (),
                shots=settings.shots if few_shot else 0, columns=settings.columns,
            )  # fmt: skip
            # The stage's name, so that two workdirs of one recipe have the same files.
            provenance = evaluation.Provenance(stage, "the stage evaluate")
            evaluation.run(policy, settings.tasks, run_settings, data_dir, folder / name, provenance, Sandbox)
        barrier(f"evaluate {name}")
        results = read_json(folder / name / "summary.json")
        (pooled,) = results["pooled"].values()  # one mode
        summary[name] = {
            "pooled": pooled | {"temperature": settings.temperature, "num_overlapping": overlapping[name]},
            "tasks": {each["task"]: each for each in results["results"]},
        }
    if jax.process_index() == 0:
        write_json(folder / "summary.json", summary)
    return {name: scores["pooled"]["greedy"] for name, scores in summary.items()}
