"""PPO in float64: the clipped objective and the loss of the value model."""

import math
from typing import Any

import jax
import numpy as np
import pytest

from dsmath_jax.models.decoder import Decoder
from dsmath_jax.rl.algorithms import GRPO, PPO
from dsmath_jax.rl.reward_model.model import token_scores
from dsmath_jax.sampling.completions import Completion
from tests.rl.unpacked import batch_of

from .free_policy import LENGTHS, TEMPERATURE, WIDTH, FreePolicy, free_batch, free_params, mean_loss


@pytest.fixture
def both() -> dict[str, Any]:
    head = np.random.default_rng(4)
    reward = {"kernel": head.normal(size=(WIDTH, 1)), "bias": np.array([0.2])}
    return {"policy": free_params(), "value": {"model": free_params(5), "reward": reward}}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("value_clip", "bound"), [(0.3, 0.3), (0.0, math.inf)])
def test_loss_is_equation_1_and_the_clipped_value_loss(both: dict, value_clip: float, bound: float) -> None:
    batch = free_batch()
    values = (both["value"]["model"]["hidden"] @ both["value"]["reward"]["kernel"])[..., 0] + 0.2
    np.testing.assert_allclose(token_scores(FreePolicy(), both["value"], batch), values, atol=1e-14)
    error = 0.0
    for i, t in np.argwhere(batch["loss_weights"] > 0):
        old, target = batch["old_values"][i, t], batch["returns"][i, t]
        near = min(max(values[i, t], old - bound), old + bound)
        error += max((values[i, t] - target) ** 2, (near - target) ** 2) / 2 / LENGTHS[i] / 4
    gain, expected, _ = mean_loss(GRPO(kl_coef=0.0, temperature=TEMPERATURE), both["policy"], batch)
    algorithm = PPO(value_clip=value_clip, value_coef=0.5, temperature=TEMPERATURE)
    loss, gradient, metrics = mean_loss(algorithm, both, batch)
    assert loss == pytest.approx(gain + 0.5 * error, abs=1e-12)
    assert metrics["value_loss"] == pytest.approx(error, abs=1e-12)
    np.testing.assert_allclose(gradient["policy"]["hidden"], expected["hidden"], atol=1e-14)
    assert {"kl", "clip_low", "clip_high", "entropy", "value", "sampler_logprob_diff"} < metrics.keys()


@pytest.mark.usefixtures("float64")
def test_a_value_beyond_its_clip_is_pulled_back_but_not_pushed_further(both: dict) -> None:
    """Where the clip makes the error worse, the gradient is gone; where it makes it better, it stays."""
    batch = free_batch()
    values = np.asarray(token_scores(FreePolicy(), both["value"], batch))
    towards, away = ({"returns": values + sign, "old_values": values - 1.0} for sign in (2.0, -2.0))
    for fields, moves in ((towards, False), (away, True)):
        _, gradient, _ = mean_loss(PPO(value_clip=0.1), both, batch | fields)
        moved = np.abs(gradient["value"]["model"]["hidden"]).sum(axis=-1) > 0
        np.testing.assert_array_equal(moved, (batch["loss_weights"] > 0) & moves)


def test_the_value_before_a_token_does_not_see_it(model: Decoder, params: Any) -> None:
    """A change of the last token changes no value of the completion but those after it."""
    value_params = {
        "model": params,
        "reward": {"kernel": np.ones((16, 1), np.float32), "bias": np.zeros(1, np.float32)},
    }
    completions = [Completion(0, i, [4, 5, last], [0.0] * 3, [0.0] * 3, "eos") for i, last in enumerate((2, 9))]
    one, other = jax.jit(lambda params, batch: token_scores(model, params, batch))(
        value_params, batch_of([[1, 7]], completions, 5)
    )
    np.testing.assert_array_equal(one[:4], other[:4])
    assert one.dtype == np.float32
    assert abs(one[4] - other[4]) > 1e-3
