"""From a rollout to the batch of its updates: rewards, rows, advantages, and what is logged (paper §4.1)."""

from typing import Any

import jax
import numpy as np

from dsmath_jax.data.tokenizer import Tokenizer
from dsmath_jax.rl.advantages import PerToken, ScoredRollout, Scores, outcome, zero_std_groups
from dsmath_jax.rl.batches import batch_of, gather_per_completion, row_multiple, scatter_to_batch, width_of
from dsmath_jax.rl.reward_model.model import ScoreRows
from dsmath_jax.rl.rewards import RewardFunctions
from dsmath_jax.rl.rollouts import Rollout
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.rl.steps import step_ends
from dsmath_jax.sharding import Layout
from dsmath_jax.training.prefetch import HostBatch


def grade_by_rules(reward_fns: RewardFunctions, rollout: Rollout) -> tuple[np.ndarray, dict[str, float]]:
    """The rule reward of each completion `[PG]` (NaN: none), and how many have none and why. Process 0 alone grades."""
    if jax.process_index():
        return np.zeros(len(rollout.texts_PG)), {}
    finished = [completion.finished for completion in rollout.completions_PG]
    rewards, errors = reward_fns.score(rollout.texts_PG, rollout.records_PG, finished)
    failed = sum(errors.values())
    return rewards, {"reward_errors": float(failed), "reward_abstained": float(np.isnan(rewards).sum() - failed)}


def compute_rewards(
    rollout: Rollout,
    rule_rewards_PG: np.ndarray,
    reward_model: ScoreRows | None,
    settings: RLSettings,
    tokenizer: Tokenizer,
) -> Scores:
    """The rewards and the tokens at which they fall: the last one, or with process supervision the end of each step."""
    if reward_model is None:
        return outcome(rule_rewards_PG, rollout.lengths)
    if settings.reward_source == "process":
        ends = [step_ends(c.tokens, tokenizer, settings.step_delimiter) for c in rollout.completions_PG]
    else:
        ends = [np.array([length - 1]) for length in rollout.lengths]
    return Scores(ends, reward_model(rollout.prompts_P, rollout.completions_PG, ends))


def pack(rollout: Rollout, longest: int, layout: Layout) -> HostBatch:
    """The rollout as a batch `[B,T]` of one of few widths, so that few programs are compiled.

    Args:
      rollout: P x G = B completions.
      longest: the most tokens that any prompt of the run has with its completion.
      layout: what T must divide by.
    """
    limit = longest - 1
    tokens = max(len(rollout.prompts_P[c.prompt]) + len(c.tokens) for c in rollout.completions_PG) - 1
    width = width_of(tokens, limit, row_multiple(limit, layout))
    return batch_of(rollout.prompts_P, rollout.completions_PG, width)


def scored_rollout(rollout: Rollout, scores: Scores, batch: HostBatch, group_size: int) -> ScoredRollout:
    """What advantages are made of, per completion, from the batch `[B,T]`."""
    per_token = {
        name: gather_per_completion(batch[name], rollout.prompts_P, rollout.completions_PG)
        for name in ("old_logprobs", "ref_logprobs", "old_values") if name in batch
    }  # fmt: skip
    return ScoredRollout(scores, rollout.lengths, group_size, **per_token)


def advantage_fields(rollout: Rollout, advantages: PerToken, batch: HostBatch) -> HostBatch:
    """The batch's fields `[B,T]` of the advantages and, with a value model, of the returns; 0 where there is none."""
    per_place = scatter_to_batch(advantages, rollout.prompts_P, rollout.completions_PG, batch["tokens"].shape[1])
    fields = {"advantages": np.nan_to_num(per_place)}
    if "old_values" in batch:
        fields["returns"] = np.nan_to_num((per_place + batch["old_values"]) * batch["loss_weights"])
    return fields


def loss_rows(settings: RLSettings, rollout: Rollout, advantages: PerToken, scores: Scores) -> np.ndarray:
    """Which completions `[PG]` carry loss: those with a reward that no setting masks."""
    keep = np.array([not np.isnan(a).any() for a in advantages])
    if settings.mask_truncated:
        keep &= np.array([c.finished for c in rollout.completions_PG])
    if settings.filter_zero_std_groups:
        keep &= ~np.repeat(zero_std_groups(scores, settings.group_size), settings.group_size)
    return keep


def rollout_metrics(
    rollout: Rollout, batch: HostBatch, scores: Scores, rule_rewards_PG: np.ndarray, group_size: int
) -> dict[str, float]:
    """What is logged of a rollout; docs/rl.md describes each name."""
    rewards = np.array([r.mean() for r in scores.rewards])
    rewards = rewards[np.isfinite(rewards)]
    graded = rule_rewards_PG[np.isfinite(rule_rewards_PG)]
    found = {
        "frac_reward_zero_std": np.mean(zero_std_groups(scores, group_size)),
        "completion_length": np.mean(rollout.lengths),
        "frac_truncated": np.mean([not c.finished for c in rollout.completions_PG]),
        "num_masked": np.sum(~batch["loss_weights"].any(axis=1)),
    }
    if rewards.size:
        found |= {"reward": rewards.mean(), "reward_std": rewards.std()}
    if graded.size:
        found["rule_reward"] = graded.mean()
    return {name: float(value) for name, value in found.items()}


def examples_to_log(rollout: Rollout, scores: Scores, group_size: int) -> list[dict[str, Any]]:
    """The best and the worst completion of the first prompt."""
    rewards = [float(np.mean(r)) for r in scores.rewards[:group_size]]
    order = sorted((i for i in range(len(rewards)) if np.isfinite(rewards[i])), key=rewards.__getitem__)
    return [
        {
            "id": rollout.records_PG[i].id, "question": rollout.records_PG[i].question,
            "answer": rollout.records_PG[i].answer, "completion": rollout.texts_PG[i],
            "reward": rewards[i], "finish": rollout.completions_PG[i].finish_reason,
        }
        for i in dict.fromkeys([*order[-1:], *order[:1]])
    ]  # fmt: skip
