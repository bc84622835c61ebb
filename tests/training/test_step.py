"""The train step: the loss is NumPy's, and gradient accumulation changes nothing, also with uneven weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dsmath_jax.models.decoder import Decoder, lm_head
from dsmath_jax.sharding import Layout
from dsmath_jax.training.objectives import next_token
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.settings import TrainingSettings
from dsmath_jax.training.step import TrainState, init_state, make_train_step

ROWS, LENGTH = 8, 10


def make_batch(weights: str) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0)
    batch = {name: noise.integers(1, 23, (ROWS, LENGTH)).astype(np.int32) for name in ("tokens", "targets")}
    batch["segment_ids"] = np.ones((ROWS, LENGTH), np.int32)
    batch["positions"] = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH))
    learned = np.full(ROWS, LENGTH) if weights == "even" else np.array([1, 10, 2, 0, 7, 3, 0, 5])
    batch["loss_weights"] = (np.arange(LENGTH) < learned[:, None]).astype(np.float32)
    return batch


@pytest.fixture(scope="module")
def run_step(model: Decoder, params: Any, layout: Layout) -> Callable[..., tuple[Any, dict[str, float]]]:
    """One step of plain gradient descent (rate 1), so that the update is the gradient."""
    optimizer = optax.sgd(1.0)

    def run(batch: dict[str, np.ndarray], accumulate: int) -> tuple[Any, dict[str, float]]:
        state = TrainState(jax.tree.map(jnp.array, params), optimizer.init(params))
        after, scalars = make_train_step(next_token, model, optimizer, layout, state, accumulate)(state, batch)
        return jax.tree.map(np.subtract, params, after.params), {name: float(x) for name, x in scalars.items()}

    return run


def test_next_token_loss_is_numpys(model: Decoder, params: Any, run_step: Callable[..., Any]) -> None:
    batch = make_batch("uneven")
    read = {name: batch[name] for name in ("tokens", "positions", "segment_ids")}
    hidden = jax.jit(lambda params: model.apply({"params": params}, **read))(params)
    logits = np.float64(hidden) @ np.float64(lm_head(params, model.config))
    loss = weight = 0.0
    for b, t in np.argwhere(batch["loss_weights"] > 0):
        probabilities = np.exp(logits[b, t] - logits[b, t].max())
        loss -= np.log(probabilities[batch["targets"][b, t]] / probabilities.sum())
        weight += 1
    (loss_sum, weight_sum), _ = jax.jit(lambda params: next_token(model, params, batch))(params)
    assert float(weight_sum) == weight == 28
    assert float(loss_sum) == pytest.approx(loss, rel=1e-5)
    assert run_step(batch, 1)[1]["loss"] == pytest.approx(loss / weight, rel=1e-5)


def test_the_update_is_the_gradient_of_the_mean_loss(model: Decoder, params: Any, run_step: Callable[..., Any]) -> None:
    batch = make_batch("uneven")
    gradient = jax.jit(jax.grad(lambda params: next_token(model, params, batch)[0][0] / 28))(params)
    update, _ = run_step(batch, 1)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), update, gradient)


@pytest.mark.parametrize("weights", ["even", "uneven"])
def test_accumulation_changes_nothing(run_step: Callable[..., Any], weights: str) -> None:
    batch = make_batch(weights)
    (gradient, scalars), (summed, again) = run_step(batch, 1), run_step(batch, 4)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 1e-2
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(summed), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)
    assert again == pytest.approx(scalars, rel=1e-5)


def test_a_token_weighs_the_same_in_every_micro_batch(run_step: Callable[..., Any]) -> None:
    """The mean of micro-batch means would weigh the lone token of a short row ten times as much."""
    batch = make_batch("uneven")
    losses = []
    for first in range(4):
        part = {name: np.tile(x[first::4], (4, 1)) for name, x in batch.items()}
        losses.append(run_step(part, 1)[1]["loss"])
    means = float(np.mean(losses))
    assert run_step(batch, 4)[1]["loss"] != pytest.approx(means, rel=1e-2)


def test_scalars_include_the_norms(run_step: Callable[..., Any], params: Any) -> None:
    gradient, scalars = run_step(make_batch("even"), 1)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    assert scalars["grad_norm"] == pytest.approx(norm, rel=1e-4)
    after = jax.tree.map(np.subtract, params, gradient)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(after)))
    assert scalars["param_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.fixture(scope="module", params=[(1, "float32"), (4, "bfloat16")], ids=["whole", "accumulated"])
def adamw(request: pytest.FixtureRequest, model: Decoder, params: Any, layout: Layout) -> tuple[Any, TrainState]:
    """The compiled step with AdamW, and the state that it starts from."""
    accumulate, state_dtype = request.param
    settings = TrainingSettings(
        steps=10, schedule="multi_step", warmup_steps=4, peak_lr=1e-2, weight_decay=0.1, state_dtype=state_dtype
    )
    optimizer = make_optimizer(settings)
    start = TrainState(params, optimizer.init(params))
    step = make_train_step(next_token, model, optimizer, layout, start, accumulate)
    return step.lower(start, make_batch("even")).compile(), start


def test_equal_steps_are_compiled_once(model: Decoder, params: Any, layout: Layout) -> None:
    def step(**changes: Any) -> Any:
        optimizer = make_optimizer(TrainingSettings(steps=10, **changes))
        return make_train_step(next_token, model, optimizer, layout, TrainState(params, optimizer.init(params)))

    assert step(peak_lr=1e-2) is step(peak_lr=1e-2) is not step(peak_lr=2e-2)


def test_a_batch_without_weight_is_skipped(adamw: tuple[Any, TrainState]) -> None:
    """Neither momentum nor weight decay moves anything; the learning rate is that of the step's number all the same."""
    step, start = adamw
    full = make_batch("uneven")
    empty = full | {"loss_weights": np.zeros((ROWS, LENGTH), np.float32)}

    def run(batches: list[dict[str, np.ndarray]]) -> tuple[TrainState, dict[str, float]]:
        state: TrainState = jax.tree.map(jnp.array, start)
        for batch in batches:
            state, scalars = step(state, batch)
        return jax.tree.map(np.asarray, state), {name: float(x) for name, x in scalars.items()}

    before, scalars = run([full, full])
    assert scalars["step_skipped"] == 0.0
    after, scalars = run([full, full, empty])
    assert (scalars["loss"], scalars["grad_norm"], scalars["step_skipped"]) == (0.0, 0.0, 1.0)
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    changed = [(int(one), int(other)) for one, other in pairs if not np.array_equal(one, other)]
    assert changed == [(2, 3)]  # the schedule's count
    # The next update has the moments of two updates and the learning rate of step 3: 4/3 of that of step 2.
    states = before, run([full, full, full])[0], run([full, full, empty, full])[0]
    for old, third, fourth in zip(*(jax.tree.leaves(state.params) for state in states), strict=True):
        np.testing.assert_allclose(fourth - old, (third - old) * 4 / 3, rtol=1e-3, atol=1e-6)


def test_the_state_is_updated_in_place(adamw: tuple[Any, TrainState]) -> None:
    """Donated, all of it: a step that may be skipped holds no second copy."""
    step, start = adamw
    assert step.memory_analysis().alias_size_in_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(start))


def test_state_is_made_from_traced_parameters(layout: Layout) -> None:
    state = init_state(lambda: {"embedding": jnp.full((4, 2), 3.0)}, optax.adamw(1e-3), layout)
    np.testing.assert_array_equal(state.params["embedding"], 3.0)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert [leaf.shape for leaf in moments] == [(4, 2), (4, 2)]
