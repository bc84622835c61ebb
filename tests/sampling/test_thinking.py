"""The thinking budget: a thought ends where its part of the completion ends, and nothing else changes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsmath_jax.data import tokenizer
from dsmath_jax.models.decoder import Decoder
from dsmath_jax.rl.batches import batch_of
from dsmath_jax.sampling.sampler import Completion, Sampler, SamplingParams
from dsmath_jax.sampling.thinking import ThinkingBudget
from dsmath_jax.sharding import Layout
from dsmath_jax.workdir import UserError

EOS, OPEN, CLOSE, LENGTH = 2, 3, 4, 12
BUDGET = ThinkingBudget(5, OPEN, CLOSE)
IN_THOUGHT, AFTER_THOUGHT, NO_THOUGHT = [1, 7, OPEN, 9], [1, OPEN, 8, CLOSE, 7], [1, 13, 7]


@pytest.fixture(scope="module")
def sampler(model: Decoder, layout: Layout) -> Sampler:
    return Sampler(model, layout, [EOS], LENGTH, decode_slots=6, chunk=3)


def complete(sampler: Sampler, params: Any, *prompts: Sequence[int], **how: Any) -> list[list[Completion]]:
    return list(sampler.generate(params, prompts, SamplingParams(**how)))


def test_a_greedy_thought_ends_at_its_budget_and_the_answer_continues_from_there(sampler: Sampler, params: Any) -> None:
    [[free]] = complete(sampler, params, IN_THOUGHT, temperature=0.0)
    assert len(free.tokens) == LENGTH
    assert CLOSE not in free.tokens
    [[completion]] = complete(sampler, params, IN_THOUGHT, temperature=0.0, thinking=BUDGET)
    thought = [*free.tokens[: BUDGET.max_tokens], CLOSE]
    [[answer]] = complete(sampler, params, [*IN_THOUGHT, *thought], temperature=0.0)
    assert completion.tokens == [*thought, *answer.tokens][:LENGTH]
    assert completion.inserted == (BUDGET.max_tokens,)
    assert completion.logprobs[BUDGET.max_tokens] == 0
    np.testing.assert_allclose(completion.logprobs[6:], answer.logprobs[: LENGTH - 6], atol=1e-5)


def test_completions_without_an_open_thought_are_what_they_were(sampler: Sampler, params: Any) -> None:
    prompts, how = (AFTER_THOUGHT, NO_THOUGHT), {"temperature": 0.0}
    assert complete(sampler, params, *prompts, **how) == complete(sampler, params, *prompts, **how, thinking=BUDGET)


def test_sampled_thoughts_of_prompts_and_of_completions_are_ended(sampler: Sampler, params: Any) -> None:
    """With more samples than slots, so that slots are refilled; a hot model opens and closes thoughts by itself."""
    prompts, how = (IN_THOUGHT, AFTER_THOUGHT, NO_THOUGHT), {"samples": 60, "temperature": 4.0, "seed": 1}
    free, limited = (
        complete(sampler, params, *prompts, **how),
        complete(sampler, params, *prompts, **how, thinking=BUDGET),
    )
    num_inserted, own = 0, 0
    for prompt, before, after in zip(prompts, free, limited, strict=True):
        for old, new in zip(before, after, strict=True):
            thinking, inserted = prompt == IN_THOUGHT, []
            for index, token in enumerate(new.tokens):
                if thinking and index >= BUDGET.max_tokens:
                    assert token == CLOSE
                    inserted.append(index)
                thinking = token != CLOSE and (thinking or token == OPEN)
            assert list(new.inserted) == inserted
            first = inserted[0] if inserted else LENGTH
            assert new.tokens[:first] == old.tokens[:first]
            own += prompt != IN_THOUGHT and bool(inserted)
            num_inserted += len(inserted)
    assert num_inserted > 20
    assert own > 5


def test_an_inserted_mark_carries_no_loss() -> None:
    completion = Completion(0, 0, [8, 9, CLOSE, 7, EOS], [-1.0, -1.0, 0.0, -1.0, -1.0], [], "eos", (2,))
    batch = batch_of([IN_THOUGHT], [completion], 10)
    assert batch["loss_weights"][0].tolist() == [0, 0, 0, 1, 1, 0, 1, 1, 0, 0]
    assert batch["targets"][0][batch["loss_weights"][0] > 0].tolist() == [8, 9, 7, EOS]


def test_a_budget_that_cannot_work_is_refused(sampler: Sampler, params: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_thinking_tokens is 12, which leaves no answer of max_new_tokens=12"):
        complete(sampler, params, IN_THOUGHT, thinking=BUDGET._replace(max_tokens=LENGTH))
    tokenizer.train_sentencepiece(["one two three"] * 9, tmp_path / "tokenizer.model", 280)
    with pytest.raises(UserError, match="<think> and </think> are not single tokens"):
        ThinkingBudget.of(tokenizer.load(tmp_path), 8)
    assert ThinkingBudget.of(tokenizer.load(tmp_path), 0) is None
