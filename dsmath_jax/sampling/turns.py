"""Completions in turns: the sampler samples a turn, a partner replies with tokens, and sampling continues.

The KV cache of a slot is kept between turns. The tokens of a reply are given to the model in place of sampled ones, one
per decode step, so that nothing is prefilled or tokenized again. While the partner replies to the turns that ended in
one chunk of decode steps, the next chunk decodes the other slots; then the replies are awaited. So the schedule depends
on tokens alone, and is the same on all processes.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dsmath_jax.sampling.completions import FinishReason


class Turn(NamedTuple):
    """A turn of the model that has ended.

    Attributes:
      prompt, sample: of the completion, as in `Completion`.
      number: of the turn, from 0.
      tokens: of the turn, with its end.
      finish_reason: "eos", "stop", or "length" at the limit of turn or completion.
      is_last: whether the completion ends here whatever the partner replies.
    """

    prompt: int
    sample: int
    number: int
    tokens: list[int]
    finish_reason: FinishReason
    is_last: bool


class Reply(NamedTuple):
    """What follows a turn.

    Attributes:
      tokens: at least one. A reply that leaves no room for another token of the model ends the completion before it.
      drops_eos: whether an EOS that ended the turn is removed.
    """

    tokens: list[int]
    drops_eos: bool = False


class TurnLimits(NamedTuple):
    """Where turns, and completions in turns, end at the latest.

    Attributes:
      turns: of the model in a completion.
      turn_tokens: of a turn of the model.
      tokens: of a completion, replies included.
    """

    turns: int
    turn_tokens: int
    tokens: int


class Partner(Protocol):
    """Replies to the turns of completions.

    Attributes:
      stop_strings: a turn ends with the token that completes one of these.
      limits: of each completion.
    """

    stop_strings: Sequence[str]
    limits: TurnLimits

    def ask(self, turns: Sequence[Turn]) -> None:
        """Begins to reply to turns. Every process asks for the same."""
        ...

    def replies(self) -> list[Reply | None]:
        """Waits for the replies to all turns of the last `ask`, in order; None ends the completion.

        They are the same on every process.
        """
        ...


def ring_positions(limits: TurnLimits, chunk: int) -> int:
    """Returns the maximum number of positions of a ring between the first token of a completion and its last.

    While a completion waits for a reply, other slots write: up to the end of the chunk in which its turn ended, and
    the whole next chunk. An EOS that is dropped took a position too.
    """
    return limits.tokens + (limits.turns - 1) * 2 * chunk
