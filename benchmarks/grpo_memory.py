"""Peak memory of one GRPO update at a large vocabulary, compared with a plain implementation and with PPO's update.

    python -m benchmarks.grpo_memory --json=grpo_memory.json

Our update computes log-probabilities a chunk of logits at a time. The plain implementation is the same update with all
logits at once in float32 and their log-softmax. PPO's update is ours plus a value model of the policy's size with its
own optimizer: the memory that GRPO saves (paper §4.1.1). Each side is a process; they run one after the other. Losses
and gradient norms show that the first two compute the same.

State is parameters and both AdamW moments, all float32. Added is the peak of the process (VmHWM; on a GPU its
allocator's) above what it held when everything was compiled and placed; temporaries are XLA's plan for that. The
reference's parameters, which GRPO and PPO need alike, are not in the update and so not in these numbers.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks import comparison, turns
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import initial_params
from dsmath_jax.models.sizes import sizes
from dsmath_jax.rl.algorithms import GRPO, PPO
from dsmath_jax.rl.reward_model.model import with_reward_head
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training.model_files import build_model
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.settings import TrainingSettings
from dsmath_jax.training.step import init_state, make_train_step
from dsmath_jax.workdir import exit_code, read_json, write_json

SIDES = {
    "chunked": "GRPO, ours, in chunks",
    "plain": "GRPO, plain",
    "ppo": "PPO, in chunks, with its value model",
}
TOLERANCE = 1e-4  # largest relative difference of the losses and norms of `chunked` and `plain`
PROMPT_SHARE = 1 / 4  # of a row's tokens


def measure(task: dict, repetitions: int, threads: int) -> dict[str, dict]:
    """Measures all sides at the sizes of `task`: hidden_size, num_hidden_layers, vocabulary, rows and tokens.

    Raises:
      RuntimeError: a side failed, or the two forms of GRPO differ.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_json(folder / "task.json", task)
        # One after the other: together the sides need more memory than most machines have.
        results: dict[str, tuple[dict, list[dict]]] = {}
        for form in SIDES:
            commands = {form: turns.command(sys.executable, "grpo_memory", folder, form)}
            results |= turns.alternate(commands, folder, repetitions, threads)
    return compare(results)


def prepare(folder: Path, form: str) -> tuple[dict, turns.Work]:
    """Compiles and runs the update."""
    task = read_json(folder / "task.json")
    layout = Layout(make_mesh())
    hidden_size = task["hidden_size"]
    # Tied: a value model has no use for an output matrix, and at this hidden size that would be half of the policy.
    config = ModelConfig(
        **sizes(
            "1m", vocab_size=task["vocabulary"], num_hidden_layers=task["num_hidden_layers"], hidden_size=hidden_size,
            num_attention_heads=hidden_size // 32, head_dim=32, intermediate_size=43 * hidden_size // 16,
            max_position_embeddings=task["tokens"], remat="minimal",
        )
    )  # fmt: skip
    model = build_model(config, layout)
    optimizer = make_optimizer(TrainingSettings(peak_lr=1e-6, warmup_steps=1, steps=1000))
    batch = random_batch(task["vocabulary"], task["rows"], task["tokens"])
    algorithm = PPO() if form == "ppo" else GRPO()
    fields = {name: x for name, x in batch.items() if algorithm.has_values or name not in ("returns", "old_values")}

    def make_params() -> Any:
        policy = initial_params(model, jax.random.key(0))
        if not algorithm.has_values:
            return policy
        return {"policy": policy, "value": with_reward_head(initial_params(model, jax.random.key(1)), hidden_size)}

    if form == "plain":
        model = model.clone(map_row_shards=all_logits)
    state = init_state(make_params, optimizer, layout)
    placed = layout.put_batch(fields)
    step = make_train_step(algorithm.objective, model, optimizer, layout, state).lower(state, placed).compile()

    def run() -> dict:
        nonlocal state
        state, scalars = jax.block_until_ready(step(state, placed))
        return {"values": [float(scalars["loss"]), float(scalars["grad_norm"])]}

    ready = {
        "state_bytes": sum(x.nbytes for x in jax.tree.leaves(state)),
        "temporary_bytes": step.memory_analysis().temp_size_in_bytes,
        "baseline_bytes": turns.baseline_bytes(jax.tree.leaves((state, placed))),
    }
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM must not be the compilation's peak
    return ready | run(), run


def random_batch(vocabulary: int, rows: int, tokens: int) -> dict[str, np.ndarray]:
    """Returns completions of mixed lengths after prompts, with the fields of both algorithms, each `[B,T]`."""
    random = np.random.default_rng(0)
    ids = random.integers(vocabulary, size=(rows, tokens + 1), dtype=np.int32)
    positions = np.broadcast_to(np.arange(tokens, dtype=np.int32), (rows, tokens))
    ends = random.integers(tokens // 2, tokens + 1, size=(rows, 1))
    weights = ((positions >= int(PROMPT_SHARE * tokens)) & (positions < ends)).astype(np.float32)
    near = -np.log(vocabulary) + random.normal(0, 0.1, (4, rows, tokens)).astype(np.float32)
    sampler, old, ref, values = (near * weights).astype(np.float32)
    advantages = weights * random.normal(size=(rows, 1)).astype(np.float32)
    return {
        "tokens": ids[:, :-1], "targets": ids[:, 1:], "segment_ids": (positions < ends).astype(np.int32),
        "positions": positions, "loss_weights": weights, "advantages": advantages, "sampler_logprobs": sampler,
        "old_logprobs": old, "ref_logprobs": ref, "returns": values + advantages, "old_values": values,
    }  # fmt: skip


def all_logits(
    chunked: Callable[..., Any], rows: Sequence[Array], head: Float[Array, "D V"]
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Computes log-probabilities and entropies from all logits at once, in float32: the model's `map_row_shards`."""
    del chunked
    hidden, targets = rows
    logits = jnp.einsum("BTD,DV->BTV", hidden, head, preferred_element_type=jnp.float32)
    logprobs = jax.nn.log_softmax(logits)
    entropy = -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)
    return jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0], jax.lax.stop_gradient(entropy)


def compare(results: turns.Results) -> dict[str, dict]:
    """Returns memory, medians and ratios to ours by side."""
    sides: dict[str, dict] = {}
    for name, (ready, reports) in results.items():
        added = reports[-1]["peak_bytes"] - ready["baseline_bytes"]
        sides[name] = comparison.medians(reports, "cpu_seconds") | {
            "state_bytes": ready["state_bytes"],
            "added_bytes": added,
            "temporary_bytes": ready["temporary_bytes"],
            "peak_bytes": ready["state_bytes"] + added,
            "values": ready["values"],
        }
    ours = sides["chunked"]
    comparison.difference("the plain implementation", sides["plain"]["values"], ours["values"], TOLERANCE)
    for side in sides.values():
        side |= comparison.ratios(side, ours, memory="peak_bytes")
    return sides


def table(sides: Mapping[str, dict]) -> str:
    """Returns the result as Markdown."""
    sizes = ("state_bytes", "added_bytes", "temporary_bytes", "peak_bytes")
    rows = [
        [
            SIDES[name],
            *(f"{side[field] / 1e9:.2f}" for field in sizes),
            f"{side['memory_ratio']:.2f}",
            f"{side['cpu_seconds']:.1f}",
        ]
        for name, side in sides.items()
    ]
    titles = "update | state, GB | added at the peak, GB | XLA's temporaries, GB | together, GB | × ours | CPU s"
    return comparison.table(titles, rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = comparison.parser(__doc__, "threads", "repetitions", "json")
    parser.set_defaults(repetitions=2)
    parser.add_argument("--vocabulary", type=int, default=102_400, help="V")
    parser.add_argument("--hidden_size", type=int, default=256, help="D")
    parser.add_argument("--num_hidden_layers", type=int, default=2, help="L")
    parser.add_argument("--rows", type=int, default=4, help="completions of the batch, B")
    parser.add_argument("--tokens", type=int, default=1024, help="of a row, T")
    options = parser.parse_args(argv)
    fields = ("vocabulary", "hidden_size", "num_hidden_layers", "rows", "tokens")
    task = {name: getattr(options, name) for name in fields}
    sides = measure(task, options.repetitions, options.threads)
    comparison.publish(options, task | {"sides": sides}, table(sides))


if __name__ == "__main__":
    sys.exit(exit_code(main))
