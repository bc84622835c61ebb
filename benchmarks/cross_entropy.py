"""Peak memory and time of cross-entropy from hidden states, forward and backward, beside the plain form and torch's.

    python -m benchmarks.cross_entropy --peer=.venv-peers/bin/python --json=cross_entropy.json

Ours is `models/logprobs.py`, a chunk of logits at a time; the plain form makes all of them in float32 and then their
log-softmax; torch's is its cross_entropy of all logits. Each side is a process of its own on the same `--threads` CPUs,
they take turns, and that they compute the same is checked by the loss and the norms of both gradients. `make peers`
makes the peer's environment. Memory is the peak of the process above what it held before the first run (on a GPU its
allocator's peak above the inputs), which the gradients are part of; beside it what XLA planned for temporaries.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks import turns
from dsmath_jax.workdir import exit_code, write_json

SIDES = {"chunked": "ours, in chunks", "plain": "plain form", "torch": "torch"}
ALLOWED = 1e-4  # largest relative difference of loss and norms


def measure(tokens: int, hidden_size: int, vocabulary: int, peer: str, repetitions: int, threads: int) -> dict:
    """All sides on the same random inputs; torch's is left out where `peer` is empty.

    Raises:
      RuntimeError: a side failed, or the sides' values differ.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder, random = Path(scratch), np.random.default_rng(0)
        np.save(folder / "hidden.npy", random.standard_normal((1, tokens, hidden_size), np.float32))
        head = random.standard_normal((hidden_size, vocabulary), np.float32) / math.sqrt(hidden_size)
        np.save(folder / "head.npy", head)
        np.save(folder / "targets.npy", random.integers(vocabulary, size=(1, tokens), dtype=np.int32))
        ours = [sys.executable, "-m", "benchmarks.cross_entropy_ours", scratch]
        commands = {form: [*ours, form] for form in ("chunked", "plain")}
        if peer:
            commands["torch"] = [peer, "-m", "benchmarks.cross_entropy_peer", scratch]
        found = turns.alternate(commands, folder, repetitions, threads)
    return {"tokens": tokens, "hidden_size": hidden_size, "vocabulary": vocabulary, "sides": _compared(found)}


def _compared(found: Mapping[str, tuple[dict, list[dict]]]) -> dict:
    sides: dict[str, dict] = {}
    for name, (ready, spent) in found.items():
        peak = spent[-1]["peak_bytes"]
        on_host = ready.get("device", "cpu") == "cpu"
        sides[name] = {
            "version": ready["version"],
            "seconds": turns.median(spent, "seconds"),
            "cpu_seconds": turns.median(spent, "cpu_seconds"),
            "peak_bytes": peak,
            "added_bytes": peak - (ready["resident_bytes"] if on_host else ready["inputs_bytes"]),
            "temporary_bytes": ready["temporary_bytes"],
            "values": spent[-1]["values"],
            "seconds_of_turns": [turn["seconds"] for turn in spent],
        }
    ours = sides["chunked"]
    for name, side in sides.items():
        differences = [abs(a - b) / abs(b) for a, b in zip(ours["values"], side["values"], strict=True)]
        if max(differences) > ALLOWED:
            raise RuntimeError(f"{name} does not compute what ours does: {side['values']} against {ours['values']}")
        side["difference"] = max(differences)
        side["time_ratio"] = side["seconds"] / ours["seconds"]
        side["cpu_ratio"] = side["cpu_seconds"] / ours["cpu_seconds"]
        side["memory_ratio"] = side["added_bytes"] / ours["added_bytes"]
    return sides


def table(result: dict) -> str:
    """The result as Markdown."""
    lines = [
        "| form | seconds | of ours | CPU s | of ours | peak memory added, GB | of ours | XLA's temporaries, GB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in result["sides"].items():
        planned = row["temporary_bytes"]
        cells = [
            SIDES[name],
            f"{row['seconds']:.2f}",
            f"{row['time_ratio']:.2f}",
            f"{row['cpu_seconds']:.2f}",
            f"{row['cpu_ratio']:.2f}",
            f"{row['added_bytes'] / 1e9:.2f}",
            f"{row['memory_ratio']:.2f}",
            "" if planned is None else f"{planned / 1e9:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096, help="T")
    parser.add_argument("--hidden_size", type=int, default=512, help="D")
    parser.add_argument("--vocabulary", type=int, default=102_400, help="V")
    turns.add_options(parser)
    values = parser.parse_args(argv)
    peer = turns.interpreter(values.peer)
    shape = values.tokens, values.hidden_size, values.vocabulary
    found = measure(*shape, peer, values.repetitions, values.threads)
    result = {"machine": turns.machine(), "threads": values.threads, "repetitions": values.repetitions} | found
    if values.json:
        write_json(values.json, result)
    print(table(result))


if __name__ == "__main__":
    sys.exit(exit_code(main))
