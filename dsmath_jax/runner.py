"""How the stages of a run are checked, then run, skipped, resumed, lengthened or refused.

`plan` decides what is to be done with each stage and checks everything that can be known before the first one starts;
`run` refuses what the plan refuses, and does the rest.

A stage's fingerprint is the part of the recipe that it sees and the hashes of the stages and files that it reads. It is
written to `started.json` before the stage's first file and to `manifest.json` after its last one. The manifest's
`seconds` are the wall time of the run that finished the stage; what killed runs had spent on it before is not counted.
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
    hash_file,
    hash_json,
    lock,
    read_json,
    remove,
    stamp,
    sweep,
    write_json,
)

VERSIONS = ("jax", "flax", "optax", "numpy")
NAMED = 5  # changes of a stage that are named at most; the rest are counted
LENGTHENED = "lengthened"  # in place of the hash of a stage that is to be lengthened
Action = Literal["complete", "to do", "resume", "lengthen", "redo"]
TO_DO: Action = "to do"


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
      input_files: from the recipe and the workdir, the user's own files that it reads, whose change is a change of it.
      check: `(recipe, workdir)` raises a `UserError` where the stage cannot work, as far as that is known before the
        run's first stage starts: it only reads, quickly. It sees the whole recipe, but for the parts of the stages that
        are not run: what those made is in the workdir (see `folder_of`).
      logs: patterns of the files that are worth nothing by themselves. A stage that was cut off and has no others is
        started from scratch with whatever settings it is given next.
      why_not_longer: `(recipe, workdir, steps)` says why a stage that was to take `steps` steps cannot take those of
        the recipe, "" where its files are what a run of those steps would have made by then; None for a stage without
        steps.
    """

    name: str
    run: Callable[[Any, Path], dict]
    parts: tuple[str, ...]
    depends_on: Callable[[Any], tuple[str, ...]]
    outputs: tuple[str, ...]
    always_rerun: bool = False
    input_files: Callable[[Any, Path], Sequence[Path]] = lambda recipe, workdir: ()
    check: Callable[[Any, Path], None] = lambda recipe, workdir: None
    logs: tuple[str, ...] = ()
    why_not_longer: Callable[[Any, Path, int], str] | None = None


class Planned(NamedTuple):
    """What is to be done with a stage, or why it cannot be done.

    Attributes:
      stage: the stage.
      again: it is redone where it is complete, or was made with other settings.
      action: as far as it is known before the stages before it have run.
      error: None where nothing is wrong.
    """

    stage: Stage
    again: bool
    action: Action = "to do"
    error: UserError | None = None


def run(stages: Sequence[Stage], recipe: Any, workdir: Path, names: Sequence[str], overwrite: Sequence[str]) -> None:
    """Runs the named stages in the order of `stages`: skips what is complete, resumes what was cut off.

    Args:
      stages: all there are.
      recipe: a dataclass of settings with a field for each part that the stages see, `seed` and `start`.
      workdir: of this run; locked meanwhile.
      names: stages to run; none for all that the recipe has a part for.
      overwrite: those of them to redo; those that read them follow.

    Raises:
      UserError: what `plan` finds (then nothing has been written), another run holds the workdir, or a stage was made
        from files of an earlier stage that are others now.
    """
    planned = plan(stages, recipe, workdir, names, overwrite)
    for error in (one.error for one in planned if one.error):
        raise error
    if recipe.start:
        _link(_links(stages, recipe, workdir, [one.stage for one in planned]))
    with lock(workdir) if jax.process_index() == 0 else contextlib.nullcontext():
        for one in planned:
            _run_or_skip(one.stage, _seen(one.stage, recipe), workdir, one.again)


def plan(
    stages: Sequence[Stage], recipe: Any, workdir: Path, names: Sequence[str], overwrite: Sequence[str]
) -> list[Planned]:
    """Decides what `run` with the same arguments does with each stage, and checks that it can; writes nothing.

    Raises:
      UserError: a stage is unknown, or the workdir or that of `recipe.start` cannot be used.
    """
    chosen = select(stages, recipe, names, overwrite)
    for stage in stages:
        _check_format(folder_of(stage.name, recipe, workdir))
    if recipe.start:
        _links(stages, recipe, workdir, chosen)  # raises where one cannot be made
    others = {stage.name for stage in stages} - {stage.name for stage in chosen}
    known = dataclasses.replace(recipe, **{name: None for name in others if hasattr(recipe, name)})
    planned: dict[str, Planned] = {}
    for stage in chosen:
        again, action, error = stage.always_rerun or stage.name in overwrite, TO_DO, None
        try:
            seen = _seen(stage, recipe)
            reads = stage.depends_on(recipe)
            for name in reads:
                if name not in planned:
                    _check_made(stage, name, stages, recipe, workdir)
            again = again or any(planned[name].again for name in reads if name in planned)
            settled = [name for name in reads if name not in planned or planned[name].action == "complete"]
            results = {name: _results(folder_of(name, recipe, workdir)) for name in settled}
            # What another stage leaves is seen when it is done; one that is lengthened leaves other parameters.
            results |= {name: LENGTHENED for name in reads if name in planned and planned[name].action == "lengthen"}
            action = _decide(stage, seen, workdir, again, _fingerprint(stage, seen, workdir, results))
            if action != "complete":
                stage.check(known, workdir)
        except UserError as wrong:
            error = wrong
        planned[stage.name] = Planned(stage, again, action, error)
    return list(planned.values())


def folder_of(name: str, recipe: Any, workdir: Path) -> Path:
    """The folder of a stage: in the workdir or, before `run` has linked it there, in that of `recipe.start`."""
    own = workdir / name
    return own if own.exists() or not recipe.start else Path(recipe.start) / name


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


def _check_made(stage: Stage, name: str, stages: Sequence[Stage], recipe: Any, workdir: Path) -> None:
    """Raises a `UserError` where a stage reads another that is neither run before it nor complete."""
    earlier = [one.name for one in stages[: [one.name for one in stages].index(stage.name)]]
    if name not in earlier:
        raise UserError(
            f"Stage {stage.name} reads '{name}', which is no stage before it{nearest(name, earlier)}; the stages "
            f"before it are {', '.join(earlier)}."
        )
    if not (folder_of(name, recipe, workdir) / MANIFEST).is_file():
        part = "" if getattr(recipe, name, None) is not None else f" and the part {name} to the recipe"
        raise UserError(
            f"Stage {stage.name} reads stage {name}, which is not complete in {workdir}; add {name} to --stages{part}."
        )


def _links(stages: Sequence[Stage], recipe: Any, workdir: Path, chosen: Sequence[Stage]) -> dict[Path, Path]:
    """The links that make the finished stages of another workdir stages of this one, and where they lead.

    Raises:
      UserError: the other workdir has none, or this one has a stage of its own where a link should be.
    """
    start = Path(recipe.start)
    others = [stage.name for stage in stages if stage not in chosen and not stage.always_rerun]
    found = [name for name in others if (start / name / MANIFEST).is_file()]
    if not found:
        raise UserError(
            f"config.start={start} has no finished stage but those to be run here; name fewer by --stages, or give "
            "another folder."
        )
    links = {workdir / name: (start / name).resolve() for name in found}
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


def _decide(stage: Stage, recipe: Any, workdir: Path, again: bool, now: dict) -> Action:
    """What is to be done with a stage.

    Args:
      stage: the stage.
      recipe: the parts that it sees.
      workdir: of the run.
      again: to redo it where it is complete, or was made with other settings.
      now: its fingerprint, with the hashes of the stages that it reads as far as they are known.

    Raises:
      UserError: it was made with other settings or from other files, or it is another run's.
    """
    folder = workdir / stage.name
    if folder.is_symlink():
        raise UserError(
            f"Stage {stage.name} in {workdir} is another run's, {folder.resolve()}; run it there, or give another "
            "--workdir."
        )
    complete = (folder / MANIFEST).is_file()
    if not complete and not (folder / STARTED).is_file():
        return TO_DO
    before = read_json(folder / (MANIFEST if complete else STARTED))
    changes = _changes(before, now)
    if again and (complete or changes):
        return "redo"
    if not changes:
        return "complete" if complete else "resume"
    if not complete and not _has_work(stage, folder):
        return "redo"
    shown, made, reason = [*changes.values()], "made with other settings", ""
    if stage.why_not_longer and [*changes] == [f"{stage.name}.steps"]:
        steps = before["config"][f"{stage.name}.steps"]
        if getattr(recipe, stage.name).steps > steps:
            reason = stage.why_not_longer(recipe, workdir, steps)
            if not reason:
                return "lengthen"
            made, reason = "made with fewer steps", f" and cannot be lengthened, since {reason}"
    more = f"; and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    raise UserError(
        f"Stage {stage.name} in {workdir} was {made} ({'; '.join(shown[:NAMED])}{more}){reason}: give "
        f"--overwrite={stage.name} to redo it and the stages after it, or another --workdir."
    )


def _has_work(stage: Stage, folder: Path) -> bool:
    """Whether a stage that was cut off has left more than its logs and empty files."""
    worthless = {path for pattern in (STARTED, "**/.*.tmp", *stage.logs) for path in folder.glob(pattern)}
    return any(path not in worthless and path.is_file() and path.stat().st_size for path in folder.rglob("*"))


def _run_or_skip(stage: Stage, recipe: Any, workdir: Path, again: bool) -> None:
    """Does with one stage what is to be done."""
    results = {name: _results(workdir / name) for name in stage.depends_on(recipe)}
    now = _fingerprint(stage, recipe, workdir, results)
    action = _decide(stage, recipe, workdir, again, now)
    barrier(f"decide on {stage.name}")  # all have looked before the first changes anything
    if action == "complete":
        print(f"{stage.name}: complete, skipped", flush=True)
        return
    folder, redo = workdir / stage.name, action == "redo"
    if jax.process_index() == 0:
        sweep(folder)
        if redo:
            os.replace(folder, _dropped(folder))
    barrier(f"clear {stage.name}")
    try:
        _run_one(stage, recipe, workdir, now)
    except UserError:
        if redo and jax.process_index() == 0 and not _has_work(stage, folder):
            remove(folder)
            os.replace(_dropped(folder), folder)
        raise
    if redo and jax.process_index() == 0:
        remove(_dropped(folder))


def _run_one(stage: Stage, recipe: Any, workdir: Path, made_with: dict) -> None:
    folder, began = workdir / stage.name, time.monotonic()
    print(f"{stage.name}: started", flush=True)
    if jax.process_index() == 0:
        write_json(folder / STARTED, made_with)
        (folder / MANIFEST).unlink(missing_ok=True)  # of a stage that is lengthened
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
    print(f"{stage.name}: done in {duration(seconds)}", flush=True)


def _results(folder: Path) -> str:
    """The hash that stands for the outputs of a complete stage."""
    return read_json(folder / MANIFEST)["results"]


def _fingerprint(stage: Stage, recipe: Any, workdir: Path, results: Mapping[str, str]) -> dict[str, Any]:
    files = {str(path): stamp(path) if path.is_file() else None for path in stage.input_files(recipe, workdir)}
    settings = {name: value for name, value in sorted(fingerprint(recipe).items()) if value is not None}
    return {"format": FORMAT, "config": settings, "inputs": dict(results), "files": files}


def _changes(before: dict, now: dict) -> dict[str, str]:
    """What differs between two fingerprints: settings, stages and files by name, each in words."""
    old, new = before["config"], now["config"]
    fields = sorted(old.keys() | new.keys())
    changes = {n: f"{n} was {old.get(n)!r}, is {new.get(n)!r}" for n in fields if old.get(n) != new.get(n)}
    for name, result in sorted(now["inputs"].items()):
        if result != before["inputs"].get(name):
            changes[name] = f"the files of {name} {'will be' if result == LENGTHENED else 'are'} others"
    old, new = before["files"], now["files"]
    return changes | {n: f"{n} was changed" for n in sorted(old.keys() | new.keys()) if old.get(n) != new.get(n)}


def _dropped(folder: Path) -> Path:
    """Where a stage's files are while it is redone: they come back where bad input ends that before any work is done,
    and a kill leaves no half of them behind."""
    return folder.with_name(f".{folder.name}.dropped.tmp")
