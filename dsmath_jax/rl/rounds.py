"""The reward model of RL, and its rounds in iterative GRPO (Algorithm 1)."""

import logging
from pathlib import Path

from dsmath_jax.rl.context import Context
from dsmath_jax.rl.reward_model import model as reward_models
from dsmath_jax.rl.reward_model import training as reward_training
from dsmath_jax.rl.reward_model.labels import write_rows
from dsmath_jax.rl.reward_model.model import scorer
from dsmath_jax.rl.reward_model.rows import NothingToLearn
from dsmath_jax.rl.reward_model.training import ROWS, SUMMARY
from dsmath_jax.rl.rollout_batch import (
    ScoreEnds,
)
from dsmath_jax.training.lora import Adapters, write_adapters
from dsmath_jax.workdir import UserError


def check_resumes_in_round(step: int, first_step: int, folder: Path) -> None:
    """Raises a `UserError` where a round has no checkpoint: its steps would be repeated with a later reference."""
    if step < first_step:
        raise UserError(
            f"rl: no checkpoint of step {first_step} or later in {folder / 'checkpoints'} is valid, so this round "
            f"cannot resume; remove {folder} to redo the stage."
        )


def read_reward_model(ctx: Context, folder: Path) -> ScoreEnds:
    """Returns the scores by the reward model in a folder."""
    reward_model = reward_models.read(folder, ctx.layout)
    score = scorer(reward_model.model, ctx.shapes)
    return lambda rollout, ends: score(reward_model.params, rollout.prompts_P, rollout.completions_PG, ends)


def retrain_reward_model(ctx: Context, round_number: int, folder: Path) -> Path:
    """Retrains a folder's reward model on the policy's samples after a round; returns the folder of the new one.

    Its files are complete or missing: a resumed run writes those that are missing.
    """
    settings, rounds = ctx.settings.retrain, ctx.folder / "rounds"
    assert settings is not None
    name = folder.name
    new, stage_folder = rounds / str(round_number) / name, ctx.workdir / name
    if (new / SUMMARY).is_file():
        return new
    if not (new / ROWS).is_file():
        params = ctx.read_round(round_number)
        write_rows(new / ROWS, settings, ctx.with_params(params), ctx.retrain_records, ctx.seed, round_number)
        del params
    before = [stage_folder, *(rounds / str(earlier) / name for earlier in range(1, round_number))]
    old_rows = [earlier / ROWS for earlier in before]
    if settings.lora:
        write_adapters(new, Adapters(settings.lora, str(folder), base_is_reward_model=True))
    start = reward_models.read(folder, ctx.layout, frozen=settings.lora is not None)
    try:
        reward_training.train(new, settings, start, ctx.layout, ctx.seed, [new / ROWS], old_rows)
    except NothingToLearn as error:
        logging.warning("rl: the reward model is not retrained after round %d. %s", round_number, error)
        return folder
    return new
