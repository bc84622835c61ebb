"""Makes the rollouts that are trained on: samples, rewards, log-probabilities, advantages (paper §4.1).

A rollout is made in two calls: `RolloutMaker.sample` generates the completions and begins to grade them, and `finish`
waits for the rewards, computes all else and writes the rollout. With `rl.rollouts_ahead` an update on the rollout
before is dispatched between the two: the devices train while the host grades. One thread dispatches everything that
runs on devices, in the same order on every process.

Axis letters: P prompts of a rollout, G completions of each.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np

from dsmath_jax.models.decoder import Params
from dsmath_jax.rl.batches import TokenFields
from dsmath_jax.rl.context import Context
from dsmath_jax.rl.curriculum import Asked, pass_rates
from dsmath_jax.rl.dialogues import open_dialogues
from dsmath_jax.rl.rewards import RewardFunctions, RuleRewards
from dsmath_jax.rl.rollout_batch import (
    ScoredCompletions,
    ScoreEnds,
    advantage_fields,
    apply_filters,
    choose_groups,
    completions_with_loss,
    compute_rewards,
    concatenate,
    graded_rewards,
    num_groups_with_loss,
    rollout_metrics,
    scored_rollout,
    start_grading,
    training_data,
    training_metrics,
    without_filtered,
)
from dsmath_jax.rl.rollout_files import RolloutFiles, TrainingData, reply_log
from dsmath_jax.rl.rollouts import Rollout, generate_rollout, sampling_of
from dsmath_jax.rl.sample_log import samples_to_log
from dsmath_jax.rl.scoring import PackedForward, ReferenceModel
from dsmath_jax.rl.step_rewards import step_scorer
from dsmath_jax.training.loop import TrainLoop


class Batch(NamedTuple):
    """A batch of P prompts that was sampled: a rollout or a refill.

    Attributes:
      questions: their indices.
      rollout: the completions.
      grading: of the rule rewards, as from `start_grading`.
    """

    questions: list[int]
    rollout: Rollout
    grading: Future[RuleRewards] | None


class Sampled(NamedTuple):
    """A rollout that was sampled and is being graded.

    Attributes:
      number: of the rollout.
      params: that sampled it, which an update must not donate before `RolloutMaker.finish`.
      batches: its batch and, if they are asked for, refills (DAPO's dynamic sampling).
    """

    number: int
    params: Params
    batches: Iterator[Batch]


@dataclasses.dataclass(frozen=True)
class RolloutMaker:
    """Makes the rollouts of a round.

    Attributes:
      ctx: of the run.
      reward_fns: the rule rewards.
      reward_model: the rewards of outcomes or steps by a model; None for others.
      reference, teacher: None where the method has none.
      values: of the tokens, by the value model of PPO.
      files: where the rollouts are written.
      loop: measures the seconds.
    """

    ctx: Context
    reward_fns: RewardFunctions
    reward_model: ScoreEnds | None
    reference: ReferenceModel | None
    teacher: ReferenceModel | None
    values: PackedForward
    files: RolloutFiles
    loop: TrainLoop

    def sample(self, params: Params, number: int, questions: Iterable[list[int]]) -> Sampled:
        """Generates G completions of each of P prompts, and begins to grade them.

        Args:
          params: the trained parameters, with frozen ones.
          number: of the rollout.
          questions: indices of those of the rollout and of each refill, whether they are needed or not.
        """
        batches = self._batches(self.ctx.settings.algorithm.policy(params), number, questions)
        return Sampled(number, params, itertools.chain([next(batches)], batches))

    def _batches(self, policy: Params, number: int, questions: Iterable[list[int]]) -> Iterator[Batch]:
        ctx, settings = self.ctx, self.ctx.settings
        sampling = sampling_of(settings, ctx.chat, ctx.seed, settings.group_size)
        sampling = dataclasses.replace(sampling, oversample=settings.oversample)
        for batch_number, chosen in enumerate(questions, number * settings.algorithm.max_gen_batches):
            records, ids = [ctx.prompts.records[i] for i in chosen], [ctx.prompts.ids[i] for i in chosen]
            with open_dialogues(ctx, records, ids, reply_log(ctx.folder, batch_number)) as dialogues:
                rollout = generate_rollout(
                    (ctx.sampler, policy), ctx.prompts, chosen, ctx.chat, sampling, batch_number, dialogues
                )
            self.loop.lap("sample_seconds")
            yield Batch(chosen, rollout, start_grading(self.reward_fns, rollout, settings.group_size))

    def finish(self, sampled: Sampled) -> None:
        """Completes a rollout with all that is trained on, and writes it; called by all processes."""
        ctx, settings, algorithm = self.ctx, self.ctx.settings, self.ctx.settings.algorithm
        number, params, _ = sampled

        # --- rewards, and refills while the filters leave fewer than P groups with loss ---
        score = self.reward_model or step_scorer(ctx, algorithm.policy(params), number, self.reward_fns)
        batches, asked = self._score(sampled.batches, score)
        scored = concatenate(batches)
        chosen = choose_groups(scored, settings.prompts_per_step, settings.group_size)
        rollout, _, scores_PG, keep_PG = chosen

        # --- log-probabilities of old policy, reference model and teacher, values ---
        data = training_data(rollout)
        sequences, fields = data
        mask = fields["loss_weights"]
        fields |= self._logprobs(params, data)
        if algorithm.has_values:
            # Of inserted tokens too, which have no loss: GAE bootstraps from the value after a token.
            fields["old_values"] = self.values(params["value"], sequences)

        # --- advantages of every token ---
        counted = scores_PG if settings.filtered_in_baseline else without_filtered(scores_PG, keep_PG)
        advantages_PG = algorithm.advantages(scored_rollout(data, counted, settings.group_size))
        fields |= advantage_fields(advantages_PG, fields)
        has_loss_PG = completions_with_loss(keep_PG, advantages_PG)
        fields["loss_weights"] = mask * np.repeat(has_loss_PG, sequences.completion_lengths)
        fields |= algorithm.batch_fields(fields)

        metrics = rollout_metrics(scored, settings.group_size, settings.environment is not None)
        metrics |= training_metrics(algorithm, data, ctx.shapes)
        metrics["num_gen_batches"] = float(len(batches))
        if settings.rollouts_ahead and settings.computes_old_logprobs and mask.any():
            # In the place of the update's, whose policy is another one than that of the sampler.
            differences = np.abs(fields["old_logprobs"] - fields["sampler_logprobs"])
            metrics["sampler_logprob_diff"] = float(np.mean(differences[mask > 0]))
        fields.pop("teacher_logprobs", None)  # its part is in the advantages
        samples = samples_to_log(chosen, fields, settings, ctx.chat.tokenizer)
        self.files.write(number, data, metrics, samples=samples, asked=asked)
        self.loop.lap("score_seconds")

    def _score(self, batches: Iterable[Batch], score: ScoreEnds | None) -> tuple[list[ScoredCompletions], list[Asked]]:
        """Returns the batches that are needed with their rewards, and what was asked in each.

        `score` gives the rewards of outcomes or steps; with None they are the rule rewards.
        """
        settings, parts, asked = self.ctx.settings, list[ScoredCompletions](), list[Asked]()
        for questions, rollout, grading in batches:
            rule_rewards_PG = graded_rewards(rollout, grading)
            scores_PG = compute_rewards(rollout, rule_rewards_PG.total, score, settings, self.ctx.chat.tokenizer)
            keep_PG = apply_filters(settings, rollout, scores_PG)
            parts.append(ScoredCompletions(rollout, rule_rewards_PG, scores_PG, keep_PG))
            asked.append(Asked(questions, pass_rates(rule_rewards_PG, settings.group_size)))
            if num_groups_with_loss(parts, settings.group_size) >= settings.prompts_per_step:
                break
            self.loop.lap("score_seconds")
        return parts, asked

    def _logprobs(self, params: Params, data: TrainingData) -> TokenFields:
        """Returns the log-probabilities of the policy that sampled, the reference model and the teacher."""
        settings, (sequences, fields) = self.ctx.settings, data
        mask, found = fields["loss_weights"], TokenFields()
        if settings.old_logprobs == "sampler":
            found["old_logprobs"] = fields["sampler_logprobs"]
        elif settings.computes_old_logprobs:
            found["old_logprobs"] = self.ctx.policy_logprobs(settings.algorithm.policy(params), sequences) * mask
        if self.reference is not None:
            found["ref_logprobs"] = self.reference(sequences) * mask
        if self.teacher is not None:
            found["teacher_logprobs"] = self.teacher(sequences) * mask
        return found
