"""The engine under the corpus: Daft, on this machine or on a Ray cluster (DESIGN decision 7).

Page work is a function from input shards to one output file; a file that is there is not made again, which is all that
a restart takes. What goes between shards are dataframes of numbers, hashes and addresses. On a cluster the paths are
those of a file system that all its machines share.
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
TRIES = 3  # of a query that a dying machine ends each time before anything more is done
PARTS_PER_CPU = 8  # a part costs a process's start, a second; but the last parts keep some CPUs waiting

_cluster = ""  # the address of the Ray cluster that this process works on, "" for none
_workers = 0  # processes on this machine, 0 for as many as it has CPUs


def connect(ray_address: str, workers: int = 0) -> None:
    """Sets where this process's dataframes are computed; Daft lets a process choose once.

    Args:
      ray_address: "" for this machine; "auto" for the Ray cluster that it belongs to, "HOST:PORT" for the one with that
        head, seen from a machine of the cluster, "ray://HOST:PORT" seen from outside (Ray Client, port 10001).
      workers: processes on this machine; 0 for as many as it has CPUs.

    Raises:
      UserError: there is no such cluster, Ray is not installed, or the process has chosen otherwise before.
    """
    global _cluster, _workers
    _workers = workers
    if ray_address and not _cluster:
        _join(ray_address)
        _cluster = ray_address
    if ray_address != _cluster:
        raise UserError(
            f"This process works on the Ray cluster {_cluster} and cannot change to {ray_address or 'this machine'}; "
            "start a process of its own for that."
        )
    if not _cluster:
        with contextlib.suppress(ValueError):  # a dataframe was computed before, here
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
            "start a process of its own for that."
        ) from None


def _check_reachable(address: str) -> None:
    """Raises a `UserError` where nothing listens at the address: Ray itself tries for minutes and ends the process."""
    if address == "auto":
        return
    match = ADDRESS.fullmatch(address)
    if not match:
        raise UserError(
            f"--config.corpus.ray_address={address} is no address of a Ray cluster; "
            "give auto, HOST:PORT or ray://HOST:PORT."
        )
    try:
        socket.create_connection((match["host"], int(match["port"])), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"The Ray cluster {address} does not answer ({error}); {ADVICE}.") from None


class Worker:
    """Calls a function with the strings of one task after another; lives in a process of its own."""

    def __init__(self, function: Callable[..., None]):
        self.function = function

    @daft.method.batch(return_dtype=daft.DataType.string(), batch_size=1)
    def run(self, tasks: Any) -> list[str]:
        """Returns "" or the sentence of a `UserError` for each task: an exception would lose its type on the way."""
        return [self.error(task) for task in tasks.to_pylist()]

    def error(self, task: Task) -> str:
        if Path(task[0]).exists():  # made by a machine that died before it could say so
            return ""
        try:
            self.function(*task)
        except UserError as error:
            return str(error)
        return ""


def run_tasks(function: Callable[..., None], tasks: Sequence[Task], what: str) -> None:
    """Calls `function(target, *arguments)` for each task whose target file is missing, in worker processes.

    Args:
      function: importable from its module, on all machines; writes `target` atomically, and nothing else that matters.
        A task may run again, also while it runs elsewhere, if a machine of the cluster dies.
      tasks: (target, *arguments), all strings.
      what: the words of the progress lines.

    Raises:
      UserError: the first that a task raised.
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
    """Runs the tasks; yields each one's `error`.

    On a cluster no number of processes is asked for, as that makes Daft hold a fixed pool of actors for the query,
    which waits for the dead and ignores machines that join; without it, parts of a dead machine run elsewhere.
    """
    workers = min(_workers or os.cpu_count() or 1, len(tasks))
    if not _cluster and workers == 1:  # a process costs a second to start
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
    """Writes a dataframe as Parquet files 00000.parquet and so on below a folder that holds nothing else afterwards.

    A task that ran again because its machine died after writing leaves its first file too, and with it rows twice.
    """
    written = [Path(path).name for path in frame.write_parquet(str(folder)).to_pydict()["path"]]
    for path in folder.iterdir():
        if path.name not in written:
            remove(path)
    for number, name in enumerate(written):
        (folder / name).rename(folder / f"{number:05d}.parquet")


def retry(query: Callable[[], Result], progress: Callable[[], int]) -> Result:
    """Runs a query that goes on from files, again and again if a machine of the cluster dies in the middle.

    Daft runs the tasks of a dead machine elsewhere, but what they held for a join, a group or a sort is lost.

    Args:
      progress: grows when more of the query is done; without progress it is given up after `TRIES`.

    Raises:
      Exception: whatever else the query raises, at once.
    """
    tries, done = 0, progress()
    while True:
        try:
            return query()
        except Exception as error:
            if not _is_loss(error):
                raise
            before, done = done, progress()
            tries = 1 if done > before else tries + 1
            if tries == TRIES:
                raise
            print(f"A machine of the cluster was lost ({type(error).__name__}); going on.", file=sys.stderr, flush=True)


def _is_loss(error: Exception) -> bool:
    """Whether a query failed because a machine or a process of the cluster died."""
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
