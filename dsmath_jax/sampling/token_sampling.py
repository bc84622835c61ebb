"""Samples the next token of each row from its logits: greedy, or temperature with top-k and top-p.

Axis letters: R rows, V vocabulary. Rows are independent: the result of a row does not depend on the others. A token is
sampled by inverting the CDF in two stages, first a block of the vocabulary and then a token of the block, with one
random number each: exact, and far cheaper than noise for every token of the vocabulary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dsmath_jax.sampling.thinking import Marks

HostArray = Any  # a NumPy array outside jit, a tracer inside


class SamplingArrays(NamedTuple):
    """Sampling parameters whose values do not change the compiled program; those that do are in `SamplingMode`."""

    temperature: Float[HostArray, ""]
    top_k: Int[HostArray, ""]
    top_p: Float[HostArray, ""]
    marks: Marks | None = None  # of thoughts, with a thinking budget: another program than without


class SamplingMode(NamedTuple):
    """Static sampling parameters: each combination is compiled separately."""

    greedy: bool
    top_k: bool
    top_p: bool


class SampledTokens(NamedTuple):
    """One token per row, with its log-probabilities."""

    tokens: Int[Array, " R"]
    logprobs: Float[Array, " R"]  # under softmax(logits / temperature), before filters; greedy: at temperature 1
    sampled_logprobs: Float[Array, " R"]  # under the filtered distribution; greedy: 0
    inserted: Bool[Array, " R"]  # not sampled: the end of a thought (`end_thoughts`), or given (`insert_tokens`)


def sample_tokens(
    logits: Float[Array, "R V"], keys: Array, sampling: SamplingArrays, mode: SamplingMode
) -> SampledTokens:
    """Samples one token per row.

    Top-k keeps the k most likely tokens, then top-p the most likely of these that together have at least the share p of
    their probability. Tokens that tie with the last one are kept too, so that the order of ids decides nothing.

    Args:
      logits: float32.
      keys: a random key for each row.
      sampling: temperature and filters.
      mode: greedy, and which filters apply.
    """
    if not mode.greedy:
        logits = logits / sampling.temperature
    largest = jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits - largest)  # unnormalized probabilities
    total = jnp.sum(weights, axis=-1)
    if mode.greedy:
        ids = jnp.arange(logits.shape[1], dtype=jnp.int32)
        tokens = jnp.min(jnp.where(logits == largest, ids, ids[-1]), axis=-1)  # argmax is slow on CPUs
        return SampledTokens(tokens, -jnp.log(total), jnp.zeros_like(total), jnp.zeros_like(total, bool))
    filtered = weights
    if mode.top_k or mode.top_p:
        order = _as_ordered_ints(logits)
        if mode.top_k:
            threshold = _threshold(order, jnp.ones_like(filtered), sampling.top_k)
            filtered = jnp.where(order >= threshold, filtered, 0.0)
        if mode.top_p:
            threshold = _threshold(order, filtered, sampling.top_p * jnp.sum(filtered, axis=-1))
            filtered = jnp.where(order >= threshold, filtered, 0.0)
    tokens = _sample_index(filtered, keys)
    token_logits = jnp.take_along_axis(logits - largest, tokens[:, None], axis=-1)[:, 0]
    logprobs = token_logits - jnp.log(total)
    sampled_logprobs = token_logits - jnp.log(jnp.sum(filtered, axis=-1))
    return SampledTokens(tokens, logprobs, sampled_logprobs, jnp.zeros_like(total, bool))


def end_thoughts(
    sampled: SampledTokens, thinking: Bool[Array, " R"], over: Bool[Array, " R"], marks: Marks | None
) -> tuple[SampledTokens, Bool[Array, " R"]]:
    """Replaces the next token by the closing mark in rows whose thought is too long.

    Args:
      sampled: the next token of each row.
      thinking: whether the row is in a thought.
      over: whether its thinking budget is used up.
      marks: None without a budget.

    Returns:
      The tokens, with log-probability 0 where they are inserted, and `thinking` after them.
    """
    if marks is None:
        return sampled, thinking
    sampled = insert_tokens(sampled, marks.close_id, thinking & over)
    return sampled, (thinking | (sampled.tokens == marks.open_id)) & (sampled.tokens != marks.close_id)


def insert_tokens(sampled: SampledTokens, tokens: int | Int[Array, " R"], inserted: Bool[Array, " R"]) -> SampledTokens:
    """Replaces the next token where `inserted` says so, with log-probability 0."""
    logprobs, sampled_logprobs = (jnp.where(inserted, 0.0, x) for x in (sampled.logprobs, sampled.sampled_logprobs))
    return SampledTokens(
        jnp.where(inserted, tokens, sampled.tokens), logprobs, sampled_logprobs, sampled.inserted | inserted
    )


def _sample_index(weights: Float[Array, "R V"], keys: Array) -> Int[Array, " R"]:
    """Samples an index with probability proportional to its weight."""
    rows, size = weights.shape
    width = 2 ** ((size - 1).bit_length() // 2)
    blocks = jnp.pad(weights, ((0, 0), (0, -size % width))).reshape(rows, -1, width)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
    block = _invert_cdf(jnp.sum(blocks, axis=-1), uniform[:, 0])
    offset = _invert_cdf(jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0], uniform[:, 1])
    return block * width + offset


def _invert_cdf(weights: Float[Array, "R W"], uniform: Float[Array, " R"]) -> Int[Array, " R"]:
    """Returns where the cumulative sum passes the share `uniform` of the total; never an index of weight 0."""
    sums = jnp.cumsum(weights, axis=-1)
    before = jnp.pad(sums[:, :-1], ((0, 0), (1, 0)))
    reached = (before <= (uniform * sums[:, -1])[:, None]) & (weights > 0)
    return jnp.max(jnp.where(reached, jnp.arange(weights.shape[1], dtype=jnp.int32), 0), axis=-1)


def _as_ordered_ints(x: Float[Array, "R V"]) -> Int[Array, "R V"]:
    """Maps floats to integers of the same order; 0 and -0 are equal."""
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x).astype(jnp.float32), jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def _threshold(order: Int[Array, "R V"], weights: Float[Array, "R V"], needed: Array) -> Int[Array, "R 1"]:
    """Returns the largest threshold for which the tokens at or above it have a total weight of at least `needed`.

    Bisects over the integers: sorting a vocabulary is slow on every backend.
    """
    needed = jnp.broadcast_to(needed, order.shape[:1])
    limits = jnp.iinfo(jnp.int32)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends  # enough weight at low (or it is the minimum), not enough above high
        middle = (low >> 1) + (high >> 1) + ((low | high) & 1)  # rounded up, without overflow
        enough = jnp.sum(jnp.where(order >= middle[:, None], weights, 0.0), axis=-1) >= needed
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

    start = (jnp.full(order.shape[:1], limits.min, jnp.int32), jnp.full(order.shape[:1], limits.max, jnp.int32))
    return jax.lax.fori_loop(0, 32, halve, start)[0][:, None]
