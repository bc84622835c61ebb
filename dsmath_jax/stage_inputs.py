"""What the stages read: `depends_on`, the stages before each, and `input_files`, the files of the user."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dsmath_jax import user_code
from dsmath_jax.corpus import inputs as corpus_inputs
from dsmath_jax.data import datasets, instructions, sources, tokenizer
from dsmath_jax.evaluation import evaluate, registry
from dsmath_jax.recipe import Recipe
from dsmath_jax.rl import rewards
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.training.settings import hugging_face_folder, stages_of

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


def user_files(files: InputFiles) -> InputFiles:
    """Returns `input_files` from `(recipe, data folder) -> files`; generated data are not input files."""
    return lambda recipe, workdir: [] if recipe.data_dir == "toy" else files(recipe, Path(recipe.data_dir))


def record_files(stage: str, names: Callable[[Any], Sequence[str]]) -> InputFiles:
    """Returns `input_files` of a stage from `settings -> names of data sets`: their files, and those of its models."""

    def files(recipe: Recipe, data: Path) -> list[Path]:
        settings = required(getattr(recipe, stage))
        records = [file for name in names(settings) for file in datasets.files(name, data)]
        return [*records, *_model_files(settings.models, data)]

    return user_files(files)


@user_files
def corpus_files(recipe: Recipe, data: Path) -> Sequence[Path]:
    """Returns the seeds, labels, annotations and the user's own benchmarks."""
    return corpus_inputs.files(required(recipe.corpus), data)


@user_files
def tokenizer_files(recipe: Recipe, data: Path) -> Sequence[Path]:
    """Returns the files of an existing tokenizer."""
    path = required(recipe.tokenizer).path
    return tokenizer.files(data / path) if path else []


@user_files
def pretrain_files(recipe: Recipe, data: Path) -> Sequence[Path]:
    """Returns the user's texts and the initial model's files."""
    settings = required(recipe.pretrain)
    return [*sources.user_files(settings.mixture, data), *_model_files(settings.models, data)]


@user_files
def sft_files(recipe: Recipe, data: Path) -> Sequence[Path]:
    """Returns the user's instructions and the initial model's files."""
    settings = required(recipe.sft)
    return [*instructions.user_files(settings.data, data), *_model_files(settings.models, data)]


def rl_files(recipe: Recipe, workdir: Path) -> Sequence[Path]:
    """Returns the files of the questions, of the initial policy and of the user's reward functions."""
    functions = required(recipe.rl).reward_fns
    return [*record_files("rl", _rl_data)(recipe, workdir), *rewards.source_files(functions)]


def evaluate_files(recipe: Recipe, workdir: Path) -> Sequence[Path]:
    """Returns the files of the problems and few-shot examples, of the models `hf:DIR` and of the user's tasks."""
    tasks = filter(registry.is_registered, required(recipe.evaluate).tasks)
    return [*record_files("evaluate", evaluate.data_sets)(recipe, workdir), *user_code.source_files(tasks)]


def _rl_data(settings: RLSettings) -> tuple[str, ...]:
    return settings.data + settings.eval_data + settings.retrain_data


def _model_files(models: Iterable[str], data: Path) -> list[Path]:
    """Returns the configs and the tensors of models in Hugging Face's format; none of a stage's."""
    folders = [folder for folder in (hugging_face_folder(model, data) for model in models) if folder]
    return [file for folder in folders for file in (folder / "config.json", *sorted(folder.glob("*.safetensors*")))]
