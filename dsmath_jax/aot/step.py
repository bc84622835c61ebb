"""Compiles the train step of a config for a TPU topology, without TPUs, and reports its costs per device.

Nothing is allocated: parameters, optimizer state and batch are abstract arrays with shardings. The functions are those
that training runs.
"""

import contextlib
import dataclasses
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from dsmath_jax.aot.hlo import costs
from dsmath_jax.extras import required_by
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder
from dsmath_jax.recipe import Recipe
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training.flops import HBM_BYTES, PEAK_FLOPS, model_flops_per_token
from dsmath_jax.training.model_files import build_model
from dsmath_jax.training.next_token import abstract_inputs, next_token_step
from dsmath_jax.workdir import UserError

SHOWN_SIZES = ("num_hidden_layers", "hidden_size", "vocab_size", "remat", "attention")  # in the results
EXPECTED_MFU = 0.4  # assumed for expected times, since nothing is run
TOPOLOGY = re.compile(r"(?:([1-9]\d*)x)?(v\d\w*:\d+(?:x\d+){1,2})")
FULL_REMAT = "Involuntary full rematerialization"  # the partitioner's warning: it gathers an array to reshard it
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def topology_devices(topology: str) -> Sequence[Any]:
    """Returns the devices of a topology such as `v5p:4x4x8`, or of several slices: `2xv5p:4x4x4`.

    Raises:
      UserError: libtpu is not installed, or does not know the topology.
    """
    match = TOPOLOGY.fullmatch(topology)
    if match is None:
        raise UserError(f"The topology '{topology}' is not understood; give one as v5e:4x4, v5p:4x4x8 or 2xv5p:4x4x4.")
    slices, name = match.groups()
    options: dict[str, Any] = {"num_slices": int(slices)} if slices else {}
    if set(name.split(":")[1].split("x")) == {"1"}:
        options["chips_per_host_bounds"] = [1, 1, 1]  # the default is a host of four chips
    if name.startswith("v4:"):
        options["chip_config_name"] = "megacore"  # one device per chip, as in JAX on v4; the default is two
    with required_by("Compiling for TPUs"):
        import libtpu  # noqa: F401
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        if "INVALID_ARGUMENT" in reason:
            raise UserError(f"libtpu knows no topology '{topology}' ({reason}); give an existing one.") from None
        raise UserError(f"libtpu cannot be used ({reason}); fix that and run the same command again.") from None


def stage_of(recipe: Recipe, name: str) -> Any:
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


class Slice(NamedTuple):
    """A TPU slice, whose hardware need not exist, and the model on it."""

    topology: str
    devices: Sequence[Any]
    layout: Layout
    model: Decoder

    @property
    def kind(self) -> str:
        """The kind of its devices, such as "TPU v5"."""
        return self.devices[0].device_kind

    def describe(self) -> dict[str, Any]:
        """Returns the fields of a result that describe the slice and the model."""
        config = self.model.config
        return {
            "topology": self.topology,
            "device_kind": self.kind,
            "devices": len(self.devices),
            "mesh": dict(self.layout.mesh.shape),
            "model": {name: getattr(config, name) for name in SHOWN_SIZES},
            "chip_bytes": HBM_BYTES[self.kind],
        }


def make_slice(recipe: Recipe, topology: str) -> Slice:
    """Returns the slice `topology` with the mesh and the model of `recipe`.

    Raises:
      UserError: the topology, the mesh or the model is invalid, or libtpu is missing.
    """
    config, devices = model_config(recipe), topology_devices(topology)
    kind = devices[0].device_kind
    if kind not in HBM_BYTES or kind not in PEAK_FLOPS:
        raise UserError(
            f"The memory and peak FLOPs of the chip '{kind}' of {topology} are not known; use a v5e, v5p or v6e."
        )
    layout = Layout(make_mesh(recipe.mesh, devices))
    return Slice(topology, devices, layout, build_model(config, layout))


def compile_program(lower: Callable[[], Any]) -> dict[str, Any]:
    """Compiles a program and returns its costs per device for one call.

    Returns:
      `memory`: the bytes of `arguments`, `temporaries`, `output`, `aliased` (output in donated buffers) and `code`;
        None if XLA refused the program because it needs too much memory.
      `hbm_bytes`: the peak memory (see `memory_of`), or what XLA says that a refused program needs.
      `flops`: FLOPs as compiled, with rematerialized work.
      `collectives`: `kind -> {"count", "bytes"}`, bytes as sent (see `aot.hlo`).
      `kernels`: the custom kernels. All of these are None for a refused program.
      `lower_seconds`, `compile_seconds`: time taken.
      `notes`: what is not counted.
    """
    began = time.monotonic()
    lowered = lower()
    lowered_at = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        memory, counted = refused_memory(str(error)), None
    else:
        memory, counted = memory_of(compiled), costs(compiled.as_text())
    ended = time.monotonic()
    return memory | {
        "flops": counted.flops if counted else None,
        "collectives": counted.by_kind() if counted else None,
        "kernels": sorted(counted.kernels) if counted else None,
        "lower_seconds": round(lowered_at - began, 1),
        "compile_seconds": round(ended - lowered_at, 1),
        "notes": sorted(counted.unknown) if counted else [],
    }


def compile_step(recipe: Recipe, stage: str, topology: str) -> dict[str, Any]:
    """Lowers and compiles the train step of `recipe` for `topology`.

    Returns:
      The fields of `compile_program` and `Slice.describe`, per device and step, and:
      `fits`: whether the step fits the chip.
      `model_flops`: FLOPs by the formula; `flops_ratio`: compiled FLOPs over these, None if XLA refused the program.
      `step_seconds`, `run_days`: times by the formula at `expected_mfu` of the chip's peak.
      `stage`, `tokens` (per step), `steps`, `grad_accum_steps`: settings of the stage.
      `full_rematerializations`: number of arrays that the partitioner gathers whole to reshard them.

    Raises:
      UserError: the topology, the mesh or the batch is invalid, or libtpu is missing.
    """
    part = stage_of(recipe, stage)
    with capture_stderr() as warnings:
        target = make_slice(recipe, topology)
        state, batch = abstract_inputs(part, target.model, target.layout)
        program = compile_program(lambda: next_token_step(part, target.model, target.layout, state).lower(state, batch))
    tokens = part.batch_size * part.sequence_length
    model_flops = model_flops_per_token(target.model.config, part.sequence_length) * tokens / len(target.devices)
    step_seconds = model_flops / PEAK_FLOPS[target.kind] / EXPECTED_MFU
    return (
        program
        | target.describe()
        | {
            "fits": program["memory"] is not None and program["hbm_bytes"] <= HBM_BYTES[target.kind],
            "model_flops": model_flops,
            "flops_ratio": program["flops"] / model_flops if program["flops"] is not None else None,
            "expected_mfu": EXPECTED_MFU,
            "step_seconds": step_seconds,
            "run_days": step_seconds * part.steps / 86_400,
            "stage": stage,
            "tokens": tokens,
            "steps": part.steps,
            "grad_accum_steps": part.grad_accum_steps,
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
