"""Stage `pretrain`: documents tokenised, packed and trained on, from scratch or from a Hugging Face folder.

Paper §2.2.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dsmath_jax.data import shards, sources, tokenizer
from dsmath_jax.data.batches import Batches
from dsmath_jax.models import huggingface
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.llama import initial_params
from dsmath_jax.sharding import Layout, MeshSettings, barrier, make_mesh
from dsmath_jax.training.fitting import fit_next_token
from dsmath_jax.training.model_files import abstract_params, build_model, import_params, write_config
from dsmath_jax.workdir import UserError, data_folder

OURS_TO_CHOOSE = ("compute_dtype", "remat", "attention")  # fields of config.model that no Hugging Face folder states


def run(config: ConfigDict, workdir: Path) -> dict:
    """Reads the sources of `pretrain.mixture` and `tokenizer/`; writes `pretrain/{rows,params,model.json,...}`.

    `pretrain.mixture` weighs the sources by name, see `data.sources`. `pretrain.init` is "" (from scratch, sizes from
    `model`) or "hf:DIR". With `pretrain.mask_documents` False attention goes across the documents of a row.
    """
    folder, layout = workdir / "pretrain", Layout(make_mesh(MeshSettings(**config.mesh)))
    stage, text_tokenizer = config.pretrain, tokenizer.load(workdir / "tokenizer")
    sizes = model_sizes(stage.init, config, data_folder(config, workdir), text_tokenizer)
    check_length("pretrain", stage.sequence_length, sizes)
    rows = layout.my_rows(stage.batch_size)
    folders = write_rows(config, workdir)
    write_config(folder, sizes)
    model = build_model(sizes, layout)
    batches = Batches(
        list(zip(folders, stage.mixture.values(), strict=True)), stage.sequence_length, stage.batch_size, config.seed,
        rows, stage.get("mask_documents", True),
    )  # fmt: skip
    held_out = shards.held_out_of(folders)
    source = data_folder(config, workdir) / stage.init.removeprefix("hf:")
    fit_next_token(
        "pretrain", folder, stage, layout, model, batches, held_out,
        make_params=None if stage.init else lambda: initial_params(model, jax.random.key(config.seed)),
        params=import_params(source, sizes, layout) if stage.init else None,
    )  # fmt: skip
    return {"parameters": _count(abstract_params(sizes, layout))}


def model_sizes(init: str, config: ConfigDict, data_dir: Path, text_tokenizer: tokenizer.Tokenizer) -> ModelConfig:
    """The sizes of the model that a stage begins with: those of `config.model`, or those of the folder of "hf:DIR".

    A `vocab_size` of 0 is the tokenizer's.

    Raises:
      UserError: the tokenizer's vocabulary is not the model's, or the folder cannot be used.
    """
    stated = dict(config.get("model", {}))
    if init:
        where = str(data_dir / init.removeprefix("hf:"))
        ours = {name: stated[name] for name in OURS_TO_CHOOSE if name in stated}
        sizes = huggingface.read_config(Path(where), **ours)
    else:
        where = "config.model.vocab_size"
        sizes = ModelConfig(**stated | {"vocab_size": stated.get("vocab_size") or text_tokenizer.vocab_size})
    tokenizer.vocabulary_fits(text_tokenizer, sizes.vocab_size, where)
    return sizes


def check_length(stage: str, length: int, sizes: ModelConfig) -> None:
    """Raises a `UserError` where a stage's sequences are longer than what the model can read."""
    if length > sizes.context:
        raise UserError(f"{stage}.sequence_length {length} exceeds the model's context {sizes.context}; lower it.")


def write_rows(config: ConfigDict, workdir: Path) -> list[Path]:
    """Makes the packed rows of every source, each process its part; returns their folders."""
    stage, rows = config.pretrain, workdir / "pretrain" / "rows"
    data_dir, documents = data_folder(config, workdir), workdir / "corpus" / "documents"
    folders = [rows / name.replace("/", "-") for name in stage.mixture]

    def plans() -> list[list[shards.Shard]]:
        texts = [sources.find(name, data_dir, documents) for name in stage.mixture]
        settings = (workdir / "tokenizer", stage.sequence_length, stage.eval_rows)
        return [shards.plan(folder, one, *settings) for folder, one in zip(folders, texts, strict=True)]

    if jax.process_index() == 0:  # what is on the web is listed once
        for plan in plans():
            shards.settle(plan)
    barrier("pretrain sources")
    shards.write([shard for plan in plans() for shard in plan], jax.process_index(), jax.process_count())
    barrier("pretrain rows")
    return folders


def _count(params: Any) -> int:
    return int(sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params)))
