"""Compiles the train step of a config for a topology, without its devices, and reports its costs per device.

Nothing is allocated: parameters, optimizer state and batch are abstract arrays with shardings. The functions are those
that training runs.
"""

import contextlib
import dataclasses
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dsmath_jax.aot.bound import bound_of
from dsmath_jax.aot.costs import costs
from dsmath_jax.aot.topology import Topology, topology
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.llama import Llama
from dsmath_jax.recipe import Recipe
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training.flops import model_flops_per_token
from dsmath_jax.training.model_files import build_model
from dsmath_jax.training.next_token import abstract_inputs, next_token_step
from dsmath_jax.workdir import UserError

SHOWN_SIZES = ("num_hidden_layers", "hidden_size", "vocab_size", "remat", "attention")  # in the results
# A GPU's compiler would try kernels on the GPU.
COMPILER_OPTIONS: dict[str, dict[str, Any]] = {"gpu": {"xla_gpu_autotune_level": 0}, "cuda": {"xla_gpu_autotune_level": 0}}
FULL_REMAT = "Involuntary full rematerialization"  # the partitioner's warning: it gathers an array to reshard it
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def stage_settings(recipe: Recipe, name: str) -> Any:
    """Returns the settings of a stage.

    Raises:
      UserError: the recipe lacks the section of the stage or of the model.
    """
    for section in ("model", name):
        if getattr(recipe, section) is None:
            raise UserError(f"The config has no section '{section}', which stage {name} needs; add it.")
    return getattr(recipe, name)


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
    model: Llama

    def describe(self) -> dict[str, Any]:
        """Returns the fields of a result that describe the devices and the model."""
        config = self.model.config
        return {
            "topology": self.topology.name,
            "device_kind": self.topology.devices[0].device_kind,
            "devices": len(self.topology.devices),
            "mesh": dict(self.layout.mesh.shape),
            "model": {name: getattr(config, name) for name in SHOWN_SIZES},
            "chip": dataclasses.asdict(self.topology.chip),
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


def compile_program(lower: Callable[[], Any], target: Target, trips: int = 1) -> dict[str, Any]:
    """Compiles a program and returns its costs per device for one call.

    Args:
      lower: lowers the program.
      target: what it is compiled for.
      trips: how often loops run whose trip count depends on data.

    Returns:
      `memory`: the bytes of `arguments`, `temporaries`, `output`, `aliased` (output in donated buffers) and `code`;
        None if XLA refused the program because it needs too much memory.
      `hbm_bytes`: the peak memory (see `memory_of`), or what XLA says that a refused program needs.
      `flops`: FLOPs as compiled, with rematerialized work; `traffic`: bytes read from and written to HBM.
      `collectives`: rows of `kind`, mesh `axes`, `count` and `bytes`, as sent (see `aot.collectives`).
      `bound`: the seconds that each resource is busy at least (see `aot.bound`).
      `kernels`: the custom kernels. All of these are None for a refused program.
      `lower_seconds`, `compile_seconds`: time taken.
      `notes`: what is not counted.
    """
    began = time.monotonic()
    lowered = lower()
    lowered_at = time.monotonic()
    chip, mesh = target.topology.chip, target.layout.mesh
    options = COMPILER_OPTIONS.get(mesh.devices.flat[0].platform, {})
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        found = refused_memory(str(error)) | dict.fromkeys(("flops", "traffic", "collectives", "bound", "kernels"))
        found["notes"] = []
    else:
        counted = costs(compiled.as_text(), chip.cache, trips)
        totals = counted.totals(lambda each: (each.kind, each.axes(mesh.shape)))
        found = memory_of(compiled) | {
            "flops": counted.flops,
            "traffic": counted.hbm_bytes,
            "collectives": [{"kind": kind, "axes": axes} | total for (kind, axes), total in totals.items()],
            "bound": bound_of(counted, chip, mesh.devices.flat)._asdict(),
            "kernels": sorted(counted.kernels),
            "notes": sorted(counted.unknown),
        }
    seconds = {"lower_seconds": lowered_at - began, "compile_seconds": time.monotonic() - lowered_at}
    return found | {name: round(value, 1) for name, value in seconds.items()}


def compile_step(recipe: Recipe, stage: str, name: str) -> dict[str, Any]:
    """Lowers and compiles the train step of `recipe` for the topology `name`.

    Returns:
      The fields of `compile_program` and `Target.describe`, per device and step, and:
      `fits`: whether the step fits the device.
      `model_flops`: FLOPs by the formula; `flops_ratio`: compiled FLOPs over these, None if XLA refused the program.
      `stage`, `tokens` (per step), `steps`, `grad_accum_steps`: settings of the stage.
      `full_rematerializations`: number of arrays that the partitioner gathers whole to reshard them.

    Raises:
      UserError: the topology, the mesh or the batch is invalid, or the compiler's package is missing.
    """
    settings = stage_settings(recipe, stage)
    with capture_stderr() as warnings:
        target = make_target(recipe, name)
        state, batch = abstract_inputs(settings, target.model, target.layout)
        step = next_token_step(settings, target.model, target.layout, state)
        program = compile_program(lambda: step.lower(state, batch), target)
    tokens = settings.batch_size * settings.sequence_length
    devices = len(target.topology.devices)
    model_flops = model_flops_per_token(target.model.config, settings.sequence_length) * tokens / devices
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
            "full_rematerializations": warnings[0].count(FULL_REMAT),
        }
    )


def memory_of(compiled: Any) -> dict[str, Any]:
    """Returns `hbm_bytes` and `memory` of a compiled program, from XLA's buffer assignment.

    The peak decides whether a program fits: all buffers that are alive at the same time, donated arguments counted
    once. XLA itself compares it with the chip's memory. The size of the temporaries is a sum over buffers that are not
    all alive at the same time.
    """
    analysis = compiled.memory_analysis()
    memory = {
        "arguments": analysis.argument_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "output": analysis.output_size_in_bytes,
        "aliased": analysis.alias_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
    }
    return {"hbm_bytes": analysis.peak_memory_in_bytes, "memory": memory}


def refused_memory(message: str) -> dict[str, Any]:
    """Returns `hbm_bytes`, and None as `memory`, of a program that needs too much memory, from XLA's error message.

    Raises:
      UserError: it was refused for another reason.
    """
    size = r"([\d.]+)([KMG]?)"
    used = re.search(rf"[Uu]sed {size} of {size} hbm|required for \w+ \w+ \({size}\) exceeds", message)
    if "RESOURCE_EXHAUSTED" not in message or used is None:
        raise UserError(f"XLA cannot compile this step: {message.splitlines()[0]}") from None
    number, unit = [part for part in used.groups() if part is not None][:2]
    return {"hbm_bytes": int(float(number) * UNITS[unit]), "memory": None}


@contextlib.contextmanager
def capture_stderr() -> Iterator[list[str]]:
    """Captures what native code writes to stderr; the list contains it after the block."""
    captured: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stderr"
        stderr = os.dup(2)
        try:
            with path.open("wb") as file:
                os.dup2(file.fileno(), 2)
            yield captured
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.append(path.read_text(encoding="utf-8", errors="replace"))
