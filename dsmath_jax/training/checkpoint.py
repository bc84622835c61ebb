"""Saves and restores checkpoints with Orbax, and verifies them by hashes of their files.

A tree is stored as a flat dict of `path -> array`. Orbax renames `<folder>/` to its final name when it is complete;
`<folder>.sha256.json`, written after that, has the hash of every file: Orbax restores a file with a flipped byte
without complaint, so a checkpoint is valid only if these match. All processes of a run must call every function here,
on the same folder; each hashes its share of the files. No other module imports Orbax.
"""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from dsmath_jax.sharding import abstract, barrier, broadcast_json, path_name
from dsmath_jax.workdir import UserError, hash_file, read_json, remove, write_json

KEEP_CHECKPOINTS = 2
HOUR_MS = 3_600_000


def _flat(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def hashes_path(folder: Path, part: str = "") -> Path:
    """Returns the path of the hashes of a checkpoint's files (`part`: of those that one process hashes)."""
    return folder.with_name(f"{folder.name}.sha256{part}.json")


def _hash(path: Path) -> str | None:
    try:
        return hash_file(path)
    except OSError:  # missing or unreadable
        return None


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _my_files(names: list[str]) -> range:
    """Returns the indices of the files that this process hashes."""
    return range(jax.process_index(), len(names), jax.process_count())


def _global_min(value: int) -> int:
    """Returns the minimum over all processes."""
    return int(np.min(multihost_utils.process_allgather(np.int32(value)))) if jax.process_count() > 1 else value


def _start_save(checkpointer: ocp.StandardCheckpointer, folder: Path, tree: Any) -> None:
    """Copies the arrays to host memory and starts to write them, after removing an earlier attempt."""
    folder = folder.absolute()
    if jax.process_index() == 0:
        for stale in (hashes_path(folder), folder, *folder.parent.glob(f"{folder.name}.*")):
            remove(stale)
    barrier(f"clear {folder}")
    checkpointer.save(folder, _flat(tree))


def _finish_save(checkpointer: ocp.StandardCheckpointer, folder: Path) -> None:
    """Waits for the files, then writes their hashes. Uses no devices, so it may run in another thread."""
    checkpointer.wait_until_finished()
    names, process = _files(folder), jax.process_index()
    part = {names[i]: hash_file(folder / names[i]) for i in _my_files(names)}
    if jax.process_count() == 1:
        write_json(hashes_path(folder), part)
        return
    parts = [hashes_path(folder, f".{i}") for i in range(jax.process_count())]
    write_json(parts[process], part)
    wait_for_all = ocp.multihost.get_barrier_sync_fn()
    wait_for_all(key=f"hashes of {folder}", timeout_ms=HOUR_MS)
    if process == 0:
        write_json(hashes_path(folder), {name: value for path in parts for name, value in read_json(path).items()})
        for path in parts:
            path.unlink()


def save(folder: Path, tree: Any) -> None:
    """Saves a pytree of arrays; the folder gets its final name when it is complete."""
    with ocp.StandardCheckpointer() as checkpointer:
        _start_save(checkpointer, folder, tree)
        _finish_save(checkpointer, folder)
    barrier(f"save {folder}")


def why_invalid(folder: Path) -> str | None:
    """Returns why a checkpoint is invalid, None if it is valid; the same on every process."""
    try:
        expected: dict[str, str] = read_json(hashes_path(folder)) if folder.is_dir() else {}
    except (FileNotFoundError, ValueError):  # of JSON or of UTF-8
        expected = {}
    if not _global_min(len(expected)):
        return "it is not complete"
    names = sorted(expected)
    first = _global_min(
        next((i for i in _my_files(names) if _hash(folder / names[i]) != expected[names[i]]), len(names))
    )
    if first < len(names):
        return f"its file {names[first]} does not match its hash"
    return None if _global_min(_files(folder) == names) else "it has a file without a hash"


def restore(folder: Path, like: Any) -> Any:
    """Restores a pytree with the shapes, dtypes and shardings of `like` (arrays or ShapeDtypeStructs with shardings).

    Mesh and number of processes may differ from those that saved it.

    Raises:
      UserError: it is missing or damaged, or does not match `like` (the first mismatch is named).
    """
    reason = why_invalid(folder)
    if reason:
        raise UserError(f"The checkpoint {folder} cannot be used: {reason}; redo the stage that writes it.")
    return _read(folder, like)


def _read(folder: Path, like: Any) -> Any:
    folder = folder.absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.metadata(folder).item_metadata.tree
        wanted = _flat(like)
        for name in sorted(stored.keys() | wanted.keys()):
            old, new = stored.get(name), wanted.get(name)
            if old is None or new is None:
                whose = "the checkpoint" if new is None else "the config's model"
                raise UserError(
                    f"The checkpoint {folder} does not fit: only {whose} has the array {name}; check config.model."
                )
            if tuple(old.shape) != tuple(new.shape):
                raise UserError(
                    f"The checkpoint {folder} does not fit: {name} has shape {tuple(old.shape)} there and "
                    f"{tuple(new.shape)} in the config's model; check config.model."
                )
        shapes = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for n, x in wanted.items()}
        flat = checkpointer.restore(folder, shapes)
    return jax.tree_util.tree_map_with_path(lambda path, _: flat[path_name(path)], like)


def steps_in(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, ascending, whether they are valid or not."""
    return sorted(int(p.name) for p in folder.glob("*") if p.is_dir() and p.name.isdigit())


class Checkpoints:
    """The checkpoints of one stage, a folder per step, of which the newest `keep` are kept.

    They are written in the background: `save` returns when the arrays are copied to host memory, so that the next step
    may donate their buffers. An older checkpoint is removed only when a newer one and its hashes are complete.
    """

    def __init__(self, folder: Path, keep: int = KEEP_CHECKPOINTS):
        if keep < 1:
            raise UserError(f"keep is {keep}; it must be at least 1.")
        self._folder, self._keep = folder, keep
        self._checkpointer: ocp.StandardCheckpointer | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._damaged: set[int] = set()

    def _path(self, step: int) -> Path:
        return self._folder / f"{step:08d}"

    def save(self, step: int, state: Any) -> None:
        """Starts to save the state after `step` steps, when the previous save is done; raises errors of that one."""
        self.wait()
        if self._checkpointer is None:
            self._checkpointer = ocp.StandardCheckpointer()
        _start_save(self._checkpointer, self._path(step), state)
        self._damaged.discard(step)
        self._writing = self._thread.submit(self._complete, self._checkpointer, self._path(step))

    def _complete(self, checkpointer: ocp.StandardCheckpointer, folder: Path) -> None:
        _finish_save(checkpointer, folder)
        if jax.process_index() == 0:
            complete = [step for step in steps_in(self._folder) if hashes_path(self._path(step)).is_file()]
            newest = [step for step in complete if step not in self._damaged][-self._keep :]
            keep = {path.name for step in newest for path in (self._path(step), hashes_path(self._path(step)))}
            # Hashes before their folder, so that a half-removed checkpoint is invalid.
            for path in sorted(self._folder.iterdir(), key=Path.is_dir):
                if path.name not in keep:
                    remove(path)

    def check(self) -> None:
        """Raises the error of a save in the background, if it failed; does not wait."""
        if self._writing is not None and self._writing.done():
            self._writing.result()

    def wait(self) -> None:
        """Waits until the last save is complete; raises its errors."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()
            barrier(f"saved in {self._folder}")

    def latest(self) -> int:
        """Returns the step of the newest valid checkpoint, 0 if there is none; the same on every process.

        Damaged ones are reported and skipped.
        """
        self.wait()
        steps = steps_in(self._folder)
        while step := broadcast_json(steps.pop() if steps else 0):
            reason = why_invalid(self._path(step))
            if reason is None:
                return step
            self._damaged.add(step)
            if jax.process_index() == 0:
                logging.warning("The checkpoint %s/%08d is not used: %s.", self._folder, step, reason)
        return 0

    def restore_latest(self, like: Any) -> tuple[Any, int]:
        """Returns the state of the newest valid checkpoint and its step; `like` itself and 0 if there is none.

        The arrays of `like` are freed before the state is read: two states may not fit into memory.
        """
        step = self.latest()
        if not step:
            return like, 0
        shapes = abstract(like, jax.tree.map(lambda leaf: leaf.sharding, like))
        for leaf in jax.tree.leaves(like):
            leaf.delete()
        return _read(self._path(step), shapes), step

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the running save; its error is raised only if there is no other."""
        if error is None:
            self.wait()
        elif self._writing is not None:
            self._writing.exception()
        self._thread.shutdown()
        if self._checkpointer is not None:
            self._checkpointer.close()
