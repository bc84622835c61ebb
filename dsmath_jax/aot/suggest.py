"""Searches the settings that change a stage's speed and memory, but not its result, for those with the best bound.

A candidate is a mesh, a remat policy and a number of micro-batches; for RL, a number of decode slots too. They are
compiled in the order of a bound that needs no compiler (`aot.estimate`). One whose bound is above the best compiled one
is skipped, as is one that needs more than the memory in any case, and the search ends after PATIENCE meshes and
policies that are no better than the best. Of the micro-batches of a mesh, the largest that fits is taken, since smaller
ones gather the weights more often.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from dsmath_jax.aot.estimate import ATTENTION_PRODUCTS, lower_bounds, min_bytes, min_sampling_bytes, num_rows
from dsmath_jax.aot.program import capture_stderr
from dsmath_jax.aot.rl import compile_rl, rl_settings
from dsmath_jax.aot.step import Target, compile_step, make_target, model_config, stage_settings
from dsmath_jax.aot.text import bounds_of, gib
from dsmath_jax.aot.topology import topology
from dsmath_jax.recipe import Recipe
from dsmath_jax.sharding import MeshSettings
from dsmath_jax.workdir import UserError

SIZES = (1, 2, 4, 8)  # of replica and of tensor; fsdp is the rest
MAX_ROWS = 16  # of a device in a micro-batch
PATIENCE, BETTER = 3, 0.99  # a bound is better below 99 % of the best one


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
      UserError: the recipe, the stage or the topology is invalid, or batch sizes depend on data.
    """
    if stage == "rl":
        rl_settings(recipe)  # some methods have no programs to compile
    starts = sorted(_starts(recipe, stage, name), key=lambda start: start[:2])
    trials: list[Trial] = []
    best, no_better, skipped = float("inf"), 0, 0
    for bound, _, first in starts:
        if bound >= best or no_better == PATIENCE:
            skipped += 1
            continue
        found = list(_until_one_fits(recipe, stage, name, first))
        seconds = min((each.seconds for each in found if each.fits), default=float("inf"))
        no_better = no_better + 1 if seconds >= BETTER * best < float("inf") else 0
        best = min(best, seconds)
        trials += found
    return sorted(trials, key=lambda each: (not each.fits, each.seconds, each.serial)), skipped


def _starts(recipe: Recipe, stage: str, name: str) -> Iterator[tuple[float, float, Candidate]]:
    """Yields the candidates with the largest micro-batches, each with its bounds before compiling."""
    rows = num_rows(stage_settings(recipe, stage))
    with capture_stderr():
        devices = len(topology(name).devices)
    for replica, tensor in itertools.product(SIZES, SIZES):
        shards = devices // tensor
        if devices % (replica * tensor) or model_config(recipe).num_key_value_heads % tensor or rows % shards:
            continue
        mesh = MeshSettings(replica=replica, fsdp=shards // replica, tensor=tensor)
        for remat in ATTENTION_PRODUCTS:
            candidate = Candidate(mesh, remat, micro_batches(rows // shards)[0], 0)
            try:
                target, settings = _target(candidate, recipe, stage, name)
            except UserError:
                continue  # no mesh of these devices, or settings that do not go together
            bounds = lower_bounds(target, settings)
            yield sum(each.overlapped for each in bounds), sum(each.serial for each in bounds), candidate


def micro_batches(rows: int) -> list[int]:
    """Returns the numbers of micro-batches into which the rows of a device can be split, ascending."""
    return [n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= MAX_ROWS]


def _target(candidate: Candidate, recipe: Recipe, stage: str, name: str) -> tuple[Target, Any]:
    """Returns the devices and the model of a candidate, and its settings of the stage."""
    changed = candidate.recipe(recipe, stage)
    with capture_stderr():
        return make_target(changed, name), stage_settings(changed, stage)


def _until_one_fits(recipe: Recipe, stage: str, name: str, candidate: Candidate) -> Iterator[Trial]:
    """Yields the outcomes of a candidate with smaller micro-batches, and fewer decode slots, until one fits."""
    while True:
        try:
            target, settings = _target(candidate, recipe, stage, name)
            usable = target.topology.usable_bytes
            sampling_fits = stage != "rl" or min_sampling_bytes(target, settings) <= usable
            if sampling_fits and min_bytes(target, settings) <= usable:
                changed = candidate.recipe(recipe, stage)
                result = compile_rl(changed, name) if stage == "rl" else compile_step(changed, stage, name)
                yield _outcome(candidate, result)
                if result["fits"]:
                    return
                sampling_fits = sum(result.get("phases", {}).get("sample", {}).values()) <= result["chip_bytes"]
        except UserError:
            return  # these settings do not go together
        if sampling_fits:
            rows = num_rows(settings) // target.layout.batch_shards
            more = next((n for n in micro_batches(rows) if n > settings.grad_accum_steps), 0)
            candidate = candidate._replace(grad_accum_steps=more)
        else:
            candidate = candidate._replace(decode_slots=settings.num_decode_slots // 2)
            more = candidate.decode_slots
        if not more:
            return  # it cannot be split further


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
    if skipped:
        lines += [f"{skipped} more meshes and policies were left out: they cannot be better, or those before were not."]
    if not trials or not trials[0].fits:
        return "\n".join([*lines, "", "Nothing fits: take more devices, or larger ones."])
    options = " ".join(f"--config.{field}={value}" for field, value in trials[0].candidate.overrides(stage).items())
    return "\n".join([*lines, "", options])
