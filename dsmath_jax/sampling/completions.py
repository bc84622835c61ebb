"""Completions: the output of the sampler."""

import dataclasses
from typing import Literal

FinishReason = Literal["eos", "stop", "length", "rounds"]


@dataclasses.dataclass(frozen=True)
class Completion:
    """One sample of one prompt.

    `tokens` ends with its EOS, with the token that completes a stop string, or at the length limit (or where it fills
    the model's context, if that comes first); `finish_reason` says which. A completion in turns (`turns.py`) ends with
    the last of its turns, or with "rounds" where it would have had more than it may.
    """

    prompt: int  # index into the prompts
    sample: int
    tokens: list[int]
    logprobs: list[float]  # under softmax(logits / temperature) over the whole vocabulary; greedy: at temperature 1
    sampled_logprobs: list[float]  # under the distribution after top-k and top-p; greedy: 0
    finish_reason: FinishReason
    # Indices of tokens that were not sampled: ends of thoughts (`ThinkingBudget`), and replies to turns (`turns.py`).
    inserted: tuple[int, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether it ended by itself, not at a limit."""
        return self.finish_reason in ("eos", "stop")
