"""Stage `sft`: training on instructions in the chat template, with loss on the solution only (paper §3)."""

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
from dsmath_jax.training.lora import Adapters, trainable, write_adapters
from dsmath_jax.training.model_files import write_config
from dsmath_jax.training.next_token import train_next_token
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.pretrain import check_length, initial_model, model_location
from dsmath_jax.training.settings import SFTSettings
from dsmath_jax.training.step import state_from_params


def run(
    settings: SFTSettings,
    model_section: ModelConfig | None,
    chat: ChatSettings,
    workdir: Path,
    data_dir: Path,
    layout: Layout,
    seed: int,
) -> dict[str, int]:
    """Runs the stage: reads `sft.data` (see `data.instructions`), `tokenizer/` and the initial model.

    The initial model is `sft.init`, by default that of the stage `pretrain`. Writes `sft/{rows,params,model.json,...}`;
    with LoRA, `params` are the adapters, and `lora.json` names the initial model.
    The arguments are those of `pretrain.run` and the chat settings.
    """
    folder, source = workdir / "sft", chats.ChatSource(workdir / "tokenizer", chat)
    tokenizer = tokenizers.load(workdir / "tokenizer")
    (init,) = settings.models
    model, read_initial_params = initial_model(init, model_section, workdir, data_dir, tokenizer, layout)
    check_length("sft", settings.sequence_length, model.config)
    my_rows = layout.my_rows(settings.batch_size)
    train = folder / "rows" / "train"
    if jax.process_index() == 0 and not (train / rows.shard_name(0)).exists():
        _write_rows(settings, source, data_dir, train, seed)
    barrier("sft rows")
    write_config(folder, model.config, chats.read(source))
    if settings.lora:
        write_adapters(folder, Adapters(settings.lora, model_location(init, workdir, data_dir)))
    batches = Batches(
        [(train, 1.0)], settings.sequence_length, settings.batch_size, seed, my_rows, settings.mask_documents
    )  # fmt: skip
    trained = trainable(settings.lora, read_initial_params, model, layout, seed)
    state = state_from_params(trained.read(), make_optimizer(settings), layout)
    held_out = shards.held_out_folders([train])
    train_next_token(folder, settings, layout, model, state, batches, held_out, trained.frozen)
    return {}


def _write_rows(settings: SFTSettings, source: chats.ChatSource, data_dir: Path, train: Path, seed: int) -> None:
    counts = instruction_rows.write(
        (record for name in settings.data for record in instructions.load(name, data_dir, settings.columns)),
        source, settings.sequence_length, seed, settings.eval_rows,
        train / rows.shard_name(0), shards.held_out_folder(train) / rows.shard_name(0),
    )  # fmt: skip
    if counts["too_long"]:
        count = counts["too_long"] + counts["examples"]
        logging.warning(
            "sft: %d of %d examples are longer than %d tokens and left out.",
            counts["too_long"], count, settings.sequence_length,
        )  # fmt: skip
