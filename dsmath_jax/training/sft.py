"""Stage `sft`: instructions with solutions through the chat template, loss on the solution only (paper §3)."""

import logging
from pathlib import Path

import jax
from ml_collections import ConfigDict

from dsmath_jax.data import instruction_rows, instructions, rows, shards, tokenizer
from dsmath_jax.data.batches import Batches
from dsmath_jax.sharding import Layout, MeshSettings, barrier, make_mesh
from dsmath_jax.training.fitting import fit_next_token
from dsmath_jax.training.model_files import build_model, import_params, read_model, read_params, write_config
from dsmath_jax.training.pretrain import check_length, model_sizes
from dsmath_jax.workdir import data_folder


def run(config: ConfigDict, workdir: Path) -> dict:
    """Reads `sft.data` (names and paths, see `data.instructions`), `tokenizer/` and the model that it begins with.

    `sft.init` is "" (what the stage `pretrain` left) or "hf:DIR". Writes `sft/{rows,params,model.json,...}`.
    """
    folder, layout = workdir / "sft", Layout(make_mesh(MeshSettings(**config.mesh)))
    stage, init = config.sft, config.sft.get("init", "")
    if init:
        text_tokenizer = tokenizer.load(workdir / "tokenizer")
        model = build_model(model_sizes(init, config, data_folder(config, workdir), text_tokenizer), layout)
    else:
        model = read_model(workdir / "pretrain", layout)
    check_length("sft", stage.sequence_length, model.config)
    mine = layout.my_rows(stage.batch_size)
    train = folder / "rows" / "train"
    if jax.process_index() == 0 and not (train / rows.shard_name(0)).exists():
        _write_rows(config, workdir, train)
    barrier("sft rows")
    write_config(folder, model.config)
    batches = Batches([(train, 1.0)], stage.sequence_length, stage.batch_size, config.seed, mine)
    if init:
        params = import_params(data_folder(config, workdir) / init.removeprefix("hf:"), model.config, layout)
    else:
        params = read_params(workdir / "pretrain", model.config, layout)
    held_out = shards.held_out_of([train])
    fit_next_token("sft", folder, stage, layout, model, batches, held_out, params=params)
    return {}


def _write_rows(config: ConfigDict, workdir: Path, train: Path) -> None:
    stage, data_dir = config.sft, data_folder(config, workdir)
    counts = instruction_rows.write(
        (one for name in stage.data for one in instructions.load(name, data_dir)),
        workdir / "tokenizer", stage.sequence_length, config.seed, stage.eval_rows,
        train / rows.shard_name(0), shards.held_out_folder(train) / rows.shard_name(0),
    )  # fmt: skip
    if counts["too_long"]:
        count = counts["too_long"] + counts["examples"]
        logging.warning(
            "sft: %d of %d examples are longer than %d tokens and left out.",
            counts["too_long"], count, stage.sequence_length,
        )  # fmt: skip
