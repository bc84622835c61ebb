"""Rows of reward-model data: where they are, which are held out, and which make the batch of a step.

A row is `{"problem", "prompt", "completion", "ends", "labels"}`: ids of prompt and completion, and a label, 0 for
incorrect to 1 for correct, for each of the completion's tokens in `ends`. An outcome row has one end, its last token.
"""

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Int

from dsmath_jax.rl.batches import token_rows
from dsmath_jax.rl.reward_model.model import SIDES
from dsmath_jax.workdir import UserError, json_object

HELD_OUT = 5  # of all problems one in so many is held out
NEW, OLD = 0, 1  # streams of random numbers

# An example of a batch as the rows that each of its sides is drawn from: one row, or for a pair the correct
# completions of a problem and the incorrect ones.
Example = tuple[Sequence[int], ...]


class NothingToLearn(UserError):
    """All labels are alike."""


class Rows:
    """The rows of JSONL files by number, read when asked for: in memory is only where each of them starts.

    May be asked by several threads.
    """

    def __init__(self, paths: Sequence[Path]):
        self._paths, self._files = list(paths), [open(path, "rb") for path in paths]  # noqa: SIM115 - open until `__exit__`
        places = [
            (number, offset, len(line)) for number, file in enumerate(self._files) for offset, line in _lines(file)
        ]
        self._places = np.array(places, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict:
        number, offset, size = map(int, self._places[index])
        line = os.pread(self._files[number].fileno(), size, offset)
        return json_object(line, f"{self._paths[number]}, at byte {offset}", "that line")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files:
            file.close()


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    offset = 0
    for line in file:
        yield offset, line
        offset += len(line)


class Index(NamedTuple):
    """What of the rows has to be known at once, an entry a row."""

    problem: Int[np.ndarray, " R"]  # a digest of the prompt
    right: Bool[np.ndarray, " R"]  # the completion: its last label
    tokens: Int[np.ndarray, " R"]  # of prompt and completion
    labels: Int[np.ndarray, " R"]
    right_labels: Int[np.ndarray, " R"]

    @property
    def held_out(self) -> Bool[np.ndarray, " R"]:
        """By problem, and by its prompt's digest alone: a problem is held out of every round or of none."""
        return self.problem % HELD_OUT == 0


def digest(tokens: Sequence[int]) -> int:
    """63 bits that stand for the tokens."""
    return int.from_bytes(hashlib.blake2b(np.asarray(tokens, np.int64).tobytes(), digest_size=8).digest()) >> 1


def index_of(rows: Rows) -> Index:
    """Reads all rows once."""
    entries = []
    for number in range(len(rows)):
        row = rows[number]
        labels = np.asarray(row["labels"], np.float64)
        rights = labels >= 0.5
        length = len(row["prompt"]) + len(row["completion"])
        entries.append((digest(row["prompt"]), rights[-1:].any(), length, len(labels), rights.sum()))
    columns = np.array(entries, np.int64).reshape(-1, 5).T
    return Index(columns[0], columns[1] > 0, *columns[2:])


def examples_of(kind: str, index: Index, chosen: Bool[np.ndarray, " R"]) -> list[Example]:
    """The examples of the chosen rows: rows with labels, or the problems with correct and incorrect completions."""
    numbers = np.flatnonzero(chosen & (index.labels > 0))
    if kind != "pairwise":
        return [([number],) for number in numbers.tolist()]
    return [(good, bad) for good, bad in by_problem(index, numbers) if good and bad]


def by_problem(index: Index, numbers: Int[np.ndarray, " C"]) -> list[tuple[list[int], list[int]]]:
    """Each problem's rows, the correct ones and the incorrect ones, in the order of the problems' first rows."""
    found: dict[int, tuple[list[int], list[int]]] = {}
    for number in numbers.tolist():
        sides = found.setdefault(int(index.problem[number]), ([], []))
        sides[0 if index.right[number] else 1].append(number)
    return list(found.values())


def check_labels(what: str, kind: str, index: Index, examples: Sequence[Example], part: str) -> None:
    """Raises `NothingToLearn` where the examples of one part of the rows cannot teach, or show, any difference."""
    if kind == "pairwise":
        fine, found = bool(examples), "none of the problems has a right and a wrong completion"
    else:
        numbers = [number for (side,) in examples for number in side]
        labels, rights = int(index.labels[numbers].sum()), int(index.right_labels[numbers].sum())
        fine, found = 0 < rights < labels, f"all {labels} labels are alike"
    if not fine:
        raise NothingToLearn(
            f"{what}: {found} in the {part} rows, so nothing can be told apart; raise {what}.problems or samples, "
            "train the model that they are sampled from more or less (sft.steps), or leave the stage out with --stages."
        )


@functools.lru_cache(maxsize=8)
def _order(seed: int, stream: int, epoch: int, count: int) -> Int[np.ndarray, " count"]:
    return np.random.default_rng([seed, stream, epoch]).permutation(count)


def drawn(examples: Sequence[Example], seed: int, stream: int, places: range) -> list[tuple[int, ...]]:
    """The rows of the examples at these places of an endless sequence: all in every epoch, each in its own order.

    Of a side with several rows one is drawn by chance, by the place alone.
    """
    count = len(examples)
    found = []
    for place in places:
        sides = examples[_order(seed, stream, place // count, count)[place % count]]
        chance = np.random.default_rng([seed, stream, place, 1])
        found.append(tuple(side[chance.integers(len(side))] for side in sides))
    return found


def places_of(step: int, batch_size: int, share: float) -> tuple[range, range]:
    """The places among the new and among the old examples that the batch of a step takes.

    Of the first n batches together, exactly floor(n x batch_size x share) examples are old ones.
    """
    before, after = (int(n * batch_size * share) for n in (step, step + 1))
    return range(step * batch_size - before, (step + 1) * batch_size - after), range(before, after)


def batch_of(kind: str, examples: Sequence[Sequence[dict]], width: int) -> dict[str, np.ndarray]:
    """The fields that the kind's objective reads, `[B,T]`, from the rows of each example's sides."""
    fields: dict[str, np.ndarray] = {}
    for place, side in enumerate(SIDES[kind]):
        rows = [example[place] for example in examples]
        labels, weights = (np.zeros((len(rows), width), np.float32) for _ in range(2))
        for number, row in enumerate(rows):
            ends = len(row["prompt"]) + np.asarray(row["ends"], np.int64)
            labels[number, ends], weights[number, ends] = row["labels"], 1.0
        batch = token_rows([[*row["prompt"], *row["completion"]] for row in rows], width)
        fields |= {side + name: value for name, value in (batch | {"labels": labels, "weights": weights}).items()}
    return fields
