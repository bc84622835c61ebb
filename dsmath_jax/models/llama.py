"""The LLaMA-architecture decoder (paper §2.2, §2.3): RMSNorm, rotary embeddings, grouped-query attention, SwiGLU.

Axis letters: B batch, T tokens, D model, N query heads, K key/value heads, H head size, F feed-forward, V vocabulary,
L layers, S cache slots. The model knows no mesh: it calls the `constrain(x, "BTD")` and `attention` it is handed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dsmath_jax.models.attention import masked_attention, packed_attention
from dsmath_jax.models.config import ModelConfig

Params = Any
Constrain = Callable[[Array, str], Array]
Attention = Callable[[Array, Array, Array, Array], Array]

REMAT: dict[str, Any] = {
    "none": jax.checkpoint_policies.everything_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Cache(NamedTuple):
    """Keys and values of all layers. New ones are written at slot `index`, the same for every row of the batch."""

    k: Float[Array, "L B S K H"]
    v: Float[Array, "L B S K H"]
    mask: Bool[Array, "B T S"]  # which slots the tokens of this call may see, their own included
    index: Int[Array, ""]


def empty_cache(config: ModelConfig, rows: int, slots: int) -> tuple[Array, Array]:
    """Zero keys and values for `Cache`, in the compute dtype."""
    shape = (config.layers, rows, slots, config.kv_heads, config.head_size)
    return jnp.zeros(shape, config.compute_dtype), jnp.zeros(shape, config.compute_dtype)


def no_constraint(x: Array, axes: str) -> Array:
    del axes
    return x


def rotary(x: Float[Array, "B T N H"], positions: Int[Array, "B T"], theta: float) -> Float[Array, "B T N H"]:
    """Rotary position embedding, the two halves of a head paired as in the Hugging Face checkpoints; in float32."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[:, :, None, None].astype(jnp.float32) * frequencies
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x.dtype)


class RMSNorm(nn.Module):
    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return (wide * scale).astype(x.dtype)


class Block(nn.Module):
    config: ModelConfig
    constrain: Constrain
    attention: Attention

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        layer_cache: tuple[Array, Array] | None,
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        mask: Bool[Array, "B T S"] | None,
        index: Int[Array, ""] | None,
    ) -> tuple[Float[Array, "B T D"], tuple[Array, Array] | None]:
        c, dtype = self.config, self.config.compute_dtype

        def weight(name: str, shape: tuple[int, ...], fan_in: int) -> Array:
            return self.param(name, nn.initializers.normal(fan_in**-0.5), shape, jnp.float32).astype(dtype)

        y = RMSNorm(c.norm_eps, name="attention_norm")(x)
        q = jnp.einsum("BTD,DNH->BTNH", y, weight("q", (c.width, c.heads, c.head_size), c.width))
        k = jnp.einsum("BTD,DKH->BTKH", y, weight("k", (c.width, c.kv_heads, c.head_size), c.width))
        v = jnp.einsum("BTD,DKH->BTKH", y, weight("v", (c.width, c.kv_heads, c.head_size), c.width))
        q, k = rotary(q, positions, c.rope_theta), rotary(k, positions, c.rope_theta)
        q, k, v = self.constrain(q, "BTNH"), self.constrain(k, "BTKH"), self.constrain(v, "BTKH")
        if layer_cache is None:
            out = self.attention(q, k, v, segment_ids)
        else:
            start = (0, index, 0, 0)
            layer_cache = tuple(
                jax.lax.dynamic_update_slice(old, new, start) for old, new in zip(layer_cache, (k, v), strict=True)
            )
            out = masked_attention(q, *layer_cache, mask)
        projection = weight("o", (c.heads, c.head_size, c.width), c.heads * c.head_size)
        x = self.constrain(x + jnp.einsum("BTNH,NHD->BTD", out, projection), "BTD")

        y = RMSNorm(c.norm_eps, name="feed_forward_norm")(x)
        gate = jnp.einsum("BTD,DF->BTF", y, weight("gate", (c.width, c.hidden), c.width))
        up = jnp.einsum("BTD,DF->BTF", y, weight("up", (c.width, c.hidden), c.width))
        inner = self.constrain(nn.silu(gate) * up, "BTF")
        x = x + jnp.einsum("BTF,FD->BTD", inner, weight("down", (c.hidden, c.width), c.hidden))
        return self.constrain(x, "BTD"), layer_cache


class Llama(nn.Module):
    """Tokens to final hidden states; `head` turns parameters into the matrix that makes logits of them."""

    config: ModelConfig
    constrain: Constrain = no_constraint
    attention: Attention = packed_attention

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Returns hidden states after the last norm (compute dtype) and the cache with this call's keys and values."""
        c = self.config
        embedding = self.param("embedding", nn.initializers.normal(0.02), (c.vocab_size, c.width), jnp.float32)
        if not c.tie_embeddings:
            self.param("head", nn.initializers.normal(c.width**-0.5), (c.width, c.vocab_size), jnp.float32)
        x = self.constrain(embedding.astype(c.compute_dtype)[tokens], "BTD")
        block = nn.remat(Block, policy=REMAT[c.remat], prevent_cse=False) if c.remat != "none" else Block
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),
            length=c.layers,
        )(c, self.constrain, self.attention, name="layers")
        shared = (None, None) if cache is None else (cache.mask, cache.index)
        layer_caches = None if cache is None else (cache.k, cache.v)
        x, layer_caches = layers(x, layer_caches, positions, segment_ids, *shared)
        if cache is not None:
            cache = cache._replace(k=layer_caches[0], v=layer_caches[1])
        return RMSNorm(c.norm_eps, name="final_norm")(x), cache


def head(params: Params, config: ModelConfig) -> Float[Array, "D V"]:
    """The output matrix: its own, or the embedding's transpose where they are tied."""
    return params["embedding"].T if config.tie_embeddings else params["head"]


def initial_params(model: Llama, key: Array) -> Params:
    """Random parameters: a plain nested dict of float32 arrays, layers stacked on their first axis."""
    one = jnp.ones((1, 1), jnp.int32)
    return model.init(key, one, one, one)["params"]
