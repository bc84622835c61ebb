"""Attention and its hand-written backward pass against NumPy in float64, in one block and in many."""

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Array

from dsmath_jax.models import attention as module
from dsmath_jax.models.attention import AttentionSpec, cached_attention, packed_attention
from dsmath_jax.models.quantization import Quantized

from .attention_oracle import Case, attention, case, segments_of

SEGMENTS = segments_of(9, (4, 2, 1), (2, 7))


@functools.cache
def compiled(block: int, spec: AttentionSpec) -> Callable[..., Any]:
    """Output and gradients for blocks of this size, compiled once for each shape: segments and `first` are traced."""

    def loss(q: Array, k: Array, v: Array, segments: Array, weight: Array, first: Array) -> tuple[Array, Array]:
        with mock.patch.object(module, "BLOCK_SIZE", block):
            out = packed_attention(q, k, v, segments, first, spec)
        return jnp.sum(out * weight), out

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


def actual(given: Case, dtype: Any = jnp.float32, block: int = module.BLOCK_SIZE) -> tuple[Array, tuple[Array, ...]]:
    q, k, v = (jnp.asarray(x, dtype) for x in given[:3])
    program = compiled(block, AttentionSpec(given.scale, given.softcap, given.window))
    (_, out), gradients = program(q, k, v, given.segments, jnp.asarray(given.weight, dtype), given.first)
    return out, gradients


def assert_equals_numpy(given: Case, atol: float, dtype: Any = jnp.float32, block: int = module.BLOCK_SIZE) -> None:
    out, gradients = actual(given, dtype, block)
    expected, by_inputs = attention(given)
    np.testing.assert_allclose(out, expected, atol=atol)
    for name, one, other in zip("qkv", gradients, by_inputs, strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one, other, atol=atol, err_msg=name)


@pytest.mark.parametrize(("heads", "kv_heads", "block"), [(4, 2, 128), (3, 3, 4)])
def test_outputs_and_gradients_equal_numpy(heads: int, kv_heads: int, block: int) -> None:
    assert_equals_numpy(case(SEGMENTS, heads, kv_heads, size=4), atol=5e-6, block=block)


@pytest.mark.parametrize(("tokens", "length", "block"), [(11, 11, 3), (12, 5, 4), (7, 6, 7), (13, 1, 2)])
@given(data=st.data())
def test_any_segments_and_any_part_of_the_queries_equal_numpy_in_float64(
    tokens: int, length: int, block: int, data: st.DataObject
) -> None:
    row = st.lists(st.integers(0, 3), min_size=tokens, max_size=tokens)
    in_order = row.map(lambda ids: sorted(ids, key=lambda i: (i == 0, i)))
    segments = np.array(data.draw(st.lists(st.one_of(in_order, row), min_size=2, max_size=2)))
    first = data.draw(st.integers(0, tokens - length))
    with jax.enable_x64(True):
        assert_equals_numpy(case(segments, 4, 2, 2, length, first), atol=1e-12, dtype=jnp.float64, block=block)


@pytest.mark.parametrize("block", [128, 4, 3])
@pytest.mark.parametrize("window", [0, 1, 4, 6])
def test_scale_soft_cap_and_sliding_window_equal_numpy(block: int, window: int) -> None:
    given_ = case(segments_of(23, (12, 9), (20, 3)), 4, 2, size=4, length=17, first=5)
    given_ = given_._replace(scale=0.8, softcap=1.3, window=window)
    with jax.enable_x64(True):
        assert_equals_numpy(given_, atol=1e-12, dtype=jnp.float64, block=block)


@pytest.mark.parametrize("sliding", [True, False])
def test_a_traced_layer_type_decides_about_the_window(sliding: bool) -> None:
    given_ = case(SEGMENTS, 4, 2, size=4)
    q, k, v = (jnp.float32(x) for x in given_[:3])
    attend = lambda sliding: packed_attention(q, k, v, SEGMENTS, 0, AttentionSpec(window=3, sliding=sliding))  # noqa: E731
    expected, _ = attention(given_._replace(window=3 if sliding else 0))
    np.testing.assert_allclose(jax.jit(attend)(sliding), expected, atol=5e-6)


def test_half_precision_outputs_are_half_precision_and_close() -> None:
    given_ = case(segments_of(300, (200, 60)), 4, 2, 16)
    out, gradients = actual(given_, jnp.bfloat16)
    expected, by_inputs = attention(given_)
    for one, other in zip((out, *gradients), (expected, *by_inputs), strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float64(one), other, atol=0.02 * np.abs(other).max())


def test_packed_equals_each_segment_by_itself() -> None:
    lengths = (130, 130)
    whole = case(segments_of(270, lengths), 2, 1, 8)
    out, gradients = actual(whole)
    for start in (0, 130):
        part = np.s_[:, start : start + 130]
        alone = Case(*(x[part] for x in whole[:5]))
        found, by_inputs = actual(alone)
        for one, other in zip((out, *gradients), (found, *by_inputs), strict=True):
            np.testing.assert_allclose(one[part], other, atol=5e-6)


def test_large_scores_neither_overflow_nor_lose_the_sum() -> None:
    given_ = case(SEGMENTS, 4, 2, size=4)
    out, gradients = actual(given_._replace(q=1e4 * given_.q, v=np.ones_like(given_.v)), block=4)
    np.testing.assert_allclose(out, np.ones(out.shape), atol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_masked_blocks_are_not_computed() -> None:
    """Blocks above the diagonal and of other segments: what they hold, be it no number, does not matter."""
    given_ = case(segments_of(16, (8, 4)), 1, 1, size=4, length=4)
    for first, seen in ((4, np.s_[0:8]), (8, np.s_[8:12]), (12, np.s_[12:16])):
        k = np.full_like(given_.k, np.nan)
        k[:, seen] = given_.k[:, seen]
        out, (by_q, by_k, _) = actual(given_._replace(k=k, first=first), block=4)
        assert np.isfinite(out).all()
        assert np.isfinite(by_q).all()
        np.testing.assert_array_equal(np.isfinite(by_k).all(axis=(0, 2, 3)), np.full(16, True))


def test_blocks_before_the_window_are_not_computed() -> None:
    given_ = case(segments_of(16, (16,)), 1, 1, size=4, length=4, first=12)._replace(window=5)
    k = np.full_like(given_.k, np.nan)
    k[:, 8:] = given_.k[:, 8:]
    out, (by_q, by_k, _) = actual(given_._replace(k=k), block=4)
    assert np.isfinite(out).all()
    assert np.isfinite(by_q).all()
    assert np.isfinite(by_k).all()


def test_memory_is_far_below_that_of_the_scores() -> None:
    tokens, heads = 8192, 2
    shape = jax.ShapeDtypeStruct((1, tokens, heads, 16), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
    loss = lambda q, k, v, ids: jnp.sum(packed_attention(q, k, v, ids))  # noqa: E731
    used = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(shape, shape, shape, ids).compile().memory_analysis()
    assert used.temp_size_in_bytes < 4 * tokens * tokens * heads / 50


def test_saved_residuals_avoid_a_second_forward_pass() -> None:
    def loops(policy: Any) -> int:
        q, k, v = (jnp.float32(x) for x in case(SEGMENTS, 2, 1, size=4)[:3])
        with mock.patch.object(module, "BLOCK_SIZE", 4):
            layer = jax.checkpoint(lambda q: packed_attention(q, k, v, SEGMENTS), policy=policy)
            return str(jax.make_jaxpr(jax.grad(lambda q: jnp.sum(layer(q))))(q)).count("while[")

    policies = jax.checkpoint_policies
    assert loops(policies.nothing_saveable) == 3
    assert loops(policies.save_only_these_names(module.RESIDUALS)) == 2


def compiled_for_tpus(*operands: Array, tpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """Replaces `jax.lax.platform_dependent`."""
    del default
    return tpu(*operands)


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "int8"])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize(("kv_heads", "rows_each"), [(2, 3), (4, 3), (4, 1)])
def test_cache_and_shared_prefix_equal_one_sequence(
    kv_heads: int, rows_each: int, platform: str, quantized: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows share each prompt's keys; prompts of unequal length are padded and the padding is not seen.

    Quantized keys and values have any scales, those of entries that are not written too.
    """
    if platform == "tpu":
        monkeypatch.setattr(jax.lax, "platform_dependent", compiled_for_tpus)
    noise = np.random.default_rng(2)
    heads, size = 4, 4
    prompts, width, slots, lengths = 2, 5, 4, [5, 2]
    rows = prompts * rows_each
    prompt_k, prompt_v = noise.normal(size=(2, prompts, kv_heads, width, size))
    own_k, own_v = noise.normal(size=(2, rows, kv_heads, slots, size))
    q = noise.normal(size=(rows, 1, heads, size))
    filled = 2  # the row's own slots 0 and 1 are written, 2 and 3 are not
    mask = np.broadcast_to(np.arange(slots) < filled, (rows, 1, slots))
    inside = np.arange(width) < np.array(lengths)[:, None]
    caches = [*map(jnp.float32, (own_k, own_v, prompt_k, prompt_v))]
    if quantized:
        scales = [noise.uniform(0.001, 0.1, x.shape[:3]) for x in caches]
        values = [noise.integers(-127, 128, x.shape) for x in caches]
        caches = [Quantized(jnp.int8(x), jnp.float32(scale)) for x, scale in zip(values, scales, strict=True)]
        own_k, own_v, prompt_k, prompt_v = (x * scale[..., None] for x, scale in zip(values, scales, strict=True))
    prefix = (*caches[2:], jnp.array(inside))
    program = jax.jit(lambda *inputs: cached_attention(*inputs, AttentionSpec(softcap=5.0)))  # for each platform
    found = program(jnp.float32(q), *caches[:2], jnp.array(mask), [prefix])
    for row in range(rows):
        prompt = row // rows_each
        k, v = (
            np.concatenate([theirs[prompt, :, : lengths[prompt]], own[row, :, :filled]], axis=1).transpose(1, 0, 2)[
                None
            ]
            for theirs, own in ((prompt_k, own_k), (prompt_v, own_v))
        )
        last = q[row][None]
        expected, _ = attention(Case(last, k, v, np.ones(k.shape[:2], np.int32), last, k.shape[1] - 1, softcap=5.0))
        np.testing.assert_allclose(found[row], expected[0], atol=5e-6 if quantized else 2e-6)
