"""Reward functions of groups, and asynchronous ones, as users write them; for the tests of rule rewards."""

import asyncio
from collections.abc import Sequence

import numpy as np

from dsmath_jax.data.dataset_formats import Record
from tests.rl.reward_functions import as_asked


def ranks(completions: list[str], record: Record) -> list[int]:
    """The rank of each by length; the record's own number is added."""
    lengths = sorted({len(completion) for completion in completions})
    return [lengths.index(len(completion)) + record.extra.get("bonus", 0) for completion in completions]


def ranks_as_an_array(completions: list[str], record: Record) -> np.ndarray:
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
