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


def given(part: T | None) -> T:
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
        return pipeline.mine(given(recipe.corpus), recipe.seed, data_dir, workdir / "corpus")
    return {}


def run_tokenizer(recipe: Recipe, workdir: Path) -> dict:
    """Trains SentencePiece on the kept documents, or copies the tokenizer that `tokenizer.path` names."""
    folder, settings = workdir / "tokenizer", given(recipe.tokenizer)
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
    return pretrain.run(given(recipe.pretrain), recipe.model, workdir, *_place(recipe, workdir))


def run_sft(recipe: Recipe, workdir: Path) -> dict:
    return sft.run(given(recipe.sft), recipe.model, workdir, *_place(recipe, workdir))


def run_reward_model(recipe: Recipe, workdir: Path) -> dict:
    return reward_model.run(workdir / "reward_model", given(recipe.reward_model), *_place(recipe, workdir))


def run_process_model(recipe: Recipe, workdir: Path) -> dict:
    return reward_model.run(workdir / "process_model", given(recipe.process_model), *_place(recipe, workdir))


def run_rl(recipe: Recipe, workdir: Path) -> dict:
    return trainer.run(given(recipe.rl), workdir, *_place(recipe, workdir))


def run_evaluate(recipe: Recipe, workdir: Path) -> dict:
    return evaluate.run(given(recipe.evaluate), workdir, *_place(recipe, workdir))


def run_report(recipe: Recipe, workdir: Path) -> dict:
    """Reports the finished stages."""
    return report.write(workdir) if jax.process_index() == 0 else {}


def _place(recipe: Recipe, workdir: Path) -> tuple[Path, Layout, int]:
    """The folder of the data, where arrays are, and the seed."""
    return data_folder(recipe.data_dir, workdir), Layout(make_mesh(recipe.mesh)), recipe.seed


# --- which earlier stages each reads ---


def _tokenizer_inputs(recipe: Recipe) -> tuple[str, ...]:
    return () if given(recipe.tokenizer).path else ("corpus",)


def _pretrain_inputs(recipe: Recipe) -> tuple[str, ...]:
    return (*(["corpus"] if any(map(sources.is_corpus, given(recipe.pretrain).mixture)) else []), "tokenizer")


def _sft_inputs(recipe: Recipe) -> tuple[str, ...]:
    return ("tokenizer",) if given(recipe.sft).init else ("tokenizer", "pretrain")


def _reward_inputs(name: str) -> Callable[[Recipe], tuple[str, ...]]:
    return lambda recipe: tuple(dict.fromkeys(("tokenizer", "sft", given(getattr(recipe, name)).init)))


def _rl_inputs(recipe: Recipe) -> tuple[str, ...]:
    reward_stage = given(recipe.rl).reward_stage
    return ("tokenizer", given(recipe.rl).init, *([reward_stage] if reward_stage else []))


def _evaluate_inputs(recipe: Recipe) -> tuple[str, ...]:
    return ("tokenizer", *(evaluate.stage_of(name) for name in given(recipe.evaluate).models))


def _user_files(files: Callable[[Recipe, Path], Sequence[Path]]) -> Callable[[Recipe, Path], Sequence[Path]]:
    """A stage's `input_files` from `(recipe, data folder) -> files`: none of the generated folder's are the user's."""
    return lambda recipe, workdir: [] if recipe.data_dir == "toy" else files(recipe, Path(recipe.data_dir))


def _rl_files(recipe: Recipe, data_dir: Path) -> list[Path]:
    """Those of the questions that are in the user's own files."""
    settings = given(recipe.rl)
    return [data_dir / name for name in settings.data + settings.eval_data if name.endswith(".jsonl")]


PARAMS = ("params.sha256.json", "model.json")
STAGES = (
    Stage(
        "corpus", run_corpus, ("data_dir", "toy", "corpus"), lambda recipe: (), ("documents/*",),
        input_files=_user_files(lambda recipe, data: pipeline.files(given(recipe.corpus), data)),
    ),
    Stage("tokenizer", run_tokenizer, ("data_dir", "tokenizer"), _tokenizer_inputs, ("tokenizer*",)),
    Stage(
        "pretrain", run_pretrain, ("data_dir", "mesh", "model", "pretrain"), _pretrain_inputs, PARAMS,
        input_files=_user_files(lambda recipe, data: sources.user_files(given(recipe.pretrain).mixture, data)),
    ),
    Stage(
        "sft", run_sft, ("data_dir", "mesh", "model", "sft"), _sft_inputs, PARAMS,
        input_files=_user_files(lambda recipe, data: instructions.user_files(given(recipe.sft).data, data)),
    ),
    Stage(
        "reward_model", run_reward_model, ("data_dir", "mesh", "reward_model"), _reward_inputs("reward_model"),
        (*PARAMS, reward_model.ROWS),
    ),
    Stage(
        "process_model", run_process_model, ("data_dir", "mesh", "process_model"), _reward_inputs("process_model"),
        (*PARAMS, reward_model.ROWS),
    ),
    Stage(
        "rl", run_rl, ("data_dir", "mesh", "rl"), _rl_inputs, PARAMS,
        input_files=_user_files(_rl_files),
    ),
    Stage("evaluate", run_evaluate, ("data_dir", "mesh", "evaluate"), _evaluate_inputs, ("*.json*",)),
    Stage("report", run_report, (), lambda recipe: (), ("report.json",), always_rerun=True),
)  # fmt: skip
