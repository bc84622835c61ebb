"""The prompts, lengths, reward and clock of both sides of `benchmarks.grpo_iteration`; standard library only.

A token is a word: `w0`, `w1`, ...
"""

import math
import time
from collections import defaultdict
from random import Random
from typing import NamedTuple

EOS, PAD = 0, 1  # ids that are not in the prompts
MEDIAN, SPREAD, MIN_SHARE = (
    0.5,
    0.6,
    0.1,
)  # of the log-normal planned lengths; median and shortest are shares of the limit
PHASES = ("sample", "score", "update")


class Task(NamedTuple):
    """The sizes and hyperparameters of an iteration."""

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
    """Returns the token ids of the prompts of an iteration."""
    random = Random(f"prompts {iteration}")
    return [[random.randrange(2, task.vocabulary) for _ in range(task.prompt_tokens)] for _ in range(task.prompts)]


def lengths_of(task: Task, iteration: int) -> list[int]:
    """Returns the planned lengths of an iteration's completions, prompt-major; the last token is EOS."""
    random = Random(f"lengths {iteration}")
    shares = (random.lognormvariate(math.log(MEDIAN), SPREAD) for _ in range(task.rows))
    return [
        min(max(round(share * task.new_tokens), math.ceil(MIN_SHARE * task.new_tokens)), task.new_tokens)
        for share in shares
    ]


class PhaseTimer:
    """Wall and CPU seconds of an iteration by phase, as `sample` and `sample_cpu`."""

    def start(self) -> None:
        """Starts an iteration."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._last = time.perf_counter(), time.process_time()

    def end(self, phase: str) -> None:
        """Counts the time since the last call as this phase's."""
        now = time.perf_counter(), time.process_time()
        self.seconds[phase] += now[0] - self._last[0]
        self.seconds[f"{phase}_cpu"] += now[1] - self._last[1]
        self._last = now


def text_of(tokens: list[int]) -> str:
    return " ".join(f"w{token}" for token in tokens)


def reward_of(text: str) -> float:
    """Returns the share of words with an even number."""
    words = text.split()
    return sum(word[-1] in "02468" for word in words) / len(words) if words else 0.0
