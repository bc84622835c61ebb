"""The LLaMA-architecture decoder (paper §2.2, §2.3): RMSNorm, rotary embeddings, grouped-query attention, SwiGLU.

Axis letters: B batch, T tokens, D model, N query heads, K key/value heads, H head size, F feed-forward, V vocabulary,
L layers, S cache positions, Z prompt positions, R rows of a decode batch, P prompts. The model does not depend on the
mesh: its attributes `constrain`, `attention` and `map_row_shards` do.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dsmath_jax.models.attention import RESIDUALS, cached_attention, packed_attention
from dsmath_jax.models.config import ModelConfig

Params = Any
Constrain = Callable[[Array, str], Array]
Attention = Callable[[Array, Array, Array, Array], Array]

MapRowShards = Callable[[Callable[..., Any], Sequence[Array], Array], Any]

_policies = jax.checkpoint_policies
# What is saved of a layer for the backward pass, from everything to its input alone; the rest is recomputed.
REMAT: dict[str, Any] = {
    "none": _policies.everything_saveable,
    "minimal": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(RESIDUALS)
    ),  # products with weights, and the residuals of attention
    "dots": _policies.dots_with_no_batch_dims_saveable,  # products with weights
    "full": _policies.nothing_saveable,
}

PREFILLED = "prefilled"  # Flax's variable collection of the keys and values of a prefill


class Prefix(NamedTuple):
    """One layer's keys and values of P prompts, read-only, each shared by the R/P rows of its group (prompt-major)."""

    k: Float[Array, "P K Z H"]
    v: Float[Array, "P K Z H"]
    mask: Bool[Array, "P Z"]


class Cache(NamedTuple):
    """One layer's KV cache of each row. New keys and values are written at `position`, the same for all rows.

    Its dtype may be narrower than the compute dtype.
    """

    k: Float[Array, "R K S H"]
    v: Float[Array, "R K S H"]
    mask: Bool[Array, "R T S"]  # the positions that the tokens of this call attend to, including their own
    position: Int[Array, ""]
    prefix: Prefix  # every token attends to it too


def no_constraint(x: Array, axes: str) -> Array:
    """The `constrain` of a single device."""
    del axes
    return x


def map_unsharded(f: Callable[..., Any], rows: Sequence[Array], matrix: Array) -> Any:
    """The `map_row_shards` of a single device."""
    return f(*rows, matrix)


def gather_weight(weight: Array, axes: str, constrain: Constrain) -> Array:
    """Gathers a sharded weight, given by its axis letters; its gradient is reduce-scattered.

    With a plain sharding constraint, every device would first sum the whole gradient.
    """

    @jax.custom_vjp
    def gather(weight: Array) -> Array:
        return constrain(weight, axes)

    gather.defvjp(lambda weight: (gather(weight), None), lambda _, d: (constrain(d, axes.replace("D", "d")),))
    return gather(weight)


def rotary(
    x: Float[Array, "B T N H"], positions: Int[Array, "B T"], theta: float, scaling: float = 1.0
) -> Float[Array, "B T N H"]:
    """Applies rotary position embeddings, in float32; the two halves of a head are paired as in Hugging Face's LLaMA.

    Linear `scaling` divides the positions (Chen et al. 2023, arXiv 2306.15595).
    """
    half = x.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half) / scaling
    angles = positions[:, :, None, None].astype(jnp.float32) * frequencies
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x.dtype)


def project(x: Array, weight: Array, inputs: int = 1) -> Array:
    """Contracts the last `inputs` axes of `x` with the first of `weight`: `[..., *in] x [*in, *out] -> [..., *out]`.

    As a two-dimensional product: the backward pass of an einsum is three times slower on XLA's CPU backend.
    """
    rows = x.reshape(-1, math.prod(weight.shape[:inputs]))
    out = rows @ weight.reshape(rows.shape[1], -1)
    return out.reshape(*x.shape[: x.ndim - inputs], *weight.shape[inputs:])


class RMSNorm(nn.Module):
    """RMS normalization with a learned scale, computed in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps)
        return (x32 * scale).astype(x.dtype)


class Block(nn.Module):
    """One decoder layer: attention and feed-forward, each with a norm before and a residual connection."""

    config: ModelConfig
    constrain: Constrain
    attention: Attention

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T D"], tuple[Array, Array] | None]:
        """Returns the layer's output and the updated keys and values of the cache.

        Without a cache, `attention` runs over the tokens and the second result is None; their keys and values
        `[B,K,T,H]` are sown into the collection `PREFILLED` if it is mutable.
        """
        c, dtype = self.config, self.config.compute_dtype

        sizes = {
            "D": c.hidden_size, "N": c.num_attention_heads, "K": c.num_key_value_heads, "H": c.head_dim,
            "F": c.intermediate_size,
        }  # fmt: skip

        def weight(name: str, axes: str, inputs: int = 1) -> Array:
            # Cast to the compute dtype before the gather: half the bytes.
            shape = tuple(sizes[axis] for axis in axes)
            initial = nn.initializers.normal(math.prod(shape[:inputs]) ** -0.5)
            return gather_weight(self.param(name, initial, shape, jnp.float32).astype(dtype), axes, self.constrain)

        def rotated(x: Array) -> Array:
            return rotary(x, positions, c.rope_theta, c.rope_scaling)

        y = RMSNorm(c.rms_norm_eps, name="attention_norm")(x)
        q = rotated(project(y, weight("q", "DNH")))
        k = rotated(project(y, weight("k", "DKH")))
        v = project(y, weight("v", "DKH"))
        q, k, v = self.constrain(q, "BTNH"), self.constrain(k, "BTKH"), self.constrain(v, "BTKH")
        if cache is None:
            new_kv = None
            self.sow(PREFILLED, "kv", (k.swapaxes(1, 2), v.swapaxes(1, 2)))
            out = self.attention(q, k, v, segment_ids)
        else:
            # XLA writes in place if the caller donates the cache.
            new_kv = _write(cache.k, k, cache.position), _write(cache.v, v, cache.position)
            out = cached_attention(q, *new_kv, cache.mask, cache.prefix)
        x = self.constrain(x + project(out, weight("o", "NHD", inputs=2), inputs=2), "BTD")

        y = RMSNorm(c.rms_norm_eps, name="feed_forward_norm")(x)
        inner = self.constrain(nn.silu(project(y, weight("gate", "DF"))) * project(y, weight("up", "DF")), "BTF")
        x = x + project(inner, weight("down", "FD"))
        return self.constrain(x, "BTD"), new_kv


def _write(old: Float[Array, "R K S H"], new: Float[Array, "R T K H"], position: Int[Array, ""]) -> Array:
    return jax.lax.dynamic_update_slice(old, new.swapaxes(1, 2).astype(old.dtype), (0, 0, position, 0))


class Llama(nn.Module):
    """The decoder: maps tokens to final hidden states, whose product with `lm_head(params, config)` is the logits.

    Attributes:
      constrain: `constrain(x, "BTD")` sets an array's sharding by its axis letters.
      attention: `attention(q, k, v, segment_ids)`, causal within segments.
      map_row_shards: `map_row_shards(f, rows, matrix)` calls `f(*rows, matrix)` on each device's shard of the rows.
    """

    config: ModelConfig
    constrain: Constrain = no_constraint
    attention: Attention = packed_attention
    map_row_shards: MapRowShards = map_unsharded

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
    ) -> Float[Array, "B T D"]:
        """Returns the hidden states after the final norm, in the compute dtype."""
        c = self.config
        embedding = self.param("embedding", nn.initializers.normal(0.02), (c.vocab_size, c.hidden_size), jnp.float32)
        if not c.tie_word_embeddings:
            self.param("head", nn.initializers.normal(c.hidden_size**-0.5), (c.hidden_size, c.vocab_size), jnp.float32)
        x = self.constrain(gather_weight(embedding.astype(c.compute_dtype), "VD", self.constrain)[tokens], "BTD")
        block = nn.remat(Block, policy=REMAT[c.remat], prevent_cse=False) if c.remat != "none" else Block
        layers = nn.scan(
            block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast,
            length=c.num_hidden_layers,
        )(c, self.constrain, self.attention, name="layers")  # fmt: skip
        x, _ = layers(x, positions, segment_ids)
        return RMSNorm(c.rms_norm_eps, name="final_norm")(x)


def lm_head(params: Params, config: ModelConfig) -> Float[Array, "D V"]:
    """Returns the output matrix in the compute dtype: the LM head or, if tied, the embedding's transpose."""
    return (params["embedding"].T if config.tie_word_embeddings else params["head"]).astype(config.compute_dtype)


def initial_params(model: Llama, key: Array) -> Params:
    """Returns random parameters: a nested dict of float32 arrays, layers stacked on their first axis."""
    one = jnp.ones((1, 1), jnp.int32)
    return model.init(key, one, one, one)["params"]
