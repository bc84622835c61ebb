"""Reward functions as users write them, valid and invalid ones, for the tests of rule rewards."""

import os
import sys
import time

from dsmath_jax.data.dataset_formats import Record


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


NO_FUNCTION = 1.0
