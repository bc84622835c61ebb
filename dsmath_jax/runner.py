"""How the stages of a run are run, skipped, resumed or refused.

A stage's fingerprint is the part of the recipe that it sees and the hashes of the stages and files that it reads. It is
written to `started.json` before the stage's first file and to `manifest.json` after its last one. The manifest's
`seconds` are the wall time of the run that finished the stage; what killed runs had spent on it before is not counted.
"""

import contextlib
import dataclasses
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from dsmath_jax.settings import fingerprint, nearest
from dsmath_jax.sharding import barrier
from dsmath_jax.version import __version__
from dsmath_jax.workdir import (
    FORMAT,
    MANIFEST,
    STARTED,
    UserError,
    hash_file,
    hash_json,
    lock,
    read_json,
    stamp,
    sweep,
    write_json,
)

VERSIONS = ("jax", "flax", "optax", "numpy")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a recipe.

    Attributes:
      name: its folder below the workdir, and its own part of the recipe.
      run: `(recipe, workdir) -> counts`; it is called again after a kill and resumes from the files it finds. Of the
        recipe it sees its parts; the others are None.
      parts: the parts of the recipe that it sees, besides `seed`.
      depends_on: from the recipe, the stages whose files it reads.
      outputs: patterns of the files that later stages read; their hash stands for the stage.
      always_rerun: made from scratch in every run, from whatever is finished.
      input_files: from the recipe and the workdir, the user's own small files that it reads, whose change is a change
        of it.
    """

    name: str
    run: Callable[[Any, Path], dict]
    parts: tuple[str, ...]
    depends_on: Callable[[Any], tuple[str, ...]]
    outputs: tuple[str, ...]
    always_rerun: bool = False
    input_files: Callable[[Any, Path], Sequence[Path]] = lambda recipe, workdir: ()


def run(stages: Sequence[Stage], recipe: Any, workdir: Path, names: Sequence[str], overwrite: Sequence[str]) -> None:
    """Runs the named stages in the order of `stages`: skips what is complete, resumes what was cut off.

    Args:
      stages: all there are.
      recipe: a dataclass of settings with a field for each part that the stages see, `seed` and `start`.
      workdir: of this run; locked meanwhile.
      names: stages to run; none for all that the recipe has a part for.
      overwrite: those of them to redo; those that read them follow.

    Raises:
      UserError: a stage is unknown, the recipe lacks a part or an earlier stage is missing (then nothing has been
        written), another run holds the workdir, or a stage was made with another recipe, from other files, or by
        another version.
    """
    chosen = select(stages, recipe, names, overwrite)
    for stage in stages:
        _check_format(workdir / stage.name)
    if recipe.start:
        _link(Path(recipe.start), [stage for stage in stages if stage not in chosen], workdir)
    seen = {stage.name: _seen(stage, recipe) for stage in chosen}
    for stage in chosen:
        for name in stage.depends_on(recipe):
            if name not in seen and not (workdir / name / MANIFEST).is_file():
                raise UserError(
                    f"Stage {stage.name} reads stage {name}, which is not complete in {workdir}; "
                    f"add {name} to --stages."
                )
    with lock(workdir) if jax.process_index() == 0 else contextlib.nullcontext():
        redone: set[str] = set()
        for stage in chosen:
            again = stage.always_rerun or stage.name in overwrite or bool(redone & set(stage.depends_on(recipe)))
            if again:
                redone.add(stage.name)
            _run_or_skip(stage, seen[stage.name], workdir, again)


def select(stages: Sequence[Stage], recipe: Any, names: Sequence[str], overwrite: Sequence[str] = ()) -> list[Stage]:
    """The named stages in their order; without names those that the recipe has a part for.

    Raises:
      UserError: a name is unknown, or a stage is to be redone that is not to be run.
    """
    known = [stage.name for stage in stages]
    for name in (*names, *overwrite):
        if name not in known:
            raise UserError(f"Unknown stage '{name}'{nearest(name, known)}; the stages are {', '.join(known)}.")
    has_part = {stage.name for stage in stages if stage.always_rerun or getattr(recipe, stage.name, None) is not None}
    chosen = [stage for stage in stages if stage.name in (names or has_part)]
    for name in set(overwrite) - {stage.name for stage in chosen}:
        raise UserError(f"--overwrite={name} asks for a stage that is not to be run; add {name} to --stages.")
    return chosen


def _seen(stage: Stage, recipe: Any) -> Any:
    """The recipe with nothing but the stage's parts."""
    if stage.name in stage.parts and getattr(recipe, stage.name) is None:
        raise UserError(f"The recipe has no part '{stage.name}', which stage {stage.name} reads; add it.")
    others = {field.name for field in dataclasses.fields(recipe)} - {"seed", *stage.parts}
    return dataclasses.replace(recipe, **dict.fromkeys(others))


def _check_format(folder: Path) -> None:
    """Raises a `UserError` where a stage was made by a version that kept its files otherwise."""
    found = next((folder / name for name in (MANIFEST, STARTED) if (folder / name).is_file()), None)
    if found and read_json(found).get("format") != FORMAT:
        made = read_json(found).get("versions", {}).get("dsmath-jax", "0.1")
        raise UserError(
            f"{folder} was made by dsmath-jax {made}, whose workdirs version {__version__} cannot read; give another "
            "--workdir, or use that version."
        )


def _link(start: Path, stages: Sequence[Stage], workdir: Path) -> None:
    """Makes the finished stages of another workdir stages of this one; they are only read.

    Raises:
      UserError: the other workdir has none, or this one has a stage of its own where a link should be.
    """
    found = [stage.name for stage in stages if not stage.always_rerun and (start / stage.name / MANIFEST).is_file()]
    if not found:
        raise UserError(f"config.start={start} has no finished stage; make it first, or give another folder.")
    for name in found:
        _check_format(start / name)
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        for name in found:
            target, link = (start / name).resolve(), workdir / name
            if link.is_symlink() and link.resolve() == target:
                continue
            if link.exists() or link.is_symlink():
                raise UserError(
                    f"Stage {name} in {workdir} is not that of config.start={start}; give another --workdir."
                )
            link.symlink_to(target, target_is_directory=True)
    barrier("link stages")


def _run_or_skip(stage: Stage, recipe: Any, workdir: Path, again: bool) -> None:
    """Skips, starts, resumes or (where it is complete and `again`) redoes one stage."""
    folder = workdir / stage.name
    if folder.is_symlink():
        raise UserError(
            f"Stage {stage.name} in {workdir} is another run's, {folder.resolve()}; run it there, or give another "
            "--workdir."
        )
    now = _fingerprint(stage, recipe, workdir)
    complete, started = (folder / MANIFEST).is_file(), (folder / STARTED).is_file()
    before = read_json(folder / (MANIFEST if complete else STARTED)) if complete or started else now
    changes = _changes(before, now)
    if changes and not again:
        raise UserError(
            f"Stage {stage.name} in {workdir} was made with other settings ({'; '.join(changes)}): give "
            f"--overwrite={stage.name} to redo it and the stages after it, or another --workdir."
        )
    if complete and not again:
        print(f"{stage.name}: complete, skipped", flush=True)
        return
    if changes or complete:
        _clear(folder)
    _run_one(stage, recipe, workdir, now)


def _run_one(stage: Stage, recipe: Any, workdir: Path, made_with: dict) -> None:
    folder, began = workdir / stage.name, time.monotonic()
    print(f"{stage.name}: started", flush=True)
    if jax.process_index() == 0:
        sweep(folder)
        write_json(folder / STARTED, made_with)
    barrier(f"start {stage.name}")
    counts = stage.run(recipe, workdir)
    barrier(f"end {stage.name}")
    seconds = time.monotonic() - began
    if jax.process_index() == 0:
        files = sorted({p for pattern in stage.outputs for p in folder.glob(pattern) if p.is_file()})
        manifest = {"stage": stage.name, "seconds": round(seconds, 3), "counts": counts} | made_with
        manifest["results"] = hash_json({str(p.relative_to(folder)): hash_file(p) for p in files})
        versions = {"dsmath-jax": __version__, "python": platform.python_version()}
        manifest["versions"] = versions | {name: version(name) for name in VERSIONS}
        write_json(folder / MANIFEST, manifest)
    barrier(f"manifest {stage.name}")
    print(f"{stage.name}: done in {seconds:.1f} s", flush=True)


def _fingerprint(stage: Stage, recipe: Any, workdir: Path) -> dict[str, Any]:
    inputs = {name: read_json(workdir / name / MANIFEST)["results"] for name in stage.depends_on(recipe)}
    files = {str(path): stamp(path) if path.is_file() else None for path in stage.input_files(recipe, workdir)}
    settings = {name: value for name, value in sorted(fingerprint(recipe).items()) if value is not None}
    return {"format": FORMAT, "config": settings, "inputs": inputs, "files": files}


def _changes(before: dict, now: dict) -> list[str]:
    """What differs between two fingerprints, in words."""
    old, new = before["config"], now["config"]
    fields = sorted(old.keys() | new.keys())
    changes = [f"{n} was {old.get(n)!r}, is {new.get(n)!r}" for n in fields if old.get(n) != new.get(n)]
    for kind, words in (("inputs", "the files of {} are others"), ("files", "{} was changed")):
        old, new = before.get(kind, {}), now[kind]
        changes += [words.format(name) for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return changes


def _clear(folder: Path) -> None:
    """Drops a stage's files. Its folder is renamed first, so that a kill leaves no half of it behind."""
    if jax.process_index() == 0:
        sweep(folder)
        os.replace(folder, folder.with_name(f".{folder.name}.dropped.tmp"))
        sweep(folder)
    barrier(f"clear {folder.name}")
