"""Tokens per second of one optimizer step, compared with transformers on torch in the same run.

    python -m benchmarks.train_step --peer=.venv-peers/bin/python --json=train_step.json

All sides start from the same weights and take the same steps on the same batch, whose rows are one sequence each: AdamW
with decay on matrices only, clipping of the global norm. Their losses show that they compute the same. The peer's
attention is torch's `scaled_dot_product_attention`, its AdamW the fused one; it runs eagerly and through
`torch.compile`.

On CPUs the sides are processes on the same `--threads` CPUs that take turns, in float32. On a GPU (one:
CUDA_VISIBLE_DEVICES=0) each has the memory to itself, in bfloat16 with float32 master weights, and MFU is that of
`training/flops.py`. Rates are of wall-clock seconds, medians over the turns. Memory is the peak of the process, on a
GPU that of its allocator.
"""

import dataclasses
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks import comparison, turns
from dsmath_jax.data.packing import batch_of_rows
from dsmath_jax.hardware import chip_of
from dsmath_jax.models import huggingface
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import initial_params
from dsmath_jax.models.sizes import sizes
from dsmath_jax.settings import build
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training.flops import model_flops_per_token
from dsmath_jax.training.model_files import build_model
from dsmath_jax.training.next_token import next_token_step
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.settings import PackedSettings
from dsmath_jax.training.step import init_state
from dsmath_jax.workdir import exit_code, read_json, write_json

PEERS = {"eager": "transformers", "compiled": "transformers, compiled"}
STEPS = 2  # optimizer steps a turn
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}  # largest relative difference of two sides' losses


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and the batch of one step."""

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
DEFAULT = {"cpu": "8m,28m", "gpu": "1b3"}


def measure(case: Case, peer: str, kinds: Sequence[str], repetitions: int, threads: int, backend: str) -> dict:
    """Measures a case on all sides; the peer's are left out where `peer` is empty.

    Raises:
      RuntimeError: a side failed, or the sides' losses differ.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        settings = dataclasses.asdict(PackedSettings(peak_lr=1e-4, warmup_steps=1, steps=1000))
        task = dataclasses.asdict(case) | {"steps": STEPS, "settings": settings, "peer": bool(peer)}
        write_json(folder / "task.json", task)
        # Ours comes first: it writes what the peer starts from.
        commands = {"ours": turns.command(sys.executable, "train_step", folder)}
        commands |= {kind: turns.command(peer, "peers.train_step", folder, kind) for kind in kinds if peer}
        # On a GPU a side leaves the others no memory.
        groups = [commands] if backend == "cpu" else [{name: command} for name, command in commands.items()]
        threads = threads if backend == "cpu" else os.cpu_count() or 1
        results: dict[str, tuple[dict, list[dict]]] = {}
        for group in groups:
            results |= turns.alternate(group, folder, repetitions, threads)
    return compare(case, results)


def prepare(folder: Path) -> tuple[dict, turns.Work]:
    """Compiles and runs the step of recipes, on all devices.

    For the peer it writes `hf/`, the random weights, and `batch.npz` below the folder.
    """
    task = read_json(folder / "task.json")
    config, settings = ModelConfig(**task["model"]), build(PackedSettings, task["settings"])
    layout = Layout(make_mesh())
    model = build_model(config, layout)
    state = init_state(lambda: initial_params(model, jax.random.key(0)), make_optimizer(settings), layout)
    tokens = np.random.default_rng(0).integers(
        config.vocab_size, size=(task["rows"], task["length"] + 1), dtype=np.int32
    )
    host_batch = batch_of_rows(np.stack([tokens, np.ones_like(tokens), np.ones_like(tokens)], 1))
    if task["peer"]:
        (folder / "hf").mkdir()
        huggingface.write(folder / "hf", state.params, config, "float32")
        np.savez(folder / "batch.npz", tokens=host_batch["tokens"], targets=host_batch["targets"])
    batch = layout.put_batch(host_batch)
    step = next_token_step(settings, model, layout, state)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    def run(steps: int) -> dict:
        nonlocal state
        losses = []
        for _ in range(steps):
            state, scalars = step(state, batch)
            losses.append(scalars["loss"])
        return {"losses": [float(loss) for loss in losses]}

    ready = run(1) | {
        "parameters": parameters,
        "devices": [str(each.device_kind) for each in jax.devices()],
        "flops_per_token": model_flops_per_token(config, task["length"]),
        "peak_flops": chip.peak_flops if (chip := chip_of(jax.devices()[0].device_kind)) else None,
        "version": f"jax {jax.__version__}",
    }
    return ready, lambda: run(task["steps"])


def compare(case: Case, results: turns.Results) -> dict:
    """Returns rates, memory and ratios to ours by side."""
    ready = results["ours"][0]
    tokens = STEPS * case.rows * case.length
    peak_flops = ready["peak_flops"] and ready["peak_flops"] * len(ready["devices"])
    sides: dict[str, dict] = {}
    for name, (first, reports) in results.items():
        medians = comparison.medians(reports, "seconds", "cpu_seconds")
        rate = tokens / medians["seconds"]
        sides[name] = {
            "version": first["version"],
            "tokens_per_second": rate,
            "cpu_seconds_per_1000_tokens": 1000 * medians["cpu_seconds"] / tokens,
            "mfu": peak_flops and rate * ready["flops_per_token"] / peak_flops,
            "peak_bytes": reports[-1]["peak_bytes"],
            "losses": first["losses"] + [loss for report in reports for loss in report["losses"]],
            "seconds_of_turns": [report["seconds"] for report in reports],
        }
    ours, allowed = sides["ours"], TOLERANCE[case.model["compute_dtype"]]
    for name, side in sides.items():
        side["ratio"] = ours["tokens_per_second"] / side["tokens_per_second"]
        side["loss_difference"] = comparison.difference(name, side["losses"], ours["losses"], allowed)
    facts = {name: ready[name] for name in ("parameters", "flops_per_token", "devices")}
    return {"rows": case.rows, "length": case.length, "model": case.model, "sides": sides} | facts


def table(result: dict) -> str:
    """Returns the result as Markdown."""
    rows = [
        [
            f"{name} ({case['parameters'] / 1e6:,.1f} M)",
            f"{case['rows']} x {case['length']:,}",
            PEERS.get(side, side),
            f"{row['tokens_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['cpu_seconds_per_1000_tokens']:.2f}",
            "" if row["mfu"] is None else f"{100 * row['mfu']:.1f}",
            f"{row['peak_bytes'] / 1e9:.2f}",
        ]
        for name, case in result["cases"].items()
        for side, row in case["sides"].items()
    ]
    titles = "model | batch | side | tokens/s | ours / it | CPU s per 1,000 tokens | MFU, % | peak memory, GB"
    return comparison.table(titles, rows, text_columns=3)


def main(argv: Sequence[str] | None = None) -> None:
    parser = comparison.parser(__doc__)
    parser.add_argument("--cases", default="", help=f"of {', '.join(CASES)}; by default those for the machine")
    parser.add_argument("--rows", type=int, default=0, help="another number of rows than the case's")
    parser.add_argument("--remat", default="", help="another policy than the case's (ours alone)")
    parser.add_argument("--peer_kinds", default=",".join(PEERS), help="how the peer runs")
    options = parser.parse_args(argv)
    backend = comparison.backend()
    names = comparison.choose("cases", options.cases or DEFAULT.get(backend, DEFAULT["gpu"]), CASES)
    kinds = comparison.choose("peer_kinds", options.peer_kinds, PEERS)
    changes = {"remat": options.remat} if options.remat else {}
    cases = {}
    for name in names:
        case = CASES[name]
        case = dataclasses.replace(case, rows=options.rows or case.rows, model=case.model | changes)
        ModelConfig(**case.model)  # raises for an unknown policy before anything is written
        cases[name] = measure(case, options.peer, kinds, options.repetitions, options.threads, backend)
    result = {"cases": cases}
    comparison.publish(options, result, table(result))


if __name__ == "__main__":
    sys.exit(exit_code(main))
