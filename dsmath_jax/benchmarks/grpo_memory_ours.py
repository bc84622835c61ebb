"""The sides of `dsmath_jax.benchmarks.grpo_memory`.

    python -m dsmath_jax.benchmarks.grpo_memory_ours FOLDER chunked|plain|ppo

FOLDER holds `task.json`: vocabulary, hidden_size, num_hidden_layers, rows and tokens.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dsmath_jax.benchmarks import turns
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.llama import initial_params
from dsmath_jax.models.sizes import sizes
from dsmath_jax.rl.algorithms import GRPO, PPO
from dsmath_jax.rl.reward_model.model import with_reward_head
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training.model_files import build_model
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.settings import TrainingSettings
from dsmath_jax.training.step import init_state, make_train_step
from dsmath_jax.workdir import read_json

PROMPT = 1 / 4  # of a row's tokens


def all_logits(chunked: Callable[..., Any], rows: Sequence[Array], head: Array) -> tuple[Array, Array]:
    """The model's `by_rows` where log-probabilities take all logits at once, in float32, and not `chunked`."""
    del chunked
    hidden, targets = rows
    logits = jnp.einsum("BTD,DV->BTV", hidden, head, preferred_element_type=jnp.float32)
    logprobs = jax.nn.log_softmax(logits)
    entropy = -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)
    return jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0], jax.lax.stop_gradient(entropy)


def random_batch(vocabulary: int, rows: int, tokens: int) -> dict[str, np.ndarray]:
    """Completions of mixed lengths after prompts, with fields for both algorithms."""
    random = np.random.default_rng(0)
    ids = random.integers(vocabulary, size=(rows, tokens + 1), dtype=np.int32)
    places = np.broadcast_to(np.arange(tokens, dtype=np.int32), (rows, tokens))
    ends = random.integers(tokens // 2, tokens + 1, size=(rows, 1))
    weights = ((places >= int(PROMPT * tokens)) & (places < ends)).astype(np.float32)
    near = -np.log(vocabulary) + random.normal(0, 0.1, (4, rows, tokens)).astype(np.float32)
    sampler, old, ref, values = (near * weights).astype(np.float32)
    advantages = weights * random.normal(size=(rows, 1)).astype(np.float32)
    return {
        "tokens": ids[:, :-1], "targets": ids[:, 1:], "segment_ids": (places < ends).astype(np.int32),
        "positions": places, "loss_weights": weights, "advantages": advantages, "sampler_logprobs": sampler,
        "old_logprobs": old, "ref_logprobs": ref, "returns": values + advantages, "old_values": values,
    }  # fmt: skip


def prepare(folder: Path, form: str) -> tuple[dict, Callable[[], dict]]:
    """The update, compiled and run once."""
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
        model = model.clone(by_rows=all_logits)
    state = init_state(make_params, optimizer, layout)
    placed = layout.batch(fields)
    step = make_train_step(algorithm.loss, model, optimizer, layout, state).lower(state, placed).compile()
    planned, on_host = step.memory_analysis(), jax.default_backend() == "cpu"

    def run() -> dict:
        nonlocal state
        state, scalars = jax.block_until_ready(step(state, placed))
        stats = None if on_host else jax.devices()[0].memory_stats()
        found = {"values": [float(scalars["loss"]), float(scalars["grad_norm"])]}
        return found | ({"peak_bytes": stats["peak_bytes_in_use"]} if stats else {})

    ready = {
        "state_bytes": sum(x.nbytes for x in jax.tree.leaves(state)),
        "temporary_bytes": planned.temp_size_in_bytes,
        "held_bytes": turns.resident_bytes() if on_host else sum(x.nbytes for x in jax.tree.leaves((state, placed))),
    }
    if on_host:
        Path("/proc/self/clear_refs").write_text("5")  # the peak of the compilation is forgotten
    return ready | run(), run


if __name__ == "__main__":
    turns.serve(lambda: prepare(Path(sys.argv[1]), sys.argv[2]))
