"""The splash kernel in Pallas' interpreter against NumPy: packed rows, grouped heads, parts of the queries."""

import functools
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from dsmath_jax.models import splash
from dsmath_jax.models.attention import AttentionSpec

from .attention_oracle import Case, attention, case, segments_of

ATOL = 2e-5


@functools.partial(jax.jit, static_argnames=("spec", "interpret"))
def compiled(
    inputs: tuple[Array, ...], segments: Array, weight: Array, first: Any, sliding: Array | None,
    spec: AttentionSpec, interpret: bool = True,
) -> Any:  # fmt: skip
    """Output and gradients."""

    def loss(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        out = splash.splash_attention(q, k, v, segments, first, spec._replace(sliding=sliding), interpret)
        return jnp.sum(out * weight), out

    (_, out), gradients = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*inputs)
    return out, *gradients


def actual(given: Case, interpret: bool = True, sliding: bool | None = None) -> tuple[Array, ...]:
    inputs, spec = tuple(map(jnp.float32, given[:3])), AttentionSpec(given.scale, given.softcap, given.window)
    return compiled(inputs, given.segments, jnp.float32(given.weight), given.first, sliding, spec, interpret)


def expected(given: Case) -> tuple[np.ndarray, ...]:
    out, gradients = attention(given)
    return out, *gradients


def assert_close(found: Any, wanted: Any) -> None:
    for name, one, other in zip(("out", "q", "k", "v"), found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=ATOL, err_msg=name)


# 384 tokens are three blocks of 128.
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (2, 1)])
def test_outputs_and_gradients_equal_numpy(heads: int, kv_heads: int) -> None:
    given = case(segments_of(384, (200, 50, 100), (384,)), heads, kv_heads, size=64)
    with mock.patch.object(splash, "packed_attention", side_effect=AssertionError("this is for the kernel")):
        assert_close(actual(given), expected(given))


@pytest.mark.parametrize("window", [0, 100, 200])
def test_scale_soft_cap_and_sliding_window_equal_numpy(window: int) -> None:
    given = case(segments_of(384, (200, 50, 100)), 2, 1, size=64)
    assert_close(*(f(given._replace(scale=0.2, softcap=2.0, window=window)) for f in (actual, expected)))


@pytest.mark.parametrize("sliding", [True, False])
def test_a_traced_layer_type_decides_about_the_window(sliding: bool) -> None:
    given = case(segments_of(256, (200,)), 1, 1, size=64)._replace(window=70)
    assert_close(actual(given, sliding=sliding), expected(given._replace(window=70 if sliding else 0)))


def test_packed_equals_each_segment_by_itself() -> None:
    packed = case(segments_of(384, (128, 128, 128)), 2, 1, size=64)
    found = actual(packed)
    for start in (0, 128, 256):
        part = np.s_[:, start : start + 128]
        alone = Case(*(x[part] for x in packed[:5]))
        assert_close([x[part] for x in found], actual(alone))


def test_the_queries_of_each_shard_equal_those_of_the_whole() -> None:
    """The place of the shard is traced, as on a mesh; gradients by keys and values are the sums over the shards."""
    whole = case(segments_of(512, (130, 260, 100)), 2, 1, size=64)
    parts = []
    for first in range(0, 512, 128):
        mine = np.s_[:, first : first + 128]
        parts.append(actual(whole._replace(q=whole.q[mine], weight=whole.weight[mine], first=first)))
    joined = [np.concatenate([part[i] for part in parts], axis=1) for i in (0, 1)]
    assert_close([*joined, sum(part[2] for part in parts), sum(part[3] for part in parts)], expected(whole))


def test_the_queries_of_each_shard_have_the_window() -> None:
    whole = case(segments_of(512, (130, 260, 100)), 2, 1, size=64)._replace(window=150)
    out = []
    for first in range(0, 512, 128):
        mine = np.s_[:, first : first + 128]
        out.append(actual(whole._replace(q=whole.q[mine], weight=whole.weight[mine], first=first))[0])
    np.testing.assert_allclose(np.concatenate(out, axis=1), expected(whole)[0], atol=ATOL)


@pytest.mark.parametrize(("tokens", "size"), [(200, 64), (128, 32)])
def test_unsupported_shapes_go_to_packed_attention(tokens: int, size: int) -> None:
    given = case(segments_of(tokens, (100, 20)), 2, 1, size)
    assert_close(actual(given, interpret=False), expected(given))  # the kernel itself would fail on a CPU
