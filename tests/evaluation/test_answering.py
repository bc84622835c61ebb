"""What is graded of a completion."""

from types import SimpleNamespace
from typing import Any

import pytest

from dsmath_jax.data.datasets import Record
from dsmath_jax.evaluation.answering import Job, Settings, answers
from dsmath_jax.evaluation.policy import TextCompletion
from dsmath_jax.evaluation.registry import TASKS


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
