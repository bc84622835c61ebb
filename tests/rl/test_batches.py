"""Prompts with their completions as training rows, and the widths of batches."""

from typing import Any

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.models.decoder import Decoder
from dsmath_jax.rl.batches import batch_of, bucketed_length, gather_per_completion, scatter_to_batch
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import Layout
from dsmath_jax.training.objectives import batch_logprobs

EOS = 2
PROMPTS = [[1, 7, 3], [1, 9]]
COMPLETIONS = [
    Completion(0, 0, [4, 5, EOS], [-0.1, -0.2, -0.3], [], "eos"),
    Completion(0, 1, [6], [-0.4], [], "length"),
    Completion(1, 0, [EOS], [-0.5], [], "eos"),
]


def test_rows_hold_prompt_completion_and_nothing_else() -> None:
    batch = batch_of(PROMPTS, COMPLETIONS, 6)
    assert batch["tokens"].tolist() == [[1, 7, 3, 4, 5, 2], [1, 7, 3, 6, 0, 0], [1, 9, 2, 0, 0, 0]]
    assert batch["targets"].tolist() == [[7, 3, 4, 5, 2, 0], [7, 3, 6, 0, 0, 0], [9, 2, 0, 0, 0, 0]]
    assert batch["segment_ids"].tolist() == [[1] * 6, [1] * 4 + [0] * 2, [1] * 3 + [0] * 3]
    assert batch["loss_weights"].tolist() == [[0, 0, 1, 1, 1, 0], [0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0]]
    np.testing.assert_allclose(
        batch["sampler_logprobs"], [[0, 0, -0.1, -0.2, -0.3, 0], [0, 0, -0.4, 0, 0, 0], [0, -0.5, 0, 0, 0, 0]]
    )
    assert batch["positions"].tolist() == [list(range(6))] * 3


def test_eos_carries_weight_and_its_logprob() -> None:
    batch = batch_of(PROMPTS, COMPLETIONS, 5)  # as long as the longest needs, no longer
    ends = batch["targets"] == EOS
    assert ends.sum() == 2
    assert batch["loss_weights"][ends].tolist() == [1.0, 1.0]
    np.testing.assert_allclose(batch["sampler_logprobs"][ends], [-0.3, -0.5])


def test_training_sees_the_logprobs_that_the_sampler_saw(model: Decoder, params: Any, layout: Layout) -> None:
    """So that the first update on a rollout has a ratio of one."""
    temperature = 0.6
    sampler = Sampler(model, layout, [EOS, 5], 6, decode_slots=8)
    groups = sampler.generate(params, PROMPTS, SamplingParams(samples=4, temperature=temperature, seed=3))
    batch = batch_of(PROMPTS, [completion for group in groups for completion in group], 9)
    scored, _ = jax.jit(lambda params: batch_logprobs(model, params, batch, temperature))(params)
    mask = batch["loss_weights"] > 0
    np.testing.assert_allclose(np.asarray(scored)[mask], batch["sampler_logprobs"][mask], atol=2e-5)
    assert not batch["sampler_logprobs"][~mask].any()


def test_gather_inverts_scatter() -> None:
    values = [np.array([0.5, 1.0, 2.0]), np.array([3.0]), np.array([4.0])]
    field = scatter_to_batch(values, PROMPTS, COMPLETIONS, 6)
    assert field.tolist() == [[0, 0, 0.5, 1, 2, 0], [0, 0, 3, 0, 0, 0], [0, 4, 0, 0, 0, 0]]
    for one, same in zip(values, gather_per_completion(field, PROMPTS, COMPLETIONS), strict=True):
        np.testing.assert_array_equal(one, same)


@given(st.integers(1, 2000), st.data())
def test_batches_have_one_of_few_lengths(limit: int, data: st.DataObject) -> None:
    longest, multiple = data.draw(st.integers(1, limit)), data.draw(st.sampled_from([1, 2, 8]))
    width = bucketed_length(longest, limit, multiple)
    assert longest <= width
    assert width % multiple == 0
    assert len({bucketed_length(n, limit, multiple) for n in range(1, limit + 1)}) <= 4
    assert bucketed_length(limit, limit, 1) < limit + 4
