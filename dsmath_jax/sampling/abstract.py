"""Abstract inputs of prefill and decode (shapes, dtypes, shardings), to compile them without allocating anything."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dsmath_jax.models.decoder import initial_params
from dsmath_jax.sampling.engine import ChunkPlan, DecodeState, Engine, Slots, decode_shardings
from dsmath_jax.sampling.token_sampling import SamplingArrays
from dsmath_jax.sharding import abstract


class EngineInputs(NamedTuple):
    """The arguments of `Engine.prefill` and of `Engine.decode` (which also takes its `mode`)."""

    prefill: tuple[Any, ...]
    decode: tuple[Any, ...]


def abstract_inputs(
    engine: Engine, prompt_slots: int, slots_per_prompt: int, prompt_length: int, cache_length: int, params: Any = None
) -> EngineInputs:
    """Returns the inputs for `prompt_slots` prompts prefilled together, with `slots_per_prompt` decode slots each.

    Prompts are padded to `prompt_length` tokens; the cache of a slot has `cache_length` positions. There is no thinking
    budget. `params` are the abstract parameters, by default those of the decoder in float32.
    """
    layout, slots = engine.layout, prompt_slots * slots_per_prompt
    params = jax.eval_shape(lambda: initial_params(engine.model, jax.random.key(0))) if params is None else params
    shapes = jax.eval_shape(engine.decode_params, params)
    params = abstract(shapes, decode_shardings(shapes, layout))
    empty = jax.eval_shape(lambda: engine.empty_state(prompt_slots, slots_per_prompt, prompt_length, cache_length))
    axes = {4: "BK..", 3: "BK.", 2: "B."}  # keys and values; their scales; logits and indices
    state: DecodeState = abstract(empty, jax.tree.map(lambda x: layout.sharding(x.shape, axes[x.ndim]), empty))

    def array(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=layout.replicated)

    number, flag = array(slots), array(slots, dtype=bool)
    all_slots = Slots(
        num_tokens=number, limits=number, prompt_ids=number, samples=number, idle=flag, in_thought=flag,
        thinking_left=number, given=array(engine.chunk, slots), prompt_lengths=array(prompt_slots),
    )  # fmt: skip
    sampling = SamplingArrays(array(dtype=jnp.float32), array(), array(dtype=jnp.float32))
    key = array(dtype=jax.eval_shape(lambda: jax.random.key(0)).dtype)
    return EngineInputs(
        (params, state, array(prompt_slots, prompt_length), array(prompt_slots), array(prompt_slots)),
        (params, state, all_slots, ChunkPlan(array(), array(), array()), key, sampling),
    )
