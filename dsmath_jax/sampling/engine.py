"""The compiled part of sampling: the prefill of prompts, and chunks of decode steps over slots.

Axis letters: see `llama.py`; lanes are P prompts that are decoded together, each with the same number of slots, R in
all, lane by lane. A slot's keys and values lie in a ring of S places, which all slots write at the same place; keys
carry their rotary position, so the place means nothing, and a slot's own tokens are the last ones up to its age.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from dsmath_jax.models.attention import packed_attention
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.llama import PREFILLED, Block, Cache, Llama, Prefix, RMSNorm, head
from dsmath_jax.sampling.choosing import Choice, Given, Kind, Settings, choose
from dsmath_jax.sharding import Layout, path_name

KeysValues = tuple[Array, Array]


class State(NamedTuple):
    """What stays on the devices between chunks; donated to each."""

    own: tuple[KeysValues, ...]  # of each layer [R,K,S,H]
    prefix: tuple[KeysValues, ...]  # of each layer [P,K,Z,H]
    first_logits: Float[Array, "P V"]  # after each lane's prompt
    logits: Float[Array, "R V"]  # after each slot's last token


class Slots(NamedTuple):
    """What the slots are at; the host's, the same on every process."""

    ages: Int[Given, " R"]  # tokens drawn of the slot's sample so far; 0 starts from its lane's prompt
    prompt_ids: Int[Given, " R"]
    samples: Int[Given, " R"]
    idle: Bool[Given, " R"]
    prompt_lengths: Int[Given, " P"]


class Plan(NamedTuple):
    """How far a chunk goes; the host's."""

    place: Int[Given, ""]  # of the ring, for the first token
    steps: Int[Given, ""]  # at most
    idle: Int[Given, ""]  # stops when so many slots are idle


class Drawn(NamedTuple):
    """A chunk's tokens, a row for each of its N steps, of which `steps` were made."""

    choice: Choice  # of [N,R]
    steps: Int[Array, ""]


class Engine:
    """Compiled prefill and decode of one model on one mesh.

    Args:
      model: the decoder, built for `layout`.
      layout: lanes are spread over its replica and fsdp axes where they divide, heads over tensor.
      stop_ids: tokens that end a completion.
      max_new_tokens: its length limit.
      chunk: N, the most decode steps between two looks of the host.
      cache_dtype: of keys and values; "" for the model's compute dtype.
    """

    def __init__(
        self, model: Llama, layout: Layout, stop_ids: tuple[int, ...], max_new_tokens: int, chunk: int, cache_dtype: str
    ) -> None:
        self.model, self.layout, self.chunk = model, layout, chunk
        self._stop_ids, self._max_new = stop_ids, max_new_tokens
        self._cache_dtype = cache_dtype or model.config.compute_dtype
        self._constrain = layout.constrain
        self._prompt_layer = Block(model.config, model.constrain, packed_attention)
        self._layer = Block(model.config, model.constrain, model.attention)
        self._norm = RMSNorm(model.config.rms_norm_eps)
        self.empty = jax.jit(self._empty, static_argnums=(0, 1, 2, 3))
        self.prefill = jax.jit(self._prefill, donate_argnums=1)
        self.decode = jax.jit(self._decode, static_argnames="kind", donate_argnums=1)
        self.resize = jax.jit(self._resize, static_argnums=2)
        self._lay_out = jax.jit(functools.partial(decode_params, config=model.config))

    def put(self, params: Any) -> Any:
        """Parameters in the decode layout, from whatever layout they have on the same devices."""
        laid_out = self._lay_out(params)
        return jax.device_put(laid_out, decode_shardings(laid_out, self.layout))

    def _empty(self, lanes: int, group: int, prompt_width: int, width: int) -> State:
        """Lanes without prompts."""
        c = self.model.config

        def zeros(rows: int, places: int) -> tuple[KeysValues, ...]:
            shape = (rows, c.num_key_value_heads, places, c.head_dim)
            one = self._constrain(jnp.zeros(shape, self._cache_dtype), "BK..")
            return ((one, one),) * c.num_hidden_layers

        logits = functools.partial(jnp.zeros, dtype=jnp.float32)
        return State(
            zeros(lanes * group, width),
            zeros(lanes, prompt_width),
            self._constrain(logits((lanes, c.vocab_size)), "B."),
            self._constrain(logits((lanes * group, c.vocab_size)), "B."),
        )

    def _prefill(
        self, params: Any, state: State, tokens: Int[Array, "p T"], lengths: Int[Array, " p"], lanes: Int[Array, " p"]
    ) -> State:
        """Puts prompts into lanes; a lane that does not exist takes none. T is at most Z."""
        index = jnp.arange(tokens.shape[1])
        inside = (index < lengths[:, None]).astype(jnp.int32)
        positions = jnp.broadcast_to(index, tokens.shape)
        x = self._embed(params, tokens)
        prefix = []
        for layer, (old_k, old_v) in zip(params["layers"], state.prefix, strict=True):
            (x, _), kept = self._prompt_layer.apply({"params": layer}, x, positions, inside, mutable=[PREFILLED])
            [(k, v)] = kept[PREFILLED]["kv"]
            prefix.append((self._into(old_k, k, lanes), self._into(old_v, v, lanes)))
        last = jnp.take_along_axis(x, (lengths - 1)[:, None, None], axis=1)
        logits = state.first_logits.at[lanes].set(self._logits(params, last), mode="drop")
        return state._replace(prefix=tuple(prefix), first_logits=self._constrain(logits, "B."))

    def _into(self, old: Float[Array, "P K Z H"], new: Float[Array, "p K T H"], lanes: Int[Array, " p"]) -> Array:
        return self._constrain(old.at[lanes, :, : new.shape[2]].set(new.astype(old.dtype), mode="drop"), "BK..")

    def _decode(
        self, params: Any, state: State, slots: Slots, plan: Plan, key: Array, settings: Settings, *, kind: Kind
    ) -> tuple[State, Drawn]:
        """Draws up to `plan.steps` tokens of each slot; what an idle one draws means nothing."""
        rows, group = len(slots.ages), len(slots.ages) // len(slots.prompt_lengths)
        width, prompt_width = state.own[0][0].shape[2], state.prefix[0][0].shape[2]
        places = jnp.arange(width)
        starts = jnp.repeat(slots.prompt_lengths, group)
        seen = jnp.arange(prompt_width) < slots.prompt_lengths[:, None]
        keys = jax.vmap(lambda one, sample: jax.random.fold_in(jax.random.fold_in(key, one), sample))(
            slots.prompt_ids, slots.samples
        )
        first = jnp.repeat(state.first_logits, group, axis=0)
        logits = self._constrain(jnp.where((slots.ages == 0)[:, None], first, state.logits), "B.")
        blank = [jnp.zeros((self.chunk, rows), dtype) for dtype in (jnp.int32, jnp.float32, jnp.float32)]

        def going_on(carry: tuple) -> Array:
            drawn, idle = carry[-1], carry[-2]
            return (drawn.steps < plan.steps) & (jnp.sum(idle) < plan.idle)

        def one_step(carry: tuple) -> tuple:
            own, logits, ages, idle, drawn = carry
            choice = choose(logits, jax.vmap(jax.random.fold_in)(keys, ages), settings, kind)
            place = (plan.place + drawn.steps) % width
            distances = jnp.where(places > place, place + width, place) - places
            mask = (distances <= ages[:, None])[:, None]
            x = self._embed(params, choice.tokens[:, None])
            positions, ids = (starts + ages)[:, None], jnp.ones((rows, 1), jnp.int32)
            caches = []
            for layer, (k, v), (prefix_k, prefix_v) in zip(params["layers"], own, state.prefix, strict=True):
                cache = Cache(k, v, mask, place, Prefix(prefix_k, prefix_v, seen))
                x, kept = self._layer.apply({"params": layer}, x, positions, ids, cache)
                caches.append(kept)
            ended = jnp.any(choice.tokens[:, None] == jnp.array(self._stop_ids, jnp.int32), axis=1)
            records = Choice(*(old.at[drawn.steps].set(new) for old, new in zip(drawn.choice, choice, strict=True)))
            return (
                tuple(caches), self._logits(params, x), ages + ~idle,
                idle | ended | (ages + 1 >= self._max_new), Drawn(records, drawn.steps + 1),
            )  # fmt: skip

        carry = (state.own, logits, slots.ages, slots.idle, Drawn(Choice(*blank), jnp.int32(0)))
        own, logits, _, _, drawn = jax.lax.while_loop(going_on, one_step, carry)
        drawn = jax.lax.with_sharding_constraint(drawn, self.layout.replicated)
        return state._replace(own=own, logits=logits), drawn

    def _resize(self, own: tuple[KeysValues, ...], place: Array, width: int) -> tuple[KeysValues, ...]:
        """The rings with `width` places: the last written ones, in order from place 0 on."""
        old = own[0][0].shape[2]
        kept = min(old, width)
        taken = (place - kept + jnp.arange(kept)) % old

        def one(x: Array) -> Array:
            return self._constrain(jnp.pad(x[:, :, taken], ((0, 0), (0, 0), (0, width - kept), (0, 0))), "BK..")

        return jax.tree.map(one, own)

    def _embed(self, params: Any, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        return self._constrain(params["embedding"][tokens], "BTD")

    def _logits(self, params: Any, x: Float[Array, "B 1 D"]) -> Float[Array, "B V"]:
        hidden: Any = self._norm.apply({"params": params["final_norm"]}, x)
        return self._constrain(jnp.dot(hidden[:, 0], params["output"], preferred_element_type=jnp.float32), "B.")


def decode_params(params: Any, config: ModelConfig) -> Any:
    """Parameters as decoding reads them: in the compute dtype, each layer's arrays apart, the output matrix `[D,V]`.

    Slices of stacked layers would be copied in every step.
    """
    dtype = config.compute_dtype
    return {
        "embedding": params["embedding"].astype(dtype),
        "layers": tuple(
            jax.tree.map(lambda x: x[i] if x.ndim == 2 else x[i].astype(dtype), params["layers"])  # noqa: B023
            for i in range(config.num_hidden_layers)
        ),
        "final_norm": params["final_norm"],
        "output": head(params, config),
    }


def decode_shardings(params: Any, layout: Layout) -> Any:
    """Where `decode_params` lie: as the rules say, but whole over fsdp, over whose devices the rows are spread."""

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        if path_name(path) == "output":
            return layout.sharding(leaf.shape, "DV")
        stacked = path_name(path).startswith("layers/")
        name = "/".join(part for part in path_name(path).split("/") if not part.isdigit())
        spec = layout.param_spec(name, (1,) * stacked + leaf.shape)[stacked:]
        return NamedSharding(layout.mesh, PartitionSpec(*(None if axis == "fsdp" else axis for axis in spec)))

    return jax.tree_util.tree_map_with_path(one, params)
