"""The thinking budget: a thought that has taken its part of a completion is ended by its closing mark.

The mark replaces the token that was sampled, and the model continues with its answer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from dsmath_jax.data.chat import Chat
from dsmath_jax.data.thoughts import CLOSE, OPEN
from dsmath_jax.workdir import UserError

THINKING_HELP = f"an open thought is ended by {CLOSE} after this many tokens of a completion; 0 for no limit"


class Marks(NamedTuple):
    """The ids of the marks around a thought: Python numbers, or arrays inside `jit`."""

    open_id: Any
    close_id: Any


class ThoughtState(NamedTuple):
    """Whether a completion is in a thought where sampling starts, and the tokens before a thought is ended there."""

    is_open: bool = False
    left: int = 0


class ThinkingBudget(NamedTuple):
    """The limit of the thoughts of a model.

    Attributes:
      max_tokens: of a completion before the closing mark.
      marks: their ids.
      opened: whether prompts end with the opening mark (`Chat.opens_thought`).
    """

    max_tokens: int
    marks: Marks
    opened: bool

    def after(self, begun: Sequence[int]) -> ThoughtState:
        """Returns the state of a completion after its first tokens."""
        last = next((token for token in reversed(begun) if token in self.marks), None)
        is_open = self.opened if last is None else last == self.marks.open_id
        return ThoughtState(is_open, self.max_tokens - len(begun))


def thinking_budget(chat: Chat, max_thinking_tokens: int, plain: bool = False) -> ThinkingBudget | None:
    """Returns the budget of a model's completions; None, no limit, for 0.

    Args:
      chat: of the model.
      max_thinking_tokens: the setting.
      plain: whether the prompts are texts without the chat template.

    Raises:
      UserError: a mark is not a token of the tokenizer, or `decode` leaves it out.
    """
    if type(max_thinking_tokens) is not int or max_thinking_tokens < 0:
        raise UserError(f"max_thinking_tokens is {max_thinking_tokens!r}; it must be an integer of at least 0.")
    if not max_thinking_tokens:
        return None
    ids = [chat.tokenizer.encode(mark)[-1:] for mark in (OPEN, CLOSE)]  # SentencePiece may begin with a blank
    for mark, last in zip((OPEN, CLOSE), ids, strict=True):
        if chat.tokenizer.decode(last) != mark:
            raise UserError(
                f"max_thinking_tokens is {max_thinking_tokens}, but {mark} is not a token that the model's tokenizer "
                "reads and writes in texts; give 0, or a model that was trained to think."
            )
    return ThinkingBudget(max_thinking_tokens, Marks(ids[0][0], ids[1][0]), not plain and bool(chat.opens_thought))


def check_max_thinking_tokens(max_thinking_tokens: int, max_new_tokens: int) -> None:
    """Raises a `UserError` where a thought leaves no token for the answer."""
    if max_thinking_tokens and max_thinking_tokens + 1 >= max_new_tokens:
        raise UserError(
            f"max_thinking_tokens is {max_thinking_tokens}: with {CLOSE} it leaves none of "
            f"max_new_tokens={max_new_tokens} for the answer; lower it, or give 0 for no limit."
        )
