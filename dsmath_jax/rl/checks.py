"""What the stage `rl` refuses before it runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from dsmath_jax.data import overlap
from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import ReadRecords, Record, check_answers
from dsmath_jax.data.subsample import EVALUATION_SEED, subsample
from dsmath_jax.environments.settings import open_environment
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.rl import offline
from dsmath_jax.rl.dialogues import question_ids
from dsmath_jax.rl.reward_model import stage as reward_stage
from dsmath_jax.rl.reward_model.stage import KINDS
from dsmath_jax.rl.rewards import NEED_ANSWERS, RewardFunctions, user_functions
from dsmath_jax.rl.rollouts import check_context, eval_prompts, filter_prompts
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sampling.thinking import thinking_budget
from dsmath_jax.settings import check_choice
from dsmath_jax.sharding import Layout
from dsmath_jax.training import loop as loops
from dsmath_jax.training.checkpoint import steps_in
from dsmath_jax.workdir import UserError


def check(
    settings: RLSettings, read: ReadRecords, chat: Chat | None,
    initial_config: ModelConfig | None, trained_on: Mapping[str, overlap.Questions], layout: Layout, seed: int,
) -> None:  # fmt: skip
    """Raises a `UserError` where `run` would, as far as that is known before the run.

    Args:
      settings: of the stage.
      read: see `datasets.ReadRecords`; returns none if the run has yet to generate them.
      chat: None where the tokenizer has yet to be trained.
      initial_config: config of the initial policy, None where it is not known yet.
      trained_on: what this stage and those before it train on, as for `overlap.find`.
      layout: where the model is trained.
      seed: of the sampled questions.
    """
    method, retrain = settings.method_row, settings.retrain
    if settings.algorithm.needs_teacher and not settings.teacher:
        raise UserError(f"rl.teacher is empty; method={settings.method} needs one: a stage's model, or hf:DIR.")
    loops.check(settings, settings.rows_per_step // (2 if method.completions == "pairs" else 1), layout)
    if method.completions == "policy":
        RewardFunctions(settings.reward_fns, settings.reward_seconds, settings.reward_workers, settings.overlong)
    if chat:
        thinking_budget(chat, settings.max_thinking_tokens)
    sets: Sequence[Sequence[Record]] = [read(name, settings.columns) for name in settings.data]
    held_out = subsample(
        [read(name, settings.columns) for name in settings.eval_data], settings.eval_problems, EVALUATION_SEED
    )
    check_answers(held_out)
    if held_out and not settings.allow_overlap:
        overlap.check("rl.eval_data", held_out, overlap.find(held_out, trained_on), allow=False)
    with open_environment(settings.environment) as make:
        if initial_config and chat:
            encode = question_ids(chat, make)
            eval_prompts(held_out, encode, initial_config.max_position_embeddings)
            if any(sets):
                prompts = filter_prompts(settings, sets, encode, initial_config.max_position_embeddings)
                sets = prompts.sets
                if method.completions == "solutions":
                    offline.solution_rows(prompts.records, chat, settings.max_new_tokens)
    if initial_config and not (chat and any(sets)):
        check_context(1 + settings.max_new_tokens, initial_config.max_position_embeddings)
    if retrain and settings.reward_stage:
        rewarded = dataclasses.replace(retrain, data=settings.retrain_data, columns=dict(settings.retrain_columns))
        check_choice("rl.retrain.kind", retrain.kind, KINDS[settings.reward_stage])
        reward_stage.check(rewarded, read, chat, initial_config, layout, seed)
    if method.completions in ("correct", "pairs"):
        check_answers(subsample(sets, settings.offline_prompts, seed))
    if ":" in settings.step_rewards:
        user_functions([settings.step_rewards], "rl.step_rewards", "(record, steps)")
    graded = settings.reward_source == "rule" and NEED_ANSWERS & dict(settings.reward_fns).keys()
    if graded or settings.step_rewards == "monte_carlo" or settings.curriculum == "init":
        check_answers(record for records in sets for record in records)


def why_not_extendable(settings: RLSettings, folder: Path, steps: int) -> str:
    """Returns why a run of `steps` steps cannot be extended to `settings.steps`, "" if it can."""
    if settings.rounds > 1:
        return f"its rounds={settings.rounds} would end at different steps"
    steps_done = max(steps_in(folder / "checkpoints"), default=0)
    if settings.rollouts_ahead and steps - settings.steps_per_rollout < steps_done < steps:
        return (
            f"its newest checkpoint is of step {steps_done}, which is within the last rollout, and with rollouts_ahead="
            "1 the policy that would sample the next one is gone"
        )
    return loops.why_not_extendable(folder, settings, steps)


def check_overlap(settings: RLSettings, workdir: Path, data_dir: Path, records: Sequence[Record]) -> int | None:
    """Returns how many records of `rl.eval_data` are in the training data of this stage or those before it.

    Raises:
      UserError: some are, without `rl.allow_overlap`.
    """
    own = {
        "rl.data": settings.data, "rl.columns": settings.columns,
        "rl.retrain.data": settings.retrain_data, "rl.retrain.columns": settings.retrain_columns,
    }  # fmt: skip
    overlaps = overlap.find(
        records, overlap.questions_of_stages(settings.model_stages, workdir) | overlap.training_questions(own, data_dir)
    )  # fmt: skip
    overlap.check("rl.eval_data", records, overlaps, settings.allow_overlap)
    return overlap.count(overlaps.values())
