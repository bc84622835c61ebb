"""Model FLOPs by formula: the paper's sizes by hand, and what a causal token sees, what XLA counts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.hardware import CHIPS, chip_of
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.training import flops

SMALL = ModelConfig(
    vocab_size=102_400,
    num_hidden_layers=24,
    hidden_size=2048,
    num_attention_heads=16,
    num_key_value_heads=16,
    head_dim=128,
    intermediate_size=5504,
    max_position_embeddings=4096,
)
LARGE = dataclasses.replace(
    SMALL, num_hidden_layers=30, hidden_size=4096, num_attention_heads=32, num_key_value_heads=32,
    intermediate_size=11_008,
)  # fmt: skip
GROUPED = ModelConfig(
    vocab_size=50, num_hidden_layers=3, hidden_size=16, num_attention_heads=4, num_key_value_heads=2, head_dim=6,
    intermediate_size=20,
)  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "parameters", "attention"),
    [
        (SMALL, 24 * (4 * 2048**2 + 3 * 2048 * 5504) + 2048 * 102_400, 6 * 24 * 2048 * 4096),
        (LARGE, 30 * (4 * 4096**2 + 3 * 4096 * 11_008) + 4096 * 102_400, 6 * 30 * 4096 * 4096),
    ],
)
def test_the_papers_sizes_by_hand(sizes: ModelConfig, parameters: int, attention: int) -> None:
    assert flops.matmul_parameters(sizes) == parameters
    assert flops.model_flops_per_token(sizes, 4096) == 6 * parameters + attention


def test_the_papers_sizes_in_round_numbers() -> None:
    assert flops.model_flops_per_token(SMALL, 4096) == pytest.approx(9.75e9, rel=1e-3)
    assert flops.model_flops_per_token(LARGE, 4096) == pytest.approx(41.96e9, rel=1e-3)


@pytest.mark.parametrize("tied", [True, False])
def test_matmul_parameters_are_those_of_the_model(tied: bool) -> None:
    sizes = dataclasses.replace(GROUPED, tie_word_embeddings=tied)
    params = jax.eval_shape(lambda: initial_params(Decoder(sizes), jax.random.key(0)))
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    norms, looked_up = (2 * 3 + 1) * 16, 0 if tied else 50 * 16
    assert flops.matmul_parameters(sizes) == total - norms - looked_up


def test_attention_counts_what_a_causal_token_sees() -> None:
    length = 1000
    pairs = sum(range(1, length + 1))  # a token sees itself and those before it
    forward = 3 * pairs * 4 * 6 * (2 + 2)  # layers, heads, head size; score and value, a multiplication and an addition
    counted = flops.model_flops_per_token(GROUPED, length) - flops.model_flops_per_token(GROUPED, 0)
    assert counted * length == pytest.approx(3 * forward, rel=2 / length)


@pytest.mark.parametrize("length", [50, 1000])
def test_attention_counts_what_a_token_sees_in_its_window(length: int) -> None:
    """One of three layers has a window of 100."""
    types = ("full_attention", "sliding_attention", "full_attention")
    sizes = dataclasses.replace(GROUPED, sliding_window=100, layer_types=types)
    full = sum(range(1, length + 1))
    windowed = sum(min(seen, 100) for seen in range(1, length + 1))
    forward = (2 * full + windowed) * 4 * 6 * (2 + 2)
    counted = flops.model_flops_per_token(sizes, length) - flops.model_flops_per_token(sizes, 0)
    assert counted * length == pytest.approx(3 * forward, rel=2 / length)


def test_what_xla_counts_grows_with_the_parameters_as_the_formula_says() -> None:
    """By the difference of two feed-forward sizes, so that it does not matter how attention and loss are computed."""

    def both(intermediate_size: int) -> np.ndarray:
        sizes = ModelConfig(
            vocab_size=32, num_hidden_layers=1, hidden_size=64, num_attention_heads=2, head_dim=32,
            intermediate_size=intermediate_size, compute_dtype="float32",
        )  # fmt: skip
        model, tokens = Decoder(sizes), jnp.ones((2, 16), jnp.int32)
        params = jax.eval_shape(lambda: initial_params(model, jax.random.key(0)))
        total = lambda params: jnp.sum(model.apply({"params": params}, tokens, tokens, tokens))  # noqa: E731
        counted = jax.jit(jax.grad(total)).lower(params).compile().cost_analysis()["flops"]
        return np.array([counted / tokens.size, flops.model_flops_per_token(sizes, 16)])

    counted, formula = both(1024) - both(512)
    assert counted == pytest.approx(formula, rel=0.05)


def test_mfu_is_left_out_where_the_chip_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert flops.mfu(1e9, 1e3) is None
    chip = dataclasses.replace(CHIPS["h100"], device_kinds=(jax.devices()[0].device_kind,), peak_flops=4e12)
    monkeypatch.setitem(CHIPS, "here", chip)
    assert flops.mfu(1e9, 1e3) == pytest.approx(0.25 / jax.device_count())


def test_a_device_kind_is_of_one_chip() -> None:
    kinds = [kind for chip in CHIPS.values() for kind in chip.device_kinds]
    assert len(kinds) == len(set(kinds))
    assert chip_of("TPU v5 lite") is CHIPS["v5e"]
    assert chip_of("TPU v5 heavy") is None
