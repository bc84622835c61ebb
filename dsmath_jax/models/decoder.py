"""The decoder (paper §2.2, §2.3): RMSNorm, rotary embeddings, grouped-query attention, gated feed-forward layers.

By default it is LLaMA's; fields of `ModelConfig` make it that of other families (`huggingface/families.py`).

Axis letters: B batch, T tokens, D model, N query heads, K key/value heads, H head size, F feed-forward, V vocabulary,
L layers, S cache positions, Z prompt positions, R rows of a decode batch, P prompts, r rank of LoRA. The model does not
depend on the mesh: its attributes `constrain`, `attention` and `map_row_shards` do.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dsmath_jax.models.attention import RESIDUALS, AttentionSpec, cached_attention, packed_attention, softcap
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.lora import LORA_A, LORA_B
from dsmath_jax.models.quantization import SCALE, Quantized, operand, stored_like
from dsmath_jax.models.rope import attention_scaling, frequencies, local_frequencies

Params = Any
Constrain = Callable[[Array, str], Array]
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

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": nn.silu,
    "gelu_pytorch_tanh": functools.partial(nn.gelu, approximate=True),
}

PREFILLED = "prefilled"  # Flax's variable collection of the keys and values of a prefill


class Attention(Protocol):
    """Attention over packed rows, causal within segments."""

    def __call__(self, q: Array, k: Array, v: Array, segment_ids: Array, *, spec: AttentionSpec = ...) -> Array: ...


class Prefix(NamedTuple):
    """One layer's keys and values of P prefixes, read-only, each shared by the R/P rows of its group (prompt-major)."""

    k: Float[Array, "P K Z H"] | Quantized
    v: Float[Array, "P K Z H"] | Quantized
    mask: Bool[Array, "P|R Z"]  # of each prefix, or of each row


class Cache(NamedTuple):
    """One layer's KV cache of each row. New keys and values are written at `position`, the same for all rows.

    Its dtype may be narrower than the compute dtype; int8 is `Quantized`, with a scale of each token and head.
    """

    k: Float[Array, "R K S H"] | Quantized
    v: Float[Array, "R K S H"] | Quantized
    mask: Bool[Array, "R T S"]  # the positions that the tokens of this call attend to, including their own
    position: Int[Array, ""]
    prefixes: Sequence[Prefix]  # tokens attend to them too


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
    x: Float[Array, "B T N H"],
    positions: Int[Array, "B T"],
    frequencies: Float[Array | np.ndarray, " H/2"],
    scaling: float = 1.0,
) -> Float[Array, "B T N H"]:
    """Applies rotary position embeddings, in float32; the two halves of a head are paired as in Hugging Face's LLaMA.

    Args:
      x: queries or keys.
      positions: in their documents.
      frequencies: see `rope.py`.
      scaling: factor of the result.
    """
    angles = positions[:, :, None, None].astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    if scaling != 1.0:
        sin, cos = scaling * sin, scaling * cos
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
    """RMS normalization over the last `axes` axes with a learned scale, computed in float32.

    Attributes:
      eps: added to the mean square.
      offset: added to the scale.
      axes: the number of trailing axes that are normalized together; the scale has one dimension.
    """

    eps: float
    offset: float = 0.0
    axes: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = x.shape[-self.axes :]
        scale = self.param("scale", nn.initializers.constant(1 - self.offset), (math.prod(shape),), jnp.float32)
        x32 = x.astype(jnp.float32)
        mean = jnp.mean(jnp.square(x32), axis=tuple(range(-self.axes, 0)), keepdims=True)
        x32 = x32 * jax.lax.rsqrt(mean + self.eps)
        return (x32 * (scale + self.offset if self.offset else scale).reshape(shape)).astype(x.dtype)


class Block(nn.Module):
    """One decoder layer: attention and feed-forward, each with norms and a residual connection."""

    config: ModelConfig
    constrain: Constrain
    attention: Attention

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        sliding: bool | Bool[Array, ""] | None = None,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T D"], tuple[Array | Quantized, Array | Quantized] | None]:
        """Returns the layer's output and the updated keys and values of the cache.

        Without a cache, `attention` runs over the tokens and the second result is None; their keys and values
        `[B,K,T,H]` are sown into the collection `PREFILLED` if it is mutable. `sliding` says whether the layer has
        the sliding window; it is traced in a scan over layers that differ in it, and None where all are alike.
        """
        c, dtype = self.config, self.config.compute_dtype
        sliding = c.sliding_layers[0] if sliding is None else sliding
        spec, rope = attention_spec(c, sliding), layer_frequencies(c, sliding)

        sizes = {
            "D": c.hidden_size, "N": c.num_attention_heads, "K": c.num_key_value_heads, "H": c.head_dim,
            "F": c.intermediate_size,
        }  # fmt: skip

        def weight(name: str, axes: str, inputs: int = 1) -> Array:
            # Cast to the compute dtype before the gather: half the bytes.
            shape = tuple(sizes[axis] for axis in axes)
            initial = nn.initializers.normal(math.prod(shape[:inputs]) ** -0.5)
            return gather_weight(self.param(name, initial, shape, jnp.float32).astype(dtype), axes, self.constrain)

        def product(x: Array, name: str, axes: str, inputs: int = 1) -> Array:
            out = project(x, weight(name, axes, inputs), inputs)
            if self.has_variable("params", name + SCALE):
                out = (out * self.get_variable("params", name + SCALE)).astype(dtype)
            if not self.has_variable("params", name + LORA_A):
                return out
            a, b = (
                gather_weight(self.get_variable("params", path).astype(dtype), letters, self.constrain)
                for path, letters in ((name + LORA_A, f"{axes[:inputs]}r"), (name + LORA_B, f"r{axes[inputs:]}"))
            )
            return out + project(project(x, a, inputs), b)

        def biased(x: Array, name: str, present: bool, axes: int = 1) -> Array:
            if not present:
                return x
            shape = x.shape[-axes:]
            return x + self.param(name, nn.initializers.zeros, (math.prod(shape),)).astype(dtype).reshape(shape)

        def norm(x: Array, name: str, axes: int = 1) -> Array:
            return RMSNorm(c.rms_norm_eps, c.rms_norm_offset, axes, name=name)(x)

        def norm_before(x: Array, name: str) -> Array:
            return x if c.norm_placement == "after" else norm(x, f"{name}_norm")

        def norm_after(x: Array, name: str) -> Array:
            return x if c.norm_placement == "before" else norm(x, f"{name}_post_norm")

        def heads(y: Array, name: str, axes: str) -> Array:
            return biased(product(y, name, axes), f"{name}_bias", c.attention_bias or c.qkv_bias, axes=2)

        def rotated(x: Array, name: str) -> Array:
            if c.qk_norm != "none":
                x = norm(x, f"{name}_norm", axes=1 if c.qk_norm == "head" else 2)
            return rotary(x, positions, rope, attention_scaling(c))

        y = norm_before(x, "attention")
        q, k, v = rotated(heads(y, "q", "DNH"), "q"), rotated(heads(y, "k", "DKH"), "k"), heads(y, "v", "DKH")
        q, k, v = self.constrain(q, "BTNH"), self.constrain(k, "BTKH"), self.constrain(v, "BTKH")
        if cache is None:
            new_kv = None
            self.sow(PREFILLED, "kv", (k.swapaxes(1, 2), v.swapaxes(1, 2)))
            out = self.attention(q, k, v, segment_ids, spec=spec)
        else:
            # XLA writes in place if the caller donates the cache.
            new_kv = _write(cache.k, k, cache.position), _write(cache.v, v, cache.position)
            out = cached_attention(q, *new_kv, cache.mask, cache.prefixes, spec)
        out = biased(product(out, "o", "NHD", inputs=2), "o_bias", c.attention_bias)
        x = self.constrain(x + norm_after(out, "attention"), "BTD")

        y, activation = norm_before(x, "feed_forward"), ACTIVATIONS[c.hidden_act]
        inner = self.constrain(activation(product(y, "gate", "DF")) * product(y, "up", "DF"), "BTF")
        x = x + norm_after(product(inner, "down", "FD"), "feed_forward")
        return self.constrain(x, "BTD"), new_kv


def attention_spec(c: ModelConfig, sliding: bool | Bool[Array, ""]) -> AttentionSpec:
    """Returns how a layer attends; `sliding` is whether it has the sliding window, and may be traced."""
    scale = c.query_pre_attn_scalar**-0.5 if c.query_pre_attn_scalar else None
    if isinstance(sliding, bool):
        return AttentionSpec(scale, c.attn_logit_softcapping, c.sliding_window if sliding else 0)
    return AttentionSpec(scale, c.attn_logit_softcapping, c.sliding_window, sliding)


def layer_frequencies(c: ModelConfig, sliding: bool | Bool[Array, ""]) -> Float[Array | np.ndarray, " H/2"]:
    """Returns the frequencies of a layer's rotary embedding."""
    if isinstance(sliding, bool):
        return local_frequencies(c) if sliding else frequencies(c)
    return jnp.where(sliding, local_frequencies(c), frequencies(c))


def _write(
    old: Float[Array, "R K S H"] | Quantized, new: Float[Array, "R T K H"], position: Int[Array, ""]
) -> Array | Quantized:
    write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=position, axis=2)
    return jax.tree.map(write, old, stored_like(new.swapaxes(1, 2), old))


class Decoder(nn.Module):
    """The decoder: maps tokens to final hidden states, of which `output_logits` computes the logits.

    Attributes:
      constrain: `constrain(x, "BTD")` sets an array's sharding by its axis letters.
      attention: `attention(q, k, v, segment_ids, spec=AttentionSpec(...))`, causal within segments.
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
        table = gather_weight(embedding.astype(c.compute_dtype), "VD", self.constrain)
        x = self.constrain(embed(table, tokens, c), "BTD")
        block = nn.remat(Block, policy=REMAT[c.remat], prevent_cse=False) if c.remat != "none" else Block
        alike = len(set(c.sliding_layers)) == 1
        layers = nn.scan(
            block, variable_axes={"params": 0}, split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast, nn.broadcast if alike else 0), length=c.num_hidden_layers,
        )(c, self.constrain, self.attention, name="layers")  # fmt: skip
        x, _ = layers(x, positions, segment_ids, None if alike else jnp.array(c.sliding_layers))
        return final_norm(c, name="final_norm")(x)


def embed(table: Float[Array, "V D"], tokens: Int[Array, "B T"], config: ModelConfig) -> Float[Array, "B T D"]:
    """Returns the embeddings of tokens."""
    x = table[tokens]
    return x * jnp.asarray(config.hidden_size**0.5, x.dtype) if config.scale_embeddings else x


def final_norm(config: ModelConfig, name: str | None = None) -> RMSNorm:
    """Returns the norm after the last layer."""
    return RMSNorm(config.rms_norm_eps, config.rms_norm_offset, name=name)


def output_logits(
    hidden: Float[Array, "... D"], lm_head: Float[Array, "D V"] | Quantized, config: ModelConfig
) -> Float[Array, "... V"]:
    """Returns the logits of final hidden states, float32 (float64 where `hidden` is)."""
    dtype = jnp.promote_types(hidden.dtype, jnp.float32)
    matrix, scale = operand(lm_head, hidden.dtype)
    logits = jnp.dot(hidden, matrix, preferred_element_type=dtype)
    return softcap(logits if scale is None else logits * scale, config.final_logit_softcapping)


def lm_head(params: Params, config: ModelConfig) -> Float[Array, "D V"]:
    """Returns the output matrix in the compute dtype: the LM head or, if tied, the embedding's transpose."""
    return (params["embedding"].T if config.tie_word_embeddings else params["head"]).astype(config.compute_dtype)


def initial_params(model: Decoder, key: Array) -> Params:
    """Returns random parameters: a nested dict of float32 arrays, layers stacked on their first axis."""
    one = jnp.ones((1, 1), jnp.int32)
    return model.init(key, one, one, one)["params"]
