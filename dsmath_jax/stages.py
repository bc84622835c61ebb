"""The stages of the paper's path in order: what each sees of the config, which stages it reads, what it leaves."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from dsmath_jax.corpus import pipeline
from dsmath_jax.corpus.settings import CorpusSettings
from dsmath_jax.data import chat, documents, instructions, sources, tokenizer
from dsmath_jax.data.settings import TokenizerSettings
from dsmath_jax.evaluation import evaluate
from dsmath_jax.report import report
from dsmath_jax.rl import loop as rl
from dsmath_jax.rl import methods, reward_stage
from dsmath_jax.runner import Stage
from dsmath_jax.settings import build
from dsmath_jax.sharding import barrier
from dsmath_jax.toy import world
from dsmath_jax.toy.settings import ToySettings
from dsmath_jax.training import pretrain, sft
from dsmath_jax.workdir import data_folder


def corpus(config: ConfigDict, workdir: Path) -> dict:
    """WARC files to documents; with `data_dir` "toy" the web is generated first."""
    if jax.process_index() == 0:
        if config.data_dir == "toy":
            toy = build(ToySettings, config.toy.to_dict(), "toy.")
            world.write(data_folder(config, workdir), config.seed, toy)
        return pipeline.mine(corpus_settings(config), config.seed, data_folder(config, workdir), workdir / "corpus")
    return {}


def corpus_settings(config: ConfigDict) -> CorpusSettings:
    """The typed settings of the config's part `corpus`."""
    return build(CorpusSettings, config.corpus.to_dict(), "corpus.")


def train_tokenizer(config: ConfigDict, workdir: Path) -> dict:
    """Trains SentencePiece on the kept documents, or copies the tokenizer that `tokenizer.path` names."""
    settings, folder = build(TokenizerSettings, config.tokenizer.to_dict(), "tokenizer."), workdir / "tokenizer"
    if jax.process_index() == 0:
        if settings.path:
            tokenizer.copy(data_folder(config, workdir) / settings.path, folder)
        else:
            texts = documents.texts(workdir / "corpus" / "documents")
            tokenizer.train_sentencepiece(texts, folder / "tokenizer.model", settings.vocab_size, chat.MARKERS)
    barrier("tokenizer")
    return {"pieces": tokenizer.load(folder).vocab_size}


def write_report(config: ConfigDict, workdir: Path) -> dict:
    """Tells of the stages that are finished."""
    return report.write(workdir) if jax.process_index() == 0 else {}


def _tokenizer_inputs(config: ConfigDict) -> tuple[str, ...]:
    return () if config.tokenizer.path else ("corpus",)


def _pretrain_inputs(config: ConfigDict) -> tuple[str, ...]:
    return (*(["corpus"] if any(map(sources.is_corpus, config.pretrain.mixture)) else []), "tokenizer")


def _sft_inputs(config: ConfigDict) -> tuple[str, ...]:
    return ("tokenizer",) if config.sft.get("init") else ("tokenizer", "pretrain")


def _reward_stage(name: str) -> Stage:
    return Stage(
        name, functools.partial(reward_stage.run, name), (*RUN, name),
        lambda config: tuple(dict.fromkeys(("tokenizer", "sft", config[name].init))), (*PARAMS, reward_stage.ROWS),
    )  # fmt: skip


def _rl_inputs(config: ConfigDict) -> tuple[str, ...]:
    reward = methods.method_of(config.rl).reward
    return ("tokenizer", config.rl.init, *([methods.REWARD_STAGES[reward]] if reward in methods.REWARD_STAGES else []))


def _evaluate_inputs(config: ConfigDict) -> tuple[str, ...]:
    return ("tokenizer", *(evaluate.stage_of(name) for name in config.evaluate.models))


def _own(files: Callable[[ConfigDict, Path], Sequence[Path]]) -> Callable[[ConfigDict, Path], Sequence[Path]]:
    """A stage's `reads` from `(config, data folder) -> files`: none of the generated folder's are the user's."""
    return lambda config, workdir: [] if config.data_dir == "toy" else files(config, data_folder(config, workdir))


DATA = ("data_dir", "toy")
RUN = ("data_dir", "mesh")
PARAMS = ("params.sha256.json", "model.json")
STAGES = (
    Stage(
        "corpus", corpus, (*DATA, "corpus"), lambda c: (), ("documents/*",), optional=("toy",),
        reads=_own(lambda c, data: pipeline.files(corpus_settings(c), data)),
    ),
    Stage("tokenizer", train_tokenizer, ("data_dir", "tokenizer"), _tokenizer_inputs, ("tokenizer*",)),
    Stage(
        "pretrain", pretrain.run, (*RUN, "model", "pretrain"), _pretrain_inputs, PARAMS, optional=("model",),
        reads=_own(lambda c, data: sources.user_files(c.pretrain.mixture, data)),
    ),
    Stage(
        "sft", sft.run, (*RUN, "model", "sft"), _sft_inputs, PARAMS, optional=("model",),
        reads=_own(lambda c, data: instructions.user_files(c.sft.data, data)),
    ),
    _reward_stage("reward_model"),
    _reward_stage("process_model"),
    Stage("rl", rl.run, (*RUN, "rl"), _rl_inputs, PARAMS),
    Stage("evaluate", evaluate.run, (*RUN, "evaluate"), _evaluate_inputs, ("*.json*",)),
    Stage("report", write_report, (), lambda c: (), ("report.json",), derived=True),
)  # fmt: skip
