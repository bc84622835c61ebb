"""LoRA in the stages that train: the trained and the frozen parameters, and the files of a model with adapters.

The `params/` of such a stage has the adapters alone. `lora.json` next to it says which model they belong to.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from dsmath_jax.data.hub import HUGGING_FACE
from dsmath_jax.models import lora
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, Params, initial_params
from dsmath_jax.models.lora import Frozen
from dsmath_jax.settings import build, to_dict
from dsmath_jax.sharding import Layout, barrier
from dsmath_jax.training.checkpoint import hashes_path
from dsmath_jax.training.settings import LoraSettings
from dsmath_jax.training.step import ALL_TRAINED
from dsmath_jax.workdir import UserError, hash_json, read_json, write_json

FILE = "lora.json"
NUM_BLOCKS, BLOCK_BYTES = 64, 2**16  # of a Hugging Face model's file, which its fingerprint has


class Trainable(NamedTuple):
    """The parameters that a stage trains: all of its initial model's or, with LoRA, adapters of it.

    Attributes:
      read: returns the trained parameters at step 0, new arrays at each call, since updates donate them.
      frozen: the others.
    """

    read: Callable[[], Params]
    frozen: Frozen = ALL_TRAINED

    def initial_model(self) -> Params:
        """Returns the initial model's parameters; with LoRA the frozen ones, not a copy."""
        return self.read() if self.frozen.params is None else self.frozen.params

    def wrap(self, make: Callable[[Callable[[], Params]], Params]) -> "Trainable":
        """Returns those of a larger tree: `make(read)` returns it from a function that reads a decoder's parameters."""
        frozen = self.frozen
        if frozen.params is not None:
            frozen = frozen._replace(params=make(lambda: self.frozen.params))
        return Trainable(lambda: make(self.read), frozen)


def trainable(
    settings: LoraSettings | None, read: Callable[..., Params], model: Decoder, layout: Layout, seed: int
) -> Trainable:
    """Returns what a stage trains.

    Args:
      settings: of the adapters; None to train all parameters, with those of earlier adapters merged.
      read: returns the initial model's parameters, `read(frozen=True)` in the dtypes in which they are frozen.
      model: the decoder.
      layout: of the parameters.
      seed: of the adapters.
    """
    if settings is None:
        return Trainable(lambda: merged(read(), layout))
    shardings = layout.param_shardings(_shapes(model.config, settings))
    make = functools.partial(lora.initial_adapters, _decoder_shapes(model.config), settings.targets, settings.rank)
    # The key is an argument: a program with a constant key would be compiled for each seed.
    jitted = jax.jit(make, out_shardings=shardings)
    return Trainable(lambda: jitted(jax.random.key(seed)), Frozen(read(frozen=True), settings.scale))


def merged(params: Params, layout: Layout) -> Params:
    """Returns a decoder's parameters with its adapters, if it has any, merged (`lora.merge`); takes them over."""
    if not lora.adapters_of(params):
        return params
    shardings = layout.param_shardings(jax.eval_shape(lora.merge, params))
    adapters = {name: leaf for name, leaf in params["layers"].items() if name.endswith((lora.LORA_A, lora.LORA_B))}

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=shardings)
    def merge(plain: Params, adapters: Params) -> Params:
        return lora.merge(lora.combine(plain, {"layers": adapters}, 1.0))

    return merge(lora.without_adapters(params), adapters)


def abstract_adapters(config: ModelConfig, settings: LoraSettings, layout: Layout) -> Params:
    """Returns shapes, dtypes and shardings of a decoder's adapters; nothing is allocated."""
    return layout.abstract(_shapes(config, settings))


def _shapes(config: ModelConfig, settings: LoraSettings) -> Params:
    make = functools.partial(lora.initial_adapters, _decoder_shapes(config), settings.targets, settings.rank)
    return jax.eval_shape(make, jax.random.key(0))


@functools.cache
def _decoder_shapes(config: ModelConfig) -> Params:
    return jax.eval_shape(lambda: initial_params(Decoder(config), jax.random.key(0)))


# --- lora.json ---


@dataclasses.dataclass(frozen=True)
class Adapters:
    """The contents of `lora.json`: the settings of the adapters and the model that they belong to.

    Attributes:
      settings: of the adapters.
      base: the folder of the model, "hf:DIR" in Hugging Face's format, else that of a stage or a round.
      base_is_reward_model: whether that has a reward head.
    """

    settings: LoraSettings
    base: str
    base_is_reward_model: bool = False

    @property
    def base_folder(self) -> Path:
        return Path(self.base.removeprefix(HUGGING_FACE))


def write_adapters(folder: Path, adapters: Adapters | None) -> None:
    """Writes `lora.json` into the folder of a stage or a round; nothing without adapters."""
    if adapters is not None and jax.process_index() == 0:
        base = adapters.base_folder
        if adapters.base.startswith(HUGGING_FACE):
            where = f"{HUGGING_FACE}{base.resolve()}"
        else:  # relative, so that a run may be moved as a whole; a stage may be a link to another run's
            where = os.path.relpath(base.parent.resolve() / base.name, folder.resolve())
        fields = {"base": where, "base_is_reward_model": adapters.base_is_reward_model}
        write_json(folder / FILE, fields | {"fingerprint": _fingerprint(adapters)} | to_dict(adapters.settings))
    barrier(f"adapters of {folder}")


def read_adapters(folder: Path) -> Adapters | None:
    """Returns what `lora.json` says; None for a model without adapters.

    Raises:
      UserError: the model that the adapters belong to is missing, or was replaced by another one.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    stored = read_json(path)
    base, fingerprint = stored.pop("base"), stored.pop("fingerprint")
    with_head = stored.pop("base_is_reward_model")
    if not base.startswith(HUGGING_FACE):
        base = os.path.normpath(folder.resolve() / base)
    adapters = Adapters(build(LoraSettings, stored, f"{path}: "), base, with_head)
    if not adapters.base_folder.is_dir():
        raise UserError(f"The adapters in {folder} belong to the model in {adapters.base_folder}, which is missing.")
    if _fingerprint(adapters) != fingerprint:
        raise UserError(
            f"The adapters in {folder} were trained on another model than {adapters.base_folder} now has; restore it, "
            "or train them again."
        )
    return adapters


def _fingerprint(adapters: Adapters) -> str:
    """Returns a hash that tells models apart; of Hugging Face files only evenly spaced blocks count."""
    folder = adapters.base_folder
    if adapters.base.startswith(HUGGING_FACE):
        paths = sorted([folder / "config.json", *folder.glob("*.safetensors")])
        return hash_json([[path.name, path.stat().st_size, _blocks(path)] for path in paths])
    paths = [path for path in (hashes_path(folder / "params"), folder / FILE) if path.is_file()]
    return hash_json([read_json(path) for path in paths])


def _blocks(path: Path) -> list[str]:
    """Returns hashes of evenly spaced blocks of a file, the first and the last among them."""
    last = max(0, path.stat().st_size - BLOCK_BYTES)
    hashes = []
    with open(path, "rb") as file:
        for number in range(NUM_BLOCKS):
            file.seek(last * number // (NUM_BLOCKS - 1))
            hashes.append(hashlib.sha256(file.read(BLOCK_BYTES)).hexdigest())
    return hashes
