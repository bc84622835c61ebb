"""Batches at random access: a function of seed and step alone, whoever asks and in whatever order."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dsmath_jax.data.batches import Batches
from dsmath_jax.data.packing import PackedRow
from dsmath_jax.data.rows import shard_name, write_rows
from dsmath_jax.workdir import UserError

LENGTH, ROWS = 3, 40


@pytest.fixture
def source(tmp_path: Path) -> Callable[[str, int], Path]:
    """A folder of three shards, in which row i holds only the token `first + i`."""

    def write(name: str, first: int) -> Path:
        folder = tmp_path / name
        rows = [
            PackedRow(np.stack([np.full(LENGTH + 1, first + i), np.ones(4), np.ones(4)]).astype(np.int32), [f"doc:{i}"])
            for i in range(ROWS)
        ]
        for number, (start, end) in enumerate([(0, 17), (17, 17), (17, ROWS)]):
            write_rows(folder / shard_name(number), rows[start:end])
        return folder

    return write


def drawn(batches: Batches, steps: int) -> list[int]:
    return [int(token) for step in range(steps) for token in batches(step)["tokens"][:, 0]]


def test_any_step_may_be_asked_for_at_any_time(source: Callable[..., Path]) -> None:
    path = source("a", 0)
    one, other = (Batches([(path, 1.0)], LENGTH, 8, seed=3) for _ in range(2))
    forward = [one(step) for step in range(12)]
    for step in (7, 11, 0, 7):
        for name, array in other(step).items():
            np.testing.assert_array_equal(array, forward[step][name])


def test_every_epoch_goes_once_through_all_rows_in_an_order_of_its_own(source: Callable[..., Path]) -> None:
    path = source("a", 0)
    seen = np.array(drawn(Batches([(path, 1.0)], LENGTH, 8, seed=3), 3 * ROWS // 8)).reshape(3, ROWS)
    assert (np.sort(seen, axis=1) == np.arange(ROWS)).all()
    assert len({tuple(epoch) for epoch in seen} | {tuple(range(ROWS))}) == 4
    assert drawn(Batches([(path, 1.0)], LENGTH, 8, seed=4), 5) != seen[0].tolist()


def test_a_process_makes_its_rows_of_the_same_global_batch(source: Callable[..., Path]) -> None:
    sources = [(source("a", 0), 2.0), (source("b", 100), 1.0)]
    whole = Batches(sources, LENGTH, 8, seed=3)
    for mine in ([0, 1, 2, 3], [4, 5, 6, 7], [1, 6], [7]):
        share = Batches(sources, LENGTH, 8, 3, mine)
        for step in (0, 5):
            for name, array in share(step).items():
                np.testing.assert_array_equal(array, whole(step)[name][mine])
            assert share.records(step) == whole.records(step)


def test_the_records_of_a_batch_are_named(source: Callable[..., Path]) -> None:
    batches = Batches([(source("a", 0), 2.0), (source("b", 100), 1.0)], LENGTH, 8, seed=3)
    for step in (0, 9):
        tokens = batches(step)["tokens"][:, 0]
        assert batches.records(step) == [f"{'ab'[token // 100]}/doc:{token % 100}" for token in tokens]


def test_sources_are_mixed_by_their_weights(source: Callable[..., Path]) -> None:
    names = {"a": 0.5, "b": 0.3, "c": 0.2}
    sources = [(source(name, 100 * i), weight) for i, (name, weight) in enumerate(names.items())]
    seen = np.array(drawn(Batches(sources, LENGTH, 8, seed=3), 25)) // 100
    np.testing.assert_allclose(np.bincount(seen) / len(seen), list(names.values()), atol=0.02)


def test_what_is_missing_is_named(source: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent has no \*\.array_record file; run the stage"):
        Batches([(tmp_path / "absent", 1.0)], LENGTH, 8, 0)
    write_rows(tmp_path / "empty" / shard_name(0), [])
    with pytest.raises(UserError, match="empty has no rows, since its source has no text"):
        Batches([(tmp_path / "empty", 1.0)], LENGTH, 8, 0)


def test_a_damaged_record_is_an_error_through_grain(source: Callable[..., Path]) -> None:
    folder = source("a", 0)
    with pytest.raises(UserError, match=r"array_record, record \d+: it is a row for sequences of 3 tokens, not 5"):
        Batches([(folder, 1.0)], 5, 40, 0)(0)
