"""Attention and its hand-written backward pass against NumPy in float64 and against autodiff of the plain form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.models.attention import cached_attention, packed_attention

BATCH, LENGTH, SIZE = 2, 9, 4
SEGMENTS = np.array([[1, 1, 1, 1, 2, 2, 3, 0, 0], [1, 1, 2, 2, 2, 2, 2, 2, 2]], np.int32)
HEADS = [(3, 3), (4, 2)]


def arrays(heads: int, kv_heads: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    noise = np.random.default_rng(seed)
    shapes = [(BATCH, LENGTH, heads, SIZE), (BATCH, LENGTH, kv_heads, SIZE), (BATCH, LENGTH, kv_heads, SIZE)]
    return tuple(noise.normal(size=shape) for shape in shapes)


def one_by_one(q: np.ndarray, k: np.ndarray, v: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Every query by itself, in float64, over the keys that it may see."""
    out = np.zeros_like(q)
    for b, t, n in np.ndindex(q.shape[:3]):
        seen = [s for s in range(t + 1) if segments[b, s] == segments[b, t]]
        key_head = n * k.shape[2] // q.shape[2]
        scores = np.array([q[b, t, n] @ k[b, s, key_head] for s in seen]) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max())
        out[b, t, n] = (weights / weights.sum()) @ v[b, seen, key_head]
    return out


def plain(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """The same with repeated heads and `jax.nn.softmax`, for JAX to differentiate."""
    k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    seen = (SEGMENTS[:, :, None] == SEGMENTS[:, None, :]) & np.tri(LENGTH, dtype=bool)
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) / q.shape[-1] ** 0.5
    return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(scores, where=seen[:, None]), v)


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_equals_every_query_by_itself(heads: int, kv_heads: int) -> None:
    q, k, v = arrays(heads, kv_heads)
    ours = packed_attention(*(jnp.float32(x) for x in (q, k, v)), jnp.array(SEGMENTS))
    np.testing.assert_allclose(ours, one_by_one(q, k, v, SEGMENTS), atol=2e-6)


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_gradients_equal_autodiff_of_the_plain_form_in_float64(heads: int, kv_heads: int) -> None:
    q, k, v = arrays(heads, kv_heads)
    weight = np.random.default_rng(1).normal(size=q.shape)
    with jax.enable_x64(True):
        expected = jax.jit(jax.grad(lambda *x: jnp.sum(plain(*x) * weight), argnums=(0, 1, 2)))(q, k, v)
        assert expected[0].dtype == jnp.float64
    inputs = [jnp.float32(x) for x in (q, k, v)]
    loss = lambda *x: jnp.sum(packed_attention(*x, SEGMENTS) * weight)  # noqa: E731
    found = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*inputs)
    for name, one, other in zip("qkv", found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-6, err_msg=name)


def test_large_scores_neither_overflow_nor_lose_the_sum() -> None:
    q, k, v = (jnp.float32(x) for x in arrays(4, 2))
    loss = lambda q: jnp.sum(packed_attention(1e4 * q, k, v, SEGMENTS))  # noqa: E731
    value, gradient = jax.value_and_grad(loss)(q)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    out = packed_attention(1e4 * q, k, jnp.ones_like(v), SEGMENTS)
    np.testing.assert_allclose(out, np.ones(q.shape), atol=1e-6)


def test_cache_and_shared_prefix_equal_one_sequence() -> None:
    """Three rows share each prompt's keys; prompts of unequal length are padded and the padding is not seen."""
    noise = np.random.default_rng(2)
    heads, kv_heads = HEADS[1]
    prompts, rows_each, width, slots, lengths = 2, 3, 5, 4, [5, 2]
    rows = prompts * rows_each
    prompt_k, prompt_v = noise.normal(size=(2, prompts, kv_heads, width, SIZE))
    own_k, own_v = noise.normal(size=(2, rows, kv_heads, slots, SIZE))
    q = noise.normal(size=(rows, 1, heads, SIZE))
    filled = 2  # the row's own slots 0 and 1 are written, 2 and 3 are not
    mask = np.broadcast_to(np.arange(slots) < filled, (rows, 1, slots))
    inside = np.arange(width) < np.array(lengths)[:, None]
    prefix = (jnp.float32(prompt_k), jnp.float32(prompt_v), jnp.array(inside))
    ours = jax.jit(cached_attention)(jnp.float32(q), jnp.float32(own_k), jnp.float32(own_v), jnp.array(mask), prefix)
    for row in range(rows):
        prompt = row // rows_each
        k, v = (
            np.concatenate([theirs[prompt, :, : lengths[prompt]], own[row, :, :filled]], axis=1).transpose(1, 0, 2)[
                None
            ]
            for theirs, own in ((prompt_k, own_k), (prompt_v, own_v))
        )
        last = np.concatenate([np.zeros((1, k.shape[1] - 1, heads, SIZE)), q[row][None]], axis=1)
        expected = one_by_one(last, k, v, np.ones(k.shape[:2]))[0, -1]
        np.testing.assert_allclose(ours[row, 0], expected, atol=2e-6)
