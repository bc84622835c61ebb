"""The compiled part of the sampler: prefill of prompts, and chunks of decode steps over slots.

Axis letters: see `decoder.py`; C decode steps of a chunk, p prompts of a prefill, U positions of the shared prefix, the
tokens that all prompts of a call begin with. There are P prompt slots, each with the same number of decode slots, R in
all, prompt-major. The KV cache of a decode slot is a ring of S positions; all slots write at the same position. Keys
are rotated before they are stored, so their order in the ring does not matter: `token_indices` says which token of the
slot's completion an entry is of. A slot that waits writes unused entries.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from dsmath_jax.models.attention import packed_attention
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import (
    PREFILLED,
    Block,
    Cache,
    Decoder,
    Prefix,
    embed,
    final_norm,
    lm_head,
    output_logits,
)
from dsmath_jax.models.quantization import INT8, Quantized, quantize, quantize_layer, stored, stored_like, zeros
from dsmath_jax.sampling.compaction import Compaction
from dsmath_jax.sampling.dtypes import DecodeDtypes
from dsmath_jax.sampling.programs import DecodePrograms
from dsmath_jax.sampling.shared_prefix import attention_after, shared_positions
from dsmath_jax.sampling.token_sampling import (
    HostArray,
    SampledTokens,
    SamplingArrays,
    SamplingMode,
    end_thoughts,
    insert_tokens,
    sample_tokens,
)
from dsmath_jax.sharding import Layout, path_name

LayerKV = tuple[Array | Quantized, Array | Quantized]
UNUSED = np.iinfo(np.int32).max  # the index of cache entries without a token
SAMPLED = -1


class DecodeState(NamedTuple):
    """The state on the devices between chunks, which each chunk donates."""

    cache: tuple[LayerKV, ...]  # by layer, [R,K,S,H]: of completions
    prefix: tuple[LayerKV, ...]  # by layer, [P,K,Z,H]: of prompts, after the shared prefix
    shared: tuple[LayerKV, ...]  # by layer, [1,K,U,H]: of the shared prefix, at the end; () where it is short
    token_indices: Int[Array, "R S"]  # of each cache entry's token in the slot's completion; UNUSED for none
    prompt_logits: Float[Array, "P V"]  # after each prompt
    logits: Float[Array, "R V"]  # after each slot's last token


class Slots(NamedTuple):
    """The state of the slots on the host, the same on every process."""

    num_tokens: Int[HostArray, " R"]  # of the slot's completion so far; at 0 it starts from its prompt
    limits: Int[HostArray, " R"]  # tokens of a completion at most
    prompt_ids: Int[HostArray, " R"]
    samples: Int[HostArray, " R"]
    idle: Bool[HostArray, " R"]
    in_thought: Bool[HostArray, " R"]  # whether the slot is in a thought, with a thinking budget
    thinking_left: Int[HostArray, " R"]  # tokens of a completion before its thought is ended
    given: Int[HostArray, "C R"]  # the next tokens where they are not sampled; SAMPLED where they are
    prompt_lengths: Int[HostArray, " P"]
    num_shared: Int[HostArray, ""]  # tokens of the shared prefix; not counted in `prompt_lengths`


class ChunkPlan(NamedTuple):
    """Where a chunk of decode steps begins in the ring, and when it stops."""

    position: Int[HostArray, ""]  # in the ring, of the first token
    max_steps: Int[HostArray, ""]
    max_idle: Int[HostArray, ""]  # the chunk stops when this many slots are idle


class DecodeOutput(NamedTuple):
    """The tokens of a chunk: C rows, of which the first `num_steps` are filled."""

    sampled: SampledTokens  # [C,R]
    num_steps: Int[Array, ""]


class Engine:
    """Compiled prefill and decode of one model on one mesh.

    Args:
      model: the decoder, built for `layout`.
      layout: slots are split over its replica and fsdp axes if divisible, heads over tensor.
      stop_ids: tokens that end a completion.
      chunk: C, the maximum number of decode steps of a chunk.
      dtypes: of KV cache and weights.
    """

    def __init__(
        self,
        model: Decoder,
        layout: Layout,
        stop_ids: tuple[int, ...],
        chunk: int,
        dtypes: DecodeDtypes,
    ) -> None:
        self.model, self.layout, self.chunk = model, layout, chunk
        self._stop_ids = stop_ids
        self._cache_dtype = dtypes.cache_dtype or model.config.compute_dtype
        self._constrain = layout.constrain
        self._decode_layer = Block(model.config, model.constrain, model.attention)
        self._norm = final_norm(model.config)
        self.empty_state = jax.jit(self._empty, static_argnums=(0, 1, 2, 3))
        self.prefill_shared = jax.jit(self._prefill_shared)
        self.prefill = jax.jit(self._prefill, donate_argnums=1)
        self.decode = jax.jit(self._decode, static_argnames="mode", donate_argnums=1)
        self.decode_programs = DecodePrograms(self.decode)
        self.resize_ring = jax.jit(self._resize_ring, static_argnums=2)
        self.resize_prefix = jax.jit(self._resize_prefix, static_argnums=1)
        self.take_rows = jax.jit(self._take_rows)
        self.decode_params = jax.jit(
            functools.partial(decode_params, config=model.config, dtype=dtypes.decode_weight_dtype)
        )

    def prepare_params(self, params: Any) -> Any:
        """Returns parameters in the decode layout, from any layout on the same devices."""
        params = self.decode_params(params)
        return jax.device_put(params, decode_shardings(params, self.layout))

    def _empty(self, prompt_slots: int, slots_per_prompt: int, prompt_length: int, cache_length: int) -> DecodeState:
        """Returns the state without any prompts."""
        c = self.model.config

        def empty(rows: int, positions: int) -> tuple[LayerKV, ...]:
            x = self._constrain_kv(zeros((rows, c.num_key_value_heads, positions, c.head_dim), self._cache_dtype))
            return ((x, x),) * c.num_hidden_layers

        slots = prompt_slots * slots_per_prompt
        logits = functools.partial(jnp.zeros, dtype=jnp.float32)
        return DecodeState(
            empty(slots, cache_length),
            empty(prompt_slots, prompt_length),
            (),
            self._constrain(jnp.full((slots, cache_length), UNUSED), "B."),
            self._constrain(logits((prompt_slots, c.vocab_size)), "B."),
            self._constrain(logits((slots, c.vocab_size)), "B."),
        )

    def _prefill_shared(self, params: Any, tokens: Int[Array, "1 U"], length: Int[Array, ""]) -> tuple[LayerKV, ...]:
        """Returns the keys and values of the last `length` tokens; those before them are padding."""
        positions = jnp.arange(tokens.shape[1])[None] - (tokens.shape[1] - length)
        _, layers = self._forward(params, tokens, positions, (positions >= 0).astype(jnp.int32), ())
        return jax.tree.map(lambda x: self._constrain_kv(stored(x, self._cache_dtype)), layers)

    def _prefill(
        self, params: Any, state: DecodeState, tokens: Int[Array, "p T"], lengths: Int[Array, " p"],
        prompt_slots: Int[Array, " p"], num_shared: Int[Array, ""],
    ) -> DecodeState:  # fmt: skip
        """Runs the model on prompts and writes them into prompt slots; T is at most Z.

        Rows whose prompt slot is out of range are dropped. `num_shared` tokens are before those of each prompt.
        """
        index = jnp.arange(tokens.shape[1])
        segment_ids = (index < lengths[:, None]).astype(jnp.int32)
        positions = jnp.broadcast_to(num_shared + index, tokens.shape)
        x, layers = self._forward(params, tokens, positions, segment_ids, state.shared)
        insert = functools.partial(self._insert, slots=prompt_slots)
        pairs = zip(state.prefix, layers, strict=True)
        prefix = tuple((insert(old_k, k), insert(old_v, v)) for (old_k, old_v), (k, v) in pairs)
        last = jnp.take_along_axis(x, (lengths - 1)[:, None, None], axis=1)
        logits = state.prompt_logits.at[prompt_slots].set(self._logits(params, last), mode="drop")
        return state._replace(prefix=prefix, prompt_logits=self._constrain(logits, "B."))

    def _forward(
        self, params: Any, tokens: Int[Array, "p T"], positions: Int[Array, "p T"], segment_ids: Int[Array, "p T"],
        shared: tuple[LayerKV, ...],
    ) -> tuple[Float[Array, "p T D"], tuple[tuple[Array, Array], ...]]:  # fmt: skip
        """Returns hidden states before the final norm, and keys and values `[p,K,T,H]` of each layer.

        The last U positions before the tokens are those of `shared`; what is before `positions` 0 is padding.
        """
        c, x, kv = self.model.config, self._embed(params, tokens), []
        for layer, sliding, before in zip(
            params["layers"], c.sliding_layers, shared or [None] * c.num_hidden_layers, strict=True
        ):
            attention = packed_attention if before is None else attention_after(*before, positions[0, 0])
            block = Block(c, self.model.constrain, attention)
            (x, _), sown = block.apply({"params": layer}, x, positions, segment_ids, sliding, mutable=[PREFILLED])
            kv.append(sown[PREFILLED]["kv"][0])
        return x, tuple(kv)

    def _insert(
        self, old: Float[Array, "P K Z H"] | Quantized, new: Float[Array, "p K T H"], slots: Int[Array, " p"]
    ) -> Array | Quantized:
        insert = lambda old, new: old.at[slots, :, : new.shape[2]].set(new, mode="drop")  # noqa: E731
        return self._constrain_kv(jax.tree.map(insert, old, stored_like(new, old)))

    def _constrain_kv(self, x: Array | Quantized) -> Array | Quantized:
        return jax.tree.map(self._constrain_rows, x)

    def _constrain_rows(self, x: Array) -> Array:
        return self._constrain(x, state_axes(x.ndim))

    def _decode(
        self, params: Any, state: DecodeState, slots: Slots, plan: ChunkPlan, key: Array, sampling: SamplingArrays, *,
        mode: SamplingMode,
    ) -> tuple[DecodeState, DecodeOutput]:  # fmt: skip
        """Generates up to `plan.max_steps` tokens in each slot; tokens of idle slots are undefined."""
        rows, slots_per_prompt = len(slots.num_tokens), len(slots.num_tokens) // len(slots.prompt_lengths)
        cache_length, prompt_length = state.cache[0][0].shape[2], state.prefix[0][0].shape[2]
        prompt_lengths = slots.num_shared + jnp.repeat(slots.prompt_lengths, slots_per_prompt)
        prefix_mask = jnp.arange(prompt_length) < slots.prompt_lengths[:, None]
        num_padded = state.shared[0][0].shape[2] if state.shared else 0
        positions_of_shared = shared_positions(num_padded, slots.num_shared)
        prefixes = [*zip(state.prefix, state.shared, strict=True)] if state.shared else [(kv,) for kv in state.prefix]
        keys = jax.vmap(lambda prompt, sample: jax.random.fold_in(jax.random.fold_in(key, prompt), sample))(
            slots.prompt_ids, slots.samples
        )
        first = jnp.repeat(state.prompt_logits, slots_per_prompt, axis=0)
        logits = self._constrain(jnp.where((slots.num_tokens == 0)[:, None], first, state.logits), "B.")
        # Entries of an earlier completion of the slot, and of tokens after its end, which were dropped.
        index = jnp.where(state.token_indices < slots.num_tokens[:, None], state.token_indices, UNUSED)
        blank = [jnp.zeros((self.chunk, rows), dtype) for dtype in (jnp.int32, jnp.float32, jnp.float32, bool)]

        def keep_decoding(carry: tuple) -> Array:
            idle, output = carry[-2:]
            return (output.num_steps < plan.max_steps) & (jnp.sum(idle) < plan.max_idle)

        def decode_step(carry: tuple) -> tuple:
            cache, index, logits, thinking, num_tokens, idle, output = carry
            sampled = sample_tokens(logits, jax.vmap(jax.random.fold_in)(keys, num_tokens), sampling, mode)
            given = slots.given[output.num_steps]
            is_given, over = given != SAMPLED, num_tokens >= slots.thinking_left
            sampled = insert_tokens(sampled, given, is_given)
            sampled, thinking = end_thoughts(sampled, thinking, over & ~is_given, sampling.marks)
            position = (plan.position + output.num_steps) % cache_length
            index = index.at[:, position].set(jnp.where(idle, UNUSED, num_tokens))
            mask = (index <= num_tokens[:, None])[:, None]
            x = self._embed(params, sampled.tokens[:, None])
            positions, segment_ids = (prompt_lengths + num_tokens)[:, None], jnp.ones((rows, 1), jnp.int32)
            # By whether the layer has the sliding window: of the ring, the prompt, and the shared prefix.
            masks = {False: (mask, prefix_mask, positions_of_shared >= 0)}
            if window := self.model.config.sliding_window:
                in_window = positions - slots.num_shared - jnp.arange(prompt_length) < window
                masks[True] = (
                    mask & (num_tokens[:, None] - index < window)[:, None],
                    jnp.repeat(prefix_mask, slots_per_prompt, axis=0) & in_window,
                    (positions_of_shared >= 0) & (positions - positions_of_shared < window),
                )
            new_cache = []
            layers = zip(params["layers"], self.model.config.sliding_layers, cache, prefixes, strict=True)
            for layer, sliding, (k, v), kv in layers:
                own_mask, *others = masks[sliding]
                layer_prefixes = [Prefix(*each, mask) for each, mask in zip(kv, others, strict=False)]
                layer_cache = Cache(k, v, own_mask, position, layer_prefixes)
                x, new_kv = self._decode_layer.apply({"params": layer}, x, positions, segment_ids, sliding, layer_cache)
                new_cache.append(new_kv)
            is_stop = jnp.any(sampled.tokens[:, None] == jnp.array(self._stop_ids, jnp.int32), axis=1)
            ended = (is_stop & ~is_given) | (num_tokens + 1 >= slots.limits)
            history = jax.tree.map(lambda old, new: old.at[output.num_steps].set(new), output.sampled, sampled)
            return (
                tuple(new_cache), index, self._logits(params, x), thinking, num_tokens + ~idle, idle | ended,
                DecodeOutput(history, output.num_steps + 1),
            )  # fmt: skip

        output = DecodeOutput(SampledTokens(*blank), jnp.int32(0))
        carry = (state.cache, index, logits, slots.in_thought, slots.num_tokens, slots.idle, output)
        cache, index, logits, _, _, _, output = jax.lax.while_loop(keep_decoding, decode_step, carry)
        output = jax.lax.with_sharding_constraint(output, self.layout.replicated)
        return state._replace(cache=cache, token_indices=index, logits=logits), output

    def resize(self, state: DecodeState, position: int, length: int) -> DecodeState:
        """Returns the state with rings of `length` positions: the last written entries, in order from position 0 on.

        Deletes each ring of the given state before it resizes the next one, so that the devices never hold more than
        one of them twice.
        """
        rings = _replace_each((state.cache, state.token_indices), lambda x: self.resize_ring(x, position, length))
        return state._replace(cache=rings[0], token_indices=rings[1])

    def resize_prompts(self, state: DecodeState, length: int) -> DecodeState:
        """Returns the state with prompt slots of `length` positions; deletes those of the given state."""
        return state._replace(prefix=_replace_each(state.prefix, lambda x: self.resize_prefix(x, length)))

    def compact(self, state: DecodeState, compaction: Compaction) -> DecodeState:
        """Returns the state of the remaining slots; deletes what it replaces, like `resize`."""
        rows, prompts = compaction.rows, compaction.prompt_slots
        own = state.cache, state.token_indices, state.logits
        cache, token_indices, logits = _replace_each(own, lambda x: self.take_rows(x, rows))
        state = state._replace(cache=cache, token_indices=token_indices, logits=logits)
        if prompts is None:
            return state
        prefix = _replace_each((state.prefix, state.prompt_logits), lambda x: self.take_rows(x, prompts))
        return state._replace(prefix=prefix[0], prompt_logits=prefix[1])

    def _resize_ring(self, ring: Array, position: Int[HostArray, ""], length: int) -> Array:
        """Resizes keys or values of a layer `[R,K,S,H]`, their scales `[R,K,S]`, or the indices of tokens `[R,S]`."""
        axis, fill = (2, 0) if ring.ndim > 2 else (1, UNUSED)
        count = min(ring.shape[axis], length)
        entries = (position - count + jnp.arange(count)) % ring.shape[axis]
        padding = [(0, length - count if i == axis else 0) for i in range(ring.ndim)]
        last = jnp.take(ring, entries, axis, mode="clip")
        return self._constrain_rows(jnp.pad(last, padding, constant_values=fill))

    def _resize_prefix(self, prefix: Array, length: int) -> Array:
        """Resizes keys or values `[P,K,Z,H]`, or their scales `[P,K,Z]`."""
        padding = [(0, max(0, length - prefix.shape[2]) if i == 2 else 0) for i in range(prefix.ndim)]
        return self._constrain_rows(jnp.pad(prefix[:, :, :length], padding))

    def _take_rows(self, x: Array, rows: Int[HostArray, "b n"]) -> Array:
        """Returns these rows of each of b blocks of rows; where a row is EMPTY, any."""
        blocks = x.reshape(len(rows), -1, *x.shape[1:])
        taken = jax.vmap(lambda block, of: block.at[of].get(mode="clip"))(blocks, jnp.asarray(rows))
        return self._constrain_rows(taken.reshape(-1, *x.shape[1:]))

    def _embed(self, params: Any, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        return self._constrain(embed(params["embedding"], tokens, self.model.config), "BTD")

    def _logits(self, params: Any, x: Float[Array, "B 1 D"]) -> Float[Array, "B V"]:
        hidden: Any = self._norm.apply({"params": params["final_norm"]}, x)
        # Each device computes its part of the vocabulary. The logits are gathered: they are smaller than the matrix.
        logits = self._constrain(output_logits(hidden[:, 0], params["output"], self.model.config), "BV")
        return self._constrain(logits.astype(jnp.float32), "B.")


def state_axes(ndim: int) -> str:
    """Returns the axis letters of an array of the state: keys and values, their scales, or logits and indices."""
    return {4: "BK..", 3: "BK.", 2: "B."}[ndim]


def _replace_each(arrays: Any, make: Callable[[Array], Array]) -> Any:
    """Makes a tree of arrays from another one; deletes each array before it makes the next one."""

    def replace(x: Array) -> Array:
        made = jax.block_until_ready(make(x))
        x.delete()
        return made

    return jax.tree.map(replace, arrays)


def decode_params(params: Any, config: ModelConfig, dtype: str = "") -> Any:
    """Returns parameters for decoding: in the compute dtype, unstacked by layer, with the output matrix `[D,V]`.

    Slices of stacked layers would be copied in every step. With "int8" as the dtype, the matrices of the layers and the
    output matrix are quantized.
    """
    compute_dtype = config.compute_dtype
    layers = tuple(
        jax.tree.map(lambda x: x[i] if x.ndim == 2 else x[i].astype(compute_dtype), params["layers"])  # noqa: B023
        for i in range(config.num_hidden_layers)
    )
    output = lm_head(params, config)
    return {
        "embedding": params["embedding"].astype(compute_dtype),
        "layers": tuple(map(quantize_layer, layers)) if dtype == INT8 else layers,
        "final_norm": params["final_norm"],
        "output": quantize(output, axes=(0,)) if dtype == INT8 else output,
    }


def decode_shardings(params: Any, layout: Layout) -> Any:
    """Returns the shardings of `decode_params`: by the partition rules, but replicated over fsdp, which splits rows."""

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        if path_name(path[:1]) == "output":
            return layout.sharding(leaf.shape, "DV"[-leaf.ndim :])  # of a quantized matrix also the scales [V]
        stacked = path_name(path).startswith("layers/")
        name = "/".join(part for part in path_name(path).split("/") if not part.isdigit())
        spec = layout.param_spec(name, (1,) * stacked + leaf.shape)[stacked:]
        return NamedSharding(layout.mesh, PartitionSpec(*(None if axis == "fsdp" else axis for axis in spec)))

    return jax.tree_util.tree_map_with_path(sharding, params)
