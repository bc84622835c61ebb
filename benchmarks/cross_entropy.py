"""Peak memory and time of cross-entropy from hidden states, compared with a plain implementation and torch.

    python -m benchmarks.cross_entropy --peer=.venv-peers/bin/python --json=cross_entropy.json

Our side is `models/logprobs.py`, a chunk of logits at a time. The plain implementation materializes all logits in
float32 and then their log-softmax. torch's is its `cross_entropy` of all logits. Forward and backward. Each side is a
process on the same `--threads` CPUs; they take turns. The loss and the norms of both gradients show that all compute
the same. Memory is the peak of the process above what it held before the first run (on a GPU its allocator's peak above
the inputs); it includes the gradients. XLA's plan for temporaries is in the table too.
"""

import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from benchmarks import comparison, turns
from dsmath_jax.models.logprobs import token_logprobs
from dsmath_jax.workdir import exit_code

SIDES = {"chunked": "ours, in chunks", "plain": "plain implementation", "torch": "torch"}
TOLERANCE = 1e-4  # largest relative difference of loss and norms


def measure(tokens: int, hidden_size: int, vocabulary: int, peer: str, repetitions: int, threads: int) -> dict:
    """Measures all sides on the same random inputs; torch's is left out where `peer` is empty.

    Raises:
      RuntimeError: a side failed, or the sides' values differ.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder, random = Path(scratch), np.random.default_rng(0)
        np.save(folder / "hidden.npy", random.standard_normal((1, tokens, hidden_size), np.float32))
        head = random.standard_normal((hidden_size, vocabulary), np.float32) / math.sqrt(hidden_size)
        np.save(folder / "head.npy", head)
        np.save(folder / "targets.npy", random.integers(vocabulary, size=(1, tokens), dtype=np.int32))
        commands = {form: turns.command(sys.executable, "cross_entropy", folder, form) for form in FORMS}
        if peer:
            commands["torch"] = turns.command(peer, "peers.cross_entropy", folder)
        results = turns.alternate(commands, folder, repetitions, threads)
    return {"tokens": tokens, "hidden_size": hidden_size, "vocabulary": vocabulary, "sides": compare(results)}


def prepare(folder: Path, form: str) -> tuple[dict, turns.Work]:
    """Compiles and runs the loss with both gradients."""
    inputs = [jnp.asarray(np.load(folder / f"{name}.npy")) for name in ("hidden", "targets", "head")]

    @jax.jit
    def gradient(hidden: Array, targets: Array, head: Array) -> tuple[Array, tuple[Array, Array]]:
        return jax.value_and_grad(FORMS[form], argnums=(0, 2))(hidden, targets, head)

    compiled = gradient.lower(*inputs).compile()
    memory = compiled.memory_analysis()
    ready = {
        "baseline_bytes": turns.baseline_bytes(inputs),
        "temporary_bytes": memory.temp_size_in_bytes if memory else None,
        "version": f"jax {jax.__version__}",
    }

    def run() -> dict:
        loss, gradients = jax.block_until_ready(compiled(*inputs))
        return {"values": [float(loss), *(float(jnp.linalg.norm(each)) for each in gradients)]}

    run()
    return ready, run


def chunked(hidden: Float[Array, "B T D"], targets: Int[Array, "B T"], head: Float[Array, "D V"]) -> Float[Array, ""]:
    """Computes the mean cross-entropy as objectives do."""
    return -jnp.mean(token_logprobs(hidden, targets, head)[0])


def plain(hidden: Float[Array, "B T D"], targets: Int[Array, "B T"], head: Float[Array, "D V"]) -> Float[Array, ""]:
    """Computes the mean cross-entropy from all logits at once, in float32."""
    logits = jnp.einsum("BTD,DV->BTV", hidden, head, preferred_element_type=jnp.float32)
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1))


FORMS = {"chunked": chunked, "plain": plain}


def compare(results: turns.Results) -> dict[str, dict]:
    """Returns medians, added memory and ratios to ours by side."""
    sides: dict[str, dict] = {}
    for name, (ready, reports) in results.items():
        peak = reports[-1]["peak_bytes"]
        sides[name] = comparison.medians(reports, "seconds", "cpu_seconds") | {
            "version": ready["version"],
            "peak_bytes": peak,
            "added_bytes": peak - ready["baseline_bytes"],
            "temporary_bytes": ready["temporary_bytes"],
            "values": reports[-1]["values"],
            "seconds_of_turns": [report["seconds"] for report in reports],
        }
    ours = sides["chunked"]
    for name, side in sides.items():
        side["difference"] = comparison.difference(name, side["values"], ours["values"], TOLERANCE)
        side |= comparison.ratios(side, ours, time="seconds", cpu="cpu_seconds", memory="added_bytes")
    return sides


def table(result: dict) -> str:
    """Returns the result as Markdown."""
    rows = [
        [
            SIDES[name],
            f"{row['seconds']:.2f}",
            f"{row['time_ratio']:.2f}",
            f"{row['cpu_seconds']:.2f}",
            f"{row['cpu_ratio']:.2f}",
            f"{row['added_bytes'] / 1e9:.2f}",
            f"{row['memory_ratio']:.2f}",
            "" if row["temporary_bytes"] is None else f"{row['temporary_bytes'] / 1e9:.2f}",
        ]
        for name, row in result["sides"].items()
    ]
    titles = (
        "implementation | seconds | × ours | CPU s | × ours | peak memory added, GB | × ours | XLA's temporaries, GB"
    )
    return comparison.table(titles, rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = comparison.parser(__doc__)
    parser.add_argument("--tokens", type=int, default=4096, help="T")
    parser.add_argument("--hidden_size", type=int, default=512, help="D")
    parser.add_argument("--vocabulary", type=int, default=102_400, help="V")
    options = parser.parse_args(argv)
    shape = options.tokens, options.hidden_size, options.vocabulary
    result = measure(*shape, options.peer, options.repetitions, options.threads)
    comparison.publish(options, result, table(result))


if __name__ == "__main__":
    sys.exit(exit_code(main))
