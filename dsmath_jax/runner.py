"""Plans and runs the stages of a run: each is run, skipped, resumed, extended, redone or refused.

`plan` decides the action for each stage and checks everything that is known before the first one starts. `run` raises
the errors of the plan, or executes it.

A stage's fingerprint has its sections of the recipe and the hashes of the stages and files that it reads. It is
written to `started.json` before the stage's first file and to `manifest.json` after its last one. The manifest's
`seconds` are the wall time of the run that finished the stage, without that of killed runs before it.
"""

import contextlib
import dataclasses
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from dsmath_jax.formatting import duration
from dsmath_jax.settings import fingerprint, nearest
from dsmath_jax.sharding import barrier
from dsmath_jax.version import __version__
from dsmath_jax.workdir import (
    FORMAT,
    MANIFEST,
    STARTED,
    UserError,
    file_fingerprint,
    hash_file,
    hash_json,
    lock,
    read_json,
    remove,
    remove_temporaries,
    write_json,
)

VERSIONS = ("jax", "flax", "optax", "numpy")
CHANGES_SHOWN = 5  # further changes of a stage are only counted
EXTENDED = "extended"  # in place of the hash of a stage that will be extended
Action = Literal["complete", "to do", "resume", "extend", "redo"]
TO_DO: Action = "to do"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a recipe.

    Attributes:
      name: the name of its folder below the workdir and of its section of the recipe.
      run: `(recipe, workdir) -> counts`; after a kill it is called again and resumes from the files it finds. The
        recipe has only the stage's sections; the others are None.
      sections: the sections of the recipe that the stage uses, in addition to `seed`.
      depends_on: `recipe -> names` of the stages whose files it reads.
      outputs: patterns of the files that later stages read; the stage is identified by their hash.
      always_rerun: whether every run redoes it, from all finished stages.
      input_files: `(recipe, workdir) -> paths` of the user's files that it reads; a change of one changes the stage.
      check: `(recipe, workdir)` raises a `UserError` if the stage cannot work, as far as that is known before the first
        stage starts. It is quick and writes nothing. The recipe lacks the sections of stages that do not run; their
        outputs are in the workdir (see `folder_of`).
      logs: patterns of files that need not be kept. An interrupted stage with no other files starts from scratch, with
        any settings.
      why_not_extendable: `(recipe, workdir, steps)` returns the reason why a stage made with `steps` steps cannot be
        extended to those of the recipe, or "" if it can; None for a stage without steps.
    """

    name: str
    run: Callable[[Any, Path], dict]
    sections: tuple[str, ...]
    depends_on: Callable[[Any], tuple[str, ...]]
    outputs: tuple[str, ...]
    always_rerun: bool = False
    input_files: Callable[[Any, Path], Sequence[Path]] = lambda recipe, workdir: ()
    check: Callable[[Any, Path], None] = lambda recipe, workdir: None
    logs: tuple[str, ...] = ()
    why_not_extendable: Callable[[Any, Path, int], str] | None = None


class Planned(NamedTuple):
    """The action for a stage, or the reason why it cannot run.

    Attributes:
      stage: the stage.
      redo: whether to redo it if it is complete or was made with other settings.
      action: as far as it is known before earlier stages have run.
      error: None if the stage can run.
    """

    stage: Stage
    redo: bool
    action: Action = "to do"
    error: UserError | None = None


def run(stages: Sequence[Stage], recipe: Any, workdir: Path, names: Sequence[str], overwrite: Sequence[str]) -> None:
    """Runs the named stages in the order of `stages`; skips complete ones and resumes interrupted ones.

    Args:
      stages: all stages.
      recipe: a dataclass of settings with `seed`, `start` and a field for each section that the stages use.
      workdir: the run's workdir, which is locked during the run.
      names: the stages to run; empty for all that the recipe has a section for.
      overwrite: the stages to redo, with those that read them.

    Raises:
      UserError: a stage cannot run (then nothing was written), another run has locked the workdir, or the outputs of an
        earlier stage changed after a stage had read them.
    """
    planned = plan(stages, recipe, workdir, names, overwrite)
    for error in (step.error for step in planned if step.error):
        raise error
    if recipe.start:
        _link(_links(stages, recipe, workdir, [step.stage for step in planned]))
    with lock(workdir) if jax.process_index() == 0 else contextlib.nullcontext():
        for step in planned:
            _run_or_skip(step.stage, _stage_recipe(step.stage, recipe), workdir, step.redo)


def plan(
    stages: Sequence[Stage], recipe: Any, workdir: Path, names: Sequence[str], overwrite: Sequence[str]
) -> list[Planned]:
    """Decides what `run` does with each stage for the same arguments, and checks that it can. Writes nothing.

    Raises:
      UserError: a stage is unknown, or the workdir or that of `recipe.start` cannot be used.
    """
    chosen = select(stages, recipe, names, overwrite)
    for stage in stages:
        _check_format(folder_of(stage.name, recipe, workdir))
    if recipe.start:
        _links(stages, recipe, workdir, chosen)  # raises if a link cannot be made
    others = {stage.name for stage in stages} - {stage.name for stage in chosen}
    checked_recipe = dataclasses.replace(recipe, **{name: None for name in others if hasattr(recipe, name)})
    planned: dict[str, Planned] = {}
    for stage in chosen:
        redo, action, error = stage.always_rerun or stage.name in overwrite, TO_DO, None
        try:
            stage_recipe = _stage_recipe(stage, recipe)
            dependencies = stage.depends_on(recipe)
            for name in dependencies:
                if name not in planned:
                    _check_made(stage, name, stages, recipe, workdir)
            redo = redo or any(planned[name].redo for name in dependencies if name in planned)
            known = [name for name in dependencies if name not in planned or planned[name].action == "complete"]
            results = {name: _outputs_hash(folder_of(name, recipe, workdir)) for name in known}
            # The outputs of a stage that is yet to run are compared later; an extended one will have changed them.
            results |= {name: EXTENDED for name in dependencies if name in planned and planned[name].action == "extend"}
            action = _decide(stage, stage_recipe, workdir, redo, _fingerprint(stage, stage_recipe, workdir, results))
            if action != "complete":
                stage.check(checked_recipe, workdir)
        except UserError as raised:
            error = raised
        planned[stage.name] = Planned(stage, redo, action, error)
    return list(planned.values())


def folder_of(name: str, recipe: Any, workdir: Path) -> Path:
    """Returns the folder of a stage: in the workdir or, before `run` links it there, in that of `recipe.start`."""
    folder = workdir / name
    return folder if folder.exists() or not recipe.start else Path(recipe.start) / name


def select(stages: Sequence[Stage], recipe: Any, names: Sequence[str], overwrite: Sequence[str] = ()) -> list[Stage]:
    """Returns the named stages in their order; without names, those that the recipe has a section for.

    Raises:
      UserError: a name is unknown, or `overwrite` names a stage that does not run.
    """
    known = [stage.name for stage in stages]
    for name in (*names, *overwrite):
        if name not in known:
            raise UserError(f"Unknown stage '{name}'{nearest(name, known)}; the stages are {', '.join(known)}.")
    default = {stage.name for stage in stages if stage.always_rerun or getattr(recipe, stage.name, None) is not None}
    chosen = [stage for stage in stages if stage.name in (names or default)]
    for name in set(overwrite) - {stage.name for stage in chosen}:
        raise UserError(f"--overwrite={name} names a stage that does not run; add {name} to --stages.")
    return chosen


def _stage_recipe(stage: Stage, recipe: Any) -> Any:
    """Returns the recipe with only the stage's sections."""
    if stage.name in stage.sections and getattr(recipe, stage.name) is None:
        raise UserError(f"The recipe has no section '{stage.name}', which stage {stage.name} needs; add it.")
    others = {field.name for field in dataclasses.fields(recipe)} - {"seed", *stage.sections}
    return dataclasses.replace(recipe, **dict.fromkeys(others))


def _check_format(folder: Path) -> None:
    """Raises a `UserError` if a stage was made by a version with another file format."""
    path = next((folder / name for name in (MANIFEST, STARTED) if (folder / name).is_file()), None)
    if path and read_json(path).get("format") != FORMAT:
        made = read_json(path).get("versions", {}).get("dsmath-jax", "0.1")
        raise UserError(
            f"{folder} was made by dsmath-jax {made}, whose workdirs version {__version__} cannot read; give another "
            "--workdir, or use that version."
        )


def _check_made(stage: Stage, name: str, stages: Sequence[Stage], recipe: Any, workdir: Path) -> None:
    """Raises a `UserError` if a stage reads another that is neither complete nor run before it."""
    earlier = [other.name for other in stages[: [other.name for other in stages].index(stage.name)]]
    if name not in earlier:
        raise UserError(
            f"Stage {stage.name} reads '{name}', which must be an earlier stage{nearest(name, earlier)}: one of "
            f"{', '.join(earlier)}."
        )
    if not (folder_of(name, recipe, workdir) / MANIFEST).is_file():
        section = "" if getattr(recipe, name, None) is not None else f" and the section {name} to the recipe"
        raise UserError(
            f"Stage {stage.name} reads stage {name}, which is not complete in {workdir}; add {name} to "
            f"--stages{section}."
        )


def _links(stages: Sequence[Stage], recipe: Any, workdir: Path, chosen: Sequence[Stage]) -> dict[Path, Path]:
    """Returns the links, with their targets, to the finished stages in the workdir `recipe.start`.

    Raises:
      UserError: that workdir has no finished stage, or this one has a stage in place of a link.
    """
    start = Path(recipe.start)
    others = [stage.name for stage in stages if stage not in chosen and not stage.always_rerun]
    finished = [name for name in others if (start / name / MANIFEST).is_file()]
    if not finished:
        raise UserError(
            f"config.start={start} has no finished stage except those that run here; name fewer stages in --stages, "
            "or give another folder."
        )
    links = {workdir / name: (start / name).resolve() for name in finished}
    for link, target in links.items():
        _check_format(target)
        if (link.exists() or link.is_symlink()) and not (link.is_symlink() and link.resolve() == target):
            raise UserError(
                f"Stage {link.name} in {workdir} is not that of config.start={start}; give another --workdir."
            )
    return links


def _link(links: Mapping[Path, Path]) -> None:
    if jax.process_index() == 0:
        for link, target in links.items():
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(target, target_is_directory=True)
    barrier("link stages")


def _decide(stage: Stage, recipe: Any, workdir: Path, redo: bool, current: dict) -> Action:
    """Returns the action for a stage.

    Args:
      stage: the stage.
      recipe: its sections of the recipe.
      workdir: the run's workdir.
      redo: whether to redo it if it is complete or was made with other settings.
      current: its fingerprint, with the hashes of the stages that it reads as far as they are known.

    Raises:
      UserError: it was made with other settings or from other files, or it belongs to another run.
    """
    folder = workdir / stage.name
    if folder.is_symlink():
        raise UserError(
            f"Stage {stage.name} in {workdir} belongs to another run, {folder.resolve()}; run it there, or give "
            "another --workdir."
        )
    complete = (folder / MANIFEST).is_file()
    if not complete and not (folder / STARTED).is_file():
        return TO_DO
    previous = read_json(folder / (MANIFEST if complete else STARTED))
    changes = _changes(previous, current)
    if redo and (complete or changes):
        return "redo"
    if not changes:
        return "complete" if complete else "resume"
    if not complete and not _has_work(stage, folder):
        return "redo"
    changed, made, reason = [*changes.values()], "made with other settings", ""
    if stage.why_not_extendable and [*changes] == [f"{stage.name}.steps"]:
        steps = previous["config"][f"{stage.name}.steps"]
        if getattr(recipe, stage.name).steps > steps:
            reason = stage.why_not_extendable(recipe, workdir, steps)
            if not reason:
                return "extend"
            made, reason = "made with fewer steps", f" and cannot be extended, since {reason}"
    more = f"; and {len(changed) - CHANGES_SHOWN} more" if len(changed) > CHANGES_SHOWN else ""
    raise UserError(
        f"Stage {stage.name} in {workdir} was {made} ({'; '.join(changed[:CHANGES_SHOWN])}{more}){reason}: give "
        f"--overwrite={stage.name} to redo it and the stages after it, or another --workdir."
    )


def _has_work(stage: Stage, folder: Path) -> bool:
    """Whether an interrupted stage has files other than logs and empty ones."""
    ignored = {path for pattern in (STARTED, "**/.*.tmp", *stage.logs) for path in folder.glob(pattern)}
    return any(path not in ignored and path.is_file() and path.stat().st_size for path in folder.rglob("*"))


def _run_or_skip(stage: Stage, recipe: Any, workdir: Path, redo: bool) -> None:
    """Executes the action for one stage."""
    results = {name: _outputs_hash(workdir / name) for name in stage.depends_on(recipe)}
    current = _fingerprint(stage, recipe, workdir, results)
    action = _decide(stage, recipe, workdir, redo, current)
    barrier(f"decide on {stage.name}")  # all processes decide before the first changes a file
    if action == "complete":
        print(f"{stage.name}: complete, skipped", flush=True)
        return
    folder, redo = workdir / stage.name, action == "redo"
    if jax.process_index() == 0:
        remove_temporaries(folder)
        if redo:
            os.replace(folder, _backup(folder))
    barrier(f"clear {stage.name}")
    try:
        _run_one(stage, recipe, workdir, current)
    except UserError:
        if redo and jax.process_index() == 0 and not _has_work(stage, folder):
            remove(folder)
            os.replace(_backup(folder), folder)
        raise
    if redo and jax.process_index() == 0:
        remove(_backup(folder))


def _run_one(stage: Stage, recipe: Any, workdir: Path, current: dict) -> None:
    folder, began = workdir / stage.name, time.monotonic()
    print(f"{stage.name}: started", flush=True)
    if jax.process_index() == 0:
        write_json(folder / STARTED, current)
        (folder / MANIFEST).unlink(missing_ok=True)  # exists if the stage is extended
    barrier(f"start {stage.name}")
    counts = stage.run(recipe, workdir)
    barrier(f"end {stage.name}")
    seconds = time.monotonic() - began
    if jax.process_index() == 0:
        files = sorted({p for pattern in stage.outputs for p in folder.glob(pattern) if p.is_file()})
        manifest = {"stage": stage.name, "seconds": round(seconds, 3), "counts": counts} | current
        manifest["results"] = hash_json({str(p.relative_to(folder)): hash_file(p) for p in files})
        versions = {"dsmath-jax": __version__, "python": platform.python_version()}
        manifest["versions"] = versions | {name: version(name) for name in VERSIONS}
        write_json(folder / MANIFEST, manifest)
    barrier(f"manifest {stage.name}")
    print(f"{stage.name}: done in {duration(seconds)}", flush=True)


def _outputs_hash(folder: Path) -> str:
    """Returns the hash of a complete stage's outputs."""
    return read_json(folder / MANIFEST)["results"]


def _fingerprint(stage: Stage, recipe: Any, workdir: Path, results: Mapping[str, str]) -> dict[str, Any]:
    files = {
        str(path): file_fingerprint(path) if path.is_file() else None for path in stage.input_files(recipe, workdir)
    }
    settings = {name: value for name, value in sorted(fingerprint(recipe).items()) if value is not None}
    return {"format": FORMAT, "config": settings, "inputs": dict(results), "files": files}


def _changes(previous: dict, current: dict) -> dict[str, str]:
    """Describes the differences between two fingerprints, by the names of settings, stages and files."""
    old, new = previous["config"], current["config"]
    fields = sorted(old.keys() | new.keys())
    changes = {n: f"{n} was {old.get(n)!r}, is {new.get(n)!r}" for n in fields if old.get(n) != new.get(n)}
    for name, result in sorted(current["inputs"].items()):
        if result != previous["inputs"].get(name):
            changes[name] = f"the files of {name} {'will change' if result == EXTENDED else 'have changed'}"
    old, new = previous["files"], current["files"]
    return changes | {n: f"{n} was changed" for n in sorted(old.keys() | new.keys()) if old.get(n) != new.get(n)}


def _backup(folder: Path) -> Path:
    """Returns where a stage's files are kept while it is redone.

    They are restored if it fails on invalid input before any work is done.
    `remove_temporaries` deletes them after a kill.
    """
    return folder.with_name(f".{folder.name}.dropped.tmp")
