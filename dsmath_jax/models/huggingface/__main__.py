"""Converts models between Hugging Face folders and the folders of a run.

dsmath convert import --from=DIR --to=STAGEDIR
dsmath convert export --from=STAGEDIR --to=DIR
dsmath convert export --from=RUN --to=FOLDER

A STAGEDIR is the folder of a stage that trains: `params/` (a checkpoint) and `model.json` (the model config). The
tokenizer's files are copied too. The new folder appears when it is complete. Of a RUN, all stages that train a language
model are converted, each to the folder of its name; `import` takes such a FOLDER too.
"""

# Unlike this command, the rest of `models` does not depend on meshes, checkpoints or data.

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from dsmath_jax.data import chat, tokenizer
from dsmath_jax.models.huggingface.config_file import read_config
from dsmath_jax.models.huggingface.writing import GIGABYTE, TYPES
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training import checkpoint
from dsmath_jax.training.model_files import (
    export_params,
    find_tokenizer,
    import_params,
    new_folder,
    read_model_config,
    read_params,
    write_config,
)
from dsmath_jax.workdir import UserError, exit_code, local_path

STAGES = ("pretrain", "sft", "rl")  # those that train language models


def import_model(source: Path, target: Path, dtype: str) -> str:
    """Converts a Hugging Face folder to a stage's folder; returns a message.

    Raises:
      UserError: the folder or its tokenizer is invalid, or `target` exists.
    """
    config = read_config(source)
    text_tokenizer = tokenizer.load(source) if tokenizer.find(source) else None
    if text_tokenizer:
        tokenizer.check_vocab_size(text_tokenizer, config.vocab_size, str(source))
    with new_folder(target) as folder:
        params = import_params(source, config, Layout(make_mesh()), dtype)
        checkpoint.save(folder / "params", params)
        write_config(folder, config, chat.load(source, text_tokenizer) if text_tokenizer else None)
        if text_tokenizer:
            tokenizer.copy(source, folder)
    return _message(target, params, dtype, text_tokenizer)


def export_model(source: Path, target: Path, dtype: str, max_file_bytes: int, tokenizer_path: Path | None) -> str:
    """Converts a stage's folder to a Hugging Face folder; returns a message.

    Raises:
      UserError: the stage's model is incomplete, the tokenizer is another model's, or `target` exists.
    """
    if not (source / "model.json").is_file():
        raise UserError(f"{source} has no model.json; give the folder of a finished stage that trains.")
    config = read_model_config(source)
    tokenizer_file = tokenizer_path or find_tokenizer(source)
    params = read_params(source, config, Layout(make_mesh()))
    text_tokenizer = tokenizer.load(tokenizer_file) if tokenizer_file else None
    model_chat = chat.load(source, text_tokenizer) if text_tokenizer else None
    export_params(target, config, params, tokenizer_file, dtype, max_file_bytes, model_chat)
    return _message(target, params, dtype, text_tokenizer)


def stages_in(source: Path, target: Path, file: str) -> list[tuple[Path, Path]]:
    """Returns the folder with a model and its target, or, of the folder of a run, those of its language models.

    `file` is in every folder with a model.
    """
    if not (source / file).is_file():
        stages = [name for name in STAGES if (source / name / file).is_file()]
        if stages:
            return [(source / name, target / name) for name in stages]
    return [(source, target)]


def _message(target: Path, params: Any, dtype: str, text_tokenizer: tokenizer.Tokenizer | None) -> str:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    pieces = f"a tokenizer of {text_tokenizer.vocab_size:,} ids" if text_tokenizer else "no tokenizer"
    return f"{target}: {count:,} parameters in {dtype}, {pieces}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Imports or exports a model."""
    parser = argparse.ArgumentParser(
        "dsmath convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, source, target, dtype in (
        (
            "import",
            "a Hugging Face folder of a family in docs/models.md, or one with a folder for each stage",
            "the folder to create",
            "float32",
        ),
        ("export", "the folder of a stage that trains, or of a run", "the folder to create", "bfloat16"),
    ):
        command = commands.add_parser(name)
        command.add_argument("--from", dest="source", type=local_path, required=True, help=source)
        command.add_argument("--to", dest="target", type=local_path, required=True, help=target)
        command.add_argument("--dtype", choices=TYPES, default=dtype, help=f"of the written arrays (default: {dtype})")
    command.add_argument("--tokenizer", type=local_path, help="its file or folder (default: the stage's, or the run's)")
    command.add_argument("--file-gigabytes", type=float, default=5.0, help="maximum size of a file (default: 5)")
    values = parser.parse_args(arguments)
    file = "config.json" if values.command == "import" else "model.json"
    for folder, new in stages_in(values.source, values.target, file):
        if values.command == "import":
            print(import_model(folder, new, values.dtype))
        else:
            most = int(values.file_gigabytes * GIGABYTE)
            print(export_model(folder, new, values.dtype, most, values.tokenizer))


if __name__ == "__main__":
    sys.exit(exit_code(main))
