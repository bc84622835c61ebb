"""From a question to token ids: the chat template of DeepSeekMath, and few-shot prompts for base models."""

from collections.abc import Sequence

from dsmath_jax.data.benchmarks import Record
from dsmath_jax.data.tokenizer import Tokenizer

USER, ASSISTANT = "User: {question}\n\nAssistant:", " {solution}"
MARKERS = ("User:", "Assistant:")  # one token each in a tokenizer that we train


def prompt_ids(tokenizer: Tokenizer, question: str) -> list[int]:
    """BOS and the question, up to where the assistant speaks."""
    return [tokenizer.bos_id, *tokenizer.encode(USER.format(question=question))]


def completion_ids(tokenizer: Tokenizer, solution: str) -> list[int]:
    """The solution and the EOS that ends it; EOS is part of the completion."""
    return [*tokenizer.encode(ASSISTANT.format(solution=solution)), tokenizer.eos_id]


def few_shot_ids(tokenizer: Tokenizer, examples: Sequence[Record], question: str) -> list[int]:
    """BOS, worked examples and the question in the same template: how a model without SFT is asked."""
    shots = "".join(f"{USER.format(question=e.question)}{ASSISTANT.format(solution=e.solution)}\n\n" for e in examples)
    return [tokenizer.bos_id, *tokenizer.encode(shots + USER.format(question=question))]
