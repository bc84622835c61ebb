"""The LLaMA-architecture decoder (paper §2.2, §2.3): RMSNorm, rotary embeddings, grouped-query attention, SwiGLU.

Axis letters: B batch, T tokens, D model, N query heads, K key/value heads, H head size, F feed-forward, V vocabulary,
L layers, S cache slots, R rows of a decode batch, P prompts. The model knows no mesh: it calls the
`constrain(x, "BTD")`, `attention` and `by_rows` it is handed.
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

ByRows = Callable[[Callable[..., Any], Sequence[Array], Array], Any]

_policies = jax.checkpoint_policies
# What the backward pass finds kept of a layer, from all of it to nothing but the layer's input; the rest is made again.
REMAT: dict[str, Any] = {
    "none": _policies.everything_saveable,
    "minimal": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(RESIDUALS)
    ),  # the products with weights, and what attention's backward pass reads
    "dots": _policies.dots_with_no_batch_dims_saveable,  # the products with weights
    "full": _policies.nothing_saveable,
}

PREFILLED = "prefilled"  # the collection that takes keys and values


class Prefix(NamedTuple):
    """One layer's keys and values of P prompts, each shared by the R/P rows of its group (prompt-major), only read."""

    k: Float[Array, "P K S H"]
    v: Float[Array, "P K S H"]
    mask: Bool[Array, "P S"]


class Cache(NamedTuple):
    """One layer's keys and values of the rows themselves. New ones are written at slot `first`, the same for all rows.

    Its dtype may be narrower than that of the computation.
    """

    k: Float[Array, "R K S H"]
    v: Float[Array, "R K S H"]
    mask: Bool[Array, "R T S"]  # which slots the tokens of this call may see, their own included
    first: Int[Array, ""]
    prefix: Prefix  # seen by every token besides


def no_constraint(x: Array, axes: str) -> Array:
    del axes
    return x


def all_rows(f: Callable[..., Any], rows: Sequence[Array], matrix: Array) -> Any:
    """The `by_rows` of a single device."""
    return f(*rows, matrix)


def gathered(weight: Array, axes: str, constrain: Constrain) -> Array:
    """A weight as it is used, by its axis letters; its gradient goes straight into the shards that it is kept in.

    The gradient of a plain constraint would first be summed whole on every device.
    """

    @jax.custom_vjp
    def use(weight: Array) -> Array:
        return constrain(weight, axes)

    use.defvjp(lambda weight: (use(weight), None), lambda _, d: (constrain(d, axes.replace("D", "d")),))
    return use(weight)


def rotary(
    x: Float[Array, "B T N H"], positions: Int[Array, "B T"], theta: float, scaling: float = 1.0
) -> Float[Array, "B T N H"]:
    """Rotary position embedding, the two halves of a head paired as in the Hugging Face checkpoints; in float32.

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

    One two-dimensional product: XLA's CPU backend is three times slower in the backward pass of the einsum.
    """
    rows = x.reshape(-1, math.prod(weight.shape[:inputs]))
    out = rows @ weight.reshape(rows.shape[1], -1)
    return out.reshape(*x.shape[: x.ndim - inputs], *weight.shape[inputs:])


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
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T D"], tuple[Array, Array] | None]:
        """Returns the layer's output and the cache's keys and values with the new ones.

        Without a cache tokens see each other by `attention`, and the second result is None; their own keys and values
        `[B,K,T,H]` are left in the collection `PREFILLED` where it is mutable.
        """
        c, dtype = self.config, self.config.compute_dtype

        sizes = {
            "D": c.hidden_size, "N": c.num_attention_heads, "K": c.num_key_value_heads, "H": c.head_dim,
            "F": c.intermediate_size,
        }  # fmt: skip

        def weight(name: str, axes: str, inputs: int = 1) -> Array:
            # Rounded to the compute dtype before it is gathered from its shards: half the bytes.
            shape = tuple(sizes[axis] for axis in axes)
            initial = nn.initializers.normal(math.prod(shape[:inputs]) ** -0.5)
            return gathered(self.param(name, initial, shape, jnp.float32).astype(dtype), axes, self.constrain)

        def rotated(x: Array) -> Array:
            return rotary(x, positions, c.rope_theta, c.rope_scaling)

        y = RMSNorm(c.rms_norm_eps, name="attention_norm")(x)
        q = rotated(project(y, weight("q", "DNH")))
        k = rotated(project(y, weight("k", "DKH")))
        v = project(y, weight("v", "DKH"))
        q, k, v = self.constrain(q, "BTNH"), self.constrain(k, "BTKH"), self.constrain(v, "BTKH")
        if cache is None:
            kept = None
            self.sow(PREFILLED, "kv", (k.swapaxes(1, 2), v.swapaxes(1, 2)))
            out = self.attention(q, k, v, segment_ids)
        else:
            # Written in place where the caller gives its arrays away.
            kept = _written(cache.k, k, cache.first), _written(cache.v, v, cache.first)
            out = cached_attention(q, *kept, cache.mask, cache.prefix)
        x = self.constrain(x + project(out, weight("o", "NHD", inputs=2), inputs=2), "BTD")

        y = RMSNorm(c.rms_norm_eps, name="feed_forward_norm")(x)
        inner = self.constrain(nn.silu(project(y, weight("gate", "DF"))) * project(y, weight("up", "DF")), "BTF")
        x = x + project(inner, weight("down", "FD"))
        return self.constrain(x, "BTD"), kept


def _written(old: Float[Array, "R K S H"], new: Float[Array, "R T K H"], first: Int[Array, ""]) -> Array:
    return jax.lax.dynamic_update_slice(old, new.swapaxes(1, 2).astype(old.dtype), (0, 0, first, 0))


class Llama(nn.Module):
    """Tokens to final hidden states; `head` turns parameters into the matrix that makes logits of them.

    It is handed `constrain(x, "BTD")`, which pins an array's layout by its axis letters, `attention(q, k, v,
    segment_ids)`, causal within segments, and `by_rows(f, rows, matrix)`, which calls `f(*rows, matrix)` on the part of
    the rows that each device holds.
    """

    config: ModelConfig
    constrain: Constrain = no_constraint
    attention: Attention = packed_attention
    by_rows: ByRows = all_rows

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
    ) -> Float[Array, "B T D"]:
        """Returns hidden states after the last norm (compute dtype)."""
        c = self.config
        embedding = self.param("embedding", nn.initializers.normal(0.02), (c.vocab_size, c.hidden_size), jnp.float32)
        if not c.tie_word_embeddings:
            self.param("head", nn.initializers.normal(c.hidden_size**-0.5), (c.hidden_size, c.vocab_size), jnp.float32)
        x = self.constrain(gathered(embedding.astype(c.compute_dtype), "VD", self.constrain)[tokens], "BTD")
        block = nn.remat(Block, policy=REMAT[c.remat], prevent_cse=False) if c.remat != "none" else Block
        layers = nn.scan(
            block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast,
            length=c.num_hidden_layers,
        )(c, self.constrain, self.attention, name="layers")  # fmt: skip
        x, _ = layers(x, positions, segment_ids)
        return RMSNorm(c.rms_norm_eps, name="final_norm")(x)


def head(params: Params, config: ModelConfig) -> Float[Array, "D V"]:
    """The output matrix in the compute dtype: its own, or the embedding's transpose where they are tied."""
    return (params["embedding"].T if config.tie_word_embeddings else params["head"]).astype(config.compute_dtype)


def initial_params(model: Llama, key: Array) -> Params:
    """Random parameters: a plain nested dict of float32 arrays, layers stacked on their first axis."""
    one = jnp.ones((1, 1), jnp.int32)
    return model.init(key, one, one, one)["params"]
