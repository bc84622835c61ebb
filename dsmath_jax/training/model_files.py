"""The model files of a stage: `params/` (a checkpoint), `model.json` (the model config) and `chat.json`."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dsmath_jax.data import chat as chats
from dsmath_jax.data import chat_template, hub
from dsmath_jax.data import tokenizer as tokenizers
from dsmath_jax.data.chat import Chat
from dsmath_jax.data.hub import HUGGING_FACE
from dsmath_jax.models import huggingface
from dsmath_jax.models.config import ModelConfig, trained_config
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.models.lora import adapters_of, combine, frozen_dtypes, merge
from dsmath_jax.sharding import Layout, barrier, path_name
from dsmath_jax.training import checkpoint, lora
from dsmath_jax.training.attention import attention_on
from dsmath_jax.workdir import (
    UserError,
    atomic_path,
    file_fingerprint,
    hash_json,
    local_path,
    read_json,
    remove_temporaries,
    write_json,
)


class LanguageModel(NamedTuple):
    """A decoder with its parameters, its tokenizer and its chat template.

    Attributes:
      chat: its tokenizer, chat template and instruction.
      layout: of the parameters.
      tokenizer_file: the file that the tokenizer was read from, None if unknown.
      fingerprint: a hash of the parameters, the tokenizer and the compute dtype; "" if unknown.
      chat_stored: whether `chat` is the one that the model was trained with; else it has no instruction, and the
        template next to the tokenizer, if any.
    """

    model: Decoder
    params: Any
    chat: Chat
    layout: Layout
    tokenizer_file: Path | None = None
    fingerprint: str = ""
    chat_stored: bool = False

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        return self.chat.tokenizer


def fetch(names: Iterable[str], data_dir: Path) -> None:
    """Downloads models of the Hub, on process 0, see `hub.fetch_model`."""
    if jax.process_index() == 0:
        for name in names:
            hub.fetch_model(name, data_dir)
    barrier("models of the Hub")


def local_checkpoint(checkpoint: str, data_dir: Path) -> str:
    """Returns "hf:DIR" as it is if DIR is a folder, else with that folder of `data_dir`, see `fetch`.

    Other checkpoints are returned as they are.
    """
    name = checkpoint.removeprefix(HUGGING_FACE)
    if name == checkpoint or Path(name).is_dir():
        return checkpoint
    fetch([name], data_dir)
    return f"{HUGGING_FACE}{data_dir / name}" if (data_dir / name).is_dir() else checkpoint


def load_model(checkpoint: str, layout: Layout, tokenizer_path: str = "", dtype: str = "") -> LanguageModel:
    """Loads a model from `hf:DIR` in Hugging Face's format, or from the folder of a stage that trains.

    Args:
      checkpoint: `hf:DIR` or the folder.
      layout: of the parameters.
      tokenizer_path: a file or folder; "" for the model's own.
      dtype: the compute dtype; "" for the stage's own or, with `hf:`, bfloat16 (float32 on CPUs).

    Raises:
      UserError: there is no model or no tokenizer, or the tokenizer is another model's.
    """
    folder = local_path(checkpoint.removeprefix(HUGGING_FACE), "checkpoint")
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}; give that of a stage, hf:DIR, or hf:OWNER/NAME@REVISION of the Hub."
        )
    tokenizer_file = tokenizers.find(Path(tokenizer_path)) if tokenizer_path else find_tokenizer(folder)
    if tokenizer_file is None:
        where = tokenizer_path or f"{folder} or next to it"
        raise UserError(f"There is no tokenizer in {where}; give its .model or tokenizer.json as --tokenizer.")
    tokenizer = tokenizers.load(tokenizer_file)
    read = _read_hugging_face if checkpoint.startswith(HUGGING_FACE) else _read_stage
    model, params, files = read(folder, layout, dtype)
    tokenizers.check_vocab_size(tokenizer, model.config.vocab_size, str(folder))
    fingerprint = hash_json(
        [file_fingerprint(path) for path in (*files, tokenizer_file)] + [model.config.compute_dtype]
    )
    stored = chats.load(folder, tokenizer)
    chat = stored or Chat(tokenizer, chat_template.stored(tokenizer_file.parent))
    return LanguageModel(model, params, chat, layout, tokenizer_file, fingerprint, stored is not None)


def _read_hugging_face(folder: Path, layout: Layout, dtype: str) -> tuple[Decoder, Any, list[Path]]:
    config = huggingface.read_config(folder, dtype or default_compute_dtype())
    params = import_params(folder, config, layout, config.compute_dtype)
    return build_model(config, layout), params, sorted(folder.glob("*.safetensors"))


def default_compute_dtype() -> str:
    """Returns the compute dtype of imported models: bfloat16, but float32 on CPUs, where that is faster."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def _read_stage(folder: Path, layout: Layout, dtype: str) -> tuple[Decoder, Any, list[Path]]:
    if not (folder / "model.json").is_file():
        raise UserError(
            f"{folder} has no model.json; give the folder of a finished stage that trains, such as RUN/rl, or "
            f"{HUGGING_FACE}DIR for one in Hugging Face's format."
        )
    model = read_model(folder, layout)
    if dtype:
        model = build_model(dataclasses.replace(model.config, compute_dtype=dtype), layout)
    files = [checkpoint.hashes_path(folder / "params"), folder / lora.FILE]
    return model, read_params(folder, model.config, layout), [path for path in files if path.is_file()]


def export_params(
    target: Path,
    config: ModelConfig,
    params: Any,
    tokenizer_file: Path | None,
    dtype: str = "bfloat16",
    max_file_bytes: int = 5 * huggingface.GIGABYTE,
    chat: Chat | None = None,
) -> None:
    """Exports a model, its tokenizer's files and its chat template in Hugging Face's format.

    Args:
      target: the folder to create; it appears when it is complete.
      config: the model config.
      params: the parameters; adapters of LoRA are merged.
      tokenizer_file: copied too, if there is one.
      dtype: of the tensors in the files.
      max_file_bytes: a larger model is split into several files, with an index.
      chat: the chat template and instruction, where known: written to `chat_template.jinja` and `chat.json`.

    Raises:
      UserError: `target` exists, the tokenizer is another model's, or the parameters are not those of a decoder.
    """
    tokenizer = tokenizers.load(tokenizer_file) if tokenizer_file else None
    if tokenizer:
        tokenizers.check_vocab_size(tokenizer, config.vocab_size, str(tokenizer_file))
    ids = (tokenizer.bos_id, (chat or tokenizer).stop_ids) if tokenizer else (None, ())
    if adapters_of(params):
        params = merge(params)
    with new_folder(target) as folder:
        _write_text_files(folder, tokenizer_file, chat)
        huggingface.write(folder, params, config, dtype, max_file_bytes, *ids)


def export_adapters(
    source: Path, target: Path, params: Any, tokenizer_file: Path | None, dtype: str = "float32",
    chat: Chat | None = None,
) -> None:  # fmt: skip
    """Exports the adapters of a stage's model, and those of the stages before it, in the format of peft.

    Args:
      source: the folder of the stage.
      target: the folder to create; it appears when it is complete.
      params: the parameters of the model, from `read_params`.
      tokenizer_file, chat: as for `export_params`.
      dtype: of the tensors in the file.
    """
    own = lora.read_adapters(source)
    assert own is not None
    below = own
    while (below.base_folder / lora.FILE).is_file():
        earlier = lora.read_adapters(below.base_folder)
        assert earlier is not None
        below = earlier
    scale = own.settings.scale if below is own else 1.0  # those of several trainings are one pair
    base = below.base.removeprefix(HUGGING_FACE)
    with new_folder(target) as folder:
        _write_text_files(folder, tokenizer_file, chat)
        huggingface.write_adapters(folder, adapters_of(params), read_model_config(source), base, scale, dtype)


def _write_text_files(folder: Path, tokenizer_file: Path | None, chat: Chat | None) -> None:
    if tokenizer_file:
        tokenizers.copy(tokenizer_file, folder)
    if chat:
        chats.export(chat, folder)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yields a temporary folder, renamed to `target` when it is complete; first removes that of a killed command."""
    if target.exists():
        raise UserError(f"{target} exists already; give another folder, or remove it.")
    remove_temporaries(target)
    with atomic_path(target.absolute()) as folder:
        folder.mkdir()
        yield folder


@functools.cache
def build_model(config: ModelConfig, layout: Layout) -> Decoder:
    """Returns the decoder for the layout's mesh: the same one each time, whose programs are compiled once."""
    return Decoder(config, layout.constrain, attention_on(layout, config.attention), layout.map_row_shards)


def abstract_params(config: ModelConfig, layout: Layout) -> Any:
    """Returns shapes, dtypes and shardings of the model's parameters; nothing is allocated."""
    return layout.abstract(_param_shapes(config))


@functools.cache
def _param_shapes(config: ModelConfig) -> Any:
    return jax.eval_shape(lambda: initial_params(Decoder(config), jax.random.key(0)))


def write_config(folder: Path, config: ModelConfig, chat: Chat | None = None) -> None:
    """Writes the model config and, for a model trained on chats, the chat template and instruction."""
    if jax.process_index() == 0:
        write_json(folder / "model.json", dataclasses.asdict(config))
        if chat:
            chats.save(chat, folder)


def read_model_config(folder: Path) -> ModelConfig:
    """Returns the model config of a finished stage.

    Raises:
      UserError: a field of its `model.json` is unknown, missing or invalid.
    """
    path = folder / "model.json"
    return trained_config(read_json(path), str(path))


def read_model(folder: Path, layout: Layout) -> Decoder:
    """Returns the decoder of a finished stage, without its parameters."""
    return build_model(read_model_config(folder), layout)


def read_params(folder: Path, config: ModelConfig, layout: Layout, *, frozen: bool = False) -> Any:
    """Restores the parameters of a finished stage, sharded; adapters of LoRA with those of the model they belong to.

    Args:
      folder: of the stage.
      config: of its model.
      layout: of the parameters.
      frozen: whether matrices are restored in the compute dtype (`frozen_dtypes`), as for a model that is not trained;
        else all parameters are float32.

    Raises:
      UserError: the checkpoint cannot be used, or the model that its adapters belong to is missing.
    """
    if adapters := lora.read_adapters(folder):
        base = read_base(adapters, config, layout, frozen)
        like = lora.abstract_adapters(config, adapters.settings, layout)
        return combine(base, checkpoint.restore(folder / "params", like), adapters.settings.scale)
    like = abstract_params(config, layout)
    return checkpoint.restore(folder / "params", frozen_dtypes(like, config.compute_dtype) if frozen else like)


def read_base(adapters: lora.Adapters, config: ModelConfig, layout: Layout, frozen: bool) -> Any:
    """Returns the parameters of the model that adapters belong to, see `read_params`."""
    read = import_params if adapters.base.startswith(HUGGING_FACE) else read_params
    return read(adapters.base_folder, config, layout, frozen=frozen)


def find_tokenizer(folder: Path) -> Path | None:
    """Returns the tokenizer's file of a stage's model: in its folder, where imports put it, or the run's.

    The folder may be one within a stage's, such as `rl/best`.
    """
    stage = folder.parent if (folder.parent / "model.json").is_file() else folder
    return tokenizers.find(folder) or tokenizers.find(stage.parent / "tokenizer")


def check_import(folder: Path, config: ModelConfig, layout: Layout) -> None:
    """Raises a `UserError` where `import_params` would; reads only the headers of the files."""
    huggingface.readers(folder, config, _abstract_flat(abstract_params(config, layout), "float32"))


def _abstract_flat(like: Any, dtype: str) -> dict[str, jax.ShapeDtypeStruct]:
    return {path: jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding) for path, x in _flat(like).items()}


def _flat(tree: Any) -> dict[str, Any]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def import_params(
    folder: Path, config: ModelConfig, layout: Layout, dtype: str = "float32", *, frozen: bool = False
) -> Any:
    """Imports the parameters of a Hugging Face folder, sharded, in one dtype or, with `frozen`, as `read_params`.

    Host memory holds one device's shard of one parameter at a time, and one layer of it as stored in the file.

    Raises:
      UserError: a file cannot be read, or its tensors are not those of its `config.json`.
    """
    like = abstract_params(config, layout)
    flat = _abstract_flat(like, dtype)
    if frozen:
        flat = _flat(frozen_dtypes(like, config.compute_dtype))
    leaves = {
        path: _in_shards(reader, flat[path].sharding)
        for path, reader in huggingface.readers(folder, config, flat).items()
    }
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[path_name(path)], like)


def _in_shards(reader: huggingface.Reader, sharding: jax.sharding.Sharding) -> jax.Array:
    parts: dict[str, jax.Array] = {}  # by index: devices with the same part copy it from each other
    shards = []
    for device, index in sharding.addressable_devices_indices_map(reader.shape).items():
        index_key = str(index)
        source = parts[index_key] if index_key in parts else reader(index)
        parts[index_key] = jax.block_until_ready(jax.device_put(source, device))
        shards.append(parts[index_key])
    return jax.make_array_from_single_device_arrays(reader.shape, sharding, shards)
