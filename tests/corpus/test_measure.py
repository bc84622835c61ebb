"""Precision, recall and average precision on labeled pages."""

import daft
import numpy as np
import pytest
from daft import DataType
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.corpus.measure import Labeled, average_precision, f1, look_up, measures
from dsmath_jax.corpus.select import LAST, Cut


def table(rows: list[tuple[float, int]]) -> np.ndarray:
    return np.array([(score, score >= 0.5, math) for score, math in rows], float)


def test_average_precision_of_a_known_ranking():
    # Mathematics at ranks 1 and 3: (1/1 + 2/3) / 2.
    assert average_precision(table([(0.9, 1), (0.8, 0), (0.7, 1), (0.1, 0)])) == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(average_precision(table([(0.9, 0)])))


def test_ties_are_counted_together():
    assert average_precision(table([(0.5, 1), (0.5, 0)])) == average_precision(table([(0.5, 0), (0.5, 1)])) == 0.5


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=20).filter(
        lambda r: any(m for _, m in r)
    )
)
def test_average_precision_is_the_area_below_the_steps(rows):
    expected, before = 0.0, 0.0
    for threshold in sorted({score for score, _ in rows}, reverse=True):
        above = [math for score, math in rows if score >= threshold]
        recall = sum(above) / sum(math for _, math in rows)
        expected += (recall - before) * sum(above) / len(above)
        before = recall
    assert average_precision(table([(score / 6, int(math)) for score, math in rows])) == pytest.approx(expected)


def test_f1_is_the_harmonic_mean():
    rows = table([(0.9, 1), (0.8, 0), (0.7, 1), (0.1, 1), (0.1, 0)])
    precision, recall = 2 / 3, 2 / 3
    assert f1(rows) == pytest.approx(2 * precision * recall / (precision + recall))


def test_measures_of_all_pages_and_of_pages_below_no_prefix():
    labeled = Labeled(
        np.array([3, 5, 7, 9]), np.array([1, 1, 0, 1], bool), np.array([0, 1, 1, 0], bool), np.zeros(4, bool), 0
    )
    frame = daft.from_pydict({"number": [1, 3, 5, 7], "score": [1.0, 0.9, 0.6, 0.8]})
    scores = look_up(labeled, frame.with_column("number", daft.col("number").cast(DataType.int64())))
    assert scores.tolist() == [0.9, 0.6, 0.8, -1.0]  # page 9 has no text
    assert not Cut(0.0, LAST).is_collected(scores, labeled.numbers)[-1]  # also where all candidates are
    row = measures(labeled, scores, Cut(0.8, 8), seed=0)
    assert (row["labeled"], row["precision"], row["recall"], row["f1"]) == (4, 0.5, 1 / 3, 0.4)
    assert row["precision_interval"][0] < 0.5 < row["precision_interval"][1]
    assert row["f1_interval"][0] <= 0.4 <= row["f1_interval"][1]
    inner = row["unprefixed"]
    assert (inner["labeled"], inner["precision"], inner["recall"]) == (2, 0.0, 0.0)
    assert inner["average_precision"] == 0.5


def test_undefined_measures_are_none():
    labeled = Labeled(np.array([1]), np.zeros(1, bool), np.ones(1, bool), np.zeros(1, bool), 0)
    row = measures(labeled, np.array([0.2]), Cut(0.5, 0), seed=0)
    assert row["precision"] is row["recall"] is row["f1"] is row["average_precision"] is None
