"""Stage `pretrain` (paper §2.2): next-token training on packed documents, from scratch or from a given model."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dsmath_jax.data import shards, sources
from dsmath_jax.data import tokenizer as tokenizers
from dsmath_jax.data.batches import Batches
from dsmath_jax.data.tokenizer import Tokenizer
from dsmath_jax.models import huggingface
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.llama import initial_params
from dsmath_jax.sharding import Layout, barrier
from dsmath_jax.training import loop
from dsmath_jax.training.fitting import fit_next_token
from dsmath_jax.training.model_files import abstract_params, build_model, check_import, import_params, write_config
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.settings import PackedSettings, PretrainSettings
from dsmath_jax.training.step import init_state, state_of
from dsmath_jax.workdir import UserError

RUN_CHOOSES = ("compute_dtype", "remat", "attention")  # fields of config.model that no Hugging Face folder states


def run(
    settings: PretrainSettings, sizes: ModelConfig | None, workdir: Path, data_dir: Path, layout: Layout, seed: int
) -> dict[str, int]:
    """Reads the sources of `pretrain.mixture` and `tokenizer/`; writes `pretrain/{rows,params,model.json,...}`.

    Args:
      settings: of the stage.
      sizes: the recipe's part `model`.
      workdir: of the run.
      data_dir: the folder of the user's data.
      layout: where the model is trained.
      seed: of the parameters and the order of the rows.

    Raises:
      UserError: a source, the tokenizer or the model to start from cannot be used.
    """
    folder, tokenizer = workdir / "pretrain", tokenizers.load(workdir / "tokenizer")
    config = model_config(settings.init, sizes, data_dir, tokenizer)
    check_length("pretrain", settings.sequence_length, config)
    mine = layout.my_rows(settings.batch_size)
    folders = write_rows(settings, workdir, data_dir)
    write_config(folder, config)
    model = build_model(config, layout)
    weights = list(zip(folders, settings.mixture.values(), strict=True))
    batches = Batches(
        weights, settings.sequence_length, settings.batch_size, seed, mine, settings.mask_documents
    )  # fmt: skip
    held_out, optimizer = shards.held_out_of(folders), make_optimizer(settings)
    if settings.init:
        source = data_dir / settings.init.removeprefix("hf:")
        state = state_of(import_params(source, config, layout), optimizer, layout)
    else:
        state = init_state(lambda: initial_params(model, jax.random.key(seed)), optimizer, layout)
    fit_next_token(folder, settings, layout, model, state, batches, held_out)
    return {"parameters": _count(abstract_params(config, layout))}


def check(
    settings: PretrainSettings, sizes: ModelConfig | None, data_dir: Path, tokenizer: Tokenizer | None, layout: Layout
) -> None:
    """Raises a `UserError` where `run` with these arguments would, as far as that is known before the run.

    A tokenizer that the run has yet to train is None.
    """
    for name in settings.mixture:
        sources.check(name, data_dir)
    check_packed("pretrain", settings, model_config(settings.init, sizes, data_dir, tokenizer), data_dir, layout)


def check_packed(stage: str, settings: PackedSettings, config: ModelConfig, data_dir: Path, layout: Layout) -> None:
    """Raises a `UserError` where packed rows cannot be trained on, or the model to start from cannot be read."""
    check_length(stage, settings.sequence_length, config)
    layout.check_context(settings.sequence_length)
    loop.check(settings, settings.batch_size, layout)
    build_model(config, layout)
    if settings.init:
        check_import(data_dir / settings.init.removeprefix("hf:"), config, layout)


def model_config(init: str, sizes: ModelConfig | None, data_dir: Path, tokenizer: Tokenizer | None) -> ModelConfig:
    """The model that a stage starts from: that of the part `model`, or that of the folder of "hf:DIR".

    A `vocab_size` of 0 is the tokenizer's; it stays 0 where the tokenizer is not known yet.

    Raises:
      UserError: there is neither, the tokenizer's vocabulary is not the model's, or the folder cannot be used.
    """
    if init:
        where = str(data_dir / init.removeprefix("hf:"))
        chosen = {name: getattr(sizes, name) for name in RUN_CHOOSES} if sizes else {}
        config = huggingface.read_config(Path(where), **chosen)
    elif sizes is None:
        raise UserError("The recipe has no part model; add it, or name a model to start from as init=hf:DIR.")
    else:
        where = "config.model.vocab_size"
        vocab_size = sizes.vocab_size or (tokenizer.vocab_size if tokenizer else 0)
        config = dataclasses.replace(sizes, vocab_size=vocab_size)
    if tokenizer:
        tokenizers.vocabulary_fits(tokenizer, config.vocab_size, where)
    return config


def check_length(stage: str, length: int, config: ModelConfig) -> None:
    """Raises a `UserError` where a stage's sequences are longer than what the model can read."""
    if length > config.max_position_embeddings:
        raise UserError(
            f"{stage}.sequence_length {length} exceeds the model's context {config.max_position_embeddings}; lower it."
        )


def write_rows(settings: PretrainSettings, workdir: Path, data_dir: Path) -> list[Path]:
    """Makes the packed rows of every source, each process its part; returns their folders."""
    rows, documents = workdir / "pretrain" / "rows", workdir / "corpus" / "documents"
    folders = [rows / name.replace("/", "-") for name in settings.mixture]

    def plans() -> list[list[shards.Shard]]:
        texts = [sources.find(name, data_dir, documents) for name in settings.mixture]
        made = (workdir / "tokenizer", settings.sequence_length, settings.eval_rows)
        return [shards.plan(folder, one, *made) for folder, one in zip(folders, texts, strict=True)]

    if jax.process_index() == 0:  # what is on the web is listed once
        for plan in plans():
            shards.settle(plan)
    barrier("pretrain sources")
    shards.write([shard for plan in plans() for shard in plan], jax.process_index(), jax.process_count())
    barrier("pretrain rows")
    return folders


def _count(params: Any) -> int:
    return int(sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params)))
