"""Stage `rl`: explore, score, advantage, update (paper §4.1, Algorithm 1 with one round)."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dsmath_jax.data import benchmarks, chat, tokenizer
from dsmath_jax.data.benchmarks import Record
from dsmath_jax.grading import answers
from dsmath_jax.rl import reward_model
from dsmath_jax.rl.methods import METHODS
from dsmath_jax.rl.objectives import PolicyObjective
from dsmath_jax.rl.rollouts import batch_of, prompts_of_step
from dsmath_jax.sampling.sampler import Completion, Sampler
from dsmath_jax.sharding import make_mesh, process_share, replicate, to_host
from dsmath_jax.training.checkpoint import Checkpoints
from dsmath_jax.training.loop import fit
from dsmath_jax.training.metrics import StepLog
from dsmath_jax.training.model_files import read_model, read_params, write_config
from dsmath_jax.training.objectives import batch_logprobs
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.step import make_train_step, state_of
from dsmath_jax.workdir import UserError, data_folder

# Rewards of completions: (prompts, completions, their texts, records) -> [completions]
Reward = Callable[[Sequence[Sequence[int]], Sequence[Completion], Sequence[str], Sequence[Record]], np.ndarray]


def run(config: ConfigDict, workdir: Path) -> dict:
    """Reads `rl.data`, `sft/` (and `reward_model/`), writes `rl/{params,model.json,metrics.jsonl,samples.jsonl}`."""
    ours, folder, mesh = config.rl, workdir / "rl", make_mesh(**config.mesh)
    if ours.method not in METHODS:
        raise UserError(f"Unknown rl.method '{ours.method}'; known ones are {', '.join(METHODS)}.")
    if ours.group_size < 2:
        raise UserError(f"rl.group_size is {ours.group_size}; a group needs at least 2 completions.")
    text_tokenizer = tokenizer.load(workdir / "tokenizer")
    records = [r for name in ours.data for r in benchmarks.load(name, data_folder(config, workdir))]
    records, prompts = _within_limit(records, text_tokenizer, ours.max_prompt_tokens)
    length = max(map(len, prompts)) + ours.max_new_tokens - 1
    model = read_model(workdir / "sft", mesh)
    if length >= model.config.context:
        raise UserError(
            f"rl: a prompt and its completion may have {length + 1} tokens, more than the model's context of "
            f"{model.config.context}; lower rl.max_prompt_tokens or rl.max_new_tokens."
        )
    write_config(folder, model.config)
    reference = read_params(workdir / "sft", model.config, mesh)
    method = METHODS[ours.method]
    kl_coef = ours.kl_coef if method.has_kl else 0.0
    optimizer = make_optimizer(ours, ours.steps)
    state = state_of(jax.tree.map(lambda x: x.copy(), reference), optimizer, mesh)
    objective = PolicyObjective(ours.clip_eps, kl_coef, ours.temperature)
    step = make_train_step(objective, model, optimizer, mesh, state, ours.accumulate)
    sampler = Sampler(model, mesh, text_tokenizer.stop_ids, ours.max_new_tokens, ours.prompts * ours.group_size)
    score_reference = jax.jit(lambda params, batch: batch_logprobs(model, params, batch, ours.temperature)[0])
    reward = make_reward(ours.reward, workdir, mesh, length + 1, ours.prompts * ours.group_size)
    samples = StepLog(folder / "samples.jsonl", Checkpoints(folder / "checkpoints").latest())

    def explore(number: int, params: Any) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        chosen = prompts_of_step(config.seed, number, ours.prompts, len(prompts))
        asked, theirs = [prompts[i] for i in chosen], [records[i] for i in chosen]
        groups = sampler.generate(
            params, asked, samples=ours.group_size, temperature=ours.temperature,
            seed=config.seed, step=number, prompt_ids=chosen,
        )  # fmt: skip
        completions = [completion for group in groups for completion in group]
        texts = [text_tokenizer.decode(completion.tokens) for completion in completions]
        rewards = reward(asked, completions, texts, [theirs[c.prompt] for c in completions])
        grouped = rewards.reshape(ours.prompts, ours.group_size)
        batch = batch_of(asked, completions, length)
        advantages = method.advantage(grouped).reshape(-1, 1) * batch["loss_weights"]
        batch["advantages"] = advantages.astype(np.float32)
        batch["ref_logprobs"] = to_host(score_reference(reference, replicate(batch, mesh))) * batch["loss_weights"]
        row = {"id": theirs[0].id, "question": theirs[0].question, "answer": theirs[0].answer}
        samples.write({"step": number} | row | {"completion": texts[0], "reward": float(rewards[0])})
        return process_share(batch, mesh), {
            "reward": float(rewards.mean()),
            "reward_std": float(rewards.std()),
            "groups_without_spread": float(np.mean(np.ptp(grouped, axis=1) == 0)),
            "completion_length": float(np.mean([len(c.tokens) for c in completions])),
            "truncated": float(np.mean([not c.finished for c in completions])),
        }

    fit("rl", folder, ours, mesh, state, step, explore)
    samples.close()
    return {"questions": len(prompts)}


def make_reward(name: str, workdir: Path, mesh: Mesh, length: int, rows: int) -> Reward:
    """The reward that `rl.reward` names: "rule" (1 for a right answer, else 0) or "reward_model" (its score)."""
    if name == "rule":
        return lambda prompts, completions, texts, records: np.array(
            [float(answers.correct(text, record.answer)) for text, record in zip(texts, records, strict=True)]
        )
    if name == "reward_model":
        model, params = reward_model.read(workdir, mesh)
        score = reward_model.scorer(model, mesh, length, rows)
        return lambda prompts, completions, texts, records: score(params, prompts, completions)
    raise UserError(f"Unknown rl.reward '{name}'; known ones are rule, reward_model.")


def _within_limit(
    records: Sequence[Record], text_tokenizer: tokenizer.Tokenizer, limit: int
) -> tuple[list[Record], list[list[int]]]:
    """The records whose prompts have at most `limit` tokens, with their prompts."""
    asked = [(record, chat.prompt_ids(text_tokenizer, record.question)) for record in records]
    kept = [(record, prompt) for record, prompt in asked if len(prompt) <= limit]
    if len(kept) < len(asked):
        left_out = len(asked) - len(kept)
        logging.warning("rl: %d of %d prompts exceed %d tokens and are left out.", left_out, len(asked), limit)
    if not kept:
        raise UserError(f"rl: no prompt of rl.data has at most {limit} tokens; raise rl.max_prompt_tokens.")
    return [record for record, _ in kept], [prompt for _, prompt in kept]
