"""The work of the processes of `test_ray` on a Ray cluster; importable by the cluster's workers."""

import os
import sys
import time
from pathlib import Path

import daft
import pyarrow as pa
import pyarrow.parquet as pq
from daft import col

from dsmath_jax.corpus import engine
from dsmath_jax.corpus.settings import CorpusSettings, FastTextSettings
from dsmath_jax.workdir import UserError, atomic_write

NODE = "DSMATH_TEST_NODE"  # the environment variable with the name of a process's machine
TASKS = 20


def write_number(target: str, number: str, notes: str) -> None:
    time.sleep(0.25)
    with atomic_write(target) as file:
        file.write(f"{int(number) ** 2}\n")
    machine = os.environ.get(NODE, "here")
    Path(notes, f"{machine}-{number}-{os.getpid()}").touch()


def number_tasks(folder: Path) -> list[tuple[str, ...]]:
    (folder / "notes").mkdir(parents=True, exist_ok=True)
    return [(str(folder / "out" / f"{n}.txt"), str(n), str(folder / "notes")) for n in range(TASKS)]


def relate(frame: daft.DataFrame) -> pa.Table:
    """Every kind of operation that the corpus does between shards."""
    bands = frame.select("number", "bands").explode("bands")
    first = bands.groupby("bands").agg(col("number").min().alias("first"))
    pairs = bands.join(first, on="bands").where(col("number") != col("first")).select("number", "first").distinct()
    hosts = frame.groupby("host").agg(col("number").count().alias("pages"), col("number").sum().alias("sum"))
    alone = frame.join(pairs.select("number"), on="number", how="anti").groupby("host").agg(col("number").count("all"))
    named = pairs.join(frame.select("number", "host"), on="number").join(hosts, on="host")
    return named.join(alone, on="host", suffix="_alone").sort(["number", "first"]).to_arrow()


def corpus_settings(ray_address: str) -> CorpusSettings:
    small = FastTextSettings(dim=16, lr=0.5, word_ngrams=2, min_count=1, epochs=25, bucket=20_000)
    return CorpusSettings(
        fasttext=small, min_score=0.5, benchmarks=("toy/test",), iterations=2, ray_address=ray_address
    )


def refuse_seven(target: str, number: str, notes: str) -> None:
    if number == "7":
        raise UserError("Record 7 is bad; fix it.")


def relate_kept(address: str, folder: Path) -> pa.Table:
    """Runs a query that keeps its table in the memory of the cluster and waits until a machine has died."""
    files = f"{folder}/tables/*.parquet"
    tries = []

    def query() -> pa.Table:
        tries.append(daft.read_parquet(files).into_partitions(8).collect())
        (folder / f"kept-{len(tries)}").touch()
        while not (folder / "killed").exists():
            time.sleep(0.02)
        return relate(tries[-1])

    engine.connect(address)
    return engine.retry(query, lambda: 0)


def main() -> None:
    """Runs the command line `TASK ADDRESS FOLDER [DATA_DIR]` on the cluster; only the pipeline needs the data."""
    task, address, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if task == "mine":
        from dsmath_jax.corpus import pipeline  # not at the top: every worker process imports this module

        pipeline.mine(corpus_settings(address), 0, Path(sys.argv[4]), folder)
        return
    engine.connect(address)
    if task == "tasks":
        engine.run_tasks(write_number, number_tasks(folder), "writing")
    elif task == "refuse":
        try:
            engine.run_tasks(refuse_seven, number_tasks(folder), "writing")
        except UserError as error:
            print(error)
    elif task == "change":
        for other in ("", "auto"):
            try:
                engine.connect(other)
            except UserError as error:
                print(error)
    elif task == "relate":
        table = relate(daft.read_parquet(f"{folder}/tables/*.parquet"))
        pq.write_table(table, folder / "related.parquet")
        pairs = daft.from_arrow(table.select(["number", "first"])).into_partitions(4)
        engine.write_parquet(pairs, folder / "written")
    else:
        pq.write_table(relate_kept(address, folder), folder / "related.parquet")
