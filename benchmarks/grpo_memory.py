"""Peak memory of one GRPO update at a large vocabulary, beside the plain form of it and beside PPO's.

    python -m benchmarks.grpo_memory --json=grpo_memory.json

Ours makes log-probabilities a chunk of logits at a time; the plain form is the same update with all logits at once in
float32 and their log-softmax; PPO's update is ours with a value model beside the policy, of the policy's own size and
with an optimizer of its own: the memory that GRPO does without (paper §4.1.1). Each side is a process of its own, they
take turns, and that the first two compute the same is checked by their losses and the norms of their gradients.

State is parameters and both AdamW moments, all float32. Added is what the process took at its peak (VmHWM; on a GPU
its allocator's) above what it held when everything was compiled and placed; temporaries are what XLA planned for that.
The reference's parameters, which GRPO and PPO need alike, are not in the update and so not in these numbers.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import turns
from dsmath_jax.workdir import exit_code, write_json

SIDES = {"chunked": "GRPO, ours, in chunks", "plain": "GRPO, plain form", "ppo": "PPO, in chunks, with its value model"}
SAME = ("chunked", "plain")  # what has to compute the same
ALLOWED = 1e-4  # largest relative difference of their losses and norms


def measure(task: dict, repetitions: int, threads: int) -> dict[str, dict]:
    """All sides at the sizes of `task`: hidden_size, num_hidden_layers, vocabulary, rows and tokens of the batch.

    Raises:
      RuntimeError: a side failed, or the two forms of GRPO differ.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_json(folder / "task.json", task)
        module = [sys.executable, "-m", "benchmarks.grpo_memory_ours", scratch]
        # One after the other: the sides together need more memory than most machines have.
        found: dict[str, tuple[dict, list[dict]]] = {}
        for form in SIDES:
            found |= turns.alternate({form: [*module, form]}, folder, repetitions, threads)
    return _compared(found)


def _compared(found: Mapping[str, tuple[dict, list[dict]]]) -> dict[str, dict]:
    sides = {}
    for name, (ready, spent) in found.items():
        added = spent[-1]["peak_bytes"] - ready["held_bytes"]
        sides[name] = {
            "state_bytes": ready["state_bytes"],
            "added_bytes": added,
            "temporary_bytes": ready["temporary_bytes"],
            "peak_bytes": ready["state_bytes"] + added,
            "cpu_seconds": turns.median(spent, "cpu_seconds"),
            "values": ready["values"],
        }
    ours, other = (sides[name]["values"] for name in SAME)
    if any(abs(a - b) > ALLOWED * abs(b) for a, b in zip(ours, other, strict=True)):
        raise RuntimeError(f"the plain form does not compute what ours does: {other} against {ours}")
    for side in sides.values():
        side["memory_ratio"] = side["peak_bytes"] / sides["chunked"]["peak_bytes"]
    return sides


def table(sides: Mapping[str, dict]) -> str:
    """The result as Markdown."""
    lines = [
        "| update | state, GB | added at the peak, GB | XLA's temporaries, GB | together, GB | of ours | CPU s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, side in sides.items():
        sizes = [
            f"{side[field] / 1e9:.2f}" for field in ("state_bytes", "added_bytes", "temporary_bytes", "peak_bytes")
        ]
        cells = [SIDES[name], *sizes, f"{side['memory_ratio']:.2f}", f"{side['cpu_seconds']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=102_400, help="V")
    parser.add_argument("--hidden_size", type=int, default=256, help="D")
    parser.add_argument("--num_hidden_layers", type=int, default=2, help="L")
    parser.add_argument("--rows", type=int, default=4, help="completions of the batch, B")
    parser.add_argument("--tokens", type=int, default=1024, help="of a row, T")
    parser.add_argument("--threads", type=int, default=2, help="CPUs")
    parser.add_argument("--repetitions", type=int, default=2, help="updates of every side after the first")
    parser.add_argument("--json", type=Path, help="FILE.json takes all numbers")
    values = parser.parse_args(argv)
    fields = ("vocabulary", "hidden_size", "num_hidden_layers", "rows", "tokens")
    task = {name: getattr(values, name) for name in fields}
    sides = measure(task, values.repetitions, values.threads)
    if values.json:
        write_json(values.json, {"machine": turns.machine(), "threads": values.threads} | task | {"sides": sides})
    print(table(sides))


if __name__ == "__main__":
    sys.exit(exit_code(main))
