"""Converts models between Hugging Face folders and the folders of a run.

dsmath convert import --from=DIR --to=STAGEDIR
dsmath convert export --from=STAGEDIR --to=DIR
dsmath convert export --from=RUN --to=FOLDER

A STAGEDIR is the folder of a stage that trains: `params/` (a checkpoint) and `model.json` (the model config). The
tokenizer's files are copied too. The new folder appears when it is complete. Of a RUN, all stages that train a language
model are converted, each to the folder of its name; `import` takes such a FOLDER too.

Of a stage that was trained with LoRA, `export` writes the adapters in the format of peft. With --merge it writes the
whole model, and says how far its log-probabilities are from those of the model with adapters.
"""

# Unlike this command, the rest of `models` does not depend on meshes, checkpoints or data.

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dsmath_jax.data import chat, tokenizer
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.huggingface.config_file import read_config
from dsmath_jax.models.huggingface.writing import GIGABYTE, TYPES
from dsmath_jax.models.lora import adapters_of, merge, without_adapters
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training import checkpoint
from dsmath_jax.training.model_files import (
    build_model,
    export_adapters,
    export_params,
    find_tokenizer,
    import_params,
    new_folder,
    read_model_config,
    read_params,
    write_config,
)
from dsmath_jax.training.objectives import batch_logprobs
from dsmath_jax.workdir import UserError, exit_code, local_path

STAGES = ("pretrain", "sft", "rl")  # those that train language models
SAMPLE = "What is 12 + 30? The sum of the tens is 40 and that of the ones is 2, so the answer is 42."


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


class ExportOptions(NamedTuple):
    """Options of `export_model`.

    Attributes:
      dtype: of the tensors in the files; "" for bfloat16, float32 for adapters.
      max_file_bytes: the maximum size of a file.
      tokenizer: its file or folder; None for the stage's or the run's.
      merge: whether adapters are merged.
    """

    dtype: str = ""
    max_file_bytes: int = 5 * GIGABYTE
    tokenizer: Path | None = None
    merge: bool = False


def export_model(source: Path, target: Path, options: ExportOptions) -> str:
    """Converts a stage's folder to a Hugging Face folder or, of a stage with adapters, to one of peft.

    Returns a message.

    Raises:
      UserError: the stage's model is incomplete, the tokenizer is another model's, or `target` exists.
    """
    if not (source / "model.json").is_file():
        raise UserError(f"{source} has no model.json; give the folder of a finished stage that trains.")
    config = read_model_config(source)
    tokenizer_file = options.tokenizer or find_tokenizer(source)
    params = read_params(source, config, Layout(make_mesh()))
    text_tokenizer = tokenizer.load(tokenizer_file) if tokenizer_file else None
    model_chat = chat.load(source, text_tokenizer) if text_tokenizer else None
    adapters, note = adapters_of(params), ""
    if adapters and not options.merge:
        dtype = options.dtype or "float32"
        export_adapters(source, target, params, tokenizer_file, dtype, model_chat)
        return _message(target, adapters, f"{dtype}, adapters in the format of peft", text_tokenizer)
    dtype = options.dtype or "bfloat16"
    if adapters:
        ids = text_tokenizer.encode(SAMPLE) if text_tokenizer else list(range(min(config.vocab_size, 32)))
        note = f"\n{_merge_message(config, params, dtype, ids)}"
        params = merge(params)
    export_params(target, config, params, tokenizer_file, dtype, options.max_file_bytes, model_chat)
    return _message(target, params, dtype, text_tokenizer) + note


def _merge_message(config: ModelConfig, params: Any, dtype: str, ids: Sequence[int]) -> str:
    """Describes the difference that merging makes to the log-probabilities of some tokens, in float32."""
    layout = Layout(make_mesh())
    model = build_model(dataclasses.replace(config, compute_dtype="float32"), layout)
    tokens = np.asarray([[*ids]], np.int32)[:, : config.max_position_embeddings + 1]
    inputs = tokens[:, :-1]
    fields = {
        "tokens": inputs, "targets": tokens[:, 1:], "segment_ids": np.ones_like(inputs),
        "positions": np.arange(inputs.shape[1], dtype=np.int32)[None],
    }  # fmt: skip
    batch = jax.tree.map(jnp.asarray, fields)

    def rounded(params: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(dtype), params)

    base = rounded(without_adapters(params))
    layers = {name: leaf for name, leaf in params["layers"].items() if name not in base["layers"]}
    unmerged = {**base, "layers": base["layers"] | layers}
    logprobs = jax.jit(lambda params: batch_logprobs(model, params, batch)[0])
    expected = logprobs(unmerged)
    lost = np.abs(np.asarray(logprobs(rounded(merge(params))) - expected))
    change = np.abs(np.asarray(logprobs(base) - expected))
    return (
        f"merged in {dtype}: the log-probabilities of {lost.size} tokens differ from those with adapters by "
        f"{lost.mean():.2g} on average, {lost.max():.2g} at most; adapters change them by {change.mean():.2g}"
    )


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
        ("export", "the folder of a stage that trains, or of a run", "the folder to create", ""),
    ):
        command = commands.add_parser(name)
        command.add_argument("--from", dest="source", type=local_path, required=True, help=source)
        command.add_argument("--to", dest="target", type=local_path, required=True, help=target)
        default = dtype or "bfloat16, adapters float32"
        command.add_argument(
            "--dtype", choices=TYPES, default=dtype, help=f"of the written arrays (default: {default})"
        )
    command.add_argument("--tokenizer", type=local_path, help="its file or folder (default: the stage's, or the run's)")
    command.add_argument("--file-gigabytes", type=float, default=5.0, help="maximum size of a file (default: 5)")
    command.add_argument("--merge", action="store_true", help="merge adapters of LoRA into the model")
    values = parser.parse_args(arguments)
    file = "config.json" if values.command == "import" else "model.json"
    for folder, new in stages_in(values.source, values.target, file):
        if values.command == "import":
            print(import_model(folder, new, values.dtype))
        else:
            most = int(values.file_gigabytes * GIGABYTE)
            options = ExportOptions(values.dtype, most, values.tokenizer, values.merge)
            print(export_model(folder, new, options))


if __name__ == "__main__":
    sys.exit(exit_code(main))
