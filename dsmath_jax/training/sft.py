"""Stage `sft`: instructions with solutions through the chat template, loss on the solution only (paper §3)."""

import logging
from pathlib import Path

import jax

from dsmath_jax.data import chat as chats
from dsmath_jax.data import instruction_rows, instructions, rows, shards
from dsmath_jax.data import tokenizer as tokenizers
from dsmath_jax.data.batches import Batches
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.sharding import Layout, barrier
from dsmath_jax.training.fitting import fit_next_token
from dsmath_jax.training.model_files import build_model, import_params, read_model, read_params, write_config
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.pretrain import check_length, model_config
from dsmath_jax.training.settings import SFTSettings
from dsmath_jax.training.step import state_of


def run(
    settings: SFTSettings,
    sizes: ModelConfig | None,
    chat: ChatSettings,
    workdir: Path,
    data_dir: Path,
    layout: Layout,
    seed: int,
) -> dict[str, int]:
    """Reads `sft.data` (names and paths, see `data.instructions`), `tokenizer/` and the model to start from.

    That is what the stage `pretrain` left, or `sft.init`. Writes `sft/{rows,params,model.json,chat.json,...}`. The
    arguments are those of `pretrain.run`, and how the model is asked.
    """
    folder, init, source = workdir / "sft", settings.init, chats.Source(workdir / "tokenizer", chat)
    if init:
        tokenizer = tokenizers.load(workdir / "tokenizer")
        model = build_model(model_config(init, sizes, data_dir, tokenizer), layout)
    else:
        model = read_model(workdir / "pretrain", layout)
    check_length("sft", settings.sequence_length, model.config)
    mine = layout.my_rows(settings.batch_size)
    train = folder / "rows" / "train"
    if jax.process_index() == 0 and not (train / rows.shard_name(0)).exists():
        _write_rows(settings, source, data_dir, train, seed)
    barrier("sft rows")
    write_config(folder, model.config, chats.read(source))
    batches = Batches(
        [(train, 1.0)], settings.sequence_length, settings.batch_size, seed, mine, settings.mask_documents
    )  # fmt: skip
    if init:
        params = import_params(data_dir / init.removeprefix("hf:"), model.config, layout)
    else:
        params = read_params(workdir / "pretrain", model.config, layout)
    state = state_of(params, make_optimizer(settings), layout)
    del params
    fit_next_token(folder, settings, layout, model, state, batches, shards.held_out_of([train]))
    return {}


def _write_rows(settings: SFTSettings, source: chats.Source, data_dir: Path, train: Path, seed: int) -> None:
    counts = instruction_rows.write(
        (one for name in settings.data for one in instructions.load(name, data_dir)),
        source, settings.sequence_length, seed, settings.eval_rows,
        train / rows.shard_name(0), shards.held_out_folder(train) / rows.shard_name(0),
    )  # fmt: skip
    if counts["too_long"]:
        count = counts["too_long"] + counts["examples"]
        logging.warning(
            "sft: %d of %d examples are longer than %d tokens and left out.",
            counts["too_long"], count, settings.sequence_length,
        )  # fmt: skip
