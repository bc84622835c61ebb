"""Seconds per iteration of GRPO (sample, score, update), compared with TRL's GRPOTrainer in the same run.

    python -m benchmarks.grpo_iteration --peer=.venv-peers/bin/python --json=grpo_iteration.json

An iteration is one rollout and one update: 4 prompts of 64 tokens, 16 completions each of up to 64 tokens, a rule as
the reward, the reference's log-probabilities, one AdamW step on all 64 rows. Both sides start from the same weights and
have the same prompts and lengths: each completion has a planned length, from a log-normal distribution with half the
limit as its median, drawn by a fixed seed (`grpo_iteration_task.lengths_of`).

Random weights do not end completions. A logits processor ends TRL's: it forbids EOS before the planned position and
forces it there; TRL's own code does the rest, masking included. The sampler of this package has the planned length as
the limit of each completion (`PlannedLengths`). TRL decodes all rows to the end of the longest, which is at or near the
limit; this sampler moves the remaining ones to fewer slots.

Both compute loss and gradient norm of one rollout whose old and reference log-probabilities differ from the policy's,
so that clipping and KL count; the results must agree. Sides take turns on the same `--threads` CPUs, in float32. TRL is
configured for speed: no gradient checkpointing, fused AdamW, no logging, one batch.
"""

import dataclasses
import functools
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from jaxtyping import Int

from benchmarks import comparison, turns
from benchmarks.grpo_iteration_task import (
    EOS,
    PAD,
    PHASES,
    PhaseTimer,
    Task,
    lengths_of,
    prompts_of,
    reward_of,
    text_of,
)
from dsmath_jax.models import huggingface
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import initial_params
from dsmath_jax.models.sizes import sizes
from dsmath_jax.rl.advantages import group_relative, outcome_scores
from dsmath_jax.rl.algorithms import GRPO
from dsmath_jax.rl.batches import RowShapes, Sequences, TokenFields, pack_batch, sequences_of, token_fields
from dsmath_jax.rl.scoring import PackedForward, jitted_logprobs
from dsmath_jax.sampling import sampler as samplers
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.engine import Slots
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sampling.scheduler import Scheduler
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training.model_files import build_model
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.settings import TrainingSettings
from dsmath_jax.training.step import init_state, make_train_step
from dsmath_jax.workdir import exit_code, read_json, write_json

SIDES = {"ours": "ours", "trl": "TRL"}
TOLERANCE = 1e-3  # largest relative difference of loss and norm
LOGPROB_NOISE = 0.3  # nats, added to the common rollout's log-probabilities so that some ratios are clipped


def measure(task: Task, model: dict, peer: str, repetitions: int, threads: int) -> dict[str, dict]:
    """Measures both sides; TRL's is left out where `peer` is empty.

    Raises:
      RuntimeError: a side failed, or they do not compute the same.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shape = {"vocab_size": task.vocabulary, "max_position_embeddings": task.prompt_tokens + task.new_tokens}
        write_json(folder / "task.json", {"task": task._asdict(), "model": model | shape, "turns": repetitions})
        # Ours comes first: it writes the weights and the rollout that the peer starts from.
        commands = {"ours": turns.command(sys.executable, "grpo_iteration", folder)}
        if peer:
            commands["trl"] = turns.command(peer, "peers.grpo_iteration", folder)
        return compare(turns.alternate(commands, folder, repetitions, threads))


def prepare(folder: Path) -> tuple[dict, turns.Work]:
    """Computes the loss on the common rollout, and warms up the iteration of the stage `rl`.

    For the peer it writes `hf/`, the random weights, and `rollout.npz` below the folder.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # on a GPU the peer needs memory too
    setup = read_json(folder / "task.json")
    task, config = Task(**setup["task"]), ModelConfig(**setup["model"])
    layout = Layout(make_mesh())
    model = build_model(config, layout)
    optimizer = make_optimizer(TrainingSettings(peak_lr=task.learning_rate, warmup_steps=1, steps=1000))
    state = init_state(lambda: initial_params(model, jax.random.key(0)), optimizer, layout)
    reference = jax.tree.map(lambda x: x.copy(), state.params)
    huggingface.write(folder / "hf", state.params, config, "float32")
    grpo = GRPO(clip_eps=task.clip_eps, kl_coef=task.kl_coef, temperature=task.temperature)
    step = make_train_step(grpo.objective, model, optimizer, layout, state)
    sampler = Sampler(model, layout, (), task.new_tokens, task.rows)
    shapes = RowShapes(task.prompt_tokens + task.new_tokens, task.rows, 1, layout)
    score_reference = PackedForward(jitted_logprobs(model, task.temperature), shapes)
    timer = PhaseTimer()

    def sample(iteration: int) -> list[Completion]:
        sampling = SamplingParams(samples=task.group_size, temperature=task.temperature)
        planned = functools.partial(PlannedLengths, np.reshape(lengths_of(task, iteration), (-1, task.group_size)))
        with mock.patch.object(samplers, "Scheduler", planned):
            groups = sampler.generate(state.params, prompts_of(task, iteration), sampling, step=iteration)
        return [ended(completion) for group in groups for completion in group]

    def score(iteration: int, completions: list[Completion]) -> tuple[Sequences, TokenFields]:
        lengths = [len(each.tokens) for each in completions]
        scores = outcome_scores([reward_of(text_of(each.tokens[:-1])) for each in completions], lengths)
        sequences, fields = sequences_of(prompts_of(task, iteration), completions), token_fields(completions)
        fields["advantages"] = np.concatenate(group_relative(scores, task.group_size, lengths))
        fields["ref_logprobs"] = score_reference(reference, sequences)
        return sequences, fields

    def run(iteration: int) -> dict:
        nonlocal state
        timer.start()
        completions = sample(iteration)
        timer.end("sample")
        sequences, fields = score(iteration, completions)
        timer.end("score")
        state, scalars = step(state, layout.put_batch(pack_batch(sequences, fields, shapes)))
        float(scalars["loss"])
        timer.end("update")
        return timer.seconds | {"tokens": sum(len(each.tokens) for each in completions)}

    def loss_and_norm() -> list[float]:
        completions = sample(0)
        sequences, fields = score(0, completions)
        noise = np.random.default_rng(0).normal(0, LOGPROB_NOISE, (2, len(fields["ref_logprobs"])))
        old, ref = (fields["ref_logprobs"] + each for each in noise)
        fields |= {"old_logprobs": old, "ref_logprobs": ref}
        theirs: dict[str, Any] = trl_fields(task, completions, fields)
        np.savez(folder / "rollout.npz", **theirs)
        batch = layout.replicate(pack_batch(sequences, fields, shapes))

        def loss(params: Any) -> Any:
            (total, weight), _ = grpo.objective(model, params, batch)
            return total / weight

        value, gradient = jax.jit(jax.value_and_grad(loss))(state.params)
        norms = [np.linalg.norm(np.float64(each)) for each in jax.tree.leaves(gradient)]
        return [float(value), float(np.linalg.norm(norms))]

    values = loss_and_norm()
    run(0)
    iterations = iter(range(1, setup["turns"] + 1))
    return {"version": f"jax {jax.__version__}", "values": values}, lambda: run(next(iterations))


class PlannedLengths(Scheduler):
    """Ends each completion at its planned length."""

    def __init__(self, lengths: Int[np.ndarray, "P G"], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lengths = lengths

    def assign(self, chunk: int) -> Slots:
        slots = super().assign(chunk)
        for row, partial in enumerate(self._decoding):
            if partial is not None:
                partial.limit = slots.limits[row] = int(self._lengths[partial.prompt, partial.sample])
        return slots


def ended(completion: Completion) -> Completion:
    """Returns a completion with EOS as its last token."""
    return dataclasses.replace(completion, tokens=[*completion.tokens[:-1], EOS], finish_reason="eos")


def trl_fields(task: Task, completions: list[Completion], fields: TokenFields) -> dict[str, np.ndarray]:
    """Returns the rollout in TRL's fields: prompts and completions separate, each `[B,T]`."""
    lengths = np.array([len(each.tokens) for each in completions])
    mask = np.arange(task.new_tokens) < lengths[:, None]
    ids = np.full(mask.shape, PAD)
    ids[mask] = np.concatenate([each.tokens for each in completions])

    def of_completions(x: np.ndarray) -> np.ndarray:
        values = np.zeros(mask.shape, np.float32)
        values[mask] = x
        return values

    prompts = np.repeat(prompts_of(task, 0), task.group_size, axis=0)
    return {
        "prompt_ids": prompts, "prompt_mask": np.ones_like(prompts), "completion_ids": ids,
        "completion_mask": mask.astype(np.int64), "advantages": of_completions(fields["advantages"])[:, 0],
        "old_per_token_logps": of_completions(fields["old_logprobs"]),
        "ref_per_token_logps": of_completions(fields["ref_logprobs"]),
    }  # fmt: skip


def compare(results: turns.Results) -> dict[str, dict]:
    """Returns medians and ratios to ours by side."""
    sides: dict[str, dict] = {}
    for name, (ready, reports) in results.items():
        sides[name] = comparison.medians(reports, "seconds", "cpu_seconds") | {
            "version": ready["version"],
            "phases": comparison.medians(reports, *PHASES, *(f"{phase}_cpu" for phase in PHASES)),
            "tokens": sum(report["tokens"] for report in reports),
            "peak_bytes": reports[-1]["peak_bytes"],
            "values": ready["values"],
            "seconds_of_turns": [report["seconds"] for report in reports],
        }
    ours = sides["ours"]
    for name, side in sides.items():
        comparison.difference(name, [side["tokens"]], [ours["tokens"]], allowed=0)
        side["difference"] = comparison.difference(name, side["values"], ours["values"], TOLERANCE)
        side |= comparison.ratios(side, ours, time="seconds", cpu="cpu_seconds")
    return sides


def table(sides: Mapping[str, dict]) -> str:
    """Returns the result as Markdown."""
    rows = [
        [
            f"{SIDES[name]} ({side['version']})",
            f"{side['seconds']:.2f}",
            f"{side['time_ratio']:.2f}",
            f"{side['cpu_seconds']:.2f}",
            f"{side['cpu_ratio']:.2f}",
            *(f"{side['phases'][phase]:.2f} ({side['phases'][phase + '_cpu']:.2f})" for phase in PHASES),
            f"{side['peak_bytes'] / 1e9:.2f}",
        ]
        for name, side in sides.items()
    ]
    titles = "side | s an iteration | × ours | CPU s | × ours | sample, s (CPU s) | score | update | peak memory, GB"
    return comparison.table(titles, rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = comparison.parser(__doc__)
    parser.add_argument("--prompts", type=int, default=4, help="P")
    parser.add_argument("--group_size", type=int, default=16, help="G")
    parser.add_argument("--prompt_tokens", type=int, default=64, help="of every prompt")
    parser.add_argument("--new_tokens", type=int, default=64, help="the limit of a completion")
    parser.add_argument("--vocabulary", type=int, default=4096, help="V")
    parser.add_argument("--hidden_size", type=int, default=256, help="D")
    parser.add_argument("--num_hidden_layers", type=int, default=8, help="L")
    parser.add_argument("--intermediate_size", type=int, default=688, help="F")
    parser.add_argument("--head_dim", type=int, default=32, help="H")
    options = parser.parse_args(argv)
    task = Task(options.prompts, options.group_size, options.prompt_tokens, options.new_tokens, options.vocabulary)
    fields = ("hidden_size", "num_hidden_layers", "intermediate_size", "head_dim")
    shape = {name: getattr(options, name) for name in fields}
    heads = options.hidden_size // options.head_dim
    model = sizes("1m", tie_word_embeddings=False, remat="minimal", num_attention_heads=heads, **shape)
    sides = measure(task, model, options.peer, options.repetitions, options.threads)
    comparison.publish(options, {"task": task._asdict(), "model": model, "sides": sides}, table(sides))


if __name__ == "__main__":
    sys.exit(exit_code(main))
