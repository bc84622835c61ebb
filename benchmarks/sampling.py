"""Tokens per second of sampling groups of completions of mixed lengths, beside transformers and Tunix in one run.

    python -m benchmarks.sampling --peer=.venv-peers/bin/python --json=sampling.json

`make peers` makes the peers' environment; without it ours alone is measured. All sides have the same random weights,
prompts and rows (64 completions in the making), and draw at temperature 1 from the whole vocabulary. Lengths come from
one rule for all: each of STOP_SHARE of the vocabulary's ids ends a completion, which the random weights draw with
nearly that probability, so that lengths are geometric, cut at the limit. A token counts if it belongs to a completion,
its end included. The peers take as many rows at a time as fit, each batch to its longest completion; ours refills.
With `--stop_share=0` all lengths are equal.

The sides are processes on the same `--threads` CPUs that take turns; medians over the turns. On a GPU ours alone is
measured, with the fraction of the memory bandwidth that its weights, and the keys and values that its tokens see, would
take if each were read once a step with all rows at work.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import turns
from dsmath_jax.models.sizes import sizes
from dsmath_jax.workdir import UserError, exit_code, write_json

SIDES = {"ours": "ours", "transformers": "transformers generate", "tunix": "Tunix, vanilla sampler"}
STOP_SHARE = 1 / 64
ERRORS_ALLOWED = 4  # standard errors between the mean lengths of two sides, which draw other random numbers


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, and what is sampled from it in a turn."""

    model: dict
    group: int
    prompts: int
    rows: int = 64
    prompt_tokens: int = 64
    new_tokens: int = 128


# Tunix's Llama has a rope_theta of 1e6 whatever its config says.
_8M = {
    "vocab_size": 4096, "num_hidden_layers": 8, "hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 8,
    "head_dim": 32, "intermediate_size": 688, "compute_dtype": "float32", "rope_theta": 1e6,
}  # fmt: skip
_TINY = _8M | {
    "vocab_size": 512, "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4,
    "head_dim": 16, "intermediate_size": 160,
}  # fmt: skip
CASES = {
    "tiny": Case(_TINY, group=4, prompts=4, rows=8, prompt_tokens=8, new_tokens=16),
    "8m_g16": Case(_8M, group=16, prompts=16),
    "8m_g64": Case(_8M, group=64, prompts=4),
    "1b3_g64": Case(
        sizes("1b3", num_key_value_heads=16), group=64, prompts=16, rows=256, prompt_tokens=256, new_tokens=512
    ),
}
DEFAULT = {"cpu": ("8m_g16", "8m_g64"), "gpu": ("1b3_g64",)}


def measure(case: Case, peer: str, stop_share: float, repetitions: int, threads: int, backend: str) -> dict:
    """A case on all sides; the peers are left out where `peer` is empty.

    Raises:
      RuntimeError: a side failed, or the sides' completions are not alike.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stop_ids = [2 + i for i in range(round(stop_share * case.model["vocab_size"]))]
        write_json(folder / "task.json", dataclasses.asdict(case) | {"stop_ids": stop_ids, "peer": bool(peer)})
        # Ours comes first, and writes what the peers begin with.
        commands = {"ours": [sys.executable, "-m", "benchmarks.sampling_ours", scratch]}
        if peer:
            commands |= {
                name: [peer, "-m", f"benchmarks.sampling_{name}_peer", scratch] for name in ("transformers", "tunix")
            }
        threads = threads if backend == "cpu" else os.cpu_count() or 1
        return _compared(case, turns.alternate(commands, folder, repetitions, threads))


def _compared(case: Case, found: Mapping[str, tuple[dict, list[dict]]]) -> dict:
    sides = {}
    for name, (reported, spent) in found.items():
        tokens = sum(turn["tokens"] for turn in spent)
        rates = [turn | {"rate": turn["tokens"] / turn["seconds"]} for turn in spent]
        cpu = [turn | {"cpu": 1000 * turn["cpu_seconds"] / turn["tokens"]} for turn in spent]
        sides[name] = {
            "version": reported["version"],
            "tokens_per_second": turns.median(rates, "rate"),
            "cpu_seconds_per_1000_tokens": turns.median(cpu, "cpu"),
            "mean_length": tokens / (len(spent) * case.prompts * case.group),
            "peak_bytes": spent[-1]["peak_bytes"],
            "roofline": turns.median(spent, "roofline") if "roofline" in spent[0] else None,
            "turns": [{field: turn[field] for field in ("seconds", "cpu_seconds", "tokens")} for turn in spent],
        }
    ours = sides["ours"]
    for name, side in sides.items():
        side["ratio"] = ours["tokens_per_second"] / side["tokens_per_second"]
        side["cpu_ratio"] = side["cpu_seconds_per_1000_tokens"] / ours["cpu_seconds_per_1000_tokens"]
        # A geometric length deviates by its mean.
        allowed = ERRORS_ALLOWED * (2 / (len(found[name][1]) * case.prompts * case.group)) ** 0.5
        if abs(side["mean_length"] / ours["mean_length"] - 1) > allowed:
            lengths = f"{side['mean_length']:.1f} tokens against {ours['mean_length']:.1f}"
            raise RuntimeError(f"{name} does not draw what ours does: completions of {lengths}")
        if found[name][0]["greedy"] != found["ours"][0]["greedy"]:
            raise RuntimeError(
                f"{name} does not compute what ours does: it goes on otherwise with the likeliest tokens"
            )
    return dataclasses.asdict(case) | {"sides": sides}


def table(result: dict) -> str:
    """The result as Markdown."""
    lines = [
        "| case | side | tokens/s | ours / it | CPU s per 1,000 tokens | its CPU / ours | mean length | roofline, % |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, case in result["cases"].items():
        for side, row in case["sides"].items():
            cells = [
                f"{name}: {case['prompts']} x {case['group']}, {case['prompt_tokens']} + {case['new_tokens']}",
                SIDES[side],
                f"{row['tokens_per_second']:,.0f}",
                f"{row['ratio']:.2f}",
                f"{row['cpu_seconds_per_1000_tokens']:.2f}",
                f"{row['cpu_ratio']:.2f}",
                f"{row['mean_length']:.1f}",
                "" if row["roofline"] is None else f"{100 * row['roofline']:.1f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help=f"of {', '.join(CASES)}; by default those for the machine")
    parser.add_argument("--stop_share", type=float, default=STOP_SHARE, help="of the ids, that end a completion")
    turns.add_options(parser)
    values = parser.parse_args(argv)
    backend = turns.backend()
    names = values.cases.split(",") if values.cases else DEFAULT.get(backend, DEFAULT["gpu"])
    if wrong := [name for name in names if name not in CASES]:
        raise UserError(f"--cases: there is no '{wrong[0]}'; give some of {', '.join(CASES)}, joined by commas.")
    if not 0 <= values.stop_share < 1:
        raise UserError(f"--stop_share={values.stop_share} is no share of the ids; give one from 0 to below 1.")
    peer = turns.interpreter(values.peer) if backend == "cpu" else ""
    cases = {
        name: measure(CASES[name], peer, values.stop_share, values.repetitions, values.threads, backend)
        for name in names
    }
    options = {"threads": values.threads, "repetitions": values.repetitions, "stop_share": values.stop_share}
    result = {"machine": turns.machine(), **options, "cases": cases}
    if values.json:
        write_json(values.json, result)
    print(table(result))


if __name__ == "__main__":
    sys.exit(exit_code(main))
