"""Runs the corpus's tasks with Daft, on this machine or on a Ray cluster.

Work on pages maps input shards to one output file; a restart skips the files that exist. Only dataframes of
numbers, hashes and URLs pass between shards. On a cluster all machines share the file system of the paths.
"""

import contextlib
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import daft

from dsmath_jax.extras import required_by
from dsmath_jax.progress import track
from dsmath_jax.workdir import UserError, remove

Task = tuple[str, ...]
Result = TypeVar("Result")

ADDRESS = re.compile(r"(?:ray://)?(?P<host>[^\s:/]+):(?P<port>\d{1,5})")
CONNECT_SECONDS = 10.0
ADVICE = "start it with launch/ray_cluster.sh, or fix --config.corpus.ray_address"
TRIES = 3  # of a query that makes no progress because machines die
PARTS_PER_CPU = 8  # more cost process starts, a second each; fewer leave CPUs idle at the end

_cluster = ""  # the address of the Ray cluster that this process works on, "" for none
_workers = 0  # processes on this machine, 0 for one per CPU


def connect(ray_address: str, workers: int = 0) -> None:
    """Sets where this process computes its dataframes. Daft allows this choice once per process.

    Args:
      ray_address: "" for this machine; "auto" for the Ray cluster of this machine; "HOST:PORT" for the cluster with
        that head, from one of its machines; "ray://HOST:PORT" from outside (Ray Client, port 10001).
      workers: processes on this machine; 0 for one per CPU.

    Raises:
      UserError: there is no such cluster, Ray is not installed, or the process made another choice before.
    """
    global _cluster, _workers
    _workers = workers
    if ray_address and not _cluster:
        _join(ray_address)
        _cluster = ray_address
    if ray_address != _cluster:
        raise UserError(
            f"This process works on the Ray cluster {_cluster} and cannot change to {ray_address or 'this machine'}; "
            "start another process for that."
        )
    if not _cluster:
        with contextlib.suppress(ValueError):  # this process has already computed a dataframe
            daft.set_runner_native()


def import_ray(address: str) -> Any:
    """Returns the module `ray` for the cluster at an address; raises a `UserError` where it is not installed."""
    with required_by(f"The Ray cluster {address}"):
        import ray
    return ray


def _join(address: str) -> None:
    ray = import_ray(address)
    _check_reachable(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"The Ray cluster {address} cannot be joined ({reason}); {ADVICE}.") from None
    try:
        daft.set_runner_ray(noop_if_initialized=True)
    except ValueError:
        ray.shutdown()
        raise UserError(
            f"This process has computed dataframes on this machine and cannot change to the Ray cluster {address}; "
            "start another process for that."
        ) from None


def _check_reachable(address: str) -> None:
    """Raises a `UserError` if nothing listens at the address: Ray itself retries for minutes and ends the process."""
    if address == "auto":
        return
    match = ADDRESS.fullmatch(address)
    if not match:
        raise UserError(
            f"--config.corpus.ray_address={address} is not the address of a Ray cluster; "
            "give auto, HOST:PORT or ray://HOST:PORT."
        )
    try:
        socket.create_connection((match["host"], int(match["port"])), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"The Ray cluster {address} does not answer ({error}); {ADVICE}.") from None


class Worker:
    """Calls a function for one task after another, in its own process."""

    def __init__(self, function: Callable[..., None]):
        self.function = function

    @daft.method.batch(return_dtype=daft.DataType.string(), batch_size=1)
    def run(self, tasks: Any) -> list[str]:
        """Returns "" or the message of a `UserError` for each task: exceptions lose their type between processes."""
        return [self.error(task) for task in tasks.to_pylist()]

    def error(self, task: Task) -> str:
        """Runs one task; returns "" or the message of its `UserError`."""
        if Path(task[0]).exists():  # written by a machine that died before it reported
            return ""
        try:
            self.function(*task)
        except UserError as error:
            return str(error)
        return ""


def run_tasks(function: Callable[..., None], tasks: Sequence[Task], what: str) -> None:
    """Calls `function(target, *arguments)` in worker processes for each task whose target file is missing.

    Args:
      function: importable on all machines; writes `target` atomically and has no other effect. If a machine of the
        cluster dies, a task may run again, or twice at the same time.
      tasks: (target, *arguments), all strings.
      what: the label of the progress bar.

    Raises:
      UserError: the first one that a task raised.
    """

    def missing() -> list[Task]:
        return [task for task in tasks if not Path(task[0]).exists()]

    def run() -> None:
        todo = missing()
        if todo:
            for row in track(_errors(function, todo), what, len(tasks), len(tasks) - len(todo)):
                if row["error"]:
                    raise UserError(row["error"])

    retry(run, lambda: -len(missing()))


def _errors(function: Callable[..., None], tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
    """Runs the tasks; yields the `error` of each.

    On a cluster the number of processes is left open: a given one makes Daft keep a fixed pool of actors, which waits
    for dead machines and ignores new ones. Without it, other machines take over the parts of a dead one.
    """
    workers = min(_workers or os.cpu_count() or 1, len(tasks))
    if not _cluster and workers == 1:  # starting a process takes a second
        yield from ({"error": Worker(function).error(task)} for task in tasks)
        return
    frame = daft.from_pydict({"task": [list(task) for task in tasks]})
    worker: Any
    if _cluster:
        frame = frame.into_partitions(min(len(tasks), PARTS_PER_CPU * _cluster_cpus()))
        worker = daft.cls(Worker, use_process=True)(function)
    else:
        worker = daft.cls(Worker, max_concurrency=workers, use_process=True)(function)
    yield from frame.with_column("error", worker.run(daft.col("task"))).iter_rows(results_buffer_size=1)


def _cluster_cpus() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def write_parquet(frame: daft.DataFrame, folder: Path) -> None:
    """Writes a dataframe as the files 00000.parquet, 00001.parquet, ... of a folder and removes all others.

    A task that ran again because its machine died after writing leaves its first file too, which has the same rows.
    """
    written = [Path(path).name for path in frame.write_parquet(str(folder)).to_pydict()["path"]]
    for path in folder.iterdir():
        if path.name not in written:
            remove(path)
    for number, name in enumerate(written):
        (folder / name).rename(folder / f"{number:05d}.parquet")


def retry(query: Callable[[], Result], progress: Callable[[], int]) -> Result:
    """Runs a query, again if a machine of the cluster dies; the query resumes from the files that it has written.

    Daft runs the tasks of a dead machine elsewhere, but their data for a join, a group or a sort is lost.

    Args:
      query: the function to run.
      progress: returns a number that grows with the work done; after `TRIES` without progress the query fails.

    Raises:
      Exception: any other error of the query, at once.
    """
    tries, done = 0, progress()
    while True:
        try:
            return query()
        except Exception as error:
            if not _is_machine_loss(error):
                raise
            before, done = done, progress()
            tries = 1 if done > before else tries + 1
            if tries == TRIES:
                raise
            print(f"A machine of the cluster was lost ({type(error).__name__}); retrying.", file=sys.stderr, flush=True)


def _is_machine_loss(error: Exception) -> bool:
    """Returns whether a query failed because a machine or a process of the cluster died."""
    if not _cluster:
        return False
    from ray import exceptions

    losses = (
        exceptions.RayActorError,
        exceptions.ObjectLostError,
        exceptions.NodeDiedError,
        exceptions.WorkerCrashedError,
    )
    return isinstance(error, losses)
