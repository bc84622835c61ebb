"""Compiles the train step of a config for TPUs that are only described, and says what it needs of each of them.

Nothing is allocated: parameters, optimizer state and batch are abstract arrays with their shardings, and the functions
are those that training runs.
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
from dsmath_jax.models.llama import Llama
from dsmath_jax.recipe import Recipe
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training.flops import HBM_BYTES, PEAK_FLOPS, model_flops_per_token
from dsmath_jax.training.model_files import build_model
from dsmath_jax.training.next_token import abstract_inputs, next_token_step
from dsmath_jax.workdir import UserError

SHOWN_SIZES = ("num_hidden_layers", "hidden_size", "vocab_size", "remat", "attention")  # in the results
EXPECTED_MFU = 0.4  # what the expected times suppose; nothing is run here
TOPOLOGY = re.compile(r"(?:([1-9]\d*)x)?(v\d\w*:\d+(?:x\d+){1,2})")
RELAID = "Involuntary full rematerialization"  # the partitioner's words for an array gathered whole to be laid out anew
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def described_devices(topology: str) -> Sequence[Any]:
    """The devices of a topology such as `v5p:4x4x8`, or of slices of it joined by a network: `2xv5p:4x4x4`.

    Raises:
      UserError: libtpu is not installed, or knows no such topology.
    """
    found = TOPOLOGY.fullmatch(topology)
    if found is None:
        raise UserError(f"The topology '{topology}' is not understood; give one as v5e:4x4, v5p:4x4x8 or 2xv5p:4x4x4.")
    options: dict[str, Any] = {"num_slices": int(found[1])} if found[1] else {}
    if set(found[2].split(":")[1].split("x")) == {"1"}:
        options["chips_per_host_bounds"] = [1, 1, 1]  # else a host of four is taken for granted
    if found[2].startswith("v4:"):
        options["chip_config_name"] = "megacore"  # one device a chip, as JAX has on v4; else two are described
    with required_by("Compiling for TPUs"):
        import libtpu  # noqa: F401
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=found[2], **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        if "INVALID_ARGUMENT" in reason:
            raise UserError(f"libtpu knows no topology '{topology}' ({reason}); give one that is sold.") from None
        raise UserError(f"libtpu cannot be used ({reason}); fix that and run the same command again.") from None


def stage_of(recipe: Recipe, name: str) -> Any:
    """The settings of a stage.

    Raises:
      UserError: the recipe lacks them, or the model's sizes.
    """
    for part in ("model", name):
        if getattr(recipe, part) is None:
            raise UserError(f"The config has no part '{part}', which compiling its stage {name} needs; add it.")
    return getattr(recipe, name)


def model_sizes(recipe: Recipe) -> ModelConfig:
    """The model's sizes; a vocabulary of 0 is the one that the recipe's tokenizer will be trained to.

    Raises:
      UserError: the vocabulary is that of a tokenizer which has to be read first.
    """
    sizes, trained = recipe.model, recipe.tokenizer
    assert sizes is not None
    vocab_size = sizes.vocab_size or (trained.vocab_size if trained and not trained.path else 0)
    if not vocab_size:
        raise UserError("The vocabulary's size is the tokenizer's; give it as --config.model.vocab_size=N.")
    return dataclasses.replace(sizes, vocab_size=vocab_size)


class Slice(NamedTuple):
    """A described TPU slice and the model on it."""

    topology: str
    devices: Sequence[Any]
    layout: Layout
    model: Llama

    @property
    def kind(self) -> str:
        return self.devices[0].device_kind

    def facts(self) -> dict[str, Any]:
        """What a result says of it."""
        sizes = self.model.config
        return {
            "topology": self.topology,
            "device_kind": self.kind,
            "devices": len(self.devices),
            "mesh": dict(self.layout.mesh.shape),
            "model": {name: getattr(sizes, name) for name in SHOWN_SIZES},
            "chip_bytes": HBM_BYTES[self.kind],
        }


def described_slice(recipe: Recipe, topology: str) -> Slice:
    """The slice with the mesh and the model of `recipe`.

    Raises:
      UserError: the topology, the mesh or the model is wrong, or libtpu is missing.
    """
    sizes, devices = model_sizes(recipe), described_devices(topology)
    kind = devices[0].device_kind
    if kind not in HBM_BYTES or kind not in PEAK_FLOPS:
        raise UserError(f"Of the chip '{kind}' of {topology} no data are known; take a v5e, v5p or v6e.")
    layout = Layout(make_mesh(recipe.mesh, devices))
    return Slice(topology, devices, layout, build_model(sizes, layout))


def compiled_program(lower: Callable[[], Any]) -> dict[str, Any]:
    """Lowers and compiles a program; what it needs of each device, for one call.

    Returns:
      `memory`: the bytes of `arguments`, `temporaries`, `output`, `aliased` (the output that takes the place of donated
        arguments) and `code`; `hbm_bytes` is the peak of them together (see `memory_of`). Null where XLA refused the
        program for its memory; then `hbm_bytes` is what XLA says that it needs.
      `flops`: as compiled (rematerialised work counts again).
      `collectives`: `kind -> {"count", "bytes"}`, bytes as sent (see `aot.hlo`); `kernels`: the hand-written ones that
        it runs. All of these are null where XLA refused.
      `lower_seconds`, `compile_seconds`; `notes`: what the counts leave out.
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
      Per device, for one step, what `compiled_program` says of it and `Slice.facts` of the slice, and:
      `chip_bytes`, `fits`: what programs may fill of the chip, and whether the step does.
      `model_flops`: FLOPs by the formula; `flops_ratio`: those compiled over them, null where XLA refused.
      `step_seconds`, `run_days`: what the formula gives at `expected_mfu` of the chip's peak.
      Besides: `stage`, its `tokens` a step, `steps`, `grad_accum_steps`; `full_rematerializations`: arrays that the
      partitioner had to gather whole to lay them out anew.

    Raises:
      UserError: the topology, the mesh or the batch is wrong, or libtpu is missing.
    """
    part = stage_of(recipe, stage)
    with captured_stderr() as told:
        where = described_slice(recipe, topology)
        state, batch = abstract_inputs(part, where.model, where.layout)
        found = compiled_program(lambda: next_token_step(part, where.model, where.layout, state).lower(state, batch))
    tokens = part.batch_size * part.sequence_length
    model_flops = model_flops_per_token(where.model.config, part.sequence_length) * tokens / len(where.devices)
    step_seconds = model_flops / PEAK_FLOPS[where.kind] / EXPECTED_MFU
    return (
        found
        | where.facts()
        | {
            "fits": found["memory"] is not None and found["hbm_bytes"] <= HBM_BYTES[where.kind],
            "model_flops": model_flops,
            "flops_ratio": found["flops"] / model_flops if found["flops"] is not None else None,
            "expected_mfu": EXPECTED_MFU,
            "step_seconds": step_seconds,
            "run_days": step_seconds * part.steps / 86_400,
            "stage": stage,
            "tokens": tokens,
            "steps": part.steps,
            "grad_accum_steps": part.grad_accum_steps,
            "full_rematerializations": told[0].count(RELAID),
        }
    )


def memory_of(compiled: Any) -> dict[str, Any]:
    """`hbm_bytes` and `memory` of a compiled program, from what XLA assigned to its buffers.

    What decides is the peak: all that is alive at the worst moment, donated arguments once. It is what XLA itself
    compares with the chip when it refuses a program. The temporaries' size is a sum over the step, part of which is
    never alive at the same time.
    """
    found = compiled.memory_analysis()
    memory = {
        "arguments": found.argument_size_in_bytes,
        "temporaries": found.temp_size_in_bytes,
        "output": found.output_size_in_bytes,
        "aliased": found.alias_size_in_bytes,
        "code": found.generated_code_size_in_bytes,
    }
    return {"hbm_bytes": found.peak_memory_in_bytes, "memory": memory}


def refused_memory(message: str) -> dict[str, Any]:
    """The same from the message of a compilation that XLA refused for its memory.

    Raises:
      UserError: it was refused for something else.
    """
    size = r"([\d.]+)([KMG]?)"
    used = re.search(rf"[Uu]sed {size} of {size} hbm|required for \w+ \w+ \({size}\) exceeds", message)
    if "RESOURCE_EXHAUSTED" not in message or used is None:
        raise UserError(f"XLA cannot compile this step: {message.splitlines()[0]}") from None
    number, unit = [part for part in used.groups() if part is not None][:2]
    return {"hbm_bytes": int(float(number) * UNITS[unit]), "memory": None}


@contextlib.contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Keeps what native code writes to the error stream off the screen; the list holds it afterwards."""
    told: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stderr"
        kept = os.dup(2)
        try:
            with path.open("wb") as file:
                os.dup2(file.fileno(), 2)
            yield told
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            told.append(path.read_text(encoding="utf-8", errors="replace"))
