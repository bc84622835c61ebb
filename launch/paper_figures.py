"""The paper's Figures 5, 6 and 7 on toy problems: every method and seed, then their tables and plots.

`python launch/paper_figures.py --cores=0,1 --seeds=0,1,2 runs/figures`, from the repository's root. The folder gets a
workdir per run (`start`, `rft-0`, ...) with what it printed next to it (`rft-0.log`), and `fig5/`, `fig6/` and `fig7/`.
One run at a time on each core. After a kill the same command resumes, since every run does. Linux.
"""

import argparse
import os
import queue
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

FIG5, FIG6, FIG7 = (f"configs/paper/{name}.py" for name in ("fig5_rl_methods", "fig6_iterative", "fig7_maj_pass_at_k"))
METHODS = ("rft", "online_rft", "grpo_os", "grpo_ps", "grpo_rule")


class Run(NamedTuple):
    """One run: the name of its workdir, its config, its seed, and the name of the workdir that it builds on."""

    name: str
    config: str
    seed: int
    start: str = ""

    def command(self, folder: Path) -> list[str]:
        start = [f"--config.start={folder / self.start}"] if self.start else []
        return [
            sys.executable, "-m", "dsmath_jax.main", f"--config={self.config}", f"--workdir={folder / self.name}",
            f"--config.seed={self.seed}", *start,
        ]  # fmt: skip


def plan(seeds: Sequence[int]) -> list[list[Run]]:
    """The runs in three waves: each may build on those of the waves before."""
    methods = [Run(f"{name}-{seed}", f"{FIG5}:{name}", seed, "start") for seed in seeds for name in METHODS]
    iterative = [Run(f"grpo_iterative-{seed}", FIG6, seed, "start") for seed in seeds]
    votes = [Run(f"votes-{seed}", FIG7, seed, f"grpo_ps-{seed}") for seed in seeds]
    return [[Run("start", f"{FIG5}:start", 0)], methods + iterative, votes]


def comparisons(seeds: Sequence[int], folder: Path) -> list[list[str]]:
    """The commands that make the tables and plots of finished runs."""
    figures = {
        "fig5": ["start", *(f"{name}-{seed}" for name in METHODS for seed in seeds)],
        "fig6": ["start", *(f"{name}-{seed}" for name in ("grpo_os", "grpo_iterative") for seed in seeds)],
        "fig7": [f"votes-{seed}" for seed in seeds],
    }
    return [
        [sys.executable, "-m", "dsmath_jax.report.comparison", f"--out={folder / figure}", "--runs"]
        + [str(folder / name) for name in names]
        for figure, names in figures.items()
    ]


def work(runs: Sequence[Run], cores: Sequence[int], folder: Path) -> list[str]:
    """Runs all of them, one at a time on each core; returns the names of those that failed."""
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for core in cores:
        free.put(core)

    def one(run: Run) -> bool:
        core = free.get()
        print(f"{run.name}: on core {core}", flush=True)
        with open(folder / f"{run.name}.log", "a", encoding="utf-8") as log:
            pinned = ["taskset", "-c", str(core), *run.command(folder)]
            code = subprocess.run(pinned, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        free.put(core)
        print(f"{run.name}: {'done' if code == 0 else f'failed, see {log.name}'}", flush=True)
        return code == 0

    with ThreadPoolExecutor(len(cores)) as pool:
        return [run.name for run, done in zip(runs, pool.map(one, runs), strict=True) if not done]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"type": lambda text: [int(number) for number in text.split(",")], "metavar": "N,N,..."}
    parser.add_argument("--cores", **numbers, default=sorted(os.sched_getaffinity(0)), help="default: all")
    parser.add_argument("--seeds", **numbers, default=[0, 1, 2], help="default: 0,1,2")
    parser.add_argument("--dry-run", action="store_true", help="print the commands in their order and end")
    parser.add_argument("folder", type=Path)
    values = parser.parse_args(arguments)
    folder, waves, tables = values.folder, plan(values.seeds), comparisons(values.seeds, values.folder)
    if values.dry_run:
        commands = [run.command(folder) for runs in waves for run in runs] + tables
        print("\n".join(map(shlex.join, commands)))
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    for runs in waves:
        failed = work(runs, values.cores, folder)
        if failed:
            print(f"error: {', '.join(failed)} failed; see the logs, then give the same command again", file=sys.stderr)
            return 1
    return max(subprocess.run(command, check=False).returncode for command in tables)


if __name__ == "__main__":
    sys.exit(main())
