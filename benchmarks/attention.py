"""Time and peak memory of attention, forward and backward, beside the plain form and torch's.

    python -m benchmarks.attention --peer=.venv-peers/bin/python --json=attention.json

Ours is the backend that `training/attention.py` takes on the machine (on CPUs the blocks of `models/attention.py`);
the plain form makes all T x T scores; torch's is its scaled_dot_product_attention, told that it is causal where a row
is one document, given the mask where it is several. Each side is a process of its own on the same `--threads` CPUs,
they take turns, and that they compute the same is checked by a weighted sum of the outputs and the gradients' norms.
`make peers` makes the peer's environment. Float32 on CPUs, bfloat16 on a GPU. Memory is the peak of the process above
what it held before the first run (on a GPU its allocator's peak above the inputs), which the gradients are part of.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks import turns
from dsmath_jax.workdir import UserError, exit_code, write_json

SIDES = {"ours": "ours", "plain": "plain form", "torch": "torch"}
ALLOWED = {"float32": 1e-4, "bfloat16": 2e-2}  # largest relative difference of the norms


def measure(
    shape: tuple[int, int, int, int], documents: int, peer: str, repetitions: int, threads: int
) -> dict[str, dict]:
    """All sides on the same random inputs; torch's is left out where `peer` is empty.

    Args:
      shape: of queries, keys and values, B, T, N and H.
      documents: of equal length, in every row.

    Raises:
      RuntimeError: a side failed, or the sides' values differ.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder, random = Path(scratch), np.random.default_rng(0)
        q, k, v, weight = random.standard_normal((4, *shape), np.float32)
        ids = 1 + np.arange(shape[1], dtype=np.int32) * documents // shape[1]
        np.savez(folder / "inputs.npz", q=q, k=k, v=v, weight=weight, segment_ids=np.broadcast_to(ids, shape[:2]))
        ours = [sys.executable, "-m", "benchmarks.attention_ours", scratch]
        commands = {form: [*ours, form] for form in ("ours", "plain")}
        if peer:
            commands["torch"] = [peer, "-m", "benchmarks.attention_peer", scratch]
        return _compared(turns.alternate(commands, folder, repetitions, threads))


def _compared(found: Mapping[str, tuple[dict, list[dict]]]) -> dict[str, dict]:
    sides: dict[str, dict] = {}
    for name, (ready, spent) in found.items():
        sides[name] = {
            "version": ready["version"],
            "seconds": turns.median(spent, "seconds"),
            "cpu_seconds": turns.median(spent, "cpu_seconds"),
            "added_bytes": max(0, spent[-1]["peak_bytes"] - ready["held_bytes"]),
            "values": ready["values"],
            "cpu_seconds_of_turns": [turn["cpu_seconds"] for turn in spent],
        }
    ours, allowed = sides["ours"], ALLOWED[found["ours"][0]["dtype"]]
    scale = max(ours["values"])
    for name, side in sides.items():
        differences = [abs(a - b) / scale for a, b in zip(ours["values"], side["values"], strict=True)]
        if max(differences) > allowed:
            raise RuntimeError(f"{name} does not compute what ours does: {side['values']} against {ours['values']}")
        side["difference"] = max(differences)
        side["time_ratio"] = side["seconds"] / ours["seconds"]
        side["cpu_ratio"] = side["cpu_seconds"] / ours["cpu_seconds"]
        side["memory_ratio"] = side["added_bytes"] / max(1, ours["added_bytes"])
    return sides


def table(result: dict) -> str:
    """The result as Markdown."""
    lines = [
        "| T | documents | form | CPU s | of ours | seconds | of ours | peak memory added, MB | of ours |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in result["cases"]:
        for name, row in case["sides"].items():
            cells = [
                f"{case['tokens']:,}",
                str(case["documents"]),
                SIDES[name],
                f"{row['cpu_seconds']:.3f}",
                f"{row['cpu_ratio']:.2f}",
                f"{row['seconds']:.3f}",
                f"{row['time_ratio']:.2f}",
                f"{row['added_bytes'] / 1e6:,.0f}",
                f"{row['memory_ratio']:.2f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _numbers(text: str) -> list[int]:
    """The positive numbers of an option, joined by commas."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"'{text}' is no list of positive numbers; give some joined by commas, as 512,1024.")
    return [int(part) for part in parts]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="512,1024,2048,4096", help="T")
    parser.add_argument("--documents", default="1,8", help="documents in a row")
    parser.add_argument("--rows", type=int, default=1, help="B")
    parser.add_argument("--heads", type=int, default=8, help="N, which is also K")
    parser.add_argument("--head_dim", type=int, default=64, help="H")
    turns.add_options(parser)
    values = parser.parse_args(argv)
    peer = turns.interpreter(values.peer)
    cases = []
    for documents in _numbers(values.documents):
        for tokens in _numbers(values.tokens):
            shape = (values.rows, tokens, values.heads, values.head_dim)
            sides = measure(shape, documents, peer, values.repetitions, values.threads)
            cases.append({"tokens": tokens, "documents": documents, "sides": sides})
    result = {"machine": turns.machine(), "threads": values.threads, "repetitions": values.repetitions}
    result |= {"rows": values.rows, "heads": values.heads, "head_dim": values.head_dim, "cases": cases}
    if values.json:
        write_json(values.json, result)
    print(table(result))


if __name__ == "__main__":
    sys.exit(exit_code(main))
