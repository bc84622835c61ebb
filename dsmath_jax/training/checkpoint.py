"""Checkpoints: Orbax below, hashes of the files beside it. The one module that knows Orbax.

A tree is stored as a flat dict of `path -> array`. `<folder>/` is Orbax's; `<folder>.sha256.json`, written after it,
names every file's hash: Orbax restores a file with a flipped byte without complaint, so a checkpoint counts only if
these match.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from dsmath_jax.sharding import barrier, path_name
from dsmath_jax.workdir import UserError, hash_file, read_json, write_json

KEEP = 2


def _flat(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def _hashes_path(folder: Path) -> Path:
    return folder.with_name(folder.name + ".sha256.json")


def _hashes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hash_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def save(folder: Path, tree: Any) -> None:
    """Writes a pytree of arrays; the folder has its final name only when all of it is there."""
    folder = folder.absolute()
    if jax.process_index() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        _hashes_path(folder).unlink(missing_ok=True)
    barrier(f"clear {folder}")
    checkpointer = ocp.StandardCheckpointer()
    checkpointer.save(folder, _flat(tree))
    checkpointer.wait_until_finished()
    checkpointer.close()
    if jax.process_index() == 0:
        write_json(_hashes_path(folder), _hashes(folder))
    barrier(f"save {folder}")


def damage(folder: Path) -> str | None:
    """Why a checkpoint cannot be trusted, or None."""
    if not folder.is_dir() or not _hashes_path(folder).is_file():
        return "it is not complete"
    expected, found = read_json(_hashes_path(folder)), _hashes(folder)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            return f"its file {name} is not the one that was written"
    return None


def restore(folder: Path, like: Any) -> Any:
    """Reads a pytree into the shapes, dtypes and shardings of `like` (arrays or ShapeDtypeStructs with shardings).

    Raises:
      UserError: there is none, it is damaged, or its arrays are not those of `like` (the first misfit is named).
    """
    folder = folder.absolute()
    reason = damage(folder)
    if reason:
        raise UserError(f"The checkpoint {folder} cannot be used: {reason}; redo the stage that writes it.")
    checkpointer = ocp.StandardCheckpointer()
    stored = checkpointer.metadata(folder).item_metadata.tree
    wanted = _flat(like)
    for name in sorted(stored.keys() | wanted.keys()):
        here, there = stored.get(name), wanted.get(name)
        if here is None or there is None:
            whose = "the checkpoint" if there is None else "the config's model"
            raise UserError(
                f"The checkpoint {folder} does not fit: only {whose} has the array {name}; check config.model."
            )
        if tuple(here.shape) != tuple(there.shape):
            raise UserError(
                f"The checkpoint {folder} does not fit: {name} has shape {tuple(here.shape)} there and "
                f"{tuple(there.shape)} in the config's model; check config.model."
            )
    abstract = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for n, x in wanted.items()}
    flat = checkpointer.restore(folder, abstract)
    checkpointer.close()
    return jax.tree_util.tree_map_with_path(lambda path, _: flat[path_name(path)], like)


class Checkpoints:
    """The checkpoints of one stage, a folder per step, the newest two kept."""

    def __init__(self, folder: Path):
        self._folder = folder

    def _steps(self) -> list[int]:
        return sorted(int(p.name) for p in self._folder.glob("*") if p.is_dir() and p.name.isdigit())

    def save(self, step: int, state: Any) -> None:
        """Saves the state after `step` steps, then drops the oldest ones."""
        save(self._folder / f"{step:08d}", state)
        if jax.process_index() == 0:
            for old in self._steps()[:-KEEP]:
                folder = self._folder / f"{old:08d}"
                _hashes_path(folder).unlink(missing_ok=True)
                shutil.rmtree(folder)

    def latest(self) -> int:
        """The step of the newest sound checkpoint, 0 where there is none. A damaged one is reported, not used."""
        for step in reversed(self._steps()):
            reason = damage(self._folder / f"{step:08d}")
            if reason is None:
                return step
            logging.warning("The checkpoint %s/%08d is not used: %s.", self._folder, step, reason)
        return 0

    def restore_latest(self, like: Any) -> tuple[Any, int]:
        """The newest sound state and its step; `like` itself and 0 where there is none."""
        step = self.latest()
        return (restore(self._folder / f"{step:08d}", like), step) if step else (like, 0)
