"""The training batch of a rollout: rewards, rows, advantages, metrics (paper §4.1)."""

from typing import Any

import jax
import numpy as np

from dsmath_jax.data.tokenizer import Tokenizer
from dsmath_jax.rl.advantages import PerToken, ScoredRollout, Scores, outcome_scores, zero_std_groups
from dsmath_jax.rl.batches import batch_of, bucketed_length, gather_per_completion, length_multiple, scatter_to_batch
from dsmath_jax.rl.reward_model.model import ScoreRows
from dsmath_jax.rl.rewards import RewardFunctions, RewardInput, RuleRewards
from dsmath_jax.rl.rollouts import Rollout
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.rl.steps import step_ends
from dsmath_jax.sharding import Layout
from dsmath_jax.training.prefetch import HostBatch


def grade_by_rules(reward_fns: RewardFunctions, rollout: Rollout, group_size: int) -> RuleRewards:
    """Returns the rule rewards `[PG]`. Only process 0 grades; the others get zeros."""
    if jax.process_index():
        return RuleRewards(np.zeros(len(rollout.texts_PG)), {}, {})
    inputs = [
        RewardInput(text, record, completion.finished, len(completion.tokens))
        for text, record, completion in zip(rollout.texts_PG, rollout.records_PG, rollout.completions_PG, strict=True)
    ]
    return reward_fns.score(inputs, group_size)


def compute_rewards(
    rollout: Rollout,
    rule_rewards_PG: np.ndarray,
    reward_model: ScoreRows | None,
    settings: RLSettings,
    tokenizer: Tokenizer,
) -> Scores:
    """Returns the rewards, at the last token or, with process supervision, at the end of each step."""
    if reward_model is None:
        return outcome_scores(rule_rewards_PG, rollout.lengths)
    if settings.reward_source == "process":
        ends = [step_ends(c.tokens, tokenizer, settings.step_delimiter) for c in rollout.completions_PG]
    else:
        ends = [np.array([length - 1]) for length in rollout.lengths]
    return Scores(ends, reward_model(rollout.prompts_P, rollout.completions_PG, ends))


def pack_rollout(rollout: Rollout, longest: int, layout: Layout) -> HostBatch:
    """Returns the rollout as a batch `[B,T]`, padded to one of a few lengths, so that few programs are compiled.

    Args:
      rollout: P x G = B completions.
      longest: the maximum number of tokens of a prompt with its completion in the run.
      layout: its mesh needs a T that is divisible by its axes.
    """
    limit = longest - 1
    tokens = max(len(rollout.prompts_P[c.prompt]) + len(c.tokens) for c in rollout.completions_PG) - 1
    length = bucketed_length(tokens, limit, length_multiple(limit, layout))
    return batch_of(rollout.prompts_P, rollout.completions_PG, length)


def gather_token_values(rollout: Rollout, scores: Scores, batch: HostBatch, group_size: int) -> ScoredRollout:
    """Returns the input of `Algorithm.advantages`: scores, and the batch's values `[B,T]` per completion."""
    per_token = {
        name: gather_per_completion(batch[name], rollout.prompts_P, rollout.completions_PG)
        for name in ("old_logprobs", "ref_logprobs", "old_values") if name in batch
    }  # fmt: skip
    return ScoredRollout(scores, rollout.lengths, group_size, **per_token)


def advantage_fields(rollout: Rollout, advantages: PerToken, batch: HostBatch) -> HostBatch:
    """Returns the batch's fields `advantages [B,T]` and, with a value model, `returns [B,T]`; 0 where there is none."""
    advantages_BT = scatter_to_batch(advantages, rollout.prompts_P, rollout.completions_PG, batch["tokens"].shape[1])
    fields = {"advantages": np.nan_to_num(advantages_BT)}
    if "old_values" in batch:
        fields["returns"] = np.nan_to_num((advantages_BT + batch["old_values"]) * batch["loss_weights"])
    return fields


def rows_with_loss(settings: RLSettings, rollout: Rollout, advantages: PerToken, scores: Scores) -> np.ndarray:
    """Returns which completions `[PG]` have loss: those with a reward that no setting masks."""
    keep = np.array([not np.isnan(a).any() for a in advantages])
    if settings.mask_truncated:
        keep &= np.array([c.finished for c in rollout.completions_PG])
    if settings.filter_zero_std_groups:
        keep &= ~np.repeat(zero_std_groups(scores, settings.group_size), settings.group_size)
    return keep


def rollout_metrics(
    rollout: Rollout, batch: HostBatch, scores: Scores, rule_rewards: RuleRewards, group_size: int
) -> dict[str, float]:
    """Returns the metrics of a rollout, described in docs/rl.md."""
    rewards = np.array([r.mean() for r in scores.rewards])
    rewards = rewards[np.isfinite(rewards)]
    graded, failed = rule_rewards.total[np.isfinite(rule_rewards.total)], sum(rule_rewards.errors.values())
    metrics = {
        "frac_reward_zero_std": np.mean(zero_std_groups(scores, group_size)),
        "completion_length": np.mean(rollout.lengths),
        "frac_truncated": np.mean([not c.finished for c in rollout.completions_PG]),
        "num_masked": np.sum(~batch["loss_weights"].any(axis=1)),
        "reward_errors": failed,
        "reward_abstained": len(rule_rewards.total) - len(graded) - failed,
    }
    if rewards.size:
        metrics |= {"reward": rewards.mean(), "reward_std": rewards.std()}
    if graded.size:
        metrics["rule_reward"] = graded.mean()
    metrics |= {f"reward/{name}": mean for name, mean in rule_rewards.means.items()}
    return {name: float(value) for name, value in metrics.items()}


def examples_to_log(
    rollout: Rollout, scores: Scores, rule_rewards: RuleRewards, group_size: int
) -> list[dict[str, Any]]:
    """Returns the best and the worst completion of the first prompt, with the rewards by function (None for none)."""
    rewards = [float(np.mean(r)) for r in scores.rewards[:group_size]]
    order = sorted((i for i in range(len(rewards)) if np.isfinite(rewards[i])), key=rewards.__getitem__)
    return [
        {
            "id": rollout.records_PG[i].id, "question": rollout.records_PG[i].question,
            "answer": rollout.records_PG[i].answer, "completion": rollout.texts_PG[i],
            "reward": rewards[i], "rewards": rule_rewards.of_completion(i),
            "finish": rollout.completions_PG[i].finish_reason,
        }
        for i in dict.fromkeys([*order[-1:], *order[:1]])
    ]  # fmt: skip
