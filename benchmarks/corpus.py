"""CPU seconds of the corpus's steps, beside a datatrove pipeline of the same steps in the same run.

    python -m benchmarks.corpus --input='crawl/*.warc.gz' --data_dir=DIR --peer=.venv-peers/bin/python \\
        --out=corpus.json

`make peers` makes the peer's environment; without it ours alone is measured. Both sides read the same files, remove
near-duplicates by 14 x 8 MinHash of 5-grams and score with the same fastText model. Each run is a process of its own,
and the sides take turns. Totals are of all processes, from their start to their end. The peer has no step of its own
for normal forms (its MinHash has another one) and is not asked for languages. Decontamination is measured on our texts
of the pages, against the same benchmark texts by 10-grams. With `--repeat=10`, peak memory of the whole corpus is
measured on the input and on ten copies of it under other hosts. Writes FILE.json and, as a table, FILE.md.
"""

import argparse
import dataclasses
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import copies, resources
from benchmarks.resources import Usage
from dsmath_jax.corpus.reading import sources
from dsmath_jax.data import datasets
from dsmath_jax.workdir import UserError, atomic_write, exit_code, read_json, write_json

STEPS = {
    "read": "reading WARC",
    "extract": "HTML to text",
    "language": "language",
    "normalize": "normal form",
    "minhash": "MinHash signatures",
    "duplicates": "near-duplicates",
    "score": "fastText scores",
    "files": "writing files",
    "rest": "start-up and engine",
}
BENCHMARKS = ("gsm8k/train", "gsm8k/test", "cmath/test")
NGRAM = 10
TOKENS_PER_COPY = 1_500_000  # what an iteration of mining collects, for each time that the input is repeated
ROOT = Path(__file__).parents[1]


@dataclasses.dataclass
class Bench:
    """The tasks of one run: what they are given lies in `scratch`, each in a folder of its own."""

    scratch: Path
    peer: str
    tasks: int = 0

    def folder(self) -> Path:
        self.tasks += 1
        folder = self.scratch / str(self.tasks)
        folder.mkdir()
        return folder

    def ours(self, task: str, **arguments: object) -> tuple[dict, Usage]:
        """Runs a task of `corpus_ours`; what it returns, and what it took."""
        folder = self.folder()
        write_json(folder / "arguments.json", arguments)
        command = [sys.executable, "-m", "benchmarks.corpus_ours", task]
        usage = self._run([*command, str(folder / "arguments.json"), str(folder / "result.json")], folder)
        return read_json(folder / "result.json"), usage

    def peers(self, task: str, given: Path, known: Path) -> tuple[dict, Usage]:
        """The same for a task of `corpus_peer`, in the peer's environment."""
        folder = self.folder()
        command = [self.peer, "-m", "benchmarks.corpus_peer", task, str(given), str(known)]
        usage = self._run([*command, str(folder / "work"), str(folder / "result.json")], folder)
        return read_json(folder / "result.json"), usage

    @staticmethod
    def _run(command: list[str], folder: Path) -> Usage:
        return resources.run(command, folder / "log", {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"})


def measure_steps(bench: Bench, files: Sequence[str], prepared: Path, repetitions: int) -> dict:
    """From WARC to scored documents: medians of CPU seconds by step, of both sides."""
    listed, models = bench.scratch / "files.json", prepared / "models"
    write_json(listed, files)
    ours: list[dict] = []
    peers: list[dict] = []
    counts: dict = {}
    their_counts: dict = {}
    for _ in range(repetitions):
        counts, usage = bench.ours("whole", files=files, models=str(models), folder=str(bench.folder()))
        seconds = bench.ours("steps", files=files, models=str(models), folder=str(bench.folder()))[0]["seconds"]
        ours.append(_with_rest(seconds, usage))
        if bench.peer:
            their_counts, usage = bench.peers("score", listed, models / "0")
            peers.append(_with_rest(their_counts.pop("seconds"), usage))
    pages, steps = counts["pages"], list(STEPS)
    rows = [{"step": step} | _compared(_of(ours, [step]), _of(peers, [step]), pages) for step in steps]
    total = _compared(_of(ours, steps), _of(peers, steps), pages)
    return {"ours": counts, "peer": their_counts, "steps": rows, "total": total}


def _with_rest(seconds: dict[str, float], usage: Usage) -> dict[str, float]:
    """Seconds by step, with what the processes took beside them."""
    return seconds | {"rest": usage.cpu_seconds - sum(seconds.values())}


def _of(runs: list[dict], steps: list[str]) -> list[float]:
    """The seconds of some steps in each run; none for a step that a side does not have."""
    return [sum(run.get(step, 0.0) for step in steps) for run in runs if run.keys() & set(steps)]


def _compared(ours: list[float], peers: list[float], pages: int) -> dict:
    """Medians of the CPU seconds of both sides, rates and the ratio; null where the peer has no such step."""
    our, their = statistics.median(ours), statistics.median(peers) if peers else None
    return {
        "cpu_seconds": our,
        "pages_per_second": pages / our,
        "cpu_seconds_per_1000_pages": 1000 * our / pages,
        "peer_cpu_seconds": their,
        "ratio": their and their / our,
        "cpu_seconds_of_runs": ours,
        "peer_cpu_seconds_of_runs": peers,
    }


def measure_decontamination(bench: Bench, data_dir: Path, prepared: Path, repetitions: int) -> dict | None:
    """Megabytes of text a CPU second through the search for benchmarks; None where none lies below the data folder."""
    names = [name for name in BENCHMARKS if name in datasets.available(data_dir)]
    if not names:
        return None
    records = [record for name in names for record in datasets.load(name, data_dir)]
    rows = [{"id": each.id, "question": each.question, "solution": each.solution, "answer": ""} for each in records]
    known, texts, plain = prepared / "benchmarks.json", prepared / "texts.json", prepared / "benchmark-texts.json"
    write_json(known, rows)
    write_json(plain, [text for row in rows for text in (row["question"], row["solution"]) if text])
    ours, peers = [], []
    for _ in range(repetitions):
        ours.append(bench.ours("decontaminate", texts=str(texts), records=str(known), ngram=NGRAM)[0])
        if bench.peer:
            peers.append(bench.peers("decontaminate", texts, plain)[0])
    megabytes = sum(len(text.encode()) for text in read_json(texts)) / 1e6
    rate, rate_from_normal = (
        megabytes / statistics.median(run[key] for run in ours) for key in ("seconds", "seconds_from_normal")
    )
    their = megabytes / statistics.median(run["seconds"] for run in peers) if peers else None
    return {
        "benchmarks": names,
        "megabytes": megabytes,
        "megabytes_per_second": rate,
        "megabytes_per_second_from_normal": rate_from_normal,
        "peer_megabytes_per_second": their,
        "ratio": their and rate / their,
        "ratio_from_normal": their and rate_from_normal / their,
        "contaminated": ours[0]["contaminated"],
        "peer_contaminated": peers[0]["contaminated"] if peers else None,
    }


def measure_memory(bench: Bench, files: Sequence[str], seeds: Path, repeat: int) -> list[dict]:
    """Peak memory of the whole corpus on the input, and on up to `repeat` copies of it under other hosts.

    One of the counts is where every CPU has a file to work on: from there memory must not grow.
    """
    prefixes = [line.strip() for line in seeds.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = []
    for count in sorted({1, min(os.cpu_count() or 1, repeat), repeat}):
        folder, copied = bench.folder(), [Path(f"copy-{number:02d}.warc.gz") for number in range(count)]
        for number, name in enumerate(copied):
            copies.write_copy(files, number, folder / name)
        known = folder / "seeds.txt"
        known.write_text(
            "".join(f"{copies.copy_url(prefix, number)}\n" for number in range(count) for prefix in prefixes)
        )
        result, usage = bench.ours(
            "mine",
            files=[str(folder / name) for name in copied],
            seeds=str(known),
            top_tokens=count * TOKENS_PER_COPY,
            folder=str(bench.folder()),
        )
        rows.append({"files": count, "peak_bytes": usage.peak_bytes, "cpu_seconds": usage.cpu_seconds} | result)
    return rows


def table(result: dict) -> str:
    """The result as Markdown."""
    keys = ("cpu_seconds", "pages_per_second", "cpu_seconds_per_1000_pages", "peer_cpu_seconds", "ratio")
    scoring, found = result["scoring"], result["decontamination"]
    lines = [
        "| step | CPU s | pages/s | CPU s per 1,000 pages | datatrove, CPU s | ratio |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in [*scoring["steps"], {"step": "total"} | scoring["total"]]:
        lines.append(_row(STEPS.get(row["step"], row["step"]), *(row[key] for key in keys)))
    for side, counts in (("this project", scoring["ours"]), ("datatrove", scoring["peer"])):
        if counts:
            listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            lines += ["", f"Counts of {side}: {listed}."]
    if found:
        lines += ["", "| decontamination | MB/s | datatrove, MB/s | ratio |", "| --- | ---: | ---: | ---: |"]
        for name, kind in (("from text", ""), ("from the normal form", "_from_normal")):
            rates = found[f"megabytes_per_second{kind}"], found["peer_megabytes_per_second"], found[f"ratio{kind}"]
            lines.append(_row(name, *rates))
    if result["memory"]:
        lines += ["", "| files | pages | peak memory, GB | CPU s |", "| ---: | ---: | ---: | ---: |"]
        for row in result["memory"]:
            lines.append(_row(row["files"], row["pages_read"], row["peak_bytes"] / 1e9, row["cpu_seconds"]))
    return "\n".join(lines) + "\n"


def _row(*cells: str | float | None) -> str:
    return f"| {' | '.join(cell if isinstance(cell, str) else _cell(cell) for cell in cells)} |"


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if isinstance(value, int) or value >= 100 else f"{value:.2f}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="WARC files: a folder, a glob or a file, below data_dir")
    parser.add_argument("--data_dir", type=Path, default=Path(), help="where the benchmarks lie, too")
    parser.add_argument("--peer", default="", help="the interpreter of the environment that has datatrove")
    parser.add_argument("--out", type=Path, required=True, help="FILE.json")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=0, help="measure memory, too, on so many copies of the input")
    parser.add_argument("--seeds", type=Path, default=Path("crawl/seeds.txt"), help="below data_dir, for --repeat")
    values = parser.parse_args(argv)
    files = [str(Path(file).absolute()) for file in sources.find(values.input, values.data_dir)]
    if values.peer and not os.access(values.peer, os.X_OK):
        print(
            f"There is no interpreter {values.peer} (`make peers` makes it); ours alone is measured.", file=sys.stderr
        )
        values.peer = ""
    seeds = values.data_dir / values.seeds
    if values.repeat and not seeds.is_file():
        raise UserError(f"--repeat mines, and there is no file of seeds {seeds}; give --seeds.")
    with tempfile.TemporaryDirectory() as scratch:
        # An environment's interpreter is a link that tells it where it is: it must not be resolved.
        bench = Bench(Path(scratch), os.path.abspath(values.peer) if values.peer else "")
        prepared = bench.folder()
        bench.ours("prepare", files=files, folder=str(prepared))
        result = {
            "input": files,
            "repetitions": values.repetitions,
            "machine": {
                "processor": platform.processor() or platform.machine(),
                "cpus": os.cpu_count(),
                "python": platform.python_version(),
            },
            "versions": {
                name: version(name) for name in ("daft", "resiliparse", "fasttext-numpy2", "numpy", "pyarrow")
            },
            "scoring": measure_steps(bench, files, prepared, values.repetitions),
            "decontamination": measure_decontamination(bench, values.data_dir, prepared, values.repetitions),
            "memory": measure_memory(bench, files, seeds, values.repeat) if values.repeat else None,
        }
    write_json(values.out, result)
    with atomic_write(values.out.with_suffix(".md")) as file:
        file.write(table(result))
    print(table(result))


if __name__ == "__main__":
    sys.exit(exit_code(main))
