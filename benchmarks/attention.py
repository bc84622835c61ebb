"""Time and peak memory of attention, forward and backward, compared with a plain implementation and torch.

    python -m benchmarks.attention --peer=.venv-peers/bin/python --json=attention.json

Our side is the backend that `training/attention.py` chooses on the machine (on CPUs the blocks of
`models/attention.py`). The plain implementation materializes all T x T scores. torch's is
`scaled_dot_product_attention`, causal where a row is one document, with a mask where it is several. Each side is a
process on the same `--threads` CPUs; they take turns. A weighted sum of the outputs and the norms of the gradients show
that all compute the same. Float32 on CPUs, bfloat16 on a GPU. Memory is the peak of the process above what it held
before the first run (on a GPU its allocator's peak above the inputs); it includes the gradients.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from benchmarks import comparison, turns
from dsmath_jax.sharding import Layout, MeshSettings, make_mesh
from dsmath_jax.training.attention import attention_on
from dsmath_jax.workdir import UserError, exit_code

SIDES = {"ours": "ours", "plain": "plain implementation", "torch": "torch"}
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}  # largest difference, relative to the largest value


def measure(
    shape: tuple[int, int, int, int], documents: int, peer: str, repetitions: int, threads: int
) -> dict[str, dict]:
    """Measures all sides on the same random inputs; torch's is left out where `peer` is empty.

    Args:
      shape: of queries, keys and values, B, T, N and H.
      documents: number of documents in a row, all of equal length.

    Raises:
      RuntimeError: a side failed, or the sides' values differ.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder, random = Path(scratch), np.random.default_rng(0)
        q, k, v, weight = random.standard_normal((4, *shape), np.float32)
        ids = 1 + np.arange(shape[1], dtype=np.int32) * documents // shape[1]
        np.savez(folder / "inputs.npz", q=q, k=k, v=v, weight=weight, segment_ids=np.broadcast_to(ids, shape[:2]))
        commands = {form: turns.command(sys.executable, "attention", folder, form) for form in ("ours", "plain")}
        if peer:
            commands["torch"] = turns.command(peer, "peers.attention", folder)
        return compare(turns.alternate(commands, folder, repetitions, threads))


def prepare(folder: Path, form: str) -> tuple[dict, turns.Work]:
    """Compiles and runs a weighted sum of the outputs and its gradients, on the first device."""
    device = jax.devices()[0]
    dtype = jnp.float32 if device.platform == "cpu" else jnp.bfloat16
    attention = attention_on(Layout(make_mesh(MeshSettings(fsdp=1), devices=[device]))) if form == "ours" else plain
    with np.load(folder / "inputs.npz") as file:
        q, k, v, weight = (jnp.asarray(file[name], dtype) for name in ("q", "k", "v", "weight"))
        segment_ids = jnp.asarray(file["segment_ids"])

    @jax.jit
    def gradient(q: Array, k: Array, v: Array, weight: Array, ids: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        loss = lambda q, k, v: jnp.vdot(attention(q, k, v, ids), weight, preferred_element_type=jnp.float32)  # noqa: E731
        return jax.value_and_grad(loss, argnums=(0, 1, 2))(q, k, v)

    inputs = (q, k, v, weight, segment_ids)
    compiled = gradient.lower(*inputs).compile()
    baseline = turns.baseline_bytes(inputs)

    def run() -> dict:
        jax.block_until_ready(compiled(*inputs))
        return {}

    loss, gradients = compiled(*inputs)
    values = [float(loss), *(float(np.linalg.norm(np.float64(each))) for each in gradients)]
    ready = {"baseline_bytes": baseline, "dtype": jnp.dtype(dtype).name, "version": f"jax {jax.__version__}"}
    return ready | {"values": values}, run


def plain(
    q: Float[Array, "B T N H"], k: Float[Array, "B T N H"], v: Float[Array, "B T N H"], segment_ids: Int[Array, "B T"]
) -> Float[Array, "B T N H"]:
    """Computes attention from all T x T scores at once, in float32; autodiff keeps them."""
    mask = jnp.tril(segment_ids[:, :, None] == segment_ids[:, None, :])
    scores = jnp.einsum("BTNH,BSNH->BNTS", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf))
    return jnp.einsum("BNTS,BSNH->BTNH", weights.astype(v.dtype), v)


def compare(results: turns.Results) -> dict[str, dict]:
    """Returns medians, added memory and ratios to ours by side."""
    sides: dict[str, dict] = {}
    for name, (ready, reports) in results.items():
        sides[name] = comparison.medians(reports, "seconds", "cpu_seconds") | {
            "version": ready["version"],
            "added_bytes": max(1, reports[-1]["peak_bytes"] - ready["baseline_bytes"]),
            "values": ready["values"],
            "cpu_seconds_of_turns": [report["cpu_seconds"] for report in reports],
        }
    ours, allowed = sides["ours"], TOLERANCE[results["ours"][0]["dtype"]]
    for name, side in sides.items():
        side["difference"] = comparison.difference(name, side["values"], ours["values"], allowed, max(ours["values"]))
        side |= comparison.ratios(side, ours, time="seconds", cpu="cpu_seconds", memory="added_bytes")
    return sides


def table(result: dict) -> str:
    """Returns the result as Markdown."""
    rows = [
        [
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
        for case in result["cases"]
        for name, row in case["sides"].items()
    ]
    titles = "T | documents | implementation | CPU s | × ours | seconds | × ours | peak memory added, MB | × ours"
    return comparison.table(titles, rows, text_columns=3)


def main(argv: Sequence[str] | None = None) -> None:
    parser = comparison.parser(__doc__)
    parser.add_argument("--tokens", default="512,1024,2048,4096", help="T")
    parser.add_argument("--documents", default="1,8", help="documents in a row")
    parser.add_argument("--rows", type=int, default=1, help="B")
    parser.add_argument("--heads", type=int, default=8, help="N, which is also K")
    parser.add_argument("--head_dim", type=int, default=64, help="H")
    options = parser.parse_args(argv)
    cases = []
    for documents in _numbers("documents", options.documents):
        for tokens in _numbers("tokens", options.tokens):
            shape = (options.rows, tokens, options.heads, options.head_dim)
            sides = measure(shape, documents, options.peer, options.repetitions, options.threads)
            cases.append({"tokens": tokens, "documents": documents, "sides": sides})
    result = {"rows": options.rows, "heads": options.heads, "head_dim": options.head_dim, "cases": cases}
    comparison.publish(options, result, table(result))


def _numbers(option: str, text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--{option} must list positive numbers, joined by commas, as 512,1024; got '{text}'.")
    return [int(part) for part in parts]


if __name__ == "__main__":
    sys.exit(exit_code(main))
