"""The thinking budget: a thought ends where its part of the completion ends, and nothing else changes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsmath_jax.data import tokenizer
from dsmath_jax.data.chat import Chat
from dsmath_jax.models.decoder import Decoder
from dsmath_jax.sampling.sampler import Completion, Sampler, SamplingParams
from dsmath_jax.sampling.thinking import Marks, ThinkingBudget, ThoughtState, thinking_budget
from dsmath_jax.sharding import Layout
from dsmath_jax.workdir import UserError
from tests.rl.unpacked import batch_of

EOS, OPEN, CLOSE, LENGTH = 2, 3, 4, 12
BUDGET = ThinkingBudget(5, Marks(OPEN, CLOSE), opened=False)
PROMPT = [1, 7, OPEN, 9]


@pytest.fixture(scope="module")
def sampler(model: Decoder, layout: Layout) -> Sampler:
    return Sampler(model, layout, [EOS], LENGTH, decode_slots=6, chunk=3)


def complete(
    sampler: Sampler, params: Any, prompts: Sequence[Sequence[int]], begun: Sequence[int] | None = None, **how: Any
) -> list[list[Completion]]:
    return list(sampler.generate(params, prompts, SamplingParams(**how), begun=begun, decode=str))


@pytest.mark.parametrize("begun", [0, 2])
def test_a_greedy_thought_ends_at_its_budget_and_the_answer_continues_from_there(
    sampler: Sampler, params: Any, begun: int
) -> None:
    """Of a completion that begins in the prompt, the budget counts these tokens too."""
    opened = BUDGET._replace(opened=True)
    prompt = [*PROMPT, 8, 9][: len(PROMPT) + begun]
    [[free]] = complete(sampler, params, [prompt], temperature=0.0)
    assert len(free.tokens) == LENGTH
    assert CLOSE not in free.tokens
    [[completion]] = complete(sampler, params, [prompt], [begun], temperature=0.0, thinking=opened)
    end = BUDGET.max_tokens - begun
    thought = [*free.tokens[:end], CLOSE]
    [[answer]] = complete(sampler, params, [[*prompt, *thought]], temperature=0.0)
    assert completion.tokens == [*thought, *answer.tokens][:LENGTH]
    assert completion.inserted == (end,)
    assert completion.logprobs[end] == completion.sampled_logprobs[end] == 0
    np.testing.assert_allclose(completion.logprobs[end + 1 :], answer.logprobs[: LENGTH - end - 1], atol=1e-5)


@pytest.mark.parametrize(
    ("opened", "begun", "state"),
    [
        (False, [], ThoughtState(False, 5)),
        (True, [], ThoughtState(True, 5)),
        (True, [7, 8], ThoughtState(True, 3)),
        (True, [7, CLOSE, 8], ThoughtState(False, 2)),
        (False, [OPEN, 7], ThoughtState(True, 3)),
        (False, [OPEN, 7, 8, 9, 7, 8], ThoughtState(True, -1)),
    ],
)
def test_where_a_completion_is_after_its_first_tokens(opened: bool, begun: list[int], state: ThoughtState) -> None:
    assert BUDGET._replace(opened=opened).after(begun) == state


def test_a_mark_in_the_question_opens_no_thought(sampler: Sampler, params: Any) -> None:
    how = {"temperature": 0.0}
    assert complete(sampler, params, [PROMPT], **how) == complete(sampler, params, [PROMPT], **how, thinking=BUDGET)


def replayed(opened: bool, tokens: Sequence[int]) -> list[int]:
    """Where a mark must have been inserted, by the rule; every other token is one that may be sampled there."""
    thinking, inserted = opened, []
    for index, token in enumerate(tokens):
        if thinking and index >= BUDGET.max_tokens:
            assert token == CLOSE
            inserted.append(index)
        thinking = token != CLOSE and (thinking or token == OPEN)
    return inserted


@pytest.mark.parametrize(
    ("opened", "how"), [(True, {"top_p": 0.9, "top_k": 20}), (True, {"stop_strings": ("8, 8",)}), (False, {})], ids=str
)
def test_sampled_thoughts_are_ended_and_nothing_else_changes(
    sampler: Sampler, params: Any, opened: bool, how: dict[str, Any]
) -> None:
    """With more samples than slots, so that slots are refilled; a hot model opens and closes thoughts by itself."""
    prompts, how = ([1, 7], [1, 9, 13]), {"samples": 60, "temperature": 4.0, "seed": 1} | how
    free = complete(sampler, params, prompts, **how)
    limited = complete(sampler, params, prompts, **how, thinking=BUDGET._replace(opened=opened))
    num_inserted = 0
    for before, after in zip(free, limited, strict=True):
        for old, new in zip(before, after, strict=True):
            assert list(new.inserted) == replayed(opened, new.tokens)
            first = new.inserted[0] if new.inserted else LENGTH
            assert new.tokens[:first] == old.tokens[:first]
            num_inserted += len(new.inserted)
    assert num_inserted > (20 if opened else 5)


def test_an_inserted_mark_carries_no_loss() -> None:
    completion = Completion(0, 0, [8, 9, CLOSE, 7, EOS], [-1.0, -1.0, 0.0, -1.0, -1.0], [], "eos", (2,))
    batch = batch_of([PROMPT], [completion], 10)
    assert batch["loss_weights"][0].tolist() == [0, 0, 0, 1, 1, 0, 1, 1, 0, 0]
    assert batch["targets"][0][batch["loss_weights"][0] > 0].tolist() == [8, 9, 7, EOS]


def test_a_budget_that_cannot_work_is_refused(sampler: Sampler, params: Any, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="max_thinking_tokens is 11: with </think> it leaves none of max_new_tokens=12 f"
    ):
        complete(sampler, params, [PROMPT], thinking=BUDGET._replace(max_tokens=LENGTH - 1))
    tokenizer.train_sentencepiece(["one two three"] * 9, tmp_path / "tokenizer.model", 280)
    chat = Chat(tokenizer.load(tmp_path))
    with pytest.raises(UserError, match="max_thinking_tokens is 8, but <think> is not a token that the model's token"):
        thinking_budget(chat, 8)
    assert thinking_budget(chat, 0) is None
    for bad in (-1, 1.5, "4"):
        with pytest.raises(UserError, match=f"max_thinking_tokens is {bad!r}; it must be an integer of at least 0"):
            thinking_budget(chat, bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("template", ["{{ messages }}<think>\n", "{{ messages }}"])
def test_marks_are_found_in_the_tokenizer_and_the_template(tmp_path: Path, template: str) -> None:
    tokenizer.train_sentencepiece(["one two three"] * 9, tmp_path / "tokenizer.model", 280, ["<think>", "</think>"])
    tokens = tokenizer.load(tmp_path)
    budget = thinking_budget(Chat(tokens, template), 8)
    marks = Marks(*(tokens.encode(mark)[0] for mark in ("<think>", "</think>")))
    assert budget == ThinkingBudget(8, marks, opened="think" in template)
    assert thinking_budget(Chat(tokens, template), 8, plain=True) == ThinkingBudget(8, marks, opened=False)
