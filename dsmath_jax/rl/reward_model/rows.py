"""Rows of reward-model data: the files, the held-out split, and the batches.

A row is `{"problem", "prompt", "completion", "ends", "labels"}`: token ids of prompt and completion, and a label from 0
(incorrect) to 1 (correct) for each of the completion's tokens in `ends`. An outcome row has one end, its last token.
"""

import functools
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Int

from dsmath_jax.rl.batches import RowShapes, Sequences, pack
from dsmath_jax.training.prefetch import HostBatch
from dsmath_jax.workdir import UserError, json_object

HELD_OUT = 5  # one in five problems is held out
NEW, OLD = 0, 1  # streams of random numbers

# An example of a batch, as the candidate rows of each of its sides: one row, or for a pair the correct completions of a
# problem and the incorrect ones.
Example = tuple[Sequence[int], ...]


class NothingToLearn(UserError):
    """All labels are correct, or all incorrect."""


class Rows:
    """Random access to the rows of JSONL files, of which only the offsets are in memory. Thread-safe."""

    def __init__(self, paths: Sequence[Path]):
        self._paths, self._files = list(paths), [open(path, "rb") for path in paths]  # noqa: SIM115 - open until `__exit__`
        offsets = [
            (number, offset, len(line)) for number, file in enumerate(self._files) for offset, line in _lines(file)
        ]
        self._offsets = np.array(offsets, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> dict:
        number, offset, size = map(int, self._offsets[index])
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
    """An in-memory index of all rows, one entry per row."""

    problem: Int[np.ndarray, " R"]  # a digest of the prompt
    correct: Bool[np.ndarray, " R"]  # the last label
    tokens: Int[np.ndarray, " R"]  # of prompt and completion
    num_labels: Int[np.ndarray, " R"]
    num_correct_labels: Int[np.ndarray, " R"]

    @property
    def held_out(self) -> Bool[np.ndarray, " R"]:
        """Whether each row is held out, by its problem's digest alone: a problem is held out in every round or none."""
        return self.problem % HELD_OUT == 0


def digest(tokens: Sequence[int]) -> int:
    """Returns a 63-bit hash of the tokens."""
    return int.from_bytes(hashlib.blake2b(np.asarray(tokens, np.int64).tobytes(), digest_size=8).digest()) >> 1


def index_of(rows: Rows) -> Index:
    """Builds the index, reading all rows once."""
    entries = []
    for number in range(len(rows)):
        row = rows[number]
        labels = np.asarray(row["labels"], np.float64)
        correct_labels = labels >= 0.5
        length = len(row["prompt"]) + len(row["completion"])
        entries.append((digest(row["prompt"]), correct_labels[-1:].any(), length, len(labels), correct_labels.sum()))
    columns = np.array(entries, np.int64).reshape(-1, 5).T
    return Index(columns[0], columns[1] > 0, *columns[2:])


def examples_of(kind: str, index: Index, chosen: Bool[np.ndarray, " R"]) -> list[Example]:
    """Returns the examples of the chosen rows: rows with labels, or problems with correct and incorrect completions."""
    numbers = np.flatnonzero(chosen & (index.num_labels > 0))
    if kind != "pairwise":
        return [([number],) for number in numbers.tolist()]
    return [(correct, incorrect) for correct, incorrect in group_by_problem(index, numbers) if correct and incorrect]


def group_by_problem(index: Index, numbers: Int[np.ndarray, " C"]) -> list[tuple[list[int], list[int]]]:
    """Returns each problem's correct and incorrect rows, in the order of the problems' first rows."""
    groups: dict[int, tuple[list[int], list[int]]] = {}
    for number in numbers.tolist():
        sides = groups.setdefault(int(index.problem[number]), ([], []))
        sides[0 if index.correct[number] else 1].append(number)
    return list(groups.values())


def check_labels(what: str, kind: str, index: Index, examples: Sequence[Example], part: str) -> None:
    """Raises `NothingToLearn` where the labels of the examples of the split `part` are all correct or all incorrect."""
    if kind == "pairwise":
        valid, reason = bool(examples), "none of the problems has a correct and an incorrect completion"
    else:
        numbers = [number for (side,) in examples for number in side]
        labels, correct = int(index.num_labels[numbers].sum()), int(index.num_correct_labels[numbers].sum())
        alike = f"all {labels} labels are {'correct' if correct else 'incorrect'}"
        valid, reason = 0 < correct < labels, alike if labels else "there is no label"
    if not valid:
        raise NothingToLearn(
            f"{what}: {reason} in the {part} rows, so there is nothing to learn; raise {what}.problems or samples, "
            "train the model that they are sampled from more or less (sft.steps), or leave the stage out with --stages."
        )


@functools.lru_cache(maxsize=8)
def _order(seed: int, stream: int, epoch: int, count: int) -> Int[np.ndarray, " count"]:
    return np.random.default_rng([seed, stream, epoch]).permutation(count)


def sample_examples(examples: Sequence[Example], seed: int, stream: int, positions: range) -> list[tuple[int, ...]]:
    """Returns the rows of the examples at these positions of an endless sequence; every epoch is a new permutation.

    Of a side with several rows one is sampled, by the seed and the position.
    """
    count = len(examples)
    sampled = []
    for position in positions:
        sides = examples[_order(seed, stream, position // count, count)[position % count]]
        rng = np.random.default_rng([seed, stream, position, 1])
        sampled.append(tuple(side[rng.integers(len(side))] for side in sides))
    return sampled


def example_positions(step: int, batch_size: int, share: float) -> tuple[range, range]:
    """Returns the positions among the new and among the old examples of the batch of a step.

    Of the first n batches together, exactly floor(n x batch_size x share) examples are old.
    """
    before, after = (int(n * batch_size * share) for n in (step, step + 1))
    return range(step * batch_size - before, (step + 1) * batch_size - after), range(before, after)


def longest_example(index: Index, examples: Sequence[Example]) -> int:
    """Returns the maximum number of tokens of an example: of a row, or of a pair's two together; 0 for no examples."""
    return max((sum(int(index.tokens[list(side)].max()) for side in example) for example in examples), default=0)


def batch_of(examples: Sequence[Sequence[dict]], shapes: RowShapes) -> HostBatch:
    """Returns the batch of the objective, fields `[B,T]`: the rows of each example, one or a pair, are segments.

    `labels` are at the ends of each completion, where `weights` is 1.
    """
    rows = [row for example in examples for row in example]
    sequences = Sequences.of([(row["prompt"], row["completion"]) for row in rows])
    packing = pack(sequences.lengths, shapes, together=len(examples[0]))
    batch = packing.batch(sequences, {})
    firsts = packing.starts + sequences.lengths - sequences.completion_lengths
    labels, weights = np.zeros((2, math.prod(packing.shape)), np.float32)
    for row, first in zip(rows, firsts, strict=True):
        cells = first + np.asarray(row["ends"], np.int64)
        labels[cells], weights[cells] = row["labels"], 1.0
    fields = {name: batch[name] for name in ("tokens", "segment_ids", "positions")}
    return fields | {"labels": labels.reshape(packing.shape), "weights": weights.reshape(packing.shape)}
