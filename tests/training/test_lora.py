"""LoRA in training: the step differentiates the adapters alone, and a stage keeps these and the name of their model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dsmath_jax.models.decoder import Decoder
from dsmath_jax.models.lora import Frozen, combine, initial_adapters
from dsmath_jax.settings import build
from dsmath_jax.sharding import Layout
from dsmath_jax.training import lora
from dsmath_jax.training.flops import matmul_parameters, model_flops_per_token
from dsmath_jax.training.objectives import next_token
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.settings import LoraSettings, TrainingSettings
from dsmath_jax.training.step import TrainState, make_train_step, state_from_params
from dsmath_jax.workdir import UserError
from tests.training.test_step import make_batch

SETTINGS = LoraSettings(rank=3, alpha=6.0)


def random_adapters(params: Any) -> Any:
    adapters = initial_adapters(params, SETTINGS.targets, SETTINGS.rank, jax.random.key(1))
    noise = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(noise.normal(0, 0.3, x.shape), jnp.float32), adapters)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_gradient_is_the_chain_rule_of_the_full_one(
    model: Decoder, params: Any, layout: Layout, accumulate: int
) -> None:
    """W' = W + s A B, so dA = s dW B^T and dB = s A^T dW, dW being the gradient of the merged matrix."""
    batch, scale, optimizer = make_batch("uneven"), SETTINGS.scale, optax.sgd(1.0)
    adapters = random_adapters(params)
    merged = lora.merged(combine(jax.tree.map(jnp.copy, params), adapters, scale), layout)
    full = jax.jit(jax.grad(lambda params: next_token(model, params, batch)[0][0] / 28))(merged)
    state = TrainState(jax.tree.map(jnp.copy, adapters), optimizer.init(adapters))
    step = make_train_step(next_token, model, optimizer, layout, state, accumulate, Frozen(params, scale))
    after, scalars = step(state, batch)
    assert float(scalars["loss"]) == pytest.approx(float(next_token(model, merged, batch)[0][0]) / 28, rel=1e-5)
    for name, inputs in (("q", 1), ("o", 2), ("gate", 1), ("down", 1)):
        a, b = (np.float64(adapters["layers"][f"{name}_lora_{side}"]) for side in "ab")
        gradient = np.float64(full["layers"][name])
        layers, ins = len(gradient), int(np.prod(gradient.shape[1 : 1 + inputs]))
        d_w, a2, b2 = (
            gradient.reshape(layers, ins, -1),
            a.reshape(layers, ins, -1),
            b.reshape(layers, SETTINGS.rank, -1),
        )
        expected = {"a": scale * d_w @ b2.swapaxes(1, 2), "b": scale * a2.swapaxes(1, 2) @ d_w}
        for side, before in (("a", a), ("b", b)):
            found = before - np.float64(after.params["layers"][f"{name}_lora_{side}"])
            want = expected[side].reshape(found.shape)
            np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * max(1, np.abs(want).max()))


def test_the_state_has_the_adapters_alone(model: Decoder, params: Any, layout: Layout) -> None:
    """The base is an argument of the step, neither donated nor part of the program."""
    trained = lora.trainable(SETTINGS, lambda frozen: params, model, layout, seed=0)
    optimizer = make_optimizer(TrainingSettings(steps=10, peak_lr=1e-2))
    state = state_from_params(trained.read(), optimizer, layout)
    c = model.config
    widths = {  # inputs + outputs of each matrix
        "q": c.hidden_size + c.num_attention_heads * c.head_dim, "k": c.hidden_size + c.num_key_value_heads * c.head_dim
    }  # fmt: skip
    sizes = 2 * (widths["q"] + widths["k"]) + 3 * (c.hidden_size + c.intermediate_size)
    count = c.num_hidden_layers * SETTINGS.rank * sizes
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == count
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * count
    step = make_train_step(next_token, model, optimizer, layout, state, 1, trained.frozen)
    compiled = step.lower(state, make_batch("even")).compile()
    assert compiled.memory_analysis().argument_size_in_bytes > 4 * (3 * count + sum(
        leaf.size for leaf in jax.tree.leaves(params)
    ))  # fmt: skip
    before = jax.tree.map(np.asarray, params)
    state, _ = step(state, make_batch("even"))
    state, _ = step(state, make_batch("uneven"))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, before, params)))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(state.params))
    assert model_flops_per_token(c, 8, count) == model_flops_per_token(c, 8) - 2 * matmul_parameters(c) + 6 * count


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": "layers/x"}, "lora.targets is 'layers/x', which matches no matrix; the paths are layers/q, "),
        ({"targets": "layers/(q"}, r"lora.targets is 'layers/\(q', which is no regular expression"),
        ({"rank": 0}, "lora.rank is 0; it must be at least 1"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(LoraSettings, fields, "lora.")
