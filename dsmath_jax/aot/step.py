"""Compiles the train step of a config for a topology, without its devices, and reports its costs per device.

Nothing is allocated: parameters, optimizer state and batch are abstract arrays with shardings. The functions are those
that training runs.
"""

import dataclasses
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dsmath_jax.aot.program import capture_stderr, compile_program
from dsmath_jax.aot.topology import Topology, topology
from dsmath_jax.data import hub
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder
from dsmath_jax.models.lora import Frozen
from dsmath_jax.recipe import Recipe
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training import pretrain
from dsmath_jax.training.flops import model_flops_per_token
from dsmath_jax.training.model_files import build_model
from dsmath_jax.training.next_token import abstract_frozen, abstract_inputs, next_token_step
from dsmath_jax.training.settings import TrainingSettings, hugging_face_folder
from dsmath_jax.training.step import TrainState
from dsmath_jax.workdir import UserError

SHOWN_FIELDS = ("num_hidden_layers", "hidden_size", "vocab_size", "remat", "attention")  # in the results


def stage_settings(recipe: Recipe, name: str) -> Any:
    """Returns the settings of a stage.

    Raises:
      UserError: the recipe lacks the section of the stage or of the model.
    """
    for section in ("model", name):
        if getattr(recipe, section) is None:
            raise UserError(f"The config has no section '{section}', which stage {name} needs; add it.")
    return getattr(recipe, name)


def with_initial_model(recipe: Recipe, stage: str) -> Recipe:
    """Returns the recipe with the sizes of the model that a stage starts from, if it is `hf:DIR`: its `config.json`.

    That of a model of the Hub is downloaded. Where there is no such folder, the recipe's own model stays.

    Raises:
      UserError: the file is invalid, or cannot be downloaded.
    """
    settings, data_dir = getattr(recipe, stage), Path(recipe.data_dir)
    folder = hugging_face_folder(settings.init, data_dir) if settings else None
    if folder is None:
        return recipe
    if not folder.is_dir():
        hub.fetch_model(settings.init.removeprefix(hub.HUGGING_FACE), data_dir, "config.json")
    if not folder.is_dir():  # it is not a name of the Hub
        logging.warning("%s is missing: compiling the recipe's own model.", folder)
        return recipe
    model = pretrain.model_config(settings.init, recipe.model, data_dir, None)
    if recipe.model is None:
        model = dataclasses.replace(model, compute_dtype="bfloat16")  # that of TPUs and GPUs, whatever compiles here
    return dataclasses.replace(recipe, model=model)


def model_config(recipe: Recipe) -> ModelConfig:
    """Returns the model config; a vocab_size of 0 becomes that of the tokenizer that the recipe trains.

    Raises:
      UserError: the vocabulary size is that of an existing tokenizer.
    """
    config, tokenizer = recipe.model, recipe.tokenizer
    assert config is not None
    vocab_size = config.vocab_size or (tokenizer.vocab_size if tokenizer and not tokenizer.path else 0)
    if not vocab_size:
        raise UserError(
            "model.vocab_size is 0 and the tokenizer is not trained here; give it as --config.model.vocab_size=N."
        )
    return dataclasses.replace(config, vocab_size=vocab_size)


class Target(NamedTuple):
    """A topology, the mesh of its devices, and the model on it."""

    topology: Topology
    layout: Layout
    model: Decoder

    def describe(self) -> dict[str, Any]:
        """Returns the fields of a result that describe the devices and the model."""
        config = self.model.config
        return {
            "topology": self.topology.name,
            "device_kind": self.topology.devices[0].device_kind,
            "devices": len(self.topology.devices),
            "mesh": dict(self.layout.mesh.shape),
            "model": {name: getattr(config, name) for name in SHOWN_FIELDS},
            "chip": {k: None if v == math.inf else v for k, v in dataclasses.asdict(self.topology.chip).items()},
            "chip_bytes": self.topology.usable_bytes,
        }


def make_target(recipe: Recipe, name: str) -> Target:
    """Returns the topology `name` with the mesh and the model of `recipe`.

    Raises:
      UserError: the topology, the mesh or the model is invalid, or the compiler's package is missing.
    """
    config, found = model_config(recipe), topology(name)
    layout = Layout(make_mesh(recipe.mesh, found.devices))
    return Target(found, layout, build_model(config, layout))


def compile_step(recipe: Recipe, stage: str, name: str) -> dict[str, Any]:
    """Lowers and compiles the train step of `recipe` for the topology `name`.

    Returns:
      The fields of `compile_program` and `Target.describe`, per device and step, and:
      `fits`: whether the step fits the device.
      `model_flops`: FLOPs by the formula; `flops_ratio`: compiled FLOPs over these, None if XLA refused the program.
      `stage`, `tokens` (per step), `steps`, `grad_accum_steps`: settings of the stage.

    Raises:
      UserError: the topology, the mesh or the batch is invalid, or the compiler's package is missing.
    """
    settings = stage_settings(recipe, stage)
    with capture_stderr():
        target = make_target(recipe, name)
    state, batch = abstract_inputs(settings, target.model, target.layout)
    frozen = abstract_frozen(settings, target.model, target.layout)
    step = next_token_step(settings, target.model, target.layout, state, frozen)
    adapters = num_adapters(state, frozen)
    flops_per_token = model_flops_per_token(target.model.config, settings.sequence_length, adapters)
    tokens = settings.batch_size * settings.sequence_length
    return step_result(lambda: step.lower(state, batch), target, stage, settings, tokens, flops_per_token)


def num_adapters(state: TrainState, frozen: Frozen) -> int:
    """Returns the number of trained parameters where others are frozen; 0 where all are trained."""
    return 0 if frozen.params is None else sum(leaf.size for leaf in jax.tree.leaves(state.params))


def step_result(
    lower: Callable[[], Any], target: Target, stage: str, settings: TrainingSettings, tokens: int,
    flops_per_token: float,
) -> dict[str, Any]:  # fmt: skip
    """Compiles the train step that `lower` lowers; returns the result of `compile_step`."""
    program = compile_program(lower, target.topology, target.layout)
    model_flops = flops_per_token * tokens / len(target.topology.devices)
    return (
        program
        | target.describe()
        | {
            "fits": program["memory"] is not None and program["hbm_bytes"] <= target.topology.usable_bytes,
            "model_flops": model_flops,
            "flops_ratio": program["flops"] / model_flops if program["flops"] is not None else None,
            "stage": stage,
            "tokens": tokens,
            "steps": settings.steps,
            "grad_accum_steps": settings.grad_accum_steps,
        }
    )


def shard_bytes(tree: Any) -> int:
    """Returns the bytes of abstract arrays on one device."""
    return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in jax.tree.leaves(tree))
