"""Chunked log-probabilities against the plain log-softmax, values and gradients, in float64."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.models.logprobs import token_logprobs

WIDTH, VOCABULARY = 6, 11


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def inputs(batch: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    noise = np.random.default_rng(0)
    hidden, head = noise.normal(size=(batch, length, WIDTH)), noise.normal(size=(WIDTH, VOCABULARY))
    return hidden, head, noise.integers(0, VOCABULARY, (batch, length))


def plain(hidden: jax.Array, head: jax.Array, targets: np.ndarray, temperature: float) -> tuple[jax.Array, jax.Array]:
    all_of_them = jax.nn.log_softmax(hidden @ head / temperature)
    chosen = jnp.take_along_axis(all_of_them, jnp.array(targets)[..., None], axis=-1)[..., 0]
    return chosen, -jnp.sum(jnp.exp(all_of_them) * all_of_them, axis=-1)


@pytest.mark.parametrize(
    ("batch", "length", "chunk", "temperature"), [(2, 7, 4, 0.7), (1, 3, 8, 1.3), (3, 4, 12, 1.0), (2, 5, 1, 1.0)]
)
def test_equals_plain_log_softmax(batch: int, length: int, chunk: int, temperature: float) -> None:
    hidden, head, targets = inputs(batch, length)
    weight = np.random.default_rng(1).normal(size=targets.shape)
    found = token_logprobs(hidden, targets, head, temperature, chunk)
    for one, other in zip(found, plain(hidden, head, targets, temperature), strict=True):
        assert one.dtype == jnp.float64
        np.testing.assert_allclose(one, other, atol=1e-13)

    def loss(form: str, hidden: jax.Array, head: jax.Array) -> jax.Array:
        if form == "plain":
            return jnp.sum(plain(hidden, head, targets, temperature)[0] * weight)
        return jnp.sum(token_logprobs(hidden, targets, head, temperature, chunk)[0] * weight)

    chunked, whole = (jax.grad(loss, argnums=(1, 2))(form, hidden, head) for form in ("chunked", "plain"))
    for one, other in zip(chunked, whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-13)


def test_capped_logits_equal_the_plain_ones() -> None:
    hidden, head, targets = inputs(2, 5)

    def capped(hidden: jax.Array, head: jax.Array) -> jax.Array:
        logits = 0.9 * jnp.tanh(hidden @ head / 0.9) / 0.7
        return jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.array(targets)[..., None], axis=-1)[..., 0]

    chunked = lambda hidden, head: token_logprobs(hidden, targets, head, 0.7, chunk=2, cap=0.9)[0]  # noqa: E731
    np.testing.assert_allclose(chunked(hidden, head), capped(hidden, head), atol=1e-13)
    found, expected = (
        jax.grad(lambda *x, f=f: jnp.sum(f(*x) ** 2), argnums=(0, 1))(hidden, head) for f in (chunked, capped)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-13)


def test_the_gradient_of_the_entropy_is_that_of_the_plain_one() -> None:
    hidden, head, targets = inputs(2, 5)
    weights = np.random.default_rng(1).normal(size=(2, *targets.shape))

    def chunked(hidden: jax.Array, head: jax.Array) -> jax.Array:
        outputs = token_logprobs(hidden, targets, head, 0.7, chunk=2, entropy_has_gradient=True)
        return sum(jnp.sum(x * w) for x, w in zip(outputs, weights, strict=True))

    def whole(hidden: jax.Array, head: jax.Array) -> jax.Array:
        return sum(jnp.sum(x * w) for x, w in zip(plain(hidden, head, targets, 0.7), weights, strict=True))

    found, expected = (jax.grad(f, argnums=(0, 1))(hidden, head) for f in (chunked, whole))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-13)


def test_no_gradient_flows_through_the_entropy_otherwise() -> None:
    hidden, head, targets = inputs(1, 3)
    gradient = jax.grad(lambda hidden: jnp.sum(token_logprobs(hidden, targets, head)[1]))(hidden)
    np.testing.assert_array_equal(gradient, 0.0)


def test_logits_of_half_precision_hidden_states_are_float32() -> None:
    """Sums over the vocabulary in bfloat16 would be off by a percent; only the inputs are rounded."""
    hidden, head, targets = inputs(2, 5)
    half = jnp.bfloat16(hidden)
    logprobs, entropy = token_logprobs(half, targets, jnp.bfloat16(head), chunk=4)
    assert logprobs.dtype == entropy.dtype == jnp.float32
    expected, _ = plain(jnp.float64(half), jnp.float64(jnp.bfloat16(head)), targets, 1.0)
    np.testing.assert_allclose(logprobs, expected, atol=1e-5)


def test_the_logits_of_all_tokens_never_exist_at_once() -> None:
    hidden, head, targets = inputs(4, 16)
    program = jax.make_jaxpr(jax.grad(lambda hidden: jnp.sum(token_logprobs(hidden, targets, head, chunk=2)[0])))(
        hidden
    )
    assert f"[4,2,{VOCABULARY}]" in str(program)
    for whole in (f"[4,16,{VOCABULARY}]", f"[64,{VOCABULARY}]", f"[8,4,2,{VOCABULARY}]"):
        assert whole not in str(program)
