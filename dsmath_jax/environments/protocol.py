"""What an environment is: it asks a question and replies to the model's turns."""

from collections.abc import Awaitable, Sequence
from typing import NamedTuple, Protocol

from dsmath_jax.data.dataset_formats import Record
from dsmath_jax.data.questions import Mode
from dsmath_jax.sampling.completions import FinishReason


class TextTurn(NamedTuple):
    """A turn of the model.

    Attributes:
      text: without EOS, with the stop string that ended it.
      finish_reason: "eos", "stop", or "length" at a limit.
      is_last: whether the dialogue ends here, whatever follows.
    """

    text: str
    finish_reason: FinishReason
    is_last: bool


class Step(NamedTuple):
    """What an environment replies to a turn.

    Attributes:
      observation: the text that follows the turn; empty: the dialogue ends.
      is_message: whether the observation is the user's next message, in the chat template; otherwise it continues the
        text of the assistant's turn.
      drops_eos: whether an EOS that ended the turn is removed from the dialogue.
      reward: of the dialogue so far; None for none. That of the last turn counts.
      answer_text: the text that a final answer is extracted from, so far; None for the whole dialogue.
    """

    observation: str = ""
    is_message: bool = False
    drops_eos: bool = False
    reward: float | None = None
    answer_text: str | None = None


class Environment(Protocol):
    """One dialogue.

    Attributes:
      mode: of the question, as it is put to the model (`Chat.prompt`).
      stop_strings: a turn ends with the token that completes one of these.
    """

    mode: Mode
    stop_strings: Sequence[str]

    def reset(self, record: Record) -> str:
        """Begins the dialogue about a problem; returns the question, the same for all dialogues about it."""
        ...

    def step(self, turn: TextTurn) -> Step | Awaitable[Step]:
        """Replies to a turn; may be an `async def`. Dialogues run concurrently: in threads, or in one event loop."""
        ...
