"""The training batch of a rollout: rewards, rows, advantages, metrics (paper §4.1)."""

import jax
import numpy as np

from dsmath_jax.data.tokenizer import Tokenizer
from dsmath_jax.rl.advantages import PerToken, ScoredRollout, Scores, outcome_scores, zero_std_groups
from dsmath_jax.rl.batches import batch_of, bucketed_length, gather_per_completion, length_multiple, scatter_to_batch
from dsmath_jax.rl.reward_model.model import ScoreRows
from dsmath_jax.rl.rewards import RewardFunctions
from dsmath_jax.rl.rollouts import Rollout
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.rl.steps import step_ends
from dsmath_jax.sharding import Layout
from dsmath_jax.training.prefetch import HostBatch


def grade_by_rules(reward_fns: RewardFunctions, rollout: Rollout) -> tuple[np.ndarray, dict[str, float]]:
    """Returns the rule rewards `[PG]`, NaN for none, and counts of completions without one. Only process 0 grades."""
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
    rollout: Rollout, batch: HostBatch, scores: Scores, rule_rewards_PG: np.ndarray, group_size: int
) -> dict[str, float]:
    """Returns the metrics of a rollout, described in docs/rl.md."""
    rewards = np.array([r.mean() for r in scores.rewards])
    rewards = rewards[np.isfinite(rewards)]
    graded = rule_rewards_PG[np.isfinite(rule_rewards_PG)]
    metrics = {
        "frac_reward_zero_std": np.mean(zero_std_groups(scores, group_size)),
        "completion_length": np.mean(rollout.lengths),
        "frac_truncated": np.mean([not c.finished for c in rollout.completions_PG]),
        "num_masked": np.sum(~batch["loss_weights"].any(axis=1)),
    }
    if rewards.size:
        metrics |= {"reward": rewards.mean(), "reward_std": rewards.std()}
    if graded.size:
        metrics["rule_reward"] = graded.mean()
    return {name: float(value) for name, value in metrics.items()}
