"""Log-probabilities of given tokens straight from hidden states, a chunk of tokens at a time.

`[B,T,V]` never exists: the logits of one chunk do, in float32, and are made again in the backward pass, which is
written out so that the gradient of the output matrix is summed in float32, whatever the matrix's dtype.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

CHUNK = 256  # tokens of every row whose logits are alive at a time


def token_logprobs(
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    head: Float[Array, "D V"],
    temperature: float | Float[Array, ""] = 1.0,
    chunk: int = CHUNK,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Log-probability of each target under softmax(logits / temperature), and the entropy of that softmax (nats).

    Returns:
      logprobs and entropy, float32 (float64 where `hidden` is). Neither entropy nor temperature has a gradient.
    """
    batch, length, _ = hidden.shape
    chunks = -(-length // chunk)
    padding = ((0, 0), (0, -length % chunks))
    # A chunk takes every so-manieth token, so that tokens which lie on several devices do so in each chunk.
    ids = _parted(jnp.pad(targets, padding), chunks)
    states = _parted(jnp.pad(hidden, (*padding, (0, 0))), chunks)
    found = _chunked(states, ids, head, jnp.asarray(temperature, _wide(hidden)))
    logprobs, entropy = (jnp.moveaxis(x, 0, 2).reshape(batch, -1)[:, :length] for x in found)
    return logprobs, jax.lax.stop_gradient(entropy)


def _parted(x: Array, chunks: int) -> Array:
    """`[B, T, ...] -> [chunks, B, T/chunks, ...]`."""
    return jnp.moveaxis(x.reshape(x.shape[0], -1, chunks, *x.shape[2:]), 2, 0)


def _wide(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def _logits(hidden: Array, head: Array, temperature: Array) -> Float[Array, "B T V"]:
    return jnp.einsum("BTD,DV->BTV", hidden, head, preferred_element_type=temperature.dtype) / temperature


def _one_hot(ids: Int[Array, "B T"], size: int) -> Array:
    """True at each target: with the vocabulary on several devices, cheaper than picking."""
    return ids[..., None] == jnp.arange(size)


@jax.custom_vjp
def _chunked(hidden: Array, ids: Array, head: Array, temperature: Array) -> tuple[Array, Array]:
    """`[C,B,T,D]` and `[C,B,T]` to logprobs and entropy `[C,B,T]`."""
    return _forward(hidden, ids, head, temperature)[0]


def _forward(hidden: Array, ids: Array, head: Array, temperature: Array) -> tuple[tuple[Array, Array], tuple]:
    def one(part: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        logits = _logits(part[0], head, temperature)
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.sum(jnp.where(_one_hot(part[1], head.shape[1]), logits, 0.0), axis=-1)
        entropy = normaliser - jnp.sum(jnp.exp(logits - normaliser[..., None]) * logits, axis=-1)
        return chosen - normaliser, entropy, normaliser

    logprobs, entropy, normaliser = jax.lax.map(one, (hidden, ids))
    return (logprobs, entropy), (hidden, ids, head, temperature, normaliser)


def _backward(kept: tuple, gradients: tuple[Array, Array]) -> tuple[Array, None, Array, Array]:
    hidden, ids, head, temperature, normaliser = kept

    def one(d_head: Array, part: tuple[Array, ...]) -> tuple[Array, Array]:
        states, ids, normaliser, d_logprobs = part
        probabilities = jnp.exp(_logits(states, head, temperature) - normaliser[..., None])
        d_logits = (_one_hot(ids, head.shape[1]) - probabilities) * (d_logprobs / temperature)[..., None]
        d_logits = d_logits.astype(states.dtype)
        d_head += jnp.einsum("BTD,BTV->DV", states, d_logits, preferred_element_type=d_head.dtype)
        return d_head, jnp.einsum("BTV,DV->BTD", d_logits, head)

    zeros = jnp.zeros(head.shape, temperature.dtype)
    d_head, d_hidden = jax.lax.scan(one, zeros, (hidden, ids, normaliser, gradients[0]))
    return d_hidden, None, d_head.astype(head.dtype), jnp.zeros_like(temperature)


_chunked.defvjp(_forward, _backward)
