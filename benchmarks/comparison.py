"""Options, checks that two sides compute the same, ratios and tables, shared by all comparisons."""

import argparse
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsmath_jax.workdir import UserError, write_json


def parser(description: str | None, *options: str) -> argparse.ArgumentParser:
    """Returns a command line that has some of the options `peer`, `threads`, `repetitions` and `json`."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in options or OPTIONS:
        made.add_argument(f"--{option}", **OPTIONS[option])
    return made


def interpreter(peer: str) -> str:
    """Returns the path of the peer's interpreter; "" with a line on stderr where it is missing."""
    if peer and not os.access(peer, os.X_OK):
        print(f"There is no interpreter {peer} (`make peers` makes it); ours alone is measured.", file=sys.stderr)
        return ""
    return os.path.abspath(peer) if peer else ""  # not resolved: an environment's interpreter is a link


OPTIONS: dict[str, dict[str, Any]] = {
    "peer": {"type": interpreter, "default": "", "help": "interpreter of the environment that `make peers` makes"},
    "threads": {"type": int, "default": 2, "help": "CPUs of every side"},
    "repetitions": {"type": int, "default": 5, "help": "turns of every side, whose median counts"},
    "json": {"type": Path, "help": "file to write all numbers to, FILE.json"},
}


def choose(option: str, text: str, known: Collection[str]) -> list[str]:
    """Splits an option that lists names.

    Raises:
      UserError: a name is unknown.
    """
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"--{option} must list some of {', '.join(known)}, joined by commas; got '{unknown[0]}'.")
    return names


def backend() -> str:
    """Returns JAX's backend, found in another process: this one must not hold a GPU's memory."""
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]


def machine() -> dict:
    """Describes the machine: processor, number of CPUs, Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.machine()
    return {"processor": processor, "cpus": os.cpu_count(), "python": platform.python_version()}


def medians(turns: Sequence[Mapping[str, float]], *fields: str) -> dict[str, float]:
    """Returns the medians of some fields over the turns of a side."""
    return {field: statistics.median(turn[field] for turn in turns) for field in fields}


def difference(
    side: str, values: Sequence[float], ours: Sequence[float], allowed: float, scale: float | None = None
) -> float:
    """Returns the largest relative difference of a side's values from ours.

    Args:
      scale: what differences are relative to; None for each of the side's values.

    Raises:
      RuntimeError: it is larger than allowed.
    """
    differences = [abs(a - b) / (scale or abs(b)) for a, b in zip(ours, values, strict=True)]
    if not all(each <= allowed for each in differences):
        raise RuntimeError(f"{side} does not compute what ours does: {values} against {ours}")
    return max(differences)


def ratios(side: Mapping[str, Any], ours: Mapping[str, Any], **fields: str) -> dict[str, float]:
    """Returns the ratios of a side's fields to ours, as NAME_ratio for each NAME=FIELD."""
    return {f"{name}_ratio": side[field] / ours[field] for name, field in fields.items()}


def table(titles: str, rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """Returns a Markdown table. The columns after the first `text_columns` are numbers."""
    head = titles.split(" | ")
    rule = ["---"] * text_columns + ["---:"] * (len(head) - text_columns)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def publish(options: argparse.Namespace, result: dict, text: str) -> None:
    """Writes the result with the machine and the common options to `--json`, and prints the table."""
    if options.json:
        common = {name: getattr(options, name) for name in ("threads", "repetitions") if name in options}
        write_json(options.json, {"machine": machine()} | common | result)
    print(text)
