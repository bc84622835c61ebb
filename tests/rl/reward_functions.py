"""Reward functions as users write them, valid and invalid ones, for the tests of rule rewards."""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from dsmath_jax.data.datasets import Record


def length(completion: str, record: Record) -> int:
    return len(completion)


def shares_a_word(completion: str, record: Record) -> float:
    print("a reward that prints")
    return float(bool(set(completion.split()) & set(record.question.split())))


def as_asked(completion: str, record: Record) -> object:
    """Does what the completion says."""
    answers = {"nan": float("nan"), "inf": -float("inf"), "none": None, "text": "1.0", "big": 10**400, "list": [1.0]}
    match completion:
        case "raise":
            raise KeyError("no such field")
        case "hang":
            time.sleep(1000)
        case "exit":
            os._exit(1)
        case "kill":
            os.kill(os.getpid(), 9)
        case "recurse":
            return as_asked(completion, record)
        case "memory":
            return len(bytearray(1 << 40))
        case "leave":
            sys.exit()
    return answers.get(completion, 1.0)


def first_word(completion: str, record: Record) -> object:
    return as_asked(completion.split()[0], record)


def second_word(completion: str, record: Record) -> object:
    return as_asked(completion.split()[1], record)


def of_one(completion: str) -> float:
    return 1.0


def of_keywords(*, completion: str, record: Record) -> float:
    return 1.0


# --- of groups, and asynchronous ---


def ranks(completions: list[str], record: Record) -> list[int]:
    """The rank of each by length; the record's own number is added."""
    lengths = sorted({len(completion) for completion in completions})
    return [lengths.index(len(completion)) + record.extra.get("bonus", 0) for completion in completions]


def ranks_as_an_array(completions: list[str], record: Record) -> Any:
    import numpy as np

    return np.array(ranks(completions, record), np.float32)


def group_as_asked(completions: list[str], record: Record) -> object:
    """Does what its first completion says, else what each says."""
    match completions[0]:
        case "short":
            return [1.0]
        case "number":
            return 1.0
        case "abstain":
            return None
        case "whole raise" | "whole hang" | "whole exit":
            return as_asked(completions[0].split()[1], record)
    return [as_asked(completion, record) for completion in completions]


async def later(completion: str, record: Record) -> object:
    """Waits as for a judge, then does what the completion says."""
    await asyncio.sleep(0.2)
    if completion == "hang":
        await asyncio.sleep(1000)
    return as_asked(completion, record)


async def group_later(completions: list[str], record: Record) -> object:
    await asyncio.sleep(0.2)
    if completions[0] == "whole hang":
        await asyncio.sleep(1000)
    return group_as_asked(completions, record)


class Judge:
    async def __call__(self, completions: Sequence[str], record: Record) -> list[float]:
        return [0.5] * len(completions)


judge = Judge()


def of_one_group(completions: list[str]) -> list[float]:
    return [1.0] * len(completions)


NO_FUNCTION = 1.0
