"""Searches the settings that change a stage's speed and memory, but not its result, for those with the best bound.

A candidate is a mesh, a remat policy and a number of micro-batches; for RL, a number of decode slots too. They are
compiled in the order of a bound that needs no compiler: the products, and the gathers and reductions that their mesh
cannot do without. One whose bound is above the best compiled one is skipped, as is one whose state and saved layer
inputs alone exceed the memory. Of the micro-batches of a mesh, the largest that fits is taken, since smaller ones
gather the weights more often.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from dsmath_jax.aot.bound import bound_of
from dsmath_jax.aot.collectives import Collective
from dsmath_jax.aot.costs import Costs
from dsmath_jax.aot.program import capture_stderr
from dsmath_jax.aot.rl import compile_rl, policy_state, row_length
from dsmath_jax.aot.step import Target, compile_step, make_target, shard_bytes, stage_settings
from dsmath_jax.aot.text import bounds_of, gib
from dsmath_jax.recipe import Recipe
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sharding import MeshSettings
from dsmath_jax.training.flops import matmul_parameters, model_flops_per_token
from dsmath_jax.training.next_token import abstract_inputs
from dsmath_jax.workdir import UserError

REMAT_FLOPS = {"minimal": 1.0, "full": 8 / 6}  # the searched policies, and their least FLOPs by the formula's
MAX_REPLICAS, MAX_TENSOR = 8, 8
MAX_ROWS = 16  # of a device in a micro-batch


class Candidate(NamedTuple):
    """Settings to try."""

    mesh: MeshSettings
    remat: str
    grad_accum_steps: int
    decode_slots: int  # 0: the recipe's, or no RL

    def overrides(self, stage: str) -> dict[str, Any]:
        """Returns the fields of the config that it sets."""
        fields: dict[str, Any] = {f"mesh.{name}": size for name, size in dataclasses.asdict(self.mesh).items()}
        fields |= {"model.remat": self.remat, f"{stage}.grad_accum_steps": self.grad_accum_steps}
        return fields | ({f"{stage}.decode_slots": self.decode_slots} if self.decode_slots else {})

    def recipe(self, recipe: Recipe, stage: str) -> Recipe:
        """Returns the recipe with these settings.

        Raises:
          UserError: they are invalid together.
        """
        assert recipe.model is not None  # `stage_settings` has checked it
        changed = {"grad_accum_steps": self.grad_accum_steps}
        changed |= {"decode_slots": self.decode_slots} if self.decode_slots else {}
        return dataclasses.replace(
            recipe, mesh=self.mesh, model=dataclasses.replace(recipe.model, remat=self.remat),
            **{stage: dataclasses.replace(getattr(recipe, stage), **changed)},
        )  # fmt: skip


class Trial(NamedTuple):
    """A candidate and its outcome."""

    candidate: Candidate
    hbm_bytes: int
    fits: bool
    seconds: float  # at least, of a step or of a rollout and its updates; infinite if a program was refused
    serial: float
    limit: str  # the busiest resource of the longest phase


def suggest(recipe: Recipe, stage: str, name: str) -> tuple[list[Trial], int]:
    """Returns the candidates that were compiled, the best that fits first, and how many were skipped.

    Raises:
      UserError: the recipe, the stage or the topology is invalid.
    """
    settings = stage_settings(recipe, stage)
    with capture_stderr():
        given = make_target(recipe, name)
    starts = sorted(_starts(recipe, stage, given), key=lambda start: start[0])
    trials: list[Trial] = []
    skipped = 0
    for bound, first in starts:
        best = min((each.seconds for each in trials if each.fits), default=float("inf"))
        if bound >= best:
            skipped += 1
            continue
        trials += _from_largest_micro_batch(recipe, stage, name, first, settings)
    return sorted(trials, key=lambda each: (not each.fits, each.seconds, each.serial)), skipped


def _starts(recipe: Recipe, stage: str, given: Target) -> Iterator[tuple[float, Candidate]]:
    """Yields the candidates with the largest micro-batches, each with its bound before compiling."""
    devices, settings = given.topology.devices, stage_settings(recipe, stage)
    rows = settings.samples_per_step if isinstance(settings, RLSettings) else settings.batch_size
    for replica in _powers(MAX_REPLICAS):
        for tensor in _powers(MAX_TENSOR):
            if len(devices) % (replica * tensor) or given.model.config.num_key_value_heads % tensor:
                continue
            mesh = MeshSettings(replica=replica, fsdp=len(devices) // (replica * tensor), tensor=tensor)
            shards = replica * mesh.fsdp
            if rows % shards:
                continue
            micro_batches = next(n for n in _powers(rows) if rows // shards <= n * MAX_ROWS or rows % (2 * n * shards))
            candidate = Candidate(mesh, "minimal", micro_batches, 0)
            try:
                with capture_stderr():
                    target = make_target(candidate.recipe(recipe, stage), given.topology.name)
            except UserError:
                continue  # no mesh of these devices, or settings that do not go together
            for remat in REMAT_FLOPS:
                policy = candidate._replace(remat=remat)
                yield analytic_bound(policy, target, settings), policy


def _powers(largest: int) -> Iterator[int]:
    """Yields 1, 2, 4, ... up to `largest`."""
    n = 1
    while n <= largest:
        yield n
        n *= 2


def analytic_bound(candidate: Candidate, target: Target, settings: Any) -> float:
    """Returns a bound of the seconds of a step that is known before compiling.

    Every weight is gathered in bfloat16 for the forward and the backward pass of each micro-batch, its gradient is
    scattered once for each and reduced over replicas once, and a layer reduces its activations four times over tensor.
    """
    config, mesh = target.model.config, target.layout.mesh
    rows, length = _batch(settings, target)
    sizes, devices = dict(mesh.shape), mesh.size
    weights = 2 * matmul_parameters(config) / sizes["tensor"]
    tokens = rows * length * sizes["tensor"] / devices  # of a device in a step
    n = candidate.grad_accum_steps
    along = functools.partial(_groups, sizes)
    needed = [
        Collective("all-gather", 2 * n, weights / sizes["fsdp"], along("fsdp")),
        Collective("reduce-scatter", n, weights, along("fsdp")),
        Collective("all-reduce", 1, weights / sizes["fsdp"], along("replica")),
        Collective("all-reduce", 4 * config.num_hidden_layers, 2 * tokens * config.hidden_size, along("tensor")),
    ]
    flops = REMAT_FLOPS[candidate.remat] * model_flops_per_token(config, length) * rows * length / devices
    costs = Costs(flops, collectives={(str(i),): each for i, each in enumerate(needed)})
    return bound_of(costs, target.topology.chip, mesh.devices.flat).overlapped


def _groups(sizes: dict[str, int], axis: str) -> np.ndarray:
    """Returns the groups of devices along an axis of the mesh."""
    grid = np.arange(int(np.prod(list(sizes.values())))).reshape(tuple(sizes.values()))
    return np.moveaxis(grid, list(sizes).index(axis), -1).reshape(-1, sizes[axis])


def _batch(settings: Any, target: Target) -> tuple[int, int]:
    """Returns the rows and the tokens of a row of a step's batch."""
    if isinstance(settings, RLSettings):
        return settings.samples_per_step, row_length(settings, target.layout)
    return settings.batch_size, settings.sequence_length


def _from_largest_micro_batch(
    recipe: Recipe, stage: str, name: str, candidate: Candidate, settings: Any
) -> Iterator[Trial]:
    """Yields the outcomes of a candidate with smaller micro-batches, and fewer decode slots, until one fits."""
    while True:
        try:
            changed = candidate.recipe(recipe, stage)
            with capture_stderr():
                target = make_target(changed, name)
            rows, _ = _batch(settings, target)
            if rows % (candidate.grad_accum_steps * target.layout.batch_shards):
                return  # the batch cannot be split further
            if least_bytes(candidate, target, stage_settings(changed, stage)) > target.topology.usable_bytes:
                candidate = candidate._replace(grad_accum_steps=2 * candidate.grad_accum_steps)
                continue
            result = compile_rl(changed, name) if stage == "rl" else compile_step(changed, stage, name)
        except UserError:
            return  # these settings do not go together
        yield _outcome(candidate, result)
        if result["fits"]:
            return
        phases = result.get("phases", {})
        if sum(phases.get("sample", {}).values()) > result["chip_bytes"]:
            slots = candidate.decode_slots or settings.num_decode_slots
            if slots < 2:
                return
            candidate = candidate._replace(decode_slots=slots // 2)
        else:
            candidate = candidate._replace(grad_accum_steps=2 * candidate.grad_accum_steps)


def least_bytes(candidate: Candidate, target: Target, settings: Any) -> int:
    """Returns bytes that a device needs in any case: parameters, optimizer state and the inputs of all layers."""
    if isinstance(settings, RLSettings):
        state = policy_state(settings, target)
    else:
        state, _ = abstract_inputs(settings, target.model, target.layout)
    rows, length = _batch(settings, target)
    config, sizes = target.model.config, target.layout.mesh.shape
    tokens = rows * length / candidate.grad_accum_steps / (sizes["replica"] * sizes["fsdp"])
    return shard_bytes(state) + int(2 * tokens * config.hidden_size * config.num_hidden_layers)


def _outcome(candidate: Candidate, result: dict[str, Any]) -> Trial:
    bounds = list(bounds_of(result).values())
    seconds = sum(bound.overlapped for bound in bounds) if bounds else float("inf")
    serial = sum(bound.serial for bound in bounds) if bounds else float("inf")
    limit = max(bounds, key=lambda bound: bound.overlapped).limit if bounds else "memory"
    return Trial(candidate, result["hbm_bytes"], result["fits"], seconds, serial, limit)


def suggestion_text(trials: list[Trial], skipped: int, stage: str) -> str:
    """Formats the outcomes as a table, and the best one as options to paste."""
    lines = [
        f"{'replica':>8}{'fsdp':>6}{'tensor':>8}  {'remat':<9}{'micro-batches':>14}{'slots':>7}{'peak':>16}"
        f"{'at least, s':>13}{'serial, s':>11}  limit"
    ]
    for each in trials:
        mesh, remat, micro_batches, slots = each.candidate
        lines += [
            f"{mesh.replica:>8}{mesh.fsdp:>6}{mesh.tensor:>8}  {remat:<9}{micro_batches:>14}{slots or '':>7}"
            f"{gib(each.hbm_bytes):>16}{each.seconds:>13.3g}{each.serial:>11.3g}  "
            + (each.limit if each.fits else "DOES NOT FIT")
        ]
    lines += [f"{skipped} more meshes and policies have a bound above the best one's."] if skipped else []
    if not trials or not trials[0].fits:
        return "\n".join([*lines, "", "Nothing fits: take more devices, or larger ones."])
    options = " ".join(f"--config.{field}={value}" for field, value in trials[0].candidate.overrides(stage).items())
    return "\n".join([*lines, "", options])
