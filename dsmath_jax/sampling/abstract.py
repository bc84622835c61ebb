"""Abstract inputs of prefill and decode (shapes, dtypes, shardings), to compile them without allocating anything."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dsmath_jax.models.decoder import initial_params
from dsmath_jax.sampling.compaction import SlotShape, smaller_shapes
from dsmath_jax.sampling.engine import ChunkPlan, DecodeState, Engine, Slots, decode_shardings, state_axes
from dsmath_jax.sampling.token_sampling import SamplingArrays
from dsmath_jax.sharding import abstract


class EngineInputs(NamedTuple):
    """The arguments of `Engine.prefill` and of `Engine.decode` (which also takes its `mode`)."""

    prefill: tuple[Any, ...]
    decode: tuple[Any, ...]


class StateLengths(NamedTuple):
    """The positions of a prompt slot, of the ring of a decode slot, and for the shared prefix."""

    prompt: int
    ring: int
    shared: int = 0


def abstract_inputs(
    engine: Engine, shape: SlotShape, lengths: StateLengths, params: Any = None, sampling: SamplingArrays | None = None
) -> EngineInputs:
    """Returns the inputs for prompts that are prefilled together.

    Args:
      engine: of the programs.
      shape: the slots.
      lengths: of the state.
      params: the model's parameters, of which only shapes and dtypes are read; by default those of the decoder in
        float32.
      sampling: of which only shapes and dtypes are read; by default that without a thinking budget.
    """
    (prompt_slots, slots_per_prompt, _), layout = shape, engine.layout
    slots = prompt_slots * slots_per_prompt
    params = jax.eval_shape(lambda: initial_params(engine.model, jax.random.key(0))) if params is None else params
    shapes = jax.eval_shape(engine.decode_params, params)
    params = abstract(shapes, decode_shardings(shapes, layout))
    empty = jax.eval_shape(lambda: engine.empty_state(prompt_slots, slots_per_prompt, lengths.prompt, lengths.ring))
    if lengths.shared:
        one = jax.eval_shape(lambda: engine.empty_state(1, 1, lengths.shared, lengths.ring))
        empty = empty._replace(shared=one.prefix)
    state: DecodeState = abstract(empty, jax.tree.map(lambda x: layout.sharding(x.shape, state_axes(x.ndim)), empty))

    def array(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=layout.replicated)

    number, flag = array(slots), array(slots, dtype=bool)
    all_slots = Slots(
        num_tokens=number, limits=number, prompt_ids=number, samples=number, idle=flag, in_thought=flag,
        thinking_left=number, given=array(engine.chunk, slots), prompt_lengths=array(prompt_slots), num_shared=array(),
    )  # fmt: skip
    filters = SamplingArrays(array(dtype=jnp.float32), array(), array(dtype=jnp.float32))
    if sampling is not None:
        filters = jax.tree.map(lambda x: array(dtype=x.dtype), sampling)
    key = array(dtype=jax.eval_shape(lambda: jax.random.key(0)).dtype)
    return EngineInputs(
        (params, state, array(prompt_slots, lengths.prompt), array(prompt_slots), array(prompt_slots), array()),
        (params, state, all_slots, ChunkPlan(array(), array(), array()), key, filters),
    )


def inputs_ahead(
    engine: Engine, shape: SlotShape, rings: Sequence[int], longest: StateLengths, params: Any, sampling: SamplingArrays
) -> Iterator[tuple[Any, ...]]:
    """Yields the inputs of the decode programs that a call will probably need.

    All slots with each length of the rings, then fewer slots with the longest rings.
    """
    shapes = [(shape, ring) for ring in rings]
    shapes += [(smaller, longest.ring) for smaller in smaller_shapes(shape, longest.prompt, longest.ring)]
    for each, ring in shapes:
        yield abstract_inputs(engine, each, longest._replace(ring=ring), params, sampling).decode
