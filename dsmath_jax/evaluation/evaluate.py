"""Stage `evaluate`: greedy accuracy, maj@k and pass@k of models on held-out problems.

Paper §5.2.2. The models are the base, SFT and RL models of the run, and others in Hugging Face's format. Each is
evaluated as by `python -m dsmath_jax.evaluation`, into its own folder.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import jax

from dsmath_jax.data import chat as chats
from dsmath_jax.data import datasets, overlap
from dsmath_jax.data import tokenizer as tokenizers
from dsmath_jax.data.datasets import ReadRecords, Record
from dsmath_jax.data.hub import HUGGING_FACE
from dsmath_jax.data.overlap import Questions
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.data.subsample import EVALUATION_SEED, subsample
from dsmath_jax.evaluation import exemplars, registry
from dsmath_jax.evaluation import run as evaluation
from dsmath_jax.evaluation.answering import Settings, check_records
from dsmath_jax.evaluation.policy import Policy
from dsmath_jax.evaluation.settings import MODELS, EvaluateSettings
from dsmath_jax.grading.sandbox import Sandbox
from dsmath_jax.models import huggingface
from dsmath_jax.sampling.thinking import thinking_budget
from dsmath_jax.sharding import Layout, barrier
from dsmath_jax.training.model_files import LanguageModel, check_import, load_model
from dsmath_jax.training.settings import hugging_face_folder
from dsmath_jax.workdir import folder_name, read_json, write_json


def stages_of_models(models: Iterable[str]) -> tuple[str, ...]:
    """Returns the stages that make the models "base", "sft" and "rl"; none for `hf:DIR`."""
    return tuple(MODELS[model][0] for model in models if model in MODELS)


def read_model(
    name: str, chat_settings: ChatSettings, workdir: Path, data_dir: Path, layout: Layout
) -> tuple[LanguageModel, bool]:
    """Returns a model, and whether it is asked with few-shot examples; `hf:DIR` is if it has no chat template.

    Raises:
      UserError: there is no such model, or it was trained with other chat settings.
    """
    if folder := hugging_face_folder(name, data_dir):
        model = load_model(f"{HUGGING_FACE}{folder}", layout)
        chat = chats.read(chats.ChatSource(folder, chat_settings))
        return model._replace(chat=chat), not chat.template
    stage, few_shot = MODELS[name]
    chats.check_same(chats.read(chats.ChatSource(workdir / "tokenizer", chat_settings)), workdir / stage)
    return load_model(str(workdir / stage), layout), few_shot


def check_folder(folder: Path, settings: EvaluateSettings, chat_settings: ChatSettings, layout: Layout) -> bool:
    """Returns whether the model in a folder is asked with few-shot examples; reads only the headers of its files.

    Raises:
      UserError: as `read_model`.
    """
    config, chat = huggingface.read_config(folder), chats.read(chats.ChatSource(folder, chat_settings))
    tokenizers.check_vocab_size(chat.tokenizer, config.vocab_size, str(folder))
    check_import(folder, config, layout)
    thinking_budget(chat, settings.max_thinking_tokens)
    return not chat.template


def may_be_few_shot(models: Iterable[str]) -> bool:
    """Whether a model may be asked with few-shot examples; of `hf:DIR` that depends on its chat template."""
    return any(model not in MODELS or MODELS[model][1] for model in models)


def data_sets(settings: EvaluateSettings, few_shot: bool) -> tuple[str, ...]:
    """Returns the data sets of the tasks and, with `few_shot`, of the few-shot examples."""
    tasks = [registry.task(name) for name in settings.tasks]
    examples = settings.examples or [task.shots["cot"].source for task in tasks if "cot" in task.shots]
    return tuple(dict.fromkeys([*(task.source for task in tasks), *(examples if few_shot else ())]))


def check(
    settings: EvaluateSettings,
    few_shot: bool,
    data_dir: Path,
    read: ReadRecords,
    trained_on: Mapping[str, Questions],
) -> None:
    """Raises a `UserError` if a task has no prompts or cannot be graded, or its questions are in training data.

    Args:
      settings: the stage's settings.
      few_shot: whether a model is asked with few-shot examples.
      data_dir: the data folder.
      read: see `datasets.ReadRecords`; returns none where an earlier stage makes them.
      trained_on: the questions of the training data by name, see `overlap.find`.
    """
    known = {name: read(name, settings.columns) for name in data_sets(settings, few_shot)}
    for name in evaluation.distinct(settings.tasks):
        task = registry.task(name)
        check_records(name, subsample([known[task.source]], settings.problems, EVALUATION_SEED))
        if few_shot and all(known.values()):
            exemplars.load(task, "cot", data_dir, settings.examples, settings.shots, settings.columns)
    if not settings.allow_overlap:
        records = evaluated_records(settings, known.__getitem__)
        overlap.check("evaluate.tasks", records, overlap.find(records, trained_on), allow=False)


def evaluated_records(settings: EvaluateSettings, read: Callable[[str], Sequence[Record]]) -> list[Record]:
    """Returns the problems of all tasks that the stage evaluates."""
    sources = dict.fromkeys(registry.task(name).source for name in settings.tasks)
    return [one for source in sources for one in subsample([read(source)], settings.problems, EVALUATION_SEED)]


def find_overlap(settings: EvaluateSettings, workdir: Path, data_dir: Path) -> dict[str, int | None]:
    """Counts the evaluated problems that each model was trained on, by the stages' manifests; None for `hf:DIR`.

    Few-shot examples do not count, since no question is its own example.

    Raises:
      UserError: there are some, and `evaluate.allow_overlap` is off.
    """
    records = evaluated_records(settings, lambda name: datasets.load(name, data_dir, settings.columns))
    models = settings.models
    trained_on = {model: overlap.questions_of_stages(stages_of_models([model]), workdir) for model in models}
    overlaps = overlap.find(records, {name: each for sets in trained_on.values() for name, each in sets.items()})
    overlap.check("evaluate.tasks", records, overlaps, settings.allow_overlap)
    return {
        model: overlap.count(overlaps[name] for name in sets) if model in MODELS else None
        for model, sets in trained_on.items()
    }


def run(
    settings: EvaluateSettings, chat_settings: ChatSettings, workdir: Path, data_dir: Path, layout: Layout, seed: int
) -> dict:
    """Writes `evaluate/<model>/`, the files of an evaluation (`evaluation.run`), and `evaluate/summary.json`.

    A finished model is skipped; an unfinished one resumes after its last complete group of samples.

    Returns:
      the greedy accuracy of each model over all problems; None where proofs were not verified.
    """
    folder = workdir / "evaluate"
    overlapping = find_overlap(settings, workdir, data_dir)
    summary: dict[str, dict] = {}
    for name in settings.models:
        target = folder / folder_name(name)
        if not (target / "summary.json").exists():
            model, few_shot = read_model(name, chat_settings, workdir, data_dir, layout)
            policy = Policy.of(model, settings.max_new_tokens, settings.decode_slots, settings.decode_dtypes)
            run_settings = Settings(
                style="few_shot" if few_shot else "chat", samples=settings.samples, temperature=settings.temperature,
                seed=seed, max_thinking_tokens=settings.max_thinking_tokens, limit=settings.problems,
                exemplars=settings.examples if few_shot else (),
                shots=settings.shots if few_shot else 0, columns=settings.columns,
            )  # fmt: skip
            # Not the stage's folder, so that two workdirs of one recipe have the same files.
            (origin,) = stages_of_models([name]) or [name]
            provenance = evaluation.Provenance(origin, "the stage evaluate")
            evaluation.run(policy, settings.tasks, run_settings, data_dir, target, provenance, Sandbox)
        barrier(f"evaluate {name}")
        results = read_json(target / "summary.json")
        (pooled,) = results["pooled"].values()  # one mode
        summary[name] = {
            "pooled": pooled | {"temperature": settings.temperature, "num_overlapping": overlapping[name]},
            "tasks": {each["task"]: each for each in results["results"]},
        }
    if jax.process_index() == 0:
        write_json(folder / "summary.json", summary)
    return {name: scores["pooled"]["greedy"] for name, scores in summary.items()}
