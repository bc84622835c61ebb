"""AdamW and its learning-rate schedules (paper §2.2)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from dsmath_jax.sharding import path_name
from dsmath_jax.training.settings import TrainingSettings


def multi_step(peak: float, warmup: int, total: int) -> optax.Schedule:
    """Returns the paper's schedule: linear warm-up, the peak until 80 % of training, then 31.6 %, from 90 % on 10 %."""

    def schedule(step: Any) -> Any:
        late = jnp.where(step < 0.8 * total, 1.0, jnp.where(step < 0.9 * total, 0.316, 0.1))
        return peak * jnp.minimum(1.0, (step + 1) / max(warmup, 1)) * late

    return schedule


def constant(peak: float, warmup: int, total: int) -> optax.Schedule:
    """Returns a schedule of linear warm-up, then the peak (SFT and RL of the paper)."""
    del total

    def schedule(step: Any) -> Any:
        return peak * jnp.minimum(1.0, (step + 1) / max(warmup, 1))

    return schedule


SCHEDULES = {"multi_step": multi_step, "constant": constant}


def make_schedule(settings: TrainingSettings) -> optax.Schedule:
    """Returns the learning rate by step."""
    return _schedule(settings.schedule, settings.peak_lr, settings.warmup_steps, settings.steps)


@functools.cache
def _schedule(name: str, peak: float, warmup: int, total: int) -> optax.Schedule:
    return SCHEDULES[name](peak, warmup, total)


def first_changed_lr(settings: TrainingSettings, steps: int, taken: int) -> int | None:
    """Returns the first of the `taken` steps whose learning rate differs with `steps` in all, None if none does."""
    totals = (settings.steps, steps)
    schedules = [_schedule(settings.schedule, settings.peak_lr, settings.warmup_steps, total) for total in totals]
    rates = [np.asarray(jax.vmap(schedule)(jnp.arange(taken))) for schedule in schedules]
    return next(iter(np.flatnonzero(rates[0] != rates[1]).tolist()), None)


def with_state_dtype(inner: optax.GradientTransformation, dtype: str) -> optax.GradientTransformation:
    """Stores the state of `inner` in another dtype between steps; the update is computed in the gradients' dtype."""

    def cast(state: Any, to: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(to) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        compute_dtype = jnp.result_type(*jax.tree.leaves(updates))
        updates, state = inner.update(updates, cast(state, compute_dtype), params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(lambda params: cast(inner.init(params), dtype), update)


def decay_mask(params: Any) -> Any:
    """Returns the weight-decay mask: True for everything but norm scales and biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: not path_name(path).endswith(("scale", "bias")), params)


def make_optimizer(settings: TrainingSettings) -> optax.GradientTransformation:
    """Returns AdamW 0.9/0.95 with global-norm clipping and weight decay on matrices only (paper §2.2)."""
    return _adamw(make_schedule(settings), settings.weight_decay, settings.clip_norm, settings.state_dtype)


@functools.cache
def _adamw(
    schedule: optax.Schedule, weight_decay: float, clip_norm: float, state_dtype: str
) -> optax.GradientTransformation:
    """Returns the optimizer; the same one for equal arguments, so that equal train steps are compiled once."""
    adam = optax.adamw(schedule, b1=0.9, b2=0.95, weight_decay=weight_decay, mask=decay_mask)
    return optax.chain(optax.clip_by_global_norm(clip_norm), with_state_dtype(adam, state_dtype))


def select_updated(skipped: Array, after: Any, before: Any) -> Any:
    """Returns the tree `after` a step or, where that is skipped, the tree `before` it.

    The step count of the learning-rate schedule in an optimizer's state always advances.
    """

    def select(new: Any, old: Any) -> Any:
        return new if _is_schedule(new) else jnp.where(skipped, old, new)

    return jax.tree.map(select, after, before, is_leaf=_is_schedule)


def _is_schedule(state: Any) -> bool:
    return isinstance(state, optax.ScaleByScheduleState)
