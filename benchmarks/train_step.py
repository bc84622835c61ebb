"""Tokens per second of one optimizer step, beside transformers on torch in the same run.

    python -m benchmarks.train_step --peer=.venv-peers/bin/python --json=train_step.json

`make peers` makes the peer's environment; without it ours alone is measured. All sides begin with the same weights and
take the same steps on the same batch, whose rows are one sequence each: AdamW with decay on matrices only, clipping of
the global norm. That they compute the same is checked by their losses. The peer's attention is torch's
scaled_dot_product_attention, its AdamW the fused one; it runs as it is and through torch.compile.

On CPUs the sides are processes on the same `--threads` CPUs that take turns, in float32. On a GPU (the first is meant:
CUDA_VISIBLE_DEVICES=0) each has the memory to itself, in bfloat16 with float32 master weights, and MFU is that of
`training/flops.py`. Rates are of wall-clock seconds, medians over the turns; memory is the peak of the process, on a
GPU that of its allocator.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import turns
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.sizes import sizes
from dsmath_jax.training.settings import PackedSettings
from dsmath_jax.workdir import UserError, exit_code, write_json

PEERS = {"eager": "transformers", "compiled": "transformers, compiled"}
STEPS = 2  # optimizer steps a turn
ALLOWED = {"float32": 1e-4, "bfloat16": 1e-2}  # largest relative difference of two sides' losses


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and the batch that one step of it takes."""

    model: dict
    rows: int
    length: int


def _small(hidden_size: int, layers: int, heads: int, kv_heads: int, intermediate_size: int) -> dict:
    return {
        "vocab_size": 4096, "num_hidden_layers": layers, "hidden_size": hidden_size, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": hidden_size // heads, "intermediate_size": intermediate_size,
        "compute_dtype": "float32",
    }  # fmt: skip


CASES = {
    "tiny": Case(_small(64, 2, 4, 2, 160), rows=2, length=64),
    "8m": Case(_small(256, 8, 8, 8, 688), rows=8, length=512),
    "28m": Case(_small(512, 8, 8, 4, 1408), rows=2, length=1024),
    "1b3": Case(sizes("1b3", remat="minimal"), rows=4, length=4096),
}
DEFAULT = {"cpu": ("8m", "28m"), "gpu": ("1b3",)}


def measure(case: Case, peer: str, kinds: Sequence[str], repetitions: int, threads: int, backend: str) -> dict:
    """One step of a case on all sides; the peer's are left out where `peer` is empty.

    Raises:
      RuntimeError: a side failed, or the sides' losses differ.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        settings = dataclasses.asdict(PackedSettings(peak_lr=1e-4, warmup_steps=1, steps=1000))
        task = dataclasses.asdict(case) | {"steps": STEPS, "settings": settings, "peer": bool(peer)}
        write_json(folder / "task.json", task)
        theirs = [peer, "-m", "benchmarks.train_step_peer", scratch]
        # Ours comes first, and writes what the peer begins with.
        commands = {"ours": [sys.executable, "-m", "benchmarks.train_step_ours", scratch]}
        commands |= {kind: [*theirs, kind] for kind in kinds if peer}
        # On a GPU a side leaves the others no memory.
        groups = [commands] if backend == "cpu" else [{name: command} for name, command in commands.items()]
        threads = threads if backend == "cpu" else os.cpu_count() or 1
        found: dict[str, tuple[dict, list[dict]]] = {}
        for group in groups:
            found |= turns.alternate(group, folder, repetitions, threads)
    return _compared(case, found)


def _compared(case: Case, found: Mapping[str, tuple[dict, list[dict]]]) -> dict:
    ready = found["ours"][0]
    tokens = STEPS * case.rows * case.length
    sides = {}
    for name, (reported, spent) in found.items():
        rate = tokens / turns.median(spent, "seconds")
        flops = ready["peak_flops"] and ready["peak_flops"] * len(ready["devices"])
        sides[name] = {
            "version": reported["version"],
            "tokens_per_second": rate,
            "cpu_seconds_per_1000_tokens": 1000 * turns.median(spent, "cpu_seconds") / tokens,
            "mfu": flops and rate * ready["flops_per_token"] / flops,
            "peak_bytes": spent[-1]["peak_bytes"],
            "losses": reported["losses"] + [loss for turn in spent for loss in turn["losses"]],
            "seconds_of_turns": [turn["seconds"] for turn in spent],
        }
    ours = sides["ours"]
    for name, side in sides.items():
        side["ratio"] = ours["tokens_per_second"] / side["tokens_per_second"]
        differences = [abs(a - b) / abs(b) for a, b in zip(ours["losses"], side["losses"], strict=True)]
        if max(differences) > ALLOWED[case.model["compute_dtype"]]:
            raise RuntimeError(f"{name} does not compute what ours does: {side['losses']} against {ours['losses']}")
        side["loss_difference"] = max(differences)
    facts = {name: ready[name] for name in ("parameters", "flops_per_token", "devices")}
    return {"rows": case.rows, "length": case.length, "model": case.model, "sides": sides} | facts


def table(result: dict) -> str:
    """The result as Markdown."""
    lines = [
        "| model | batch | side | tokens/s | ours / it | CPU s per 1,000 tokens | MFU, % | peak memory, GB |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, case in result["cases"].items():
        for side, row in case["sides"].items():
            cells = [
                f"{name} ({case['parameters'] / 1e6:,.1f} M)",
                f"{case['rows']} x {case['length']:,}",
                PEERS.get(side, side),
                f"{row['tokens_per_second']:,.0f}",
                f"{row['ratio']:.2f}",
                f"{row['cpu_seconds_per_1000_tokens']:.2f}",
                "" if row["mfu"] is None else f"{100 * row['mfu']:.1f}",
                f"{row['peak_bytes'] / 1e9:.2f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help=f"of {', '.join(CASES)}; by default those for the machine")
    parser.add_argument("--rows", type=int, default=0, help="another number of rows than the case's")
    parser.add_argument("--remat", default="", help="another policy than the case's (ours alone)")
    parser.add_argument("--peer_kinds", default=",".join(PEERS), help="how the peer runs")
    turns.add_options(parser)
    values = parser.parse_args(argv)
    backend = turns.backend()
    names = values.cases.split(",") if values.cases else DEFAULT.get(backend, DEFAULT["gpu"])
    kinds = values.peer_kinds.split(",")
    for flag, given, known in (("cases", names, [*CASES]), ("peer_kinds", kinds, [*PEERS])):
        if wrong := [name for name in given if name not in known]:
            raise UserError(f"--{flag}: there is no '{wrong[0]}'; give some of {', '.join(known)}, joined by commas.")
    peer = turns.interpreter(values.peer)
    changes = {"remat": values.remat} if values.remat else {}
    cases = {}
    for name in names:
        case = CASES[name]
        case = dataclasses.replace(case, rows=values.rows or case.rows, model=case.model | changes)
        ModelConfig(**case.model)  # a wrong policy is known before anything is written
        cases[name] = measure(case, peer, kinds, values.repetitions, values.threads, backend)
    result = {"machine": turns.machine(), "threads": values.threads, "repetitions": values.repetitions, "cases": cases}
    if values.json:
        write_json(values.json, result)
    print(table(result))


if __name__ == "__main__":
    sys.exit(exit_code(main))
