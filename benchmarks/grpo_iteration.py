"""Seconds per iteration of GRPO (sample, score, update), beside TRL's GRPOTrainer in the same run.

    python -m benchmarks.grpo_iteration --peer=.venv-peers/bin/python --json=grpo_iteration.json

An iteration is one rollout and one update: 4 prompts of 64 tokens, 16 completions each of up to 64 tokens, a rule
as the reward, the reference's log-probabilities, one AdamW step on all 64 rows. Both sides begin with the same weights
and have the same prompts and the same lengths: each completion has a planned length, from a log-normal distribution
with half the limit as its median, drawn by a fixed seed (`grpo_iteration_task.lengths_of`).

Random weights do not end by themselves. TRL's completions are ended by a logits processor, which forbids EOS before
the planned place and forces it there; its own code does the rest, masking included. Ours are drawn to the limit and cut
to the plan: the most work that our sampler can have with it. Neither has an advantage: both decode all rows to the end
of the longest, which is at the limit or near.

That both compute the same is checked on one rollout whose old and reference log-probabilities lie off the policy's,
so that clipping and KL count: loss and norm of the gradient. Sides take turns on the same `--threads` CPUs, in float32.
`make peers` makes the peer's environment; without it ours alone is measured. TRL runs as one would set it for speed
here: no gradient checkpointing, fused AdamW, no logging, one batch.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import turns
from benchmarks.grpo_iteration_task import Task
from dsmath_jax.models.sizes import sizes
from dsmath_jax.workdir import exit_code, write_json

SIDES = {"ours": "ours", "trl": "TRL"}
PHASES = ("sample", "score", "update")
ALLOWED = 1e-3  # largest relative difference of loss and norm


def measure(task: Task, model: dict, peer: str, repetitions: int, threads: int) -> dict[str, dict]:
    """Both sides; TRL's is left out where `peer` is empty.

    Raises:
      RuntimeError: a side failed, or they do not compute the same.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shape = {"vocab_size": task.vocabulary, "max_position_embeddings": task.prompt_tokens + task.new_tokens}
        write_json(folder / "task.json", {"task": task._asdict(), "model": model | shape, "turns": repetitions})
        # Ours comes first, and writes the weights and the rollout that the peer begins with.
        commands = {"ours": [sys.executable, "-m", "benchmarks.grpo_iteration_ours", scratch]}
        if peer:
            commands["trl"] = [peer, "-m", "benchmarks.grpo_iteration_peer", scratch]
        return _compared(turns.alternate(commands, folder, repetitions, threads))


def _compared(found: Mapping[str, tuple[dict, list[dict]]]) -> dict[str, dict]:
    sides: dict[str, dict] = {}
    for name, (ready, spent) in found.items():
        sides[name] = {
            "version": ready["version"],
            "seconds": turns.median(spent, "seconds"),
            "cpu_seconds": turns.median(spent, "cpu_seconds"),
            "phases": {name: turns.median(spent, name) for phase in PHASES for name in (phase, f"{phase}_cpu")},
            "tokens": sum(turn["tokens"] for turn in spent),
            "peak_bytes": spent[-1]["peak_bytes"],
            "values": ready["values"],
            "seconds_of_turns": [turn["seconds"] for turn in spent],
        }
    ours = sides["ours"]
    for name, side in sides.items():
        differences = [abs(a - b) / abs(b) for a, b in zip(ours["values"], side["values"], strict=True)]
        if max(differences) > ALLOWED or side["tokens"] != ours["tokens"]:
            raise RuntimeError(f"{name} does not compute what ours does: {side} against {ours}")
        side["difference"] = max(differences)
        side["time_ratio"] = side["seconds"] / ours["seconds"]
        side["cpu_ratio"] = side["cpu_seconds"] / ours["cpu_seconds"]
    return sides


def table(sides: Mapping[str, dict]) -> str:
    """The result as Markdown."""
    lines = [
        "| side | s an iteration | of ours | CPU s | of ours | sample, s (CPU s) | score | update | peak memory, GB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, side in sides.items():
        cells = [
            f"{SIDES[name]} ({side['version']})",
            f"{side['seconds']:.2f}",
            f"{side['time_ratio']:.2f}",
            f"{side['cpu_seconds']:.2f}",
            f"{side['cpu_ratio']:.2f}",
            *(f"{side['phases'][phase]:.2f} ({side['phases'][phase + '_cpu']:.2f})" for phase in PHASES),
            f"{side['peak_bytes'] / 1e9:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4, help="P")
    parser.add_argument("--group_size", type=int, default=16, help="G")
    parser.add_argument("--prompt_tokens", type=int, default=64, help="of every prompt")
    parser.add_argument("--new_tokens", type=int, default=64, help="the limit of a completion")
    parser.add_argument("--vocabulary", type=int, default=4096, help="V")
    parser.add_argument("--hidden_size", type=int, default=256, help="D")
    parser.add_argument("--num_hidden_layers", type=int, default=8, help="L")
    parser.add_argument("--intermediate_size", type=int, default=688, help="F")
    parser.add_argument("--head_dim", type=int, default=32, help="H")
    turns.add_options(parser)
    values = parser.parse_args(argv)
    peer = turns.interpreter(values.peer)
    task = Task(values.prompts, values.group_size, values.prompt_tokens, values.new_tokens, values.vocabulary)
    fields = ("hidden_size", "num_hidden_layers", "intermediate_size", "head_dim")
    shape = {name: getattr(values, name) for name in fields}
    heads = values.hidden_size // values.head_dim
    model = sizes("1m", tie_word_embeddings=False, remat="minimal", num_attention_heads=heads, **shape)
    found = measure(task, model, peer, values.repetitions, values.threads)
    result = {"machine": turns.machine(), "threads": values.threads, "repetitions": values.repetitions}
    result |= {"task": task._asdict(), "model": model, "sides": found}
    if values.json:
        write_json(values.json, result)
    print(table(found))


if __name__ == "__main__":
    sys.exit(exit_code(main))
