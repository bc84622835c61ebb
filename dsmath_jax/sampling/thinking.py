"""The thinking budget: a thought that has taken its part of a completion is ended by its closing mark.

The mark is inserted in place of a sampled token, and the model continues with its answer. Prompts count too: a thought
that a prompt opens (DeepSeek-R1's template) is one of the completion.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, Self

from dsmath_jax.workdir import UserError

MARKS = ("<think>", "</think>")


class Encoder(Protocol):
    """A tokenizer."""

    def encode(self, text: str) -> list[int]: ...


class ThinkingBudget(NamedTuple):
    """How many tokens of a completion come before the closing mark at most, and the ids of both marks."""

    max_tokens: Any  # Python numbers; arrays inside `jit`
    open_id: Any
    close_id: Any

    @classmethod
    def of(cls, tokenizer: Encoder, max_thinking_tokens: int) -> Self | None:
        """Returns the budget of a model's completions; None, no limit, for 0.

        Raises:
          UserError: the marks are not tokens of the tokenizer.
        """
        if not max_thinking_tokens:
            return None
        ids = [tokenizer.encode(mark) for mark in MARKS]
        if any(len(each) != 1 for each in ids):
            raise UserError(
                f"max_thinking_tokens is {max_thinking_tokens}, but {' and '.join(MARKS)} are not single tokens of the "
                "model's tokenizer; give 0, or a model that was trained to think."
            )
        return cls(max_thinking_tokens, ids[0][0], ids[1][0])

    def opens(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt ends in a thought."""
        return next((token == self.open_id for token in reversed(prompt) if token in self[1:]), False)

    def inserted(self, prompt: Sequence[int], tokens: Sequence[int]) -> tuple[int, ...]:
        """Returns the indices of the closing marks of a completion that were inserted, not sampled."""
        return tuple(self._inserted(self.opens(prompt), tokens))

    def _inserted(self, thinking: bool, tokens: Sequence[int]) -> Iterator[int]:
        for index, token in enumerate(tokens):
            if thinking and index >= self.max_tokens:
                yield index
            thinking = (thinking or token == self.open_id) and token != self.close_id


def check_max_thinking_tokens(max_thinking_tokens: int, max_new_tokens: int) -> None:
    """Raises a `UserError` where a thought may take all tokens of a completion."""
    if max_thinking_tokens >= max_new_tokens:
        raise UserError(
            f"max_thinking_tokens is {max_thinking_tokens}, which leaves no answer of max_new_tokens={max_new_tokens}; "
            "lower it, or give 0 for no limit of its own."
        )
