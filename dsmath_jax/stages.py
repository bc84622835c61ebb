"""The stages of the paper's path in order: the parts of the recipe that each sees, what it reads and leaves."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import jax

from dsmath_jax.corpus import pipeline
from dsmath_jax.data import chat, documents, instructions, sources, tokenizer
from dsmath_jax.evaluation import evaluate
from dsmath_jax.recipe import Recipe
from dsmath_jax.report import report
from dsmath_jax.rl import trainer
from dsmath_jax.rl.reward_model import stage as reward_model
from dsmath_jax.runner import Stage
from dsmath_jax.sharding import Layout, barrier, make_mesh
from dsmath_jax.toy import world
from dsmath_jax.training import pretrain, sft
from dsmath_jax.workdir import data_folder

T = TypeVar("T")


def required(part: T | None) -> T:
    """A part of the recipe; the runner has seen to it that a stage which runs has its own."""
    assert part is not None
    return part


# --- what each stage does with its parts of the recipe ---


def run_corpus(recipe: Recipe, workdir: Path) -> dict:
    """WARC files to documents; with `data_dir` "toy" the web is generated first."""
    if jax.process_index() == 0:
        data_dir = data_folder(recipe.data_dir, workdir)
        if recipe.data_dir == "toy":
            world.write(data_dir, recipe.seed, recipe.toy)
        return pipeline.mine(required(recipe.corpus), recipe.seed, data_dir, workdir / "corpus")
    return {}


def run_tokenizer(recipe: Recipe, workdir: Path) -> dict:
    """Trains SentencePiece on the kept documents, or copies the tokenizer that `tokenizer.path` names."""
    folder, settings = workdir / "tokenizer", required(recipe.tokenizer)
    if jax.process_index() == 0:
        if settings.path:
            tokenizer.copy(data_folder(recipe.data_dir, workdir) / settings.path, folder)
        else:
            texts = documents.texts(workdir / "corpus" / "documents")
            path = folder / "tokenizer.model"
            tokenizer.train_sentencepiece(texts, path, settings.vocab_size, chat.MARKERS)
    barrier("tokenizer")
    return {"pieces": tokenizer.load(folder).vocab_size}


def run_pretrain(recipe: Recipe, workdir: Path) -> dict:
    return pretrain.run(required(recipe.pretrain), recipe.model, workdir, *_place(recipe, workdir))


def run_sft(recipe: Recipe, workdir: Path) -> dict:
    return sft.run(required(recipe.sft), recipe.model, recipe.chat, workdir, *_place(recipe, workdir))


def run_reward_model(recipe: Recipe, workdir: Path) -> dict:
    return reward_model.run(
        workdir / "reward_model", required(recipe.reward_model), recipe.chat, *_place(recipe, workdir)
    )


def run_process_model(recipe: Recipe, workdir: Path) -> dict:
    return reward_model.run(
        workdir / "process_model", required(recipe.process_model), recipe.chat, *_place(recipe, workdir)
    )


def run_rl(recipe: Recipe, workdir: Path) -> dict:
    return trainer.run(required(recipe.rl), recipe.chat, workdir, *_place(recipe, workdir))


def run_evaluate(recipe: Recipe, workdir: Path) -> dict:
    return evaluate.run(required(recipe.evaluate), recipe.chat, workdir, *_place(recipe, workdir))


def run_report(recipe: Recipe, workdir: Path) -> dict:
    """Reports the finished stages."""
    return report.write(workdir) if jax.process_index() == 0 else {}


def _place(recipe: Recipe, workdir: Path) -> tuple[Path, Layout, int]:
    """The folder of the data, where arrays are, and the seed."""
    return data_folder(recipe.data_dir, workdir), Layout(make_mesh(recipe.mesh)), recipe.seed


# --- which earlier stages each reads ---


def _tokenizer_inputs(recipe: Recipe) -> tuple[str, ...]:
    return () if required(recipe.tokenizer).path else ("corpus",)


def _pretrain_inputs(recipe: Recipe) -> tuple[str, ...]:
    return (*(["corpus"] if any(map(sources.is_corpus, required(recipe.pretrain).mixture)) else []), "tokenizer")


def _sft_inputs(recipe: Recipe) -> tuple[str, ...]:
    return ("tokenizer",) if required(recipe.sft).init else ("tokenizer", "pretrain")


def _reward_inputs(name: str) -> Callable[[Recipe], tuple[str, ...]]:
    return lambda recipe: tuple(dict.fromkeys(("tokenizer", "sft", required(getattr(recipe, name)).init)))


def _rl_inputs(recipe: Recipe) -> tuple[str, ...]:
    reward_stage = required(recipe.rl).reward_stage
    return ("tokenizer", required(recipe.rl).init, *([reward_stage] if reward_stage else []))


def _evaluate_inputs(recipe: Recipe) -> tuple[str, ...]:
    return ("tokenizer", *(evaluate.stage_of(name) for name in required(recipe.evaluate).models))


def _user_files(files: Callable[[Recipe, Path], Sequence[Path]]) -> Callable[[Recipe, Path], Sequence[Path]]:
    """A stage's `input_files` from `(recipe, data folder) -> files`: none of the generated folder's are the user's."""
    return lambda recipe, workdir: [] if recipe.data_dir == "toy" else files(recipe, Path(recipe.data_dir))


def _record_files(names: Callable[[Recipe], Sequence[str]]) -> Callable[[Recipe, Path], Sequence[Path]]:
    """The same from the names of sets of questions: those that are the user's own files."""
    return _user_files(lambda recipe, data: [data / name for name in names(recipe) if name.endswith(".jsonl")])


def _rl_data(recipe: Recipe) -> tuple[str, ...]:
    settings = required(recipe.rl)
    return settings.data + settings.eval_data + settings.retrain_data


PARAMS = ("params.sha256.json", "model.json", "chat.json")
STAGES = (
    Stage(
        "corpus", run_corpus, ("data_dir", "toy", "corpus"), lambda recipe: (), ("documents/*",),
        input_files=_user_files(lambda recipe, data: pipeline.files(required(recipe.corpus), data)),
    ),
    Stage("tokenizer", run_tokenizer, ("data_dir", "tokenizer"), _tokenizer_inputs, ("tokenizer*",)),
    Stage(
        "pretrain", run_pretrain, ("data_dir", "mesh", "model", "pretrain"), _pretrain_inputs, PARAMS,
        input_files=_user_files(lambda recipe, data: sources.user_files(required(recipe.pretrain).mixture, data)),
    ),
    Stage(
        "sft", run_sft, ("data_dir", "mesh", "chat", "model", "sft"), _sft_inputs, PARAMS,
        input_files=_user_files(lambda recipe, data: instructions.user_files(required(recipe.sft).data, data)),
    ),
    Stage(
        "reward_model", run_reward_model, ("data_dir", "mesh", "chat", "reward_model"), _reward_inputs("reward_model"),
        (*PARAMS, reward_model.ROWS), input_files=_record_files(lambda recipe: required(recipe.reward_model).data),
    ),
    Stage(
        "process_model", run_process_model, ("data_dir", "mesh", "chat", "process_model"),
        _reward_inputs("process_model"), (*PARAMS, reward_model.ROWS),
        input_files=_record_files(lambda recipe: required(recipe.process_model).data),
    ),
    Stage(
        "rl", run_rl, ("data_dir", "mesh", "chat", "rl"), _rl_inputs, PARAMS,
        input_files=_record_files(_rl_data),
    ),
    Stage(
        "evaluate", run_evaluate, ("data_dir", "mesh", "chat", "evaluate"), _evaluate_inputs,
        ("summary.json", "*/*/samples.jsonl"),
        input_files=_record_files(lambda recipe: evaluate.data_sets(required(recipe.evaluate))),
    ),
    Stage("report", run_report, (), lambda recipe: (), ("report.json",), always_rerun=True),
)  # fmt: skip
