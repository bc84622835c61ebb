"""Tokens per second of sampling groups of mixed lengths, compared with transformers and Tunix in the same run.

    python -m benchmarks.sampling --peer=.venv-peers/bin/python --json=sampling.json

All sides have the same random weights, prompts and rows (64 completions decoded at a time), and sample at temperature 1
from the whole vocabulary. On all of them STOP_SHARE of the vocabulary's ids end a completion. Random weights sample
these with nearly that probability, so that lengths are geometric, cut at the limit. A token counts if it belongs to a
completion, its end included. The peers decode batches of that many rows, each to its longest completion; ours refills.
With `--stop_share=0` all lengths are equal.

The sides are processes on the same `--threads` CPUs that take turns; medians over the turns. On a GPU ours alone is
measured, with a roofline: the time to read the weights once per decode step of a full batch, and the keys and values
that the tokens attend to, as a fraction of the time taken.
"""

import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks import comparison, turns
from dsmath_jax.models import huggingface
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import initial_params
from dsmath_jax.models.sizes import sizes
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training.model_files import build_model
from dsmath_jax.workdir import UserError, exit_code, read_json, write_json

SIDES = {"ours": "ours", "transformers": "transformers generate", "tunix": "Tunix, vanilla sampler"}
STOP_SHARE = 1 / 64
MAX_STANDARD_ERRORS = 4  # standard errors between the mean lengths of two sides, which draw other random numbers
GREEDY = 8  # tokens by which the sides are compared
# Memory bandwidth in bytes per second, from the vendor's data sheets.
BANDWIDTH = {"NVIDIA H200": 4.8e12, "NVIDIA H100 80GB HBM3": 3.35e12, "NVIDIA A100-SXM4-80GB": 2.039e12}


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, and the prompts and completions of a turn."""

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
DEFAULT = {"cpu": "8m_g16,8m_g64", "gpu": "1b3_g64"}


def measure(case: Case, peer: str, stop_share: float, repetitions: int, threads: int, backend: str) -> dict:
    """Measures a case on all sides; the peers are left out where `peer` is empty.

    Raises:
      RuntimeError: a side failed, or the sides' completions differ in length or likeliest tokens.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stop_ids = [2 + i for i in range(round(stop_share * case.model["vocab_size"]))]
        write_json(folder / "task.json", dataclasses.asdict(case) | {"stop_ids": stop_ids, "peer": bool(peer)})
        # Ours comes first: it writes what the peers start from.
        commands = {"ours": turns.command(sys.executable, "sampling", folder)}
        for name in ("transformers", "tunix") if peer else ():
            commands[name] = turns.command(peer, f"peers.sampling_{name}", folder)
        threads = threads if backend == "cpu" else os.cpu_count() or 1
        return compare(case, turns.alternate(commands, folder, repetitions, threads))


def prepare(folder: Path) -> tuple[dict, turns.Work]:
    """Warms up the sampler that training uses by one turn.

    For the peers it writes `hf/`, the random weights, and `prompts.json` below the folder.
    """
    task = read_json(folder / "task.json")
    config, layout = ModelConfig(**task["model"]), Layout(make_mesh())
    model = build_model(config, layout)
    params = jax.jit(lambda: initial_params(model, jax.random.key(0)))()
    first = 2 + len(task["stop_ids"])  # 0 is a peer's padding, 1 its BOS
    shape = (task["prompts"], task["prompt_tokens"] - 1)
    prompts = [[1, *row] for row in np.random.default_rng(0).integers(first, config.vocab_size, shape).tolist()]
    if task["peer"]:
        (folder / "hf").mkdir()
        huggingface.write(folder / "hf", params, config, "float32")
        write_json(folder / "prompts.json", prompts)
    sampler = Sampler(model, layout, task["stop_ids"], task["new_tokens"], task["rows"])
    bandwidth = BANDWIDTH.get(jax.devices()[0].device_kind)
    itemsize = jax.numpy.dtype(config.compute_dtype).itemsize
    weight_bytes = itemsize * sum(leaf.size for leaf in jax.tree.leaves(params))
    token_bytes = 2 * itemsize * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    seed = 0

    def turn() -> dict:
        nonlocal seed
        seed += 1
        start = time.perf_counter()
        groups = list(sampler.generate(params, prompts, SamplingParams(samples=task["group"], seed=seed)))
        seconds = time.perf_counter() - start
        lengths = [len(completion.tokens) for group in groups for completion in group]
        tokens = sum(lengths)
        if not bandwidth:
            return {"tokens": tokens}
        attended = sum(n * (n + 1) / 2 for n in lengths) + tokens * task["prompt_tokens"] / task["group"]
        read = tokens / task["rows"] * weight_bytes + attended * token_bytes
        return {"tokens": tokens, "roofline": read / seconds / bandwidth}

    turn()
    greedy = Sampler(model, layout, [], GREEDY, 4).generate(params, prompts[:4], SamplingParams(temperature=0.0))
    return {"version": f"jax {jax.__version__}", "greedy": [t for [c] in greedy for t in c.tokens]}, turn


def compare(case: Case, results: turns.Results) -> dict:
    """Returns rates, mean lengths and ratios to ours by side."""
    sides: dict[str, dict] = {}
    for name, (ready, reports) in results.items():
        tokens = sum(report["tokens"] for report in reports)
        rates = [
            {
                "tokens_per_second": report["tokens"] / report["seconds"],
                "cpu_seconds_per_1000_tokens": 1000 * report["cpu_seconds"] / report["tokens"],
            }
            for report in reports
        ]
        sides[name] = comparison.medians(rates, *rates[0]) | {
            "version": ready["version"],
            "mean_length": tokens / (len(reports) * case.prompts * case.group),
            "peak_bytes": reports[-1]["peak_bytes"],
            "roofline": comparison.medians(reports, "roofline")["roofline"] if "roofline" in reports[0] else None,
            "turns": [{field: report[field] for field in ("seconds", "cpu_seconds", "tokens")} for report in reports],
        }
    ours = sides["ours"]
    for name, side in sides.items():
        ready, reports = results[name]
        side["ratio"] = ours["tokens_per_second"] / side["tokens_per_second"]
        side |= comparison.ratios(side, ours, cpu="cpu_seconds_per_1000_tokens")
        # A geometric length deviates by its mean.
        allowed = MAX_STANDARD_ERRORS * (2 / (len(reports) * case.prompts * case.group)) ** 0.5
        if abs(side["mean_length"] / ours["mean_length"] - 1) > allowed:
            lengths = f"{side['mean_length']:.1f} tokens against {ours['mean_length']:.1f}"
            raise RuntimeError(f"{name} does not draw what ours does: completions of {lengths}")
        if ready["greedy"] != results["ours"][0]["greedy"]:
            raise RuntimeError(f"{name} does not compute what ours does: other tokens are the likeliest")
    return dataclasses.asdict(case) | {"sides": sides}


def table(result: dict) -> str:
    """Returns the result as Markdown."""
    rows = [
        [
            f"{name}: {case['prompts']} x {case['group']}, {case['prompt_tokens']} + {case['new_tokens']}",
            SIDES[side],
            f"{row['tokens_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['cpu_seconds_per_1000_tokens']:.2f}",
            f"{row['cpu_ratio']:.2f}",
            f"{row['mean_length']:.1f}",
            "" if row["roofline"] is None else f"{100 * row['roofline']:.1f}",
        ]
        for name, case in result["cases"].items()
        for side, row in case["sides"].items()
    ]
    titles = "case | side | tokens/s | ours / it | CPU s per 1,000 tokens | its CPU / ours | mean length | roofline, %"
    return comparison.table(titles, rows, text_columns=2)


def main(argv: Sequence[str] | None = None) -> None:
    parser = comparison.parser(__doc__)
    parser.add_argument("--cases", default="", help=f"of {', '.join(CASES)}; by default those for the machine")
    parser.add_argument("--stop_share", type=float, default=STOP_SHARE, help="of the ids, that end a completion")
    options = parser.parse_args(argv)
    backend = comparison.backend()
    names = comparison.choose("cases", options.cases or DEFAULT.get(backend, DEFAULT["gpu"]), CASES)
    if not 0 <= options.stop_share < 1:
        raise UserError(f"--stop_share must be a share of the ids, from 0 to below 1; got {options.stop_share}.")
    peer = options.peer if backend == "cpu" else ""
    cases = {
        name: measure(CASES[name], peer, options.stop_share, options.repetitions, options.threads, backend)
        for name in names
    }
    result = {"stop_share": options.stop_share, "cases": cases}
    comparison.publish(options, result, table(result))


if __name__ == "__main__":
    sys.exit(exit_code(main))
