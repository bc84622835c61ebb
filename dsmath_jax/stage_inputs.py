"""What the stages read: `depends_on`, the stages before each, and `input_files`, the files of the user."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dsmath_jax import user_code
from dsmath_jax.corpus import inputs as corpus_inputs
from dsmath_jax.data import datasets, hub, instructions, sources, tokenizer
from dsmath_jax.evaluation import evaluate
from dsmath_jax.evaluation.settings import EvaluateSettings
from dsmath_jax.recipe import Recipe
from dsmath_jax.rl import rewards
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.training.settings import stages_of
from dsmath_jax.workdir import data_folder

T = TypeVar("T")
InputFiles = Callable[[Recipe, Path], Sequence[Path]]


def required(section: T | None) -> T:
    """Returns a section of the recipe; the runner guarantees that a running stage has its section."""
    assert section is not None
    return section


# --- depends_on ---


def tokenizer_stages(recipe: Recipe) -> tuple[str, ...]:
    """Returns the corpus, unless the tokenizer exists already."""
    return () if required(recipe.tokenizer).path else ("corpus",)


def pretrain_stages(recipe: Recipe) -> tuple[str, ...]:
    """Returns the tokenizer and, if the mixture has its documents, the corpus."""
    return (*(["corpus"] if any(map(sources.is_corpus, required(recipe.pretrain).mixture)) else []), "tokenizer")


def sft_stages(recipe: Recipe) -> tuple[str, ...]:
    """Returns the tokenizer and the stage of the initial model, if it is one's."""
    return ("tokenizer", *stages_of(required(recipe.sft).models))


def reward_stages(name: str) -> Callable[[Recipe], tuple[str, ...]]:
    """Returns `depends_on` of the stage `reward_model` or `process_model`."""
    return lambda recipe: ("tokenizer", *stages_of(required(getattr(recipe, name)).models))


def rl_stages(recipe: Recipe) -> tuple[str, ...]:
    """Returns the tokenizer and the stages of the initial policy and the reward model, as far as there are."""
    return ("tokenizer", *required(recipe.rl).model_stages)


def evaluate_stages(recipe: Recipe) -> tuple[str, ...]:
    """Returns the stages of the run's models and their tokenizer; none where all models are `hf:DIR`."""
    stages = evaluate.stages_of_models(required(recipe.evaluate).models)
    return ("tokenizer", *stages) if stages else ()


# --- input_files ---


def user_files(stage: str, files: Callable[[Any, Path], Sequence[Path]]) -> InputFiles:
    """Returns `input_files` of a stage from `(section, data folder) -> files`, and the files of its models `hf:DIR`.

    Generated data are not input files.
    """

    def files_with_models(recipe: Recipe, workdir: Path) -> list[Path]:
        data_dir = data_folder(recipe.data_dir, workdir)
        data = [] if recipe.data_dir == "toy" else files(getattr(recipe, stage), data_dir)
        models = [data_dir / name for name in recipe.hugging_face_models([stage])]
        return [*data, *(file for folder in models for file in _model_files(folder))]

    return files_with_models


def record_files(stage: str, names: Callable[[Any], Sequence[str]]) -> InputFiles:
    """Returns `input_files` of a stage from `section -> names of data sets`."""
    return user_files(
        stage, lambda section, data: [file for name in names(section) for file in datasets.files(name, data)]
    )


corpus_files = user_files("corpus", corpus_inputs.files)
pretrain_files = user_files("pretrain", lambda section, data: sources.user_files(section.mixture, data))
sft_files = user_files("sft", lambda section, data: instructions.user_files(section.data, data))


def tokenizer_files(recipe: Recipe, workdir: Path) -> Sequence[Path]:
    """Returns the files of an existing tokenizer."""
    location = required(recipe.tokenizer).location(data_folder(recipe.data_dir, workdir))
    return tokenizer.files(location) if location else []


def rl_files(recipe: Recipe, workdir: Path) -> Sequence[Path]:
    """Returns the files of the questions, of the models `hf:DIR`, and of the user's method and functions."""
    settings = required(recipe.rl)
    own = rewards.source_files(settings.reward_fns) + user_code.source_files(settings.user_code)
    return [*record_files("rl", _rl_data)(recipe, workdir), *own]


def evaluate_files(recipe: Recipe, workdir: Path) -> Sequence[Path]:
    """Returns the files of the problems and few-shot examples, of the models `hf:DIR` and of the user's tasks."""
    tasks = filter(datasets.is_in_module, required(recipe.evaluate).tasks)
    return [*record_files("evaluate", _evaluate_data)(recipe, workdir), *user_code.source_files(tasks)]


def _rl_data(settings: RLSettings) -> tuple[str, ...]:
    return settings.data + settings.eval_data + settings.retrain_data


def _evaluate_data(settings: EvaluateSettings) -> tuple[str, ...]:
    return evaluate.data_sets(settings, evaluate.may_be_few_shot(settings.models))


def _model_files(folder: Path) -> list[Path]:
    """Returns the files of a model in Hugging Face's format that a stage may read; the config even if it is missing."""
    names = hub.model_files([path.name for path in folder.glob("*")])
    return [folder / name for name in dict.fromkeys(["config.json", *names])]
