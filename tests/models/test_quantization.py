"""int8: the error of rounding is at most half a scale, and a quantized sampler has the policy of dequantized weights,
keys and values, by NumPy.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from jax.sharding import AbstractMesh

from dsmath_jax.models import lora
from dsmath_jax.models.attention import AttentionSpec, packed_attention
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder
from dsmath_jax.models.quantization import Quantized, quantize
from dsmath_jax.sampling import scheduler
from dsmath_jax.sampling.dtypes import DecodeDtypes
from dsmath_jax.sampling.engine import decode_params, decode_shardings
from dsmath_jax.sampling.sampler import Completion, Sampler, SamplingParams
from dsmath_jax.sharding import AXES, Layout, path_name
from dsmath_jax.training.objectives import batch_logprobs
from tests.models.hf_configs import model_config, random_params
from tests.models.test_lora import random_adapters

PROMPTS = [[1, 7, 3, 9, 4, 4, 8, 20], [1, 9], [1, 13, 5]]
LENGTH = 24
INT8 = DecodeDtypes(cache_dtype="int8", decode_weight_dtype="int8")
# Keys that are quantized from other roundings of float32 may take the next int8 value: rare, and by one step.
ONE_STEP = 0.01


def dequantized(x: Any, axes: Sequence[int]) -> np.ndarray:
    """An array after its quantization to 255 values between plus and minus its largest, in float64."""
    x = np.float64(x)
    step = np.abs(x).max(axis=tuple(axes), keepdims=True) / 127
    return np.round(x / step) * step


@settings(max_examples=30)  # most shapes are compiled
@given(
    arrays.arrays(
        np.float32, arrays.array_shapes(min_dims=2, max_dims=3, max_side=3),
        elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
    ),
    st.data(),
)  # fmt: skip
def test_an_entry_changes_by_half_its_scale_at_most(x: np.ndarray, data: st.DataObject) -> None:
    axes = data.draw(st.sets(st.integers(0, x.ndim - 1), min_size=1))
    values, scale = map(np.asarray, quantize(jnp.asarray(x), tuple(axes)))
    assert (values.dtype, scale.dtype, scale.ndim) == (np.int8, np.float32, x.ndim - len(axes))
    largest = np.abs(x).max(axis=tuple(axes))
    np.testing.assert_allclose(scale, np.maximum(np.float64(largest) / 127, np.finfo(np.float32).tiny), rtol=1e-6)
    assert np.abs(values.astype(int)).max() <= 127
    wide = np.expand_dims(np.float64(scale), tuple(axes))
    assert (np.abs(values * wide - x) <= 0.5001 * wide).all()


def test_a_matrix_of_zeros_stays_one_and_not_a_number_stays_visible() -> None:
    values, scale = quantize(jnp.array([[0.0, 0.0], [1.0, jnp.nan]]))
    assert np.array_equal(values[0], [0, 0])
    assert np.isnan(scale[1])


# --- the policy of a quantized sampler ---


def dequantized_params(config: ModelConfig, params: Any) -> tuple[ModelConfig, Any]:
    """The decoder with dequantized matrices; it has an output matrix, which is dequantized too, but not its table."""
    layers = dict(params["layers"])
    for name, inputs in lora.MATRICES.items():
        layers[name] = np.float32([dequantized(matrix, range(inputs)) for matrix in layers[name]])
    head = params["embedding"].T if config.tie_word_embeddings else params["head"]
    untied = dataclasses.replace(config, tie_word_embeddings=False)
    return untied, params | {"layers": layers, "head": np.float32(dequantized(head, [0]))}


def rounded_attention(prompt: jax.Array) -> Callable[..., jax.Array]:
    """Attention in which tokens after the prompt see dequantized keys and values; the prompt does not."""

    def rounded(x: jax.Array) -> jax.Array:
        step = jnp.max(jnp.abs(x), axis=-1, keepdims=True) / 127
        return jnp.round(x / step) * step

    def attention(q: Any, k: Any, v: Any, segment_ids: Any, *, spec: AttentionSpec) -> jax.Array:
        plain = packed_attention(q, k, v, segment_ids, spec=spec)
        decoded = packed_attention(q, rounded(k), rounded(v), segment_ids, spec=spec)
        return jnp.where(jnp.arange(q.shape[1])[:, None, None] < prompt, plain, decoded)

    return attention


def scorer(config: ModelConfig, params: Any, rounds_cache: bool) -> Callable[[Completion], np.ndarray]:
    """The log-probabilities of a completion's tokens in one pass without a cache."""

    @jax.jit
    def forward(row: jax.Array, prompt: jax.Array) -> jax.Array:
        model = Decoder(config, **({"attention": rounded_attention(prompt)} if rounds_cache else {}))
        batch = {
            "tokens": row[None, :-1], "targets": row[None, 1:], "positions": jnp.arange(LENGTH)[None],
            "segment_ids": jnp.ones((1, LENGTH), jnp.int32),
        }  # fmt: skip
        return batch_logprobs(model, params, batch, 0.9)[0][0]

    def score(completion: Completion) -> np.ndarray:
        prompt = PROMPTS[completion.prompt]
        text = [*prompt, *completion.tokens]
        row = np.zeros(LENGTH + 1, np.int32)
        row[: len(text)] = text
        return np.asarray(forward(row, len(prompt)))[len(prompt) - 1 : len(text) - 1]

    return score


def llama(make_model: Callable[..., Decoder], params: Any, folder: Path) -> tuple[ModelConfig, Any]:
    del folder
    return make_model().config, lora.combine(params, random_adapters(params), 1.0)


def family(name: str) -> Callable[..., tuple[ModelConfig, Any]]:
    def make(make_model: Callable[..., Decoder], params: Any, folder: Path) -> tuple[ModelConfig, Any]:
        del make_model, params
        config = model_config(name, folder)
        return config, random_params(config)

    return make


# LoRA's adapters; soft caps, windows, norm offsets, tied embeddings; biases and QK norms.
DECODERS = {"lora": llama, "gemma2": family("gemma2"), "qwen3": family("qwen3, biases and windows")}


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    "dtypes",
    [
        pytest.param(INT8, id="both"),
        pytest.param(DecodeDtypes(decode_weight_dtype="int8"), id="weights", marks=pytest.mark.slow),
    ],
)
def test_a_quantized_sampler_has_the_policy_of_dequantized_numbers(
    make_model: Callable[..., Decoder], params: Any, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, dtypes: DecodeDtypes,
) -> None:  # fmt: skip
    """In rings that grow, wrap, and are taken by other completions."""
    monkeypatch.setattr(scheduler, "MIN_CACHE_LENGTH", 4)
    config, params = DECODERS[name](make_model, params, tmp_path)
    sampler = Sampler(Decoder(config), layout, [2], 12, decode_slots=4, dtypes=dtypes, chunk=3)
    expected = scorer(*dequantized_params(config, params), bool(dtypes.cache_dtype))
    exact = scorer(config, params, False)
    groups = sampler.generate(params, PROMPTS, SamplingParams(samples=3, seed=1, temperature=0.9))
    completions = [completion for group in groups for completion in group]
    errors, effects = (
        np.concatenate([np.abs(completion.logprobs - score(completion)) for completion in completions])
        for score in (expected, exact)
    )
    assert np.median(errors) < 1e-5
    assert np.max(errors) < (ONE_STEP if dtypes.cache_dtype else 5e-5)
    assert np.mean(effects) > 1e-3


def test_a_completion_does_not_depend_on_its_slot(model: Decoder, params: Any, layout: Layout) -> None:
    def tokens(decode_slots: int, chunk: int) -> list[list[list[int]]]:
        sampler = Sampler(model, layout, [2, 5], 9, decode_slots=decode_slots, dtypes=INT8, chunk=chunk)
        groups = sampler.generate(params, PROMPTS, SamplingParams(samples=4, seed=7))
        return [[completion.tokens for completion in group] for group in groups]

    expected = tokens(12, 16)
    assert len({tuple(each) for group in expected for each in group}) > 6
    assert tokens(4, 3) == tokens(2, 1) == expected


@pytest.mark.parametrize("tied", [True, False])
def test_what_decoding_reads_is_int8_and_scales_are_split_as_their_matrices(
    make_model: Callable[..., Decoder], params: Any, tied: bool
) -> None:
    config = make_model(vocab_size=24, tie_word_embeddings=tied).config
    params = params | {"embedding": jnp.ones((24, 16)), "head": jnp.ones((16, 24))}
    quantized = jax.eval_shape(lambda: decode_params(params, config, "int8"))
    shardings = decode_shardings(quantized, Layout(AbstractMesh((1, 2, 1, 2), AXES)))
    found = {
        path_name(path): (str(leaf.dtype), sharding.spec)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(quantized), jax.tree.leaves(shardings), strict=True
        )
    }
    matrices = {f"layers/{i}/{name}" for i in range(2) for name in lora.MATRICES} | {"output/values"}
    assert {path for path, (dtype, _) in found.items() if dtype == "int8"} == matrices
    assert {dtype for path, (dtype, _) in found.items() if path not in matrices} == {"float32"}
    for name, spec in {"q": ("tensor", None), "gate": ("tensor",), "o": (None,), "down": (None,)}.items():
        assert found[f"layers/0/{name}_scale"][1] == jax.sharding.PartitionSpec(*spec)
    assert found["output/scale"][1] == jax.sharding.PartitionSpec("tensor")


def test_a_quantized_array_has_the_shape_of_its_values() -> None:
    x = Quantized(jnp.zeros((3, 4), jnp.int8), jnp.zeros(3))
    assert x.shape == (3, 4)
