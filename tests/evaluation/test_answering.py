"""What is graded of a completion."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from dsmath_jax.data.datasets import Record
from dsmath_jax.evaluation import answering
from dsmath_jax.evaluation.answering import Job, Settings, answers
from dsmath_jax.evaluation.policy import Policy, TextCompletion
from dsmath_jax.evaluation.registry import TASKS
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.thinking import Marks, ThinkingBudget


@pytest.mark.parametrize(("style", "graded"), [("chat", "<think>It is 3."), ("few_shot", "It is 3.")])
def test_a_thought_that_the_prompt_opened_is_graded_as_one(style: Any, graded: str) -> None:
    """A prompt of few-shot examples has no template, and opens none."""
    settings = Settings(style=style)
    job = Job(TASKS["gsm8k"], settings, [Record("x/1", "1 + 2?", "", "3", "number")], ["1 + 2?"], (), (0, 0), 1)
    policy: Any = SimpleNamespace(
        chat=SimpleNamespace(opens_thought="<think>", tokenizer=None),
        complete=lambda *_, **__: iter([[TextCompletion("It is 3.", "length")]]),
    )
    [group] = answers(policy, job, 0, None)
    assert [(answer.text, answer.prose) for answer in group.answers] == [(graded, graded)]


class Noting:
    """A sampler that draws nothing, and notes how many tokens of each prompt begin its completion."""

    def __init__(self) -> None:
        self.begun: list[Any] = []

    def generate(self, params: Any, prompts: Sequence[Any], sampling: Any, *, begun: Any, **_: Any) -> Iterator[Any]:
        self.begun.append((begun, sampling.thinking))
        return iter([[Completion(i, 0, [7], [0.0], [0.0], "eos")] for i in range(len(prompts))])


@pytest.mark.parametrize("budget", [None, ThinkingBudget(4, Marks(1, 2), opened=True)])
def test_a_thinking_budget_counts_the_dialogue_so_far(
    budget: ThinkingBudget | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "thinking_budget", lambda *_, **__: budget)
    sampler = Noting()
    chat: Any = SimpleNamespace(
        encode=lambda text: list(map(ord, text)), tokenizer=SimpleNamespace(decode=lambda _: ""),
        without_eos=lambda ids: ids,
    )  # fmt: skip
    policy = Policy({}, chat, sampler, 50, 8)  # type: ignore[arg-type]
    draw = answering._turns(policy, Settings(style="chat", mode="tir"), 0.0, [0, 1, 2], ["ab", "cde", "f" * 60])
    draw(["ab", "cde", "f" * 60], [0, 1, 2], 0, ())
    draw(["ab thought", "f" * 70], [0, 2], 1, ())
    expected = [[0, 0], [8]] if budget else [[0, 0], [0]]  # a prompt that fills the context is not sampled from
    assert sampler.begun == [(begun, budget) for begun in expected]
