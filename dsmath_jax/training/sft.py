"""Stage `sft`: problems with worked solutions through the chat template, loss on the solution only (paper §3)."""

import logging
import random
from pathlib import Path

import jax
from ml_collections import ConfigDict

from dsmath_jax.data import benchmarks, chat, packing, tokenizer
from dsmath_jax.data.batches import Batches
from dsmath_jax.sharding import barrier, make_mesh
from dsmath_jax.training.fitting import fit_next_token
from dsmath_jax.training.model_files import read_model, read_params, write_config
from dsmath_jax.workdir import UserError, data_folder

HELD_OUT_SHARE = 0.1


def run(config: ConfigDict, workdir: Path) -> dict:
    """Reads `sft.data` (benchmark splits), `tokenizer/` and `pretrain/`.

    Writes `sft/{rows,params,model.json,metrics.jsonl}`.
    """
    folder, mesh = workdir / "sft", make_mesh(**config.mesh)
    train, held_out = folder / "rows" / "train.array_record", folder / "rows" / "held-out.array_record"
    model = read_model(workdir / "pretrain", mesh)
    length = config.sft.sequence_length
    if length > model.config.context:
        raise UserError(f"sft.sequence_length {length} exceeds the model's context {model.config.context}; lower it.")
    if jax.process_index() == 0 and not (train.exists() and held_out.exists()):
        _write_rows(config, workdir, train, held_out)
    barrier("sft rows")
    write_config(folder, model.config)
    batches = Batches(
        [(train, 1.0)], length, config.sft.batch_size, config.seed, jax.process_index(), jax.process_count()
    )  # fmt: skip
    params = read_params(workdir / "pretrain", model.config, mesh)
    fit_next_token("sft", folder, config.sft, mesh, model, batches, [held_out], params=params)
    return {}


def _write_rows(config: ConfigDict, workdir: Path, train: Path, held_out: Path) -> None:
    text_tokenizer, length = tokenizer.load(workdir / "tokenizer"), config.sft.sequence_length
    examples, too_long = [], 0
    for name in config.sft.data:
        for record in benchmarks.load(name, data_folder(config, workdir)):
            prompt = chat.prompt_ids(text_tokenizer, record.question)
            completion = chat.completion_ids(text_tokenizer, record.solution)
            if len(prompt) + len(completion) > length + 1:
                too_long += 1
                continue
            learn = [False] * len(prompt) + [True] * len(completion)
            examples.append(packing.Example(prompt + completion, learn))
    if too_long:
        count = too_long + len(examples)
        logging.warning("sft: %d of %d examples are longer than %d tokens and left out.", too_long, count, length)
    random.Random(f"sft {config.seed}").shuffle(examples)
    kept_apart = int(len(examples) * HELD_OUT_SHARE)
    if not kept_apart:
        raise UserError(f"sft.data gives {len(examples)} examples that fit {length} tokens; at least 10 are needed.")
    packing.write_rows(held_out, packing.fit_whole(examples[:kept_apart], length))
    packing.write_rows(train, packing.fit_whole(examples[kept_apart:], length))
