"""Explore, score, advantage: from the policy to the batch of its next updates (paper §4.1, Algorithm 1)."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from dsmath_jax.data.benchmarks import Record
from dsmath_jax.data.tokenizer import Tokenizer
from dsmath_jax.rl import rollouts
from dsmath_jax.rl.advantages import PerToken, Scores, gae, outcome, ppo_token_rewards, without_spread
from dsmath_jax.rl.methods import Method
from dsmath_jax.rl.rewards import RuleReward
from dsmath_jax.rl.scoring import Reference, TokenScorer
from dsmath_jax.rl.steps import step_ends
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.sampler import Sampler
from dsmath_jax.sharding import Layout, barrier
from dsmath_jax.training.metrics import StepLog
from dsmath_jax.workdir import UserError, remove

# A reward model's logits at the given tokens: (prompts, completions, ends) -> one array per completion.
Judge = Callable[[Sequence[Sequence[int]], Sequence[Completion], list[np.ndarray]], list[np.ndarray]]


class Questions(NamedTuple):
    """What is asked: records, their prompts' token ids, and T, the longest prompt with a completion."""

    records: list[Record]
    prompts: list[list[int]]
    length: int


class Models(NamedTuple):
    """What an exploration reads besides the policy; None where the method does without it."""

    policy_logprobs: TokenScorer
    reference: Reference | None
    values: TokenScorer | None  # of PPO's value model
    judge: Judge | None


class Explorer:
    """`batch_at` of `training.loop.fit`: explores every `num_updates` steps, and hands out the batch that came of it.

    What was sampled and scored lies in `rollouts/` before it is used, so that a resumed run need not grade again; the
    files that no checkpoint can need any more are dropped. Process 0 grades; all read what it wrote.
    """

    def __init__(
        self,
        ours: ConfigDict,
        method: Method,
        seed: int,
        layout: Layout,
        folder: Path,
        questions: Questions,
        tokenizer: Tokenizer,
        sampler: Sampler,
        rules: RuleReward,
        models: Models,
        samples: StepLog,
    ):
        self._ours, self._method, self._seed, self._layout = ours, method, seed, layout
        self._folder, self._questions, self._tokenizer = folder / "rollouts", questions, tokenizer
        self._sampler, self._rules, self._models, self._samples = sampler, rules, models, samples
        self._exploration = -1
        self._batch: dict[str, np.ndarray] = {}
        self._facts: dict[str, Any] = {}
        self._returned = 0.0

    def __call__(self, step: int, params: Any) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """This process's rows for an update, and the metrics of the exploration that they are from."""
        exploration, update = divmod(step, self._ours.num_updates)
        seconds: dict[str, float] = {}
        if self._returned:
            jax.block_until_ready(params)
            seconds["update_seconds"] = time.monotonic() - self._returned  # of the update before
        if exploration != self._exploration:
            path = self._path(exploration)
            # All processes look before any of them can have written: sampling takes all of them.
            if not path.is_file():
                if update:
                    raise UserError(
                        f"{path} is gone, and the policy that drew it is too; give --overwrite=rl to redo the stage."
                    )
                seconds |= self._explore(path, exploration, params)
            self._batch, self._facts = rollouts.read_exploration(path)
            self._exploration = exploration
            self._forget(step)
        for row in self._facts["samples"] if update == 0 else ():
            self._samples.write({"step": step} | row)
        self._returned = time.monotonic()
        return self._layout.share(self._batch), self._facts["metrics"] | seconds

    def close(self) -> None:
        self._samples.close()

    def _path(self, exploration: int) -> Path:
        return self._folder / f"{exploration:08d}.npz"

    def _forget(self, step: int) -> None:
        """Drops what lies before the oldest checkpoint from which the run may go on."""
        oldest = (step - (self._ours.keep + 1) * self._ours.checkpoint_every) // self._ours.num_updates
        if jax.process_index() == 0:
            for path in self._folder.glob("*.npz"):
                if int(path.stem) < oldest:
                    remove(path)

    def _explore(self, path: Path, exploration: int, params: Any) -> dict[str, float]:
        """Writes an exploration's file; returns its phases' seconds."""
        ours, began = self._ours, time.monotonic()
        chosen = rollouts.prompts_of_step(self._seed, exploration, ours.prompts, len(self._questions.prompts))
        prompts = [self._questions.prompts[i] for i in chosen]
        groups = self._sampler.generate(
            self._method.policy(params), prompts, samples=ours.group_size, temperature=ours.temperature,
            top_p=ours.top_p, top_k=ours.top_k, seed=self._seed, step=exploration, prompt_ids=chosen,
        )  # fmt: skip
        completions = [completion for group in groups for completion in group]
        sampled = time.monotonic()
        records = [self._questions.records[chosen[c.prompt]] for c in completions]
        texts = [self._tokenizer.decode(c.tokens) for c in completions]
        correct, errors = self._graded(texts, records, completions)
        scores = self._scored(prompts, completions, correct)
        batch = self._batch_of(params, prompts, completions, scores)
        if jax.process_index() == 0:
            metrics = self._metrics(completions, batch, scores, correct) | errors
            facts = {"metrics": metrics, "samples": _shown(completions, texts, records, scores, ours.group_size)}
            rollouts.write_exploration(path, batch, facts)
        barrier(f"exploration {exploration}")
        return {"sample_seconds": sampled - began, "score_seconds": time.monotonic() - sampled}

    def _graded(
        self, texts: list[str], records: list[Record], completions: list[Completion]
    ) -> tuple[np.ndarray, dict[str, float]]:
        """The rule reward of each completion and how many could not be had; made by process 0 alone."""
        if jax.process_index():
            return np.zeros(len(texts)), {}
        found, errors = self._rules.score(texts, records, [c.finished for c in completions])
        return found, {"reward_errors": float(sum(errors.values()))}

    def _scored(self, prompts: list[list[int]], completions: list[Completion], correct: np.ndarray) -> Scores:
        if self._models.judge is None:
            return outcome(correct, [len(c.tokens) for c in completions])
        if self._method.reward == "process":
            ends = [step_ends(c.tokens, self._tokenizer, self._ours.delimiter) for c in completions]
        else:
            ends = [np.array([len(c.tokens) - 1]) for c in completions]
        return Scores(ends, self._models.judge(prompts, completions, ends))

    def _batch_of(
        self, params: Any, prompts: list[list[int]], completions: list[Completion], scores: Scores
    ) -> dict[str, np.ndarray]:
        ours, models = self._ours, self._models
        longest = max(len(prompts[c.prompt]) + len(c.tokens) for c in completions) - 1
        limit = self._questions.length
        width = rollouts.width_of(longest, limit, rollouts.row_multiple(limit, self._layout))
        batch = rollouts.batch_of(prompts, completions, width)
        mask = batch["loss_weights"]
        if ours.old_logprobs == "sampler":
            batch["old_logprobs"] = batch["sampler_logprobs"]
        elif ours.num_updates > 1 or models.values is not None:
            batch["old_logprobs"] = models.policy_logprobs(self._method.policy(params), batch) * mask
        if models.reference is not None:
            batch["ref_logprobs"] = models.policy_logprobs(models.reference.params, batch) * mask
        if self._method.advantage is not None:
            advantages = self._method.advantage(scores, [len(c.tokens) for c in completions], ours)
        else:
            assert models.values is not None
            batch["old_values"] = models.values(params["value"], batch) * mask
            advantages = self._estimated(batch, prompts, completions, scores)
            returns = rollouts.placed(advantages, prompts, completions, width) + batch["old_values"]
            batch["returns"] = np.nan_to_num(returns * mask)
        kept = self._kept(advantages, completions, scores)
        batch["advantages"] = np.nan_to_num(rollouts.placed(advantages, prompts, completions, width))
        batch["loss_weights"] = mask * kept[:, None]
        return batch

    def _estimated(
        self, batch: dict[str, np.ndarray], prompts: list[list[int]], completions: list[Completion], scores: Scores
    ) -> PerToken:
        """PPO's advantages: GAE over rewards that hold the KL (paper Eq. 2)."""
        old, values = (rollouts.taken(batch[name], prompts, completions) for name in ("old_logprobs", "old_values"))
        reference = rollouts.taken(batch["ref_logprobs"], prompts, completions) if "ref_logprobs" in batch else old
        rewards = ppo_token_rewards(scores, old, reference, self._ours.kl_coef)
        return [gae(r, v, self._ours.gamma, self._ours.lam) for r, v in zip(rewards, values, strict=True)]

    def _kept(self, advantages: PerToken, completions: list[Completion], scores: Scores) -> np.ndarray:
        """Which completions carry loss."""
        kept = np.array([not np.isnan(a).any() for a in advantages])
        if self._ours.mask_truncated:
            kept &= np.array([c.finished for c in completions])
        if self._ours.drop_groups_without_spread:
            kept &= ~np.repeat(without_spread(scores, self._ours.group_size), self._ours.group_size)
        return kept

    def _metrics(
        self, completions: list[Completion], batch: dict[str, np.ndarray], scores: Scores, correct: np.ndarray
    ) -> dict[str, float]:
        rewards = np.array([r.mean() for r in scores.rewards])
        rewards = rewards[np.isfinite(rewards)]
        graded = correct[np.isfinite(correct)]
        found = {
            "groups_without_spread": np.mean(without_spread(scores, self._ours.group_size)),
            "completion_length": np.mean([len(c.tokens) for c in completions]),
            "truncated": np.mean([not c.finished for c in completions]),
            "dropped": np.sum(~batch["loss_weights"].any(axis=1)),
        }
        if rewards.size:
            found |= {"reward": rewards.mean(), "reward_std": rewards.std()}
        if graded.size:
            found["rule_reward"] = graded.mean()
        return {name: float(value) for name, value in found.items()}


def _shown(
    completions: list[Completion], texts: list[str], records: list[Record], scores: Scores, group_size: int
) -> list[dict[str, Any]]:
    """The best and the worst completion of the first question."""
    rewards = [float(np.mean(r)) for r in scores.rewards[:group_size]]
    order = sorted((i for i in range(len(rewards)) if np.isfinite(rewards[i])), key=rewards.__getitem__)
    return [
        {
            "id": records[i].id, "question": records[i].question, "answer": records[i].answer, "completion": texts[i],
            "reward": rewards[i], "finish": completions[i].finish,
        }
        for i in dict.fromkeys([*order[-1:], *order[:1]])
    ]  # fmt: skip
