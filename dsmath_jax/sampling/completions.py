"""What the sampler gives back."""

import dataclasses
from typing import Literal

Finish = Literal["eos", "stop", "length"]


@dataclasses.dataclass(frozen=True)
class Completion:
    """One sample of one prompt.

    `tokens` ends with its EOS, with the token that completed a stop string, or at the length limit (or the model's
    context, where that is less); `finish` says with which.
    """

    prompt: int  # index into the prompts given
    sample: int
    tokens: list[int]
    logprobs: list[float]  # under softmax(logits / temperature) over the whole vocabulary; greedy: at temperature 1
    sampled_logprobs: list[float]  # under what each was drawn from, after top-k and top-p; greedy: 0
    finish: Finish

    @property
    def finished(self) -> bool:
        """Whether it came to an end of its own, not to the length limit."""
        return self.finish != "length"
