"""Schedules at the paper's breakpoints, clipping, and what weight decay acts on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.sharding import path_name
from dsmath_jax.training.optimizer import decay_mask, make_optimizer, make_schedule
from dsmath_jax.training.settings import TrainingSettings
from dsmath_jax.workdir import UserError


def settings(**changes: Any) -> TrainingSettings:
    made = {"steps": 10, "peak_lr": 1.0, "warmup_steps": 1, "weight_decay": 0.0, "clip_norm": 1e9}
    return TrainingSettings(**made | changes)


def test_multi_step_has_the_papers_breakpoints() -> None:
    """2,000 steps of warm-up, the peak until 80 %, 31.6 % of it until 90 %, 10 % after (paper §2.2)."""
    total = 50_000
    schedule = make_schedule(settings(schedule="multi_step", peak_lr=4.2e-4, warmup_steps=2000, steps=total))
    shares = {
        0: 1 / 2000, 999: 0.5, 1999: 1.0, 2000: 1.0, 39_999: 1.0, 40_000: 0.316, 44_999: 0.316, 45_000: 0.1, 49_999: 0.1
    }  # fmt: skip
    for step, share in shares.items():
        assert float(schedule(step)) == pytest.approx(4.2e-4 * share, rel=1e-6), step
    traced = jax.jit(jax.vmap(schedule))(jnp.array(list(shares)))
    np.testing.assert_allclose(traced, [4.2e-4 * share for share in shares.values()], rtol=1e-6)


def test_constant_warms_up_and_stays() -> None:
    schedule = make_schedule(settings(peak_lr=5e-5, warmup_steps=10, steps=500))
    for step, share in {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 499: 1.0}.items():
        assert float(schedule(step)) == pytest.approx(5e-5 * share, rel=1e-6)
    assert float(make_schedule(settings(warmup_steps=0, steps=5))(0)) == 1.0


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(UserError, match=r"^schedule must be one of 'multi_step', 'constant'; got 'cosine'\."):
        settings(schedule="cosine")


def test_weight_decay_acts_on_matrices_only(model: Decoder) -> None:
    """With gradients of zero only decay moves anything: matrices by -lr x decay x themselves."""
    shapes = jax.eval_shape(lambda: initial_params(model, jax.random.key(0)))
    params = {"model": shapes, "reward": {"kernel": jnp.ones((16, 1)), "bias": jnp.ones(1)}}
    params = jax.tree.map(lambda x: np.full(x.shape, 2.0, np.float32), params)
    optimizer = make_optimizer(settings(peak_lr=0.5, weight_decay=0.1))
    zeros = jax.tree.map(np.zeros_like, params)
    updates = jax.jit(lambda params: optimizer.update(zeros, optimizer.init(params), params)[0])(params)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        name = path_name(path)
        expected = 0.0 if name.endswith(("norm/scale", "bias")) else -0.5 * 0.1 * 2.0
        np.testing.assert_allclose(update, expected, rtol=1e-6, err_msg=name)
    assert sum(jax.tree.leaves(jax.tree.map(lambda flag: not flag, decay_mask(params)))) == 4


@pytest.mark.parametrize("norm", [0.5, 4.0])
def test_one_step_is_adamw_on_the_clipped_gradient(norm: float) -> None:
    """Two steps, worked out by hand: betas 0.9 and 0.95, bias correction, the global norm cut to one."""
    directions = [np.array([0.6, 0.0, 0.8]), np.array([0.0, 1.0, 0.0])]
    params = {"w": jnp.array([1.0, 2.0, 3.0])}
    optimizer = make_optimizer(settings(peak_lr=0.01, weight_decay=0.1, clip_norm=1.0))
    state = optimizer.init(params)
    value, first, second = np.array([1.0, 2.0, 3.0]), np.zeros(3), np.zeros(3)
    for number, direction in enumerate(directions, 1):
        updates, state = optimizer.update({"w": jnp.float32(direction * norm)}, state, params)
        params = {"w": params["w"] + updates["w"]}
        gradient = direction * min(norm, 1.0)
        first, second = 0.9 * first + 0.1 * gradient, 0.95 * second + 0.05 * gradient**2
        adam = first / (1 - 0.9**number) / (np.sqrt(second / (1 - 0.95**number)) + 1e-8)
        value = value - 0.01 * (adam + 0.1 * value)
        np.testing.assert_allclose(params["w"], value, rtol=1e-5)


def test_moments_may_be_stored_in_bfloat16() -> None:
    """They are rounded between steps and nowhere else: a float32 optimizer that rounds its state agrees exactly."""
    params = {"w": jax.random.normal(jax.random.key(0), (64,))}
    narrow, wide = make_optimizer(settings(state_dtype="bfloat16")), make_optimizer(settings())
    kept, rounded = narrow.init(params), wide.init(params)
    for number in range(3):
        gradient = {"w": jax.random.normal(jax.random.key(number + 1), (64,))}
        ours, kept = narrow.update(gradient, kept, params)
        theirs, rounded = wide.update(gradient, rounded, params)
        rounded = jax.tree.map(
            lambda x: x.astype(jnp.bfloat16).astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, rounded
        )
        np.testing.assert_array_equal(ours["w"], theirs["w"])
    assert {str(x.dtype) for x in jax.tree.leaves(kept) if x.ndim} == {"bfloat16"}
    assert {str(x.dtype) for x in jax.tree.leaves(wide.init(params)) if x.ndim} == {"float32"}
