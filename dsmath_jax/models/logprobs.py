"""Computes log-probabilities of tokens from hidden states, a chunk of tokens at a time.

The logits `[B,T,V]` are never in memory: only those of one chunk are, in float32. The backward pass recomputes them; it
is written by hand, so that the gradient of the output matrix is accumulated in float32, whatever the matrix's dtype.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dsmath_jax.models.attention import softcap, softcap_gradient

CHUNK = 256  # tokens of every row whose logits are in memory at a time


def token_logprobs(
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    lm_head: Float[Array, "D V"],
    temperature: float | Float[Array, ""] = 1.0,
    chunk: int = CHUNK,
    cap: float = 0.0,
    entropy_has_gradient: bool = False,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Computes the log-probability of each target under softmax(logits / temperature), and its entropy (nats).

    The logits are capped first (`softcap`), unless `cap` is 0.

    Returns:
      logprobs and entropy, float32 (float64 where `hidden` is). The temperature has no gradient, and the entropy only
      with `entropy_has_gradient`.
    """
    batch, length, _ = hidden.shape
    chunks = -(-length // chunk)
    padding = ((0, 0), (0, -length % chunks))
    # Strided, so that every chunk is split over the same devices as all tokens.
    ids = _split(jnp.pad(targets, padding), chunks)
    states = _split(jnp.pad(hidden, (*padding, (0, 0))), chunks)
    outputs = _chunked(states, ids, lm_head, jnp.asarray(temperature, _accum_dtype(hidden)), cap, entropy_has_gradient)
    logprobs, entropy = (jnp.moveaxis(x, 0, 2).reshape(batch, -1)[:, :length] for x in outputs)
    return logprobs, entropy if entropy_has_gradient else jax.lax.stop_gradient(entropy)


def _split(x: Array, chunks: int) -> Array:
    """Splits the tokens into strided chunks: `[B, T, ...] -> [chunks, B, T/chunks, ...]`."""
    return jnp.moveaxis(x.reshape(x.shape[0], -1, chunks, *x.shape[2:]), 2, 0)


def _accum_dtype(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def _capped_logits(hidden: Array, lm_head: Array, dtype: jnp.dtype, cap: float) -> Float[Array, "B T V"]:
    return softcap(jnp.einsum("BTD,DV->BTV", hidden, lm_head, preferred_element_type=dtype), cap)


def _one_hot(ids: Int[Array, "B T"], size: int) -> Array:
    """True at each target: cheaper than a gather where the vocabulary is sharded."""
    return ids[..., None] == jnp.arange(size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _chunked(
    hidden: Array, ids: Array, lm_head: Array, temperature: Array, cap: float, entropy_has_gradient: bool
) -> tuple[Array, Array]:
    """Maps chunks `[C,B,T,D]` and `[C,B,T]` to logprobs and entropy `[C,B,T]`."""
    return _forward(hidden, ids, lm_head, temperature, cap, entropy_has_gradient)[0]


def _forward(
    hidden: Array, ids: Array, lm_head: Array, temperature: Array, cap: float, entropy_has_gradient: bool
) -> tuple[tuple[Array, Array], tuple]:
    def forward(part: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        logits = _capped_logits(part[0], lm_head, temperature.dtype, cap) / temperature
        logsumexp = jax.nn.logsumexp(logits, axis=-1)
        target_logits = jnp.sum(jnp.where(_one_hot(part[1], lm_head.shape[1]), logits, 0.0), axis=-1)
        entropy = logsumexp - jnp.sum(jnp.exp(logits - logsumexp[..., None]) * logits, axis=-1)
        return target_logits - logsumexp, entropy, logsumexp

    logprobs, entropy, logsumexp = jax.lax.map(forward, (hidden, ids))
    return (logprobs, entropy), (hidden, ids, lm_head, temperature, logsumexp, entropy)


def _backward(
    cap: float, entropy_has_gradient: bool, residuals: tuple, gradients: tuple[Array, Array]
) -> tuple[Array, None, Array, Array]:
    hidden, ids, lm_head, temperature, *per_token = residuals

    def backward(d_lm_head: Array, part: tuple[Array, ...]) -> tuple[Array, Array]:
        states, ids, logsumexp, entropy, d_logprobs, d_entropy = part
        capped = _capped_logits(states, lm_head, temperature.dtype, cap)
        log_probabilities = capped / temperature - logsumexp[..., None]
        probabilities = jnp.exp(log_probabilities)
        d_capped = (_one_hot(ids, lm_head.shape[1]) - probabilities) * (d_logprobs / temperature)[..., None]
        if entropy_has_gradient:  # dH/dz = -p (log p + H)
            change = -probabilities * (log_probabilities + entropy[..., None])
            d_capped += change * (d_entropy / temperature)[..., None]
        d_logits = softcap_gradient(d_capped, capped, cap).astype(states.dtype)
        d_lm_head += jnp.einsum("BTD,BTV->DV", states, d_logits, preferred_element_type=d_lm_head.dtype)
        return d_lm_head, jnp.einsum("BTV,DV->BTD", d_logits, lm_head)

    zeros = jnp.zeros(lm_head.shape, temperature.dtype)
    d_lm_head, d_hidden = jax.lax.scan(backward, zeros, (hidden, ids, *per_token, *gradients))
    return d_hidden, None, d_lm_head.astype(lm_head.dtype), jnp.zeros_like(temperature)


_chunked.defvjp(_forward, _backward)
