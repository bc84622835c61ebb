"""CPU seconds of the corpus's steps, compared with a datatrove pipeline of the same steps in the same run.

    python -m benchmarks.corpus --input='crawl/*.warc.gz' --peer=.venv-peers/bin/python --out=corpus.json

Both sides read the same files, remove near-duplicates by 14 x 8 MinHash of 5-grams and score with the same fastText
model. Each run is a new process, and the sides take turns. Totals are of all processes, from their start to their end.
The peer has no separate normalization (its MinHash normalizes on its own) and detects no languages. Decontamination
is measured on our texts of the pages, against the same data sets by 10-grams. With `--repeat=10`, peak memory of the
whole corpus is measured on the input and on ten copies of it under other hosts. Writes FILE.json and, as a table,
FILE.md.
"""

import dataclasses
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import comparison, copies, resources
from benchmarks.resources import Usage
from dsmath_jax.corpus.reading import sources
from dsmath_jax.data import datasets
from dsmath_jax.workdir import UserError, atomic_write, exit_code, read_json, write_json

STEPS = {
    "read": "reading WARC",
    "extract": "HTML to text",
    "language": "language",
    "normalize": "normalization",
    "minhash": "MinHash signatures",
    "duplicates": "near-duplicates",
    "score": "fastText scores",
    "files": "writing files",
    "rest": "start-up and engine",
}
DATA_SETS = ("gsm8k/train", "gsm8k/test", "cmath/test")
NGRAM = 10
TOKENS_PER_COPY = 1_500_000  # what an iteration of mining collects, for each time that the input is repeated


@dataclasses.dataclass
class Bench:
    """Runs tasks in new processes, each with its own folder in `scratch`."""

    scratch: Path
    peer: str
    tasks: int = 0

    def folder(self) -> Path:
        """Creates a folder."""
        self.tasks += 1
        folder = self.scratch / str(self.tasks)
        folder.mkdir()
        return folder

    def ours(self, task: str, **arguments: object) -> tuple[dict, Usage]:
        """Runs a task of `corpus_tasks`; returns its result and its usage."""
        folder = self.folder()
        write_json(folder / "arguments.json", arguments)
        command = [sys.executable, "-m", "benchmarks.corpus_tasks", task, str(folder / "arguments.json")]
        return self._run(command, folder)

    def peers(self, task: str, texts: Path, known: Path) -> tuple[dict, Usage]:
        """Runs a task of `peers/corpus`; returns its result and its usage."""
        folder = self.folder()
        command = [self.peer, "-m", "benchmarks.peers.corpus", task, str(texts), str(known), str(folder / "work")]
        return self._run(command, folder)

    @staticmethod
    def _run(command: list[str], folder: Path) -> tuple[dict, Usage]:
        usage = resources.run([*command, str(folder / "result.json")], folder / "log")
        return read_json(folder / "result.json"), usage


def measure_steps(bench: Bench, files: Sequence[str], prepared: Path, repetitions: int) -> dict:
    """Measures the steps from WARC to scored documents; returns counts, and the CPU seconds of both sides by step."""
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
    rows = [{"step": step} | compare(_seconds(ours, [step]), _seconds(peers, [step]), pages) for step in steps]
    total = compare(_seconds(ours, steps), _seconds(peers, steps), pages)
    return {"ours": counts, "peer": their_counts, "steps": rows, "total": total}


def _with_rest(seconds: dict[str, float], usage: Usage) -> dict[str, float]:
    """Adds what the processes took outside the steps."""
    return seconds | {"rest": usage.cpu_seconds - sum(seconds.values())}


def _seconds(runs: list[dict], steps: list[str]) -> list[float]:
    """Sums the seconds of some steps in each run; empty for a step that a side does not have."""
    return [sum(run.get(step, 0.0) for step in steps) for run in runs if run.keys() & set(steps)]


def compare(ours: list[float], peers: list[float], pages: int) -> dict:
    """Returns medians of the CPU seconds of both sides, rates and the ratio; null where the peer has no such step."""
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
    """Measures megabytes of text searched for data sets per CPU second; None where the data folder has none of them."""
    names = [name for name in DATA_SETS if name in datasets.available(data_dir)]
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
    """Measures peak memory of the whole corpus on the input, and on up to `repeat` copies of it under other hosts.

    One of the counts gives every CPU a file: from there memory must not grow.
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
    """Returns the result as Markdown."""
    keys = ("cpu_seconds", "pages_per_second", "cpu_seconds_per_1000_pages", "peer_cpu_seconds", "ratio")
    scoring, decontamination = result["scoring"], result["decontamination"]
    rows = [
        _cells(STEPS.get(row["step"], row["step"]), *(row[key] for key in keys))
        for row in [*scoring["steps"], {"step": "total"} | scoring["total"]]
    ]
    parts = [comparison.table("step | CPU s | pages/s | CPU s per 1,000 pages | datatrove, CPU s | ratio", rows)]
    for side, counts in (("this project", scoring["ours"]), ("datatrove", scoring["peer"])):
        if counts:
            parts.append(f"Counts of {side}: {', '.join(f'{name} {count:,}' for name, count in counts.items())}.")
    if decontamination:
        rows = [
            _cells(
                name,
                decontamination[f"megabytes_per_second{kind}"],
                decontamination["peer_megabytes_per_second"],
                decontamination[f"ratio{kind}"],
            )
            for name, kind in (("from text", ""), ("from the normalized text", "_from_normal"))
        ]
        parts.append(comparison.table("decontamination | MB/s | datatrove, MB/s | ratio", rows))
    if result["memory"]:
        rows = [
            _cells(row["files"], row["pages_read"], row["peak_bytes"] / 1e9, row["cpu_seconds"])
            for row in result["memory"]
        ]
        parts.append(comparison.table("files | pages | peak memory, GB | CPU s", rows, text_columns=0))
    return "\n\n".join(parts) + "\n"


def _cells(*values: str | float | None) -> list[str]:
    return [value if isinstance(value, str) else _cell(value) for value in values]


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if isinstance(value, int) or value >= 100 else f"{value:.2f}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = comparison.parser(__doc__, "peer", "repetitions")
    parser.set_defaults(repetitions=3)
    parser.add_argument("--input", required=True, help="WARC files: a folder, a glob or a file, below data_dir")
    parser.add_argument("--data_dir", type=Path, default=Path(), help="the folder that also has the data sets")
    parser.add_argument("--out", type=Path, required=True, help="FILE.json")
    parser.add_argument("--repeat", type=int, default=0, help="also measure memory, on this many copies of the input")
    parser.add_argument("--seeds", type=Path, default=Path("crawl/seeds.txt"), help="below data_dir, for --repeat")
    options = parser.parse_args(argv)
    files = [str(Path(file).absolute()) for file in sources.find(options.input, options.data_dir)]
    seeds = options.data_dir / options.seeds
    if options.repeat and not seeds.is_file():
        raise UserError(f"--repeat needs a file of seeds, and {seeds} is missing; give --seeds.")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), options.peer)
        prepared = bench.folder()
        bench.ours("prepare", files=files, folder=str(prepared))
        packages = ("daft", "resiliparse", "fasttext-numpy2", "numpy", "pyarrow")
        result = {
            "input": files,
            "repetitions": options.repetitions,
            "machine": comparison.machine(),
            "versions": {name: version(name) for name in packages},
            "scoring": measure_steps(bench, files, prepared, options.repetitions),
            "decontamination": measure_decontamination(bench, options.data_dir, prepared, options.repetitions),
            "memory": measure_memory(bench, files, seeds, options.repeat) if options.repeat else None,
        }
    write_json(options.out, result)
    with atomic_write(options.out.with_suffix(".md")) as file:
        file.write(table(result))
    print(table(result))


if __name__ == "__main__":
    sys.exit(exit_code(main))
