"""Intervals, held against textbook formulas, exact laws and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.intervals import bootstrap_interval, wilson_interval


class TestWilson:
    @given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 4.0))
    def test_equals_the_textbook_form(self, case: tuple[int, int], z: float) -> None:
        correct, n = case
        share = correct / n
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        low, high = wilson_interval(correct, n, z)
        assert low == pytest.approx(centre - half, abs=1e-12)
        assert high == pytest.approx(centre + half, abs=1e-12)
        assert 0.0 <= low <= share + 1e-15
        assert share - 1e-15 <= high <= 1.0

    def test_ends_are_exact_where_nothing_or_everything_is_right(self) -> None:
        assert wilson_interval(0, 200)[0] == 0.0
        assert wilson_interval(0, 200)[1] == pytest.approx(1.96**2 / (200 + 1.96**2))
        assert wilson_interval(200, 200)[1] == 1.0

    def test_known_value(self) -> None:
        assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)

    @pytest.mark.parametrize(("correct", "n"), [(1, 0), (0, 0), (-1, 5), (6, 5)])
    def test_refuses_impossible_counts(self, correct: int, n: int) -> None:
        with pytest.raises(ValueError, match=rf"n = {n}"):
            wilson_interval(correct, n)


class TestBootstrap:
    def test_is_near_the_normal_interval_on_many_problems(self) -> None:
        scores = np.random.default_rng(3).beta(2.0, 5.0, size=800)
        half = 1.96 * scores.std() / math.sqrt(scores.size)
        low, high = bootstrap_interval(scores, seed=0)
        assert low == pytest.approx(scores.mean() - half, abs=0.15 * half)
        assert high == pytest.approx(scores.mean() + half, abs=0.15 * half)

    def test_is_near_the_exact_law_of_resampled_coins(self) -> None:
        """Resampled 0/1 scores are binomial: the percentiles are those of Binomial(n, 0.4) / n, up to one step."""
        n, share = 50, 0.4
        cumulative = np.cumsum([math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(n + 1)])
        low, high = (np.searchsorted(cumulative, level) / n for level in (0.025, 0.975))
        scores = [1.0] * 20 + [0.0] * 30
        assert bootstrap_interval(scores, seed=1, resamples=4000) == pytest.approx((low, high), abs=1 / n + 1e-12)

    def test_repeats_for_a_seed_and_moves_with_it(self) -> None:
        scores = np.linspace(0.0, 1.0, 37)
        assert bootstrap_interval(scores, seed=5) == bootstrap_interval(scores, seed=5)
        assert bootstrap_interval(scores, seed=5) != bootstrap_interval(scores, seed=6)

    @given(st.floats(0.0, 1.0), st.integers(1, 20))
    def test_equal_scores_leave_no_doubt(self, score: float, n: int) -> None:
        assert bootstrap_interval([score] * n, seed=0, resamples=20) == pytest.approx((score, score), rel=1e-12)

    def test_refuses_no_problems(self) -> None:
        with pytest.raises(ValueError, match="at least one"):
            bootstrap_interval([], seed=0)

    def test_takes_any_statistic_of_rows_and_leaves_out_what_is_undefined(self) -> None:
        pairs = np.array([[1.0, 2.0], [0.0, 0.0], [3.0, 6.0]])

        def ratio(rows: np.ndarray) -> float:
            return rows[:, 0].sum() / rows[:, 1].sum() if rows.any() else np.nan

        assert bootstrap_interval(pairs, seed=0, resamples=200, statistic=ratio) == (0.5, 0.5)
