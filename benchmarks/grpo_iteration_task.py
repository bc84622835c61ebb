"""What both sides of `benchmarks.grpo_iteration` are given. Needs nothing but the standard library.

The words are `w0`, `w1`, ...: a token is a word.
"""

import math
import time
from collections import defaultdict
from random import Random
from typing import NamedTuple

EOS, PAD = 0, 1  # of the vocabulary; the prompts have neither
MEDIAN, SPREAD, SHORTEST = 0.5, 0.6, 0.1  # of planned lengths, which are log-normal: shares of the limit


class Task(NamedTuple):
    """The sizes of an iteration, and what it samples and learns with."""

    prompts: int
    group_size: int
    prompt_tokens: int
    new_tokens: int
    vocabulary: int
    temperature: float = 1.0
    clip_eps: float = 0.2
    kl_coef: float = 0.04
    learning_rate: float = 1e-6

    @property
    def rows(self) -> int:
        return self.prompts * self.group_size


def prompts_of(task: Task, iteration: int) -> list[list[int]]:
    """The prompts of an iteration, token ids."""
    random = Random(f"prompts {iteration}")
    return [[random.randrange(2, task.vocabulary) for _ in range(task.prompt_tokens)] for _ in range(task.prompts)]


def lengths_of(task: Task, iteration: int) -> list[int]:
    """The planned lengths of an iteration's completions, prompt-major; the last token is EOS."""
    random = Random(f"lengths {iteration}")
    shares = (random.lognormvariate(math.log(MEDIAN), SPREAD) for _ in range(task.rows))
    return [
        min(max(round(share * task.new_tokens), math.ceil(SHORTEST * task.new_tokens)), task.new_tokens)
        for share in shares
    ]


class Laps:
    """Wall and CPU seconds of an iteration by phase, as `sample` and `sample_cpu`."""

    def start(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._last = time.perf_counter(), time.process_time()

    def end_of(self, phase: str) -> None:
        """All since the end of the phase before was this one's."""
        now = time.perf_counter(), time.process_time()
        self.spent[phase] += now[0] - self._last[0]
        self.spent[f"{phase}_cpu"] += now[1] - self._last[1]
        self._last = now


def text_of(tokens: list[int]) -> str:
    return " ".join(f"w{token}" for token in tokens)


def reward_of(text: str) -> float:
    """The rule: the share of words with an even number."""
    words = text.split()
    return sum(word[-1] in "02468" for word in words) / len(words) if words else 0.0
