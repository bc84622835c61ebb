"""Stage `pretrain` (paper §2.2): next-token training on packed documents, from scratch or an existing model."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax

from dsmath_jax.data import shards, sources
from dsmath_jax.data import tokenizer as tokenizers
from dsmath_jax.data.batches import Batches
from dsmath_jax.data.hub import HUGGING_FACE
from dsmath_jax.data.tokenizer import Tokenizer
from dsmath_jax.models import huggingface
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, Params, initial_params
from dsmath_jax.models.huggingface.families import RUNTIME
from dsmath_jax.sharding import Layout, barrier
from dsmath_jax.training import loop
from dsmath_jax.training.model_files import (
    abstract_params,
    build_model,
    default_compute_dtype,
    import_params,
    read_model,
    read_params,
    write_config,
)
from dsmath_jax.training.next_token import train_next_token
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.settings import PackedSettings, PretrainSettings, hugging_face_folder
from dsmath_jax.training.step import init_state, state_from_params
from dsmath_jax.workdir import UserError


def run(
    settings: PretrainSettings,
    model_section: ModelConfig | None,
    workdir: Path,
    data_dir: Path,
    layout: Layout,
    seed: int,
) -> dict[str, int]:
    """Runs the stage: reads the sources of `pretrain.mixture` and `tokenizer/`, writes `pretrain/{rows,params,...}`.

    Args:
      settings: of the stage.
      model_section: the recipe's `model` section.
      workdir: of the run.
      data_dir: the folder of the user's data.
      layout: of the model and the batches.
      seed: of the parameters and the order of the rows.

    Raises:
      UserError: a source, the tokenizer or the initial model is invalid.
    """
    folder, tokenizer = workdir / "pretrain", tokenizers.load(workdir / "tokenizer")
    config = model_config(settings.init, model_section, data_dir, tokenizer)
    check_length("pretrain", settings.sequence_length, config)
    my_rows = layout.my_rows(settings.batch_size)
    folders = write_rows(settings, workdir, data_dir)
    write_config(folder, config)
    model = build_model(config, layout)
    weights = list(zip(folders, settings.mixture.values(), strict=True))
    batches = Batches(weights, settings.sequence_length, settings.batch_size, seed, my_rows, settings.mask_documents)
    held_out, optimizer = shards.held_out_folders(folders), make_optimizer(settings)
    if source := hugging_face_folder(settings.init, data_dir):
        state = state_from_params(import_params(source, config, layout), optimizer, layout)
    else:
        state = init_state(lambda: initial_params(model, jax.random.key(seed)), optimizer, layout)
    train_next_token(folder, settings, layout, model, state, batches, held_out)
    return {"parameters": sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config, layout)))}


def check(settings: PretrainSettings, config: ModelConfig | None, data_dir: Path, layout: Layout) -> None:
    """Raises a `UserError` where `run` would, as far as that is known before the run.

    `config` is that of the model, None where it is not known yet.
    """
    for name in settings.mixture:
        sources.check(name, data_dir)
    if config:
        check_packed("pretrain", settings, config, layout)


def check_packed(stage: str, settings: PackedSettings, config: ModelConfig, layout: Layout) -> None:
    """Raises a `UserError` where the settings do not fit the model or the mesh."""
    check_length(stage, settings.sequence_length, config)
    layout.check_context(settings.sequence_length)
    loop.check(settings, settings.batch_size, layout)
    build_model(config, layout)


def model_config(
    init: str, model_section: ModelConfig | None, data_dir: Path, tokenizer: Tokenizer | None
) -> ModelConfig:
    """Returns the config of a stage's model: from the recipe's `model` section, or from the folder of "hf:DIR".

    A `vocab_size` of 0 becomes the tokenizer's; it stays 0 where the tokenizer is not known yet.

    Raises:
      UserError: there is neither, the tokenizer does not fit the model, or the folder is invalid.
    """
    if folder := hugging_face_folder(init, data_dir):
        where = str(folder)
        chosen = {"compute_dtype": default_compute_dtype()}
        if model_section:
            chosen = {name: getattr(model_section, name) for name in RUNTIME}
        config = huggingface.read_config(folder, **chosen)
    elif model_section is None:
        raise UserError("The recipe has no section 'model'; add it, or name a model to start from as init=hf:DIR.")
    else:
        where = "config.model.vocab_size"
        vocab_size = model_section.vocab_size or (tokenizer.vocab_size if tokenizer else 0)
        config = dataclasses.replace(model_section, vocab_size=vocab_size)
    if tokenizer:
        tokenizers.check_vocab_size(tokenizer, config.vocab_size, where)
    return config


def initial_model(
    init: str,
    model_section: ModelConfig | None,
    workdir: Path,
    data_dir: Path,
    tokenizer: Tokenizer | None,
    layout: Layout,
) -> tuple[Decoder, Callable[..., Params]]:
    """Returns the decoder that training starts from, and a function that reads its parameters.

    That takes `frozen=True` for parameters that are not trained, see `model_files.read_params`.

    Args:
      init: a finished stage of `workdir`, or "hf:DIR" below `data_dir`.
      model_section: of the recipe; an imported model has its compute_dtype, remat and attention.
      workdir: of the run.
      data_dir: the data folder.
      tokenizer: of the run.
      layout: of the parameters.

    Raises:
      UserError: as `model_config`, or the stage has no model.
    """
    if folder := hugging_face_folder(init, data_dir):
        config = model_config(init, model_section, data_dir, tokenizer)
        return build_model(config, layout), functools.partial(import_params, folder, config, layout)
    model = read_model(workdir / init, layout)
    return model, functools.partial(read_params, workdir / init, model.config, layout)


def model_location(init: str, workdir: Path, data_dir: Path) -> str:
    """Returns where the model `init` of `initial_model` is: the folder of its stage, or "hf:" and its folder."""
    folder = hugging_face_folder(init, data_dir)
    return f"{HUGGING_FACE}{folder}" if folder else str(workdir / init)


def check_length(stage: str, length: int, config: ModelConfig) -> None:
    """Raises a `UserError` where a stage's sequences are longer than the model's context."""
    if length > config.max_position_embeddings:
        raise UserError(
            f"{stage}.sequence_length {length} exceeds the model's context {config.max_position_embeddings}; lower it."
        )


def write_rows(settings: PretrainSettings, workdir: Path, data_dir: Path) -> list[Path]:
    """Writes the packed rows of every source, each process its share; returns their folders."""
    rows, documents = workdir / "pretrain" / "rows", workdir / "corpus" / "documents"
    folders = [rows / name.replace("/", "-") for name in settings.mixture]

    def plans() -> list[list[shards.Shard]]:
        texts = [sources.find(name, data_dir, documents) for name in settings.mixture]
        options = (workdir / "tokenizer", settings.sequence_length, settings.eval_rows)
        return [shards.plan(folder, source, *options) for folder, source in zip(folders, texts, strict=True)]

    if jax.process_index() == 0:  # lists of remote files are fetched once
        for plan in plans():
            shards.check_file_list(plan)
    barrier("pretrain sources")
    shards.write([shard for plan in plans() for shard in plan], jax.process_index(), jax.process_count())
    barrier("pretrain rows")
    return folders
