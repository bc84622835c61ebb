"""Stage `pretrain`: documents tokenised, packed and trained on, from scratch or from a Hugging Face folder.

Paper §2.2.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dsmath_jax.data import documents, packing, tokenizer
from dsmath_jax.data.batches import Batches
from dsmath_jax.models import huggingface
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.llama import Llama, initial_params
from dsmath_jax.sharding import barrier, constrain_on, make_mesh, path_name
from dsmath_jax.training.fitting import fit_next_token
from dsmath_jax.training.model_files import abstract_params, write_config
from dsmath_jax.workdir import UserError, data_folder

HELD_OUT_EVERY = 50  # one document in so many is kept for the evaluation loss


def run(config: ConfigDict, workdir: Path) -> dict:
    """Reads `corpus/documents` and `tokenizer/`, writes `pretrain/{rows,params,model.json,metrics.jsonl}`.

    `pretrain.mixture` weighs the sources: "corpus", "corpus/en", "corpus/zh" are our documents (of one language),
    anything else a file or folder below the data folder. `pretrain.init` is "" (from scratch, sizes from `model`) or
    "hf:DIR".
    """
    folder, mesh = workdir / "pretrain", make_mesh(**config.mesh)
    text_tokenizer = tokenizer.load(workdir / "tokenizer")
    length = config.pretrain.sequence_length
    paths = {name: folder / "rows" / f"{name.replace('/', '-')}.array_record" for name in config.pretrain.mixture}
    if jax.process_index() == 0:
        for name, path in paths.items():
            if not path.exists():
                _write_source(name, path, config, workdir, text_tokenizer, length)
    barrier("pretrain rows")

    data_dir = data_folder(config, workdir)
    if config.pretrain.init:
        source = data_dir / config.pretrain.init.removeprefix("hf:")
        sizes = huggingface.read_config(source, config.model.compute_dtype)
        if sizes.vocab_size != text_tokenizer.vocab_size:
            raise UserError(
                f"The tokenizer has {text_tokenizer.vocab_size} pieces, {source} a vocabulary of {sizes.vocab_size}; "
                "set tokenizer.path to the model's own tokenizer."
            )
        params = _imported(source, sizes, mesh)
    else:
        sizes = ModelConfig(vocab_size=text_tokenizer.vocab_size, **config.model)
        params = None
    if length > sizes.context:
        raise UserError(f"pretrain.sequence_length {length} exceeds the model's context {sizes.context}; lower it.")
    write_config(folder, sizes)
    model = Llama(sizes, constrain_on(mesh))
    process = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    batches = Batches(
        [(paths[name], weight) for name, weight in config.pretrain.mixture.items()],
        length, config.pretrain.batch_size, config.seed, **process,
    )  # fmt: skip
    held_out = [_held_out(path) for path in paths.values() if _held_out(path).exists()]
    fit_next_token(
        "pretrain", folder, config.pretrain, mesh, model, batches, held_out,
        make_params=None if config.pretrain.init else lambda: initial_params(model, jax.random.key(config.seed)),
        params=params,
    )  # fmt: skip
    return {"parameters": _count(abstract_params(sizes, mesh))}


def _held_out(path: Path) -> Path:
    return path.with_name(f"{path.stem}.held-out.array_record")


def _write_source(
    name: str, path: Path, config: ConfigDict, workdir: Path, text_tokenizer: tokenizer.Tokenizer, length: int
) -> None:
    """Tokenises one source; every document begins with BOS and ends with EOS, and all of it is learned."""
    kind, _, language = name.partition("/")
    where = workdir / "corpus" / "documents" if kind == "corpus" else data_folder(config, workdir) / name
    language = language if kind == "corpus" else ""

    def examples(held_out: bool) -> Iterator[packing.Example]:
        for number, text in enumerate(documents.texts(where, language)):
            if (number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == held_out:
                ids = [text_tokenizer.bos_id, *text_tokenizer.encode(text), text_tokenizer.eos_id]
                yield packing.Example(ids, [True] * len(ids))

    held_out = packing.concatenate(examples(True), length)
    first = next(held_out, None)
    if first is not None:
        packing.write_rows(_held_out(path), itertools.chain([first], held_out))
    if not packing.write_rows(path, packing.concatenate(examples(False), length)):
        path.unlink()
        raise UserError(f"The source '{name}' of pretrain.mixture holds no text; remove it or give it documents.")


def _imported(source: Path, sizes: ModelConfig, mesh: Mesh) -> Any:
    like = abstract_params(sizes, mesh)
    flat = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(like)}
    arrays = {
        name: jax.make_array_from_callback(array.shape, flat[name].sharding, array.__getitem__)
        for name, array in huggingface.read_arrays(source, sizes, flat)
    }
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[path_name(path)], like)


def _count(params: Any) -> int:
    return int(sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params)))
