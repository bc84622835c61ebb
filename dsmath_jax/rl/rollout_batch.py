"""The training data of a rollout: rewards, filters, advantages, metrics (paper §4.1)."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import numpy as np

from dsmath_jax import user_code
from dsmath_jax.data.tokenizer import Tokenizer
from dsmath_jax.rl.advantages import PerToken, ScoredRollout, Scores, outcome_scores, zero_std_groups
from dsmath_jax.rl.algorithms import Algorithm, gradient_coefficients
from dsmath_jax.rl.batches import RowShapes, TokenFields, pack_batch, sequences_of, split, token_fields
from dsmath_jax.rl.filters import ROLLOUT_FILTERS
from dsmath_jax.rl.rewards import RewardFunctions, RewardInput, RuleRewards, join
from dsmath_jax.rl.rollout_files import TrainingData
from dsmath_jax.rl.rollouts import Rollout
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.rl.steps import step_ends
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sharding import broadcast_json
from dsmath_jax.training.prefetch import HostBatch
from dsmath_jax.workdir import UserError

# (rollout, indices of the rewarded tokens of each completion) -> the rewards at these, NaN for none
ScoreEnds = Callable[[Rollout, Sequence[np.ndarray]], list[np.ndarray]]


class ScoredCompletions(NamedTuple):
    """A rollout with its rewards.

    Attributes:
      rollout: P x G completions.
      rule_rewards_PG: the rule rewards, by function too.
      scores_PG: the rewards that are trained on.
      keep_PG: whether the filters leave a completion its loss.
    """

    rollout: Rollout
    rule_rewards_PG: RuleRewards
    scores_PG: Scores
    keep_PG: np.ndarray


def start_grading(reward_fns: RewardFunctions, rollout: Rollout, group_size: int) -> Future[RuleRewards] | None:
    """Begins to compute the rule rewards of a rollout in a thread of process 0; None on the others."""
    if jax.process_index():
        return None
    inputs = [
        RewardInput(text, record, c.finished, len(c.tokens), dialogue.answer_text, dialogue.reward)
        for text, record, c, dialogue in zip(
            rollout.texts_PG, rollout.records_PG, rollout.completions_PG, rollout.dialogues_PG, strict=True
        )
    ]
    return reward_fns.submit(inputs, group_size)


def graded_rewards(rollout: Rollout, grading: Future[RuleRewards] | None) -> RuleRewards:
    """Waits for the rule rewards `[PG]` of process 0, which all processes get."""
    graded = grading.result() if grading else RuleRewards(np.empty(0), {}, {})
    total, by_function, errors = broadcast_json(graded.to_json())
    # A dialogue that a failed environment ended has no reward, and so no loss.
    total = np.where([dialogue.failed for dialogue in rollout.dialogues_PG], np.nan, total)
    return RuleRewards(total, {name: np.array(values) for name, values in by_function.items()}, errors)


def compute_rewards(
    rollout: Rollout,
    rule_rewards_PG: np.ndarray,
    score: ScoreEnds | None,
    settings: RLSettings,
    tokenizer: Tokenizer,
) -> Scores:
    """Returns the rewards, at the last token or, with process supervision, at the end of each step.

    With `rl.reward_mix`, the rewards of `score` have that share of the rule reward added at the last token.
    """
    if score is None:
        return outcome_scores(rule_rewards_PG, rollout.lengths)
    if settings.reward_source == "process":
        ends = [step_ends(c.tokens, tokenizer, settings.step_delimiter) for c in rollout.completions_PG]
    else:
        ends = [np.array([length - 1]) for length in rollout.lengths]
    rewards = score(rollout, ends)
    if share := settings.reward_mix:
        rewards = [(1 - share) * each for each in rewards]
        for each, rule in zip(rewards, rule_rewards_PG, strict=True):
            each[-1:] += share * rule
    return Scores(ends, rewards)


def apply_filters(settings: RLSettings, rollout: Rollout, scores: Scores) -> np.ndarray:
    """Returns which completions `[PG]` have a reward and are kept by every filter of `rl.rollout_filter`, in order.

    With `rl.filtered_in_baseline=False`, a filter sees NaN as the rewards of those that earlier ones do not keep.

    Raises:
      UserError: a filter returned anything but a bool for each completion.
    """
    keep = np.array([np.isfinite(rewards).all() for rewards in scores.rewards])
    for name in settings.algorithm.rollout_filter:
        seen = scores if settings.filtered_in_baseline else without_filtered(scores, keep)
        kept = user_code.function("rl.rollout_filter", name, ROLLOUT_FILTERS)(rollout, seen, settings.group_size)
        if np.shape(kept) != keep.shape:
            raise UserError(
                f"rl.rollout_filter: '{name}' returned values of shape {np.shape(kept)}; it must return a bool for "
                f"each of the {len(keep)} completions."
            )
        keep &= np.asarray(kept, bool)
    return keep


def num_groups_with_loss(parts: Sequence[ScoredCompletions], group_size: int) -> int:
    """Returns how many groups have a completion that the filters keep."""
    return sum(int(part.keep_PG.reshape(-1, group_size).any(axis=1).sum()) for part in parts)


def concatenate(parts: Sequence[ScoredCompletions]) -> ScoredCompletions:
    """Returns one rollout of the groups of all parts, in their order."""
    if len(parts) == 1:
        return parts[0]
    prompts: list[list[int]] = []
    completions: list[Completion] = []
    for part in parts:
        completions += [dataclasses.replace(c, prompt=len(prompts) + c.prompt) for c in part.rollout.completions_PG]
        prompts += part.rollout.prompts_P
    rollout = Rollout(
        prompts, completions, [record for part in parts for record in part.rollout.records_PG],
        [text for part in parts for text in part.rollout.texts_PG],
        [dialogue for part in parts for dialogue in part.rollout.dialogues_PG],
    )  # fmt: skip
    rule_rewards, keep = join([p.rule_rewards_PG for p in parts]), np.concatenate([p.keep_PG for p in parts])
    ends, values = ([x for part in parts for x in part.scores_PG[i]] for i in (0, 1))
    return ScoredCompletions(rollout, rule_rewards, Scores(ends, values), keep)


def choose_groups(scored: ScoredCompletions, num_prompts: int, group_size: int) -> ScoredCompletions:
    """Returns the first `num_prompts` groups with loss; where they are fewer, the first of the others fill the rest."""
    rollout, rule_rewards, scores, keep = scored
    has_loss = keep.reshape(-1, group_size).any(axis=1)
    groups = np.sort(np.argsort(~has_loss, kind="stable")[:num_prompts])
    rows = (groups[:, None] * group_size + np.arange(group_size)).ravel()
    new_index = {old: new for new, old in enumerate(groups)}
    chosen = Rollout(
        [rollout.prompts_P[i] for i in groups],
        [dataclasses.replace(c, prompt=new_index[c.prompt]) for c in (rollout.completions_PG[row] for row in rows)],
        [rollout.records_PG[row] for row in rows], [rollout.texts_PG[row] for row in rows],
        [rollout.dialogues_PG[row] for row in rows],
    )  # fmt: skip
    ends, rewards = ([values[row] for row in rows] for values in scores)
    return ScoredCompletions(chosen, rule_rewards.rows(rows), Scores(ends, rewards), keep[rows])


def training_data(rollout: Rollout) -> TrainingData:
    """Returns the completions of a rollout with what the sampler knows of their tokens."""
    completions = rollout.completions_PG
    return TrainingData(sequences_of(rollout.prompts_P, completions), token_fields(completions))


def scored_rollout(data: TrainingData, scores: Scores, group_size: int) -> ScoredRollout:
    """Returns the input of `Algorithm.advantages`: scores, and the fields of each completion's tokens."""
    lengths = data.sequences.completion_lengths
    per_token = {
        name: split(data.fields[name], lengths)
        for name in ("old_logprobs", "ref_logprobs", "teacher_logprobs", "old_values") if name in data.fields
    }  # fmt: skip
    return ScoredRollout(scores, lengths.tolist(), group_size, **per_token)


def advantage_fields(advantages: PerToken, fields: TokenFields) -> TokenFields:
    """Returns the fields `advantages` and, with a value model, `returns`; 0 where there is none."""
    of_tokens = np.concatenate(advantages).astype(np.float32)
    new = {"advantages": np.nan_to_num(of_tokens)}
    if "old_values" in fields:
        new["returns"] = np.nan_to_num((of_tokens + fields["old_values"]) * fields["loss_weights"])
    return new


def without_filtered(scores: Scores, keep_PG: np.ndarray) -> Scores:
    """Returns the scores with NaN for completions that the filters do not keep: they are left out of their group."""
    pairs = zip(scores.rewards, keep_PG, strict=True)
    return Scores(scores.ends, [values if keep else np.full_like(values, np.nan) for values, keep in pairs])


def completions_with_loss(keep_PG: np.ndarray, advantages: PerToken) -> np.ndarray:
    """Returns which completions `[PG]` have loss: those with advantages that the filters keep."""
    return keep_PG & np.array([not np.isnan(values).any() for values in advantages])


@functools.lru_cache(maxsize=8)
def _jitted_coefficients(algorithm: Algorithm) -> Callable[[Any, Any], Any]:
    return jax.jit(functools.partial(gradient_coefficients, algorithm))


def largest_token_share(algorithm: Algorithm, batch: HostBatch) -> float:
    """Returns the largest token's share of the sum of squared gradient coefficients over a batch (Eq. 5).

    A token far from the reference model may own most of it (k3 grows exponentially with the distance).
    """
    logprobs = batch.get("old_logprobs", batch["sampler_logprobs"])
    squares = np.asarray(_jitted_coefficients(algorithm)(logprobs, batch), np.float64) ** 2
    return float(squares.max() / squares.sum()) if squares.any() else 0.0


def rollout_metrics(sampled: ScoredCompletions, group_size: int, has_turns: bool = False) -> dict[str, float]:
    """Returns the metrics of all completions that were sampled for a rollout, described in docs/rl.md."""
    rollout, rule_rewards, scores, _ = sampled
    rewards = np.array([r.mean() for r in scores.rewards])
    rewards = rewards[np.isfinite(rewards)]
    has_rule_reward = np.isfinite(rule_rewards.total)
    graded, failed = rule_rewards.total[has_rule_reward], sum(rule_rewards.errors.values())
    without_score = sum(np.isnan(r).any() for r, ok in zip(scores.rewards, has_rule_reward, strict=True) if ok)
    metrics = {
        "frac_reward_zero_std": np.mean(zero_std_groups(scores, group_size)),
        "completion_length": np.mean(rollout.lengths),
        "frac_truncated": np.mean([not c.finished for c in rollout.completions_PG]),
        "reward_errors": failed + without_score,
        "reward_abstained": len(rule_rewards.total) - len(graded) - failed,
    }
    if inserted := sum(len(c.inserted) for c in rollout.completions_PG):
        metrics["frac_inserted"] = inserted / sum(rollout.lengths)
    if has_turns:
        metrics["turns"] = np.mean([dialogue.turns for dialogue in rollout.dialogues_PG])
        metrics["environment_errors"] = sum(dialogue.failed for dialogue in rollout.dialogues_PG)
    if rewards.size:
        metrics |= {"reward": rewards.mean(), "reward_std": rewards.std()}
    if graded.size:
        metrics["rule_reward"] = graded.mean()
    metrics |= {f"reward/{name}": mean for name, mean in rule_rewards.means.items()}
    return {name: float(value) for name, value in metrics.items()}


def training_metrics(algorithm: Algorithm, data: TrainingData, shapes: RowShapes) -> dict[str, float]:
    """Returns the metrics of a rollout's training data, described in docs/rl.md."""
    sequences, fields = data
    metrics = {"num_masked": float(np.sum(~data.has_loss))}
    if "teacher_logprobs" in fields and (mask := fields["loss_weights"] > 0).any():
        metrics["teacher_kl"] = float(np.mean((fields["old_logprobs"] - fields["teacher_logprobs"])[mask]))
    if type(algorithm).policy_objective is not Algorithm.policy_objective:
        metrics["max_token_share"] = largest_token_share(algorithm, pack_batch(sequences, fields, shapes))
    return metrics
