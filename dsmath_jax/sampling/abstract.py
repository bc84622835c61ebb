"""What prefill and decode take, as shapes and shardings of which nothing is allocated: to compile them anywhere."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dsmath_jax.models.llama import initial_params
from dsmath_jax.sampling.choosing import Settings
from dsmath_jax.sampling.engine import Engine, Plan, Slots, State, decode_params, decode_shardings
from dsmath_jax.sharding import abstract


class Inputs(NamedTuple):
    """The arguments of `Engine.prefill` and of `Engine.decode` (which also takes its `kind`)."""

    prefill: tuple[Any, ...]
    decode: tuple[Any, ...]


def abstract_inputs(engine: Engine, lanes: int, group: int, prompt_tokens: int, width: int) -> Inputs:
    """For `lanes` prompts of `prompt_tokens`, prefilled together, with `group` slots each of `width` cache places."""
    layout, rows = engine.layout, lanes * group
    shapes = jax.eval_shape(lambda: decode_params(initial_params(engine.model, jax.random.key(0)), engine.model.config))
    params = abstract(shapes, decode_shardings(shapes, layout))
    held = jax.eval_shape(lambda: engine.empty(lanes, group, prompt_tokens, width))
    axes = {4: "BK..", 2: "B."}  # keys and values, logits
    state: State = abstract(held, jax.tree.map(lambda x: layout.sharding(x.shape, axes[x.ndim]), held))

    def given(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=layout.replicated)

    slots = Slots(given(rows), given(rows), given(rows), given(rows, dtype=bool), given(lanes))
    settings = Settings(given(dtype=jnp.float32), given(), given(dtype=jnp.float32))
    key = given(dtype=jax.eval_shape(lambda: jax.random.key(0)).dtype)
    return Inputs(
        (params, state, given(lanes, prompt_tokens), given(lanes), given(lanes)),
        (params, state, slots, Plan(given(), given(), given()), key, settings),
    )
