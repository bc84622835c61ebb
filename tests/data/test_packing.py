"""Packing: no token is lost, none is learned twice or across a document's end."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.data.packing import Example, batch_of_rows, concat_and_chunk, pack_whole


@st.composite
def examples(draw: st.DrawFn, longest: int = 30) -> list[Example]:
    """Examples whose tokens are all distinct, so that any one lost, doubled or moved is seen."""
    made, at = [], 1
    for length in draw(st.lists(st.integers(1, longest), max_size=12)):
        learn = draw(st.lists(st.booleans(), min_size=length, max_size=length))
        made.append(Example(list(range(at, at + length)), learn))
        at += length
    return made


def kept(rows: list[np.ndarray], name: int) -> list[int]:
    return [int(x) for row in rows for x in row[name][row[1] > 0]]


@given(examples(), st.integers(1, 12))
def test_concatenate_keeps_every_token_in_order_and_leaves_only_the_last_row_open(
    documents: list[Example], length: int
) -> None:
    rows = [packed.row for packed in concat_and_chunk(documents, length)]
    assert kept(rows, 0) == [token for e in documents for token in e.tokens]
    assert kept(rows, 2) == [flag for e in documents for flag in e.loss_mask]
    assert all(row.shape == (3, length + 1) and row.dtype == np.int32 for row in rows)
    assert all((row[1] > 0).all() for row in rows[:-1])
    owner = {token: number for number, e in enumerate(documents) for token in e.tokens}
    for row in rows:
        used = int((row[1] > 0).sum())
        assert (row[:, used:] == 0).all()
        for left, right in zip(range(used), range(1, used), strict=False):
            same = owner[row[0, left]] == owner[row[0, right]]
            assert row[1, right] - row[1, left] == (0 if same else 1)


@given(examples(longest=9), st.integers(8, 15))
def test_fit_whole_splits_nothing(problems: list[Example], length: int) -> None:
    rows = [packed.row for packed in pack_whole(problems, length)]
    assert kept(rows, 0) == [token for e in problems for token in e.tokens]
    assert kept(rows, 2) == [flag for e in problems for flag in e.loss_mask]
    segments = [[int(t) for t in row[0][row[1] == s]] for row in rows for s in range(1, row[1].max() + 1)]
    assert segments == [e.tokens for e in problems]


def test_fit_whole_refuses_what_is_longer_than_a_row() -> None:
    assert len(list(pack_whole([Example([1, 2, 3], [True] * 3)], 2))) == 1
    with pytest.raises(ValueError, match="4 tokens does not fit a row of 3"):
        list(pack_whole([Example([1, 2, 3, 4], [True] * 4)], 2))


@given(examples(), st.integers(2, 12))
def test_batch_of_rows_equals_a_loop(documents: list[Example], length: int) -> None:
    rows = [packed.row for packed in concat_and_chunk(documents, length)]
    if not rows:
        return
    batch = batch_of_rows(np.stack(rows))
    assert {name: array.dtype.name for name, array in batch.items()} == {
        "tokens": "int32", "targets": "int32", "segment_ids": "int32", "positions": "int32", "loss_weights": "float32"
    }  # fmt: skip
    for b, (tokens, segments, learn) in enumerate(rows):
        position = 0
        for t in range(length):
            position = position + 1 if t and segments[t] == segments[t - 1] else 0
            counts = bool(segments[t] and segments[t] == segments[t + 1] and learn[t + 1])
            assert batch["tokens"][b, t] == tokens[t]
            assert batch["targets"][b, t] == tokens[t + 1]
            assert batch["segment_ids"][b, t] == segments[t]
            assert batch["positions"][b, t] == position
            assert batch["loss_weights"][b, t] == counts


def test_no_weight_crosses_from_one_document_to_the_next() -> None:
    rows = np.stack([p.row for p in concat_and_chunk([Example([5, 6], [True] * 2), Example([7, 8], [True] * 2)], 4)])
    assert batch_of_rows(rows)["loss_weights"].tolist() == [[1.0, 0.0, 1.0, 0.0]]


def test_without_the_mask_a_row_is_one_segment() -> None:
    rows = np.stack([p.row for p in concat_and_chunk([Example([5, 6], [True] * 2), Example([7, 8], [True] * 2)], 5)])
    batch = batch_of_rows(rows, mask_documents=False)
    assert batch["loss_weights"].tolist() == [[1.0, 1.0, 1.0, 0.0, 0.0]]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 1, 0]]
    assert batch["positions"].tolist() == [[0, 1, 2, 3, 0]]


@given(examples(), st.integers(1, 12))
def test_every_segment_has_the_id_of_its_example(documents: list[Example], length: int) -> None:
    named = [Example(e.tokens, e.loss_mask, f"example {number}") for number, e in enumerate(documents)]
    owner = {token: e.id for e in named for token in e.tokens}
    for row, ids in concat_and_chunk(named, length):
        assert len(ids) == row[1].max()
        assert all(ids[segment - 1] == owner[token] for token, segment in row[:2].T if segment)
