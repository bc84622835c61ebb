"""Compiles the train step of a reward model for a topology, without its devices.

Only the training on labeled completions is compiled, not the sampling and labeling before it. How long its rows are
depends on data: here they are as long as `rl` allows them, whose completions the reward model scores.
"""

from typing import Any

from dsmath_jax.aot.program import capture_stderr
from dsmath_jax.aot.rl import frozen_params, initial_trained
from dsmath_jax.aot.step import Target, make_target, num_adapters, stage_settings, step_result
from dsmath_jax.models.decoder import Params
from dsmath_jax.models.lora import Frozen
from dsmath_jax.recipe import Recipe
from dsmath_jax.rl.batches import RowShapes
from dsmath_jax.rl.methods import REWARD_STAGES
from dsmath_jax.rl.reward_model.model import OBJECTIVES, SIDES, with_reward_head
from dsmath_jax.rl.reward_model.rows import batch_of
from dsmath_jax.rl.reward_model.settings import RewardModelSettings
from dsmath_jax.training.flops import model_flops_per_token
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.step import ALL_TRAINED, TrainState, abstract_state, make_train_step

STAGES = tuple(REWARD_STAGES.values())


def compile_reward_step(recipe: Recipe, stage: str, name: str) -> dict[str, Any]:
    """Lowers and compiles the train step of the stage `reward_model` or `process_model` for the topology `name`.

    Returns:
      The fields of `compile_step`. `tokens` are those of all rows; a pair of `pairwise` fills one.

    Raises:
      UserError: the topology, the mesh or the batch is invalid, or the compiler's package is missing.
    """
    settings: RewardModelSettings = stage_settings(recipe, stage)
    with capture_stderr():
        target = make_target(recipe, name)
    state, frozen = _abstract_state(settings, target)
    longest, sides = longest_row(recipe, settings), SIDES[settings.kind]
    shapes = RowShapes(sides * longest, settings.batch_size, settings.grad_accum_steps, target.layout)
    row = {"prompt": [0], "completion": [0], "ends": [0], "labels": [1.0]}
    batch = target.layout.abstract_batch(batch_of([(row,) * sides], shapes), settings.batch_size)
    step = make_train_step(
        OBJECTIVES[settings.kind], target.model, make_optimizer(settings), target.layout, state,
        settings.grad_accum_steps, frozen,
    )  # fmt: skip
    config = target.model.config
    adapters = num_adapters(state, frozen)
    logits = (4 if adapters else 6) * config.hidden_size * config.vocab_size  # a reward model computes none
    flops_per_token = model_flops_per_token(config, shapes.row_length, adapters) - logits
    tokens = settings.batch_size * shapes.row_length
    return step_result(lambda: step.lower(state, batch), target, stage, settings, tokens, flops_per_token)


def longest_row(recipe: Recipe, settings: RewardModelSettings) -> int:
    """Returns the tokens of the longest prompt with its completion: that of `rl`, or what the model's context holds."""
    assert recipe.model is not None  # `stage_settings` has checked it
    context = recipe.model.max_position_embeddings
    return min(context, recipe.rl.max_prompt_tokens + settings.max_new_tokens) if recipe.rl else context


def _abstract_state(settings: RewardModelSettings, target: Target) -> tuple[TrainState, Frozen]:
    """Returns the abstract train state, of all parameters or of adapters and the head, and what is frozen."""
    lora, read = settings.lora, initial_trained(target, settings.lora)
    frozen = Frozen({"model": frozen_params(target)}, lora.scale) if lora else ALL_TRAINED

    def make() -> Params:
        return with_reward_head(read(), target.model.config.hidden_size)

    return abstract_state(make, make_optimizer(settings), target.layout), frozen
