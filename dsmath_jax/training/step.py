"""The jitted train step of every objective, and its state."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array

from dsmath_jax.models.decoder import Decoder
from dsmath_jax.models.lora import Frozen
from dsmath_jax.sharding import Layout
from dsmath_jax.training.objectives import Batch, Objective
from dsmath_jax.training.optimizer import select_updated
from dsmath_jax.workdir import UserError


class TrainState(NamedTuple):
    """Parameters and optimizer state: the contents of a checkpoint."""

    params: Any
    opt_state: Any


TrainStep = Any  # the jitted (state, batch) -> state, metrics
ALL_TRAINED = Frozen()


class StepWithFrozen:
    """A jitted step `(state, batch, frozen) -> state, metrics` with its frozen parameters: `(state, batch)`."""

    def __init__(self, step: Any, frozen: Any):
        self._step, self._frozen = step, frozen

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        return self._step(state, batch, self._frozen)

    def lower(self, state: Any, batch: Any) -> Any:
        """Lowers the step for these arguments, which may be abstract, as the frozen parameters may."""
        return self._step.lower(state, batch, self._frozen)


def init_state(
    make_params: Callable[..., Any], optimizer: optax.GradientTransformation, layout: Layout, *inputs: Any
) -> TrainState:
    """Initializes the state under jit, sharded from the start. `make_params(*inputs)` is traced."""

    def make(*inputs: Any) -> TrainState:
        params = make_params(*inputs)
        return TrainState(params, optimizer.init(params))

    return jax.jit(make, out_shardings=layout.param_shardings(jax.eval_shape(make, *inputs)))(*inputs)


def state_from_params(params: Any, optimizer: optax.GradientTransformation, layout: Layout) -> TrainState:
    """Returns the state at step 0 for existing parameters, which it takes over."""
    shardings = layout.param_shardings(jax.eval_shape(optimizer.init, params))
    return TrainState(params, jax.jit(optimizer.init, out_shardings=shardings)(params))


def abstract_state(
    make_params: Callable[..., Any], optimizer: optax.GradientTransformation, layout: Layout
) -> TrainState:
    """Returns shapes, dtypes and shardings of the result of `init_state`; nothing is allocated."""
    shapes = jax.eval_shape(lambda: TrainState(params := make_params(), optimizer.init(params)))
    return layout.abstract(shapes)


def check_batch_size(rows: int, grad_accum_steps: int, layout: Layout) -> None:
    """Raises a `UserError` where a batch is not divisible into micro-batches and shards of the mesh."""
    if rows % (grad_accum_steps * layout.batch_shards):
        raise UserError(
            f"A batch of {rows} rows is not divisible by grad_accum_steps={grad_accum_steps} times the mesh's "
            f"replica x fsdp = {layout.batch_shards}; change batch_size, grad_accum_steps or config.mesh."
        )


def make_train_step(
    objective: Objective,
    model: Decoder,
    optimizer: optax.GradientTransformation,
    layout: Layout,
    state: TrainState,
    grad_accum_steps: int = 1,
    frozen: Frozen = ALL_TRAINED,
) -> TrainStep:
    """Returns the jitted train step `(state, batch) -> state, metrics`; the state is donated.

    A batch whose weights are all 0 is skipped, since momentum and weight decay would change the parameters without a
    gradient. The state stays bitwise the same, apart from the count of the learning-rate schedule.

    Args:
      objective: sums of loss, weight and metrics over a batch.
      model: passed to the objective.
      optimizer: gets the gradient of loss_sum / weight_sum over the whole batch.
      layout: of the state and the batch.
      state: real or abstract, for its shapes.
      grad_accum_steps: micro-batches of a step, each of which must be divisible by the mesh's replica x fsdp.
      frozen: parameters that the objective gets with the state's, but that have no gradient: arguments of the compiled
        step, not part of its program. By default all parameters are the state's.

    Returns:
      the step; its metrics are loss, grad_norm, param_norm, step_skipped (1 where the batch has no weight, else 0) and
        the objective's metric sums over weight_sum.

    Raises:
      UserError: at the first call, where the rows are not divisible by micro-batches and mesh.
    """
    leaves, tree = jax.tree.flatten(layout.param_shardings(state))
    step = _jitted_step(objective, model, optimizer, layout, tuple(leaves), tree, grad_accum_steps, frozen.scale)
    return step if frozen.params is None else StepWithFrozen(step, frozen.params)


@functools.lru_cache(maxsize=8)  # an evicted one frees its programs
def _jitted_step(  # noqa: PLR0913
    objective: Objective,
    model: Decoder,
    optimizer: optax.GradientTransformation,
    layout: Layout,
    leaves: tuple[NamedSharding, ...],
    tree: Any,
    grad_accum_steps: int,
    scale: float,
) -> TrainStep:
    """Returns the train step; the same one, with what it has compiled, for equal arguments."""
    shardings = jax.tree.unflatten(tree, leaves)

    def sums(params: Any, frozen: Any, batch: Batch) -> tuple[Array, Any]:
        (loss, weight), metrics = objective(model, Frozen(frozen, scale).combine(params), batch)
        return loss, (weight, metrics)

    def gradient(params: Any, frozen: Any, batch: Batch) -> tuple[tuple[Array, Any], Any]:
        outputs, gradients = jax.value_and_grad(sums, has_aux=True)(params, frozen, batch)
        gradients = jax.lax.with_sharding_constraint(gradients, shardings.params)
        # The barrier keeps the reductions over devices inside the loop over micro-batches. XLA for TPU would move them
        # behind it, where every device would hold whole gradients, and fails at the reduce-scatters on the way.
        return outputs, jax.lax.optimization_barrier(gradients)

    def step(state: TrainState, batch: Batch, frozen: Any = None) -> tuple[TrainState, dict[str, Array]]:
        check_batch_size(len(jax.tree.leaves(batch)[0]), grad_accum_steps, layout)
        if grad_accum_steps == 1:
            total = gradient(state.params, frozen, batch)
        else:
            # Strided micro-batches: every device has some of its rows in each of them.
            micro = {n: jnp.moveaxis(x.reshape(-1, grad_accum_steps, *x.shape[1:]), 1, 0) for n, x in batch.items()}
            shapes = jax.eval_shape(gradient, state.params, frozen, jax.tree.map(lambda x: x[0], micro))
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            zeros = (zeros[0], jax.lax.with_sharding_constraint(zeros[1], shardings.params))
            total, _ = jax.lax.scan(
                lambda carry, part: (jax.tree.map(jnp.add, carry, gradient(state.params, frozen, part)), None),
                zeros,
                micro,
            )
        (loss, (weight, metrics)), gradients = total
        skipped = weight == 0
        weight = jnp.maximum(weight, 1e-9)  # a skipped step has a loss and a gradient of 0
        gradients = jax.tree.map(lambda g: g / weight, gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        # An elementwise select is fused into the update; `lax.cond` would need more memory.
        params = select_updated(skipped, optax.apply_updates(state.params, updates), state.params)
        opt_state = select_updated(skipped, opt_state, state.opt_state)
        scalars = {name: value / weight for name, value in metrics.items()}
        scalars |= {
            "loss": loss / weight,
            "grad_norm": optax.tree.norm(gradients),
            "param_norm": optax.tree.norm(params),
            "step_skipped": skipped.astype(jnp.float32),
        }
        return TrainState(params, opt_state), scalars

    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, layout.replicated))
