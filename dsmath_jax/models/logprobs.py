"""Log-probabilities of given tokens straight from hidden states, a chunk of tokens at a time.

`[B,T,V]` never exists: the logits of one chunk do, in float32, and are made again in the backward pass.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

CHUNK = 512  # rows of logits alive at a time


def token_logprobs(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "D V"],
    targets: Int[Array, "B T"],
    temperature: float = 1.0,
    chunk: int = CHUNK,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Log-probability of each target under softmax(logits / temperature), and the entropy of that softmax (nats).

    Returns:
      logprobs and entropy, float32 (float64 where `hidden` is).
    """
    shape = targets.shape
    rows = hidden.reshape(-1, hidden.shape[-1])
    flat = targets.reshape(-1)
    chunk = min(chunk, len(flat))
    padding = -len(flat) % chunk
    rows = jnp.pad(rows, ((0, padding), (0, 0))).reshape(-1, chunk, rows.shape[-1])
    ids = jnp.pad(flat, (0, padding)).reshape(-1, chunk)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one(rows: Array, ids: Array) -> tuple[Array, Array]:
        wide = jnp.promote_types(rows.dtype, jnp.float32)
        logits = jnp.einsum("CD,DV->CV", rows, head.astype(rows.dtype), preferred_element_type=wide)
        logits = logits / temperature
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, ids[:, None], axis=-1)[:, 0]
        entropy = normaliser - jnp.sum(jax.nn.softmax(logits) * logits, axis=-1)
        return chosen - normaliser, jax.lax.stop_gradient(entropy)

    _, (logprobs, entropy) = jax.lax.scan(lambda carry, xs: (carry, one(*xs)), None, (rows, ids))
    return logprobs.reshape(-1)[: flat.size].reshape(shape), entropy.reshape(-1)[: flat.size].reshape(shape)
