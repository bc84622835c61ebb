"""This project's side of `dsmath_jax.benchmarks.grpo_iteration`.

    python -m dsmath_jax.benchmarks.grpo_iteration_ours FOLDER

FOLDER holds `task.json`, and gets `hf/`, the random weights that both sides begin with, and `rollout.npz`, completions
on which both compute their loss.
"""

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dsmath_jax.benchmarks import turns
from dsmath_jax.benchmarks.grpo_iteration_task import EOS, PAD, Laps, Task, lengths_of, prompts_of, reward_of, text_of
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.workdir import read_json

OFF = 0.3  # nats that the rollout's old and reference log-probabilities lie off the policy's: some ratios are clipped


def prepare(folder: Path) -> tuple[dict, Callable[[], dict]]:
    """The iteration as the stage `rl` has it, its loss on the common rollout, and one iteration for warm-up."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # on a GPU the peer needs memory too
    import jax

    from dsmath_jax.models import huggingface
    from dsmath_jax.models.config import ModelConfig
    from dsmath_jax.models.llama import initial_params
    from dsmath_jax.rl.advantages import group_relative, outcome_scores
    from dsmath_jax.rl.algorithms import GRPO
    from dsmath_jax.rl.batches import batch_of
    from dsmath_jax.sampling.sampler import Sampler, SamplingParams
    from dsmath_jax.sharding import Layout, make_mesh, to_host
    from dsmath_jax.training.model_files import build_model
    from dsmath_jax.training.objectives import batch_logprobs
    from dsmath_jax.training.optimizer import make_optimizer
    from dsmath_jax.training.settings import TrainingSettings
    from dsmath_jax.training.step import init_state, make_train_step

    given = read_json(folder / "task.json")
    task, sizes = Task(**given["task"]), ModelConfig(**given["model"])
    layout = Layout(make_mesh())
    model = build_model(sizes, layout)
    optimizer = make_optimizer(TrainingSettings(peak_lr=task.learning_rate, warmup_steps=1, steps=1000))
    state = init_state(lambda: initial_params(model, jax.random.key(0)), optimizer, layout)
    reference = jax.tree.map(lambda x: x.copy(), state.params)
    huggingface.write(folder / "hf", state.params, sizes, "float32")
    grpo = GRPO(clip_eps=task.clip_eps, kl_coef=task.kl_coef, temperature=task.temperature)
    step = make_train_step(grpo.loss, model, optimizer, layout, state)
    sampler = Sampler(model, layout, (), task.new_tokens, task.rows)
    length = task.prompt_tokens + task.new_tokens - 1
    score_reference = jax.jit(lambda params, batch: batch_logprobs(model, params, batch, task.temperature)[0])

    laps = Laps()

    def sample(iteration: int) -> list[Completion]:
        sampling = SamplingParams(samples=task.group_size, temperature=task.temperature)
        groups = sampler.generate(state.params, prompts_of(task, iteration), sampling, step=iteration)
        completions = [completion for group in groups for completion in group]
        return [cut(each, planned) for each, planned in zip(completions, lengths_of(task, iteration), strict=True)]

    def score(iteration: int, completions: list[Completion]) -> dict[str, np.ndarray]:
        lengths = [len(each.tokens) for each in completions]
        scores = outcome_scores([reward_of(text_of(each.tokens[:-1])) for each in completions], lengths)
        batch = batch_of(prompts_of(task, iteration), completions, length)
        batch["advantages"] = np.zeros_like(batch["loss_weights"])
        batch["advantages"][batch["loss_weights"] > 0] = np.concatenate(
            group_relative(scores, task.group_size, lengths)
        )
        batch["ref_logprobs"] = to_host(score_reference(reference, layout.replicate(batch)))
        return batch

    def run(iteration: int) -> dict:
        nonlocal state
        laps.start()
        completions = sample(iteration)
        laps.end_of("sample")
        batch = score(iteration, completions)
        laps.end_of("score")
        state, scalars = step(state, layout.batch(batch))
        float(scalars["loss"])
        laps.end_of("update")
        stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
        found = laps.spent | {"tokens": sum(len(each.tokens) for each in completions)}
        return found | ({"peak_bytes": stats["peak_bytes_in_use"]} if stats else {})

    def values() -> list[float]:
        completions = sample(0)
        batch = score(0, completions)
        drawn, off = batch["loss_weights"] > 0, np.random.default_rng(0).normal(0, OFF, (2, *batch["tokens"].shape))
        old, ref = (((batch["ref_logprobs"] + each) * drawn).astype(np.float32) for each in off)
        batch |= {"old_logprobs": old, "ref_logprobs": ref}
        fields: dict[str, Any] = for_the_peer(task, completions, batch)
        np.savez(folder / "rollout.npz", **fields)

        def loss(params: Any) -> Any:
            (total, weight), _ = grpo.loss(model, params, layout.replicate(batch))
            return total / weight

        found, gradient = jax.jit(jax.value_and_grad(loss))(state.params)
        norms = [np.linalg.norm(np.float64(each)) for each in jax.tree.leaves(gradient)]
        return [float(found), float(np.linalg.norm(norms))]

    common = values()
    run(0)
    iterations = iter(range(1, given["turns"] + 1))
    return {"version": f"jax {jax.__version__}", "values": common}, lambda: run(next(iterations))


def cut(completion: Completion, length: int) -> Completion:
    """A completion as if it had ended at its planned length."""
    return dataclasses.replace(
        completion,
        tokens=[*completion.tokens[: length - 1], EOS],
        logprobs=completion.logprobs[:length],
        sampled_logprobs=completion.sampled_logprobs[:length],
        finish_reason="eos",
    )


def for_the_peer(task: Task, completions: list[Completion], batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch in TRL's fields: prompts and completions apart, each `[B,T]`."""
    lengths = np.array([len(each.tokens) for each in completions])
    mask = np.arange(task.new_tokens) < lengths[:, None]
    ids = np.full(mask.shape, PAD)
    ids[mask] = np.concatenate([each.tokens for each in completions])
    drawn = batch["loss_weights"] > 0

    def of_completions(x: np.ndarray) -> np.ndarray:
        found = np.zeros(mask.shape, np.float32)
        found[mask] = x[drawn]
        return found

    prompts = np.repeat(prompts_of(task, 0), task.group_size, axis=0)
    return {
        "prompt_ids": prompts, "prompt_mask": np.ones_like(prompts), "completion_ids": ids,
        "completion_mask": mask.astype(np.int64), "advantages": of_completions(batch["advantages"])[:, 0],
        "old_per_token_logps": of_completions(batch["old_logprobs"]),
        "ref_per_token_logps": of_completions(batch["ref_logprobs"]),
    }  # fmt: skip


if __name__ == "__main__":
    turns.serve(lambda: prepare(Path(sys.argv[1])))
