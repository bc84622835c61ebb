"""The outcome reward model: where it looks, what it is trained on, how it is judged."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from dsmath_jax.models.llama import Llama
from dsmath_jax.rl.reward_model import auc, pointwise, scorer, scores, with_head
from dsmath_jax.rl.rollouts import batch_of
from dsmath_jax.sampling.sampler import Completion

PROMPTS = [[1, 7, 3], [1, 9]]
COMPLETIONS = [
    Completion(0, 0, [4, 5, 2], [0.0] * 3, True),
    Completion(0, 1, [6], [0.0], False),
    Completion(1, 0, [8, 2], [0.0] * 2, True),
]


@pytest.fixture
def judge(params: Any) -> Any:
    kernel = np.random.default_rng(0).normal(size=(16, 1)).astype(np.float32)
    return {"model": params, "reward": {"kernel": kernel, "bias": np.array([0.3], np.float32)}}


def test_a_score_is_read_at_the_last_token_whatever_the_padding(model: Llama, judge: Any, mesh: Mesh) -> None:
    expected = []
    for c in COMPLETIONS:
        tokens = np.array([PROMPTS[c.prompt] + c.tokens], np.int32)
        hidden, _ = jax.jit(model.apply)(
            {"params": judge["model"]}, tokens, np.arange(tokens.size)[None], tokens * 0 + 1
        )
        expected.append(float(hidden[0, -1] @ judge["reward"]["kernel"][:, 0] + 0.3))
    for batch_size in (2, 4):  # one more and one less than there are: the last batch is filled up
        found = scorer(model, mesh, 8, batch_size)(judge, PROMPTS, COMPLETIONS)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.std(expected) > 0.1


def test_pointwise_is_binary_cross_entropy_in_numpy(model: Llama, judge: Any) -> None:
    labels, weights = np.array([1.0, 0.0, 1.0], np.float32), np.array([1.0, 1.0, 0.0], np.float32)
    batch = batch_of(PROMPTS, COMPLETIONS, 8) | {"labels": labels, "weights": weights}
    logits = np.float64(jax.jit(lambda params: scores(model, params, batch))(judge))
    chance = 1 / (1 + np.exp(-logits))
    losses = -np.where(labels > 0, np.log(chance), np.log(1 - chance))
    (loss, weight), metrics = jax.jit(lambda params: pointwise(model, params, batch))(judge)
    assert float(weight) == 2.0
    assert float(loss) == pytest.approx(losses[:2].sum(), rel=1e-5)
    assert float(metrics["accuracy"]) == ((logits > 0) == (labels > 0))[:2].sum()


def test_logits_of_any_size_leave_the_loss_finite(model: Llama, judge: Any) -> None:
    judge["reward"] = {"kernel": np.zeros((16, 1), np.float32), "bias": np.array([500.0], np.float32)}
    batch = batch_of(PROMPTS, COMPLETIONS, 8) | {"labels": jnp.array([1.0, 0.0, 0.0]), "weights": jnp.ones(3)}
    (loss, _), _ = jax.jit(lambda params: pointwise(model, params, batch))(judge)
    assert float(loss) == pytest.approx(1000.0)


def test_a_new_head_knows_nothing(model: Llama, params: Any) -> None:
    batch = batch_of(PROMPTS, COMPLETIONS, 8) | {"labels": jnp.array([1.0, 0.0, 1.0]), "weights": jnp.ones(3)}
    (loss, weight), _ = jax.jit(lambda params: pointwise(model, with_head(params, 16), batch))(params)
    assert float(loss / weight) == pytest.approx(np.log(2))


@pytest.mark.parametrize(
    ("found", "labels", "value"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 0.0),
        ([0.5, 0.5, 0.5], [0, 1, 1], 0.5),
        ([0.1, 0.6, 0.4, 0.9], [0, 0, 1, 1], 0.75),
        ([1.0, 1.0, 0.0], [1, 0, 0], 0.75),
    ],
)
def test_auc_is_the_share_of_pairs_in_order(found: list[float], labels: list[int], value: float) -> None:
    assert auc(np.array(found), np.array(labels, bool)) == value
