"""Intervals, held against textbook formulas, exact laws and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.intervals import (
    bootstrap_interval,
    bootstrap_means,
    mean_intervals,
    mean_share_interval,
    paired_interval,
    wilson_interval,
)


class TestWilson:
    @given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 4.0))
    def test_equals_the_textbook_form(self, case: tuple[int, int], z: float) -> None:
        correct, n = case
        share = correct / n
        center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        low, high = wilson_interval(correct, n, z)
        assert low == pytest.approx(center - half, abs=1e-12)
        assert high == pytest.approx(center + half, abs=1e-12)
        assert 0.0 <= low <= share + 1e-15
        assert share - 1e-15 <= high <= 1.0

    def test_ends_are_exact_where_nothing_or_everything_is_correct(self) -> None:
        assert wilson_interval(0, 200)[0] == 0.0
        assert wilson_interval(0, 200)[1] == pytest.approx(1.96**2 / (200 + 1.96**2))
        assert wilson_interval(200, 200)[1] == 1.0

    def test_known_value(self) -> None:
        assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)

    @pytest.mark.parametrize(("correct", "n"), [(1, 0), (0, 0), (-1, 5), (6, 5)])
    def test_refuses_impossible_counts(self, correct: int, n: int) -> None:
        with pytest.raises(ValueError, match=rf"n = {n}"):
            wilson_interval(correct, n)

    @pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.93])
    def test_covers_the_truth_about_as_often_as_it_says(self, share: float) -> None:
        """Summed over the exact law of the counts; coverage of any interval of counts jumps around its level."""
        n = 200
        chances = [math.comb(n, c) * share**c * (1 - share) ** (n - c) for c in range(n + 1)]
        ends = [wilson_interval(c, n) for c in range(n + 1)]
        covered = sum(p for p, (low, high) in zip(chances, ends, strict=True) if low <= share <= high)
        assert 0.92 < covered < 0.98


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


class TestMeanIntervals:
    def test_are_the_bootstrap_intervals_of_each_column_on_the_same_draws(self) -> None:
        values = np.random.default_rng(0).random((40, 2, 3))
        found = mean_intervals(values, seed=4, resamples=300)
        assert found.shape == (2, 3, 2)
        for i in range(2):
            for j in range(3):
                assert tuple(found[i, j]) == pytest.approx(bootstrap_interval(values[:, i, j], 4, 300), abs=1e-12)

    def test_subsample_what_stands_in_a_row_together(self) -> None:
        first = np.random.default_rng(1).random(30)
        means = bootstrap_means(np.stack([first, 1 - first], axis=1), seed=0, resamples=50)
        assert means.shape == (50, 2)
        assert means.sum(axis=1) == pytest.approx(np.ones(50))

    @pytest.mark.parametrize("correct", [0, 1])
    def test_are_wilsons_where_all_problems_have_the_same_end(self, correct: int) -> None:
        assert tuple(mean_intervals([float(correct)] * 50, seed=0)) == pytest.approx(wilson_interval(50 * correct, 50))

    def test_of_equal_values_leave_as_much_open_as_few_problems_do(self) -> None:
        unseen = wilson_interval(0, 20)[1]
        assert mean_intervals([0.25] * 20, seed=0) == pytest.approx(np.array([0.25 - unseen / 4, 0.25 + 0.75 * unseen]))
        assert mean_intervals([0.0] * 20, seed=0, ends=(-1.0, 1.0)) == pytest.approx(np.array([-unseen, unseen]))

    def test_cover_the_truth_about_as_often_as_they_say(self) -> None:
        """Problems with a known distribution, 8 samples each: the means of correct samples and of solved problems."""
        random = np.random.default_rng(2)
        n, k, a, b, runs = 100, 8, 0.6, 1.2, 300
        fail = math.exp(math.lgamma(b + k) + math.lgamma(a + b) - math.lgamma(b) - math.lgamma(a + b + k))
        truth = np.array([a / (a + b), 1 - fail])
        covered = np.zeros(2)
        for run in range(runs):
            correct = random.random((n, k)) < random.beta(a, b, size=(n, 1))
            scores = np.stack([correct.mean(axis=1), correct.any(axis=1)], axis=1)
            found = mean_intervals(scores, seed=run, resamples=300)
            covered += (found[:, 0] <= truth) & (truth <= found[:, 1])
        assert np.all(covered / runs > 0.91)
        assert np.all(covered / runs < 0.985)

    def test_refuse_no_problems(self) -> None:
        with pytest.raises(ValueError, match="at least one"):
            mean_intervals(np.zeros((0, 3)), seed=0)


class TestMeanShare:
    def test_of_one_share_is_wilsons(self) -> None:
        assert mean_share_interval([(7, 20)]) == pytest.approx(wilson_interval(7, 20))

    def test_narrows_with_more_shares_and_with_more_problems(self) -> None:
        widths = [
            high - low for low, high in map(mean_share_interval, ([(5, 10)], [(5, 10)] * 4, [(50, 100)] * 4))
        ]  # fmt: skip
        assert widths[1] == pytest.approx(widths[0] / 2)
        assert widths[2] < widths[1] / 2

    def test_a_task_of_few_problems_widens_it(self) -> None:
        even, uneven = mean_share_interval([(50, 100), (50, 100)]), mean_share_interval([(98, 196), (2, 4)])
        assert uneven[1] - uneven[0] > 2 * (even[1] - even[0])

    def test_covers_the_mean_of_the_true_shares(self) -> None:
        random = np.random.default_rng(0)
        sizes, shares, runs = random.integers(5, 60, size=20), random.beta(1.0, 1.5, size=20), 1000
        covered = 0
        for counts in random.binomial(sizes, shares, size=(runs, 20)):
            low, high = mean_share_interval(list(zip(counts.tolist(), sizes.tolist(), strict=True)))
            covered += low <= shares.mean() <= high
        assert 0.92 < covered / runs < 0.99

    def test_refuses_no_shares(self) -> None:
        with pytest.raises(ValueError, match="at least one"):
            mean_share_interval([])


class TestPaired:
    def test_known_value(self) -> None:
        """A table of 161 patients (Cavo et al. 2012), as other software has its interval."""
        assert paired_interval(59, 6, 16, 80) == pytest.approx((-0.1186, -0.0046), abs=5e-5)

    @given(st.tuples(*[st.integers(0, 60)] * 4).filter(any))
    def test_turns_around_with_the_runs_and_holds_the_difference(self, table: tuple[int, int, int, int]) -> None:
        both, first, second, neither = table
        low, high = paired_interval(both, first, second, neither)
        assert -1 - 1e-12 <= low <= (first - second) / sum(table) <= high <= 1 + 1e-12
        assert paired_interval(both, second, first, neither) == pytest.approx((-high, -low), abs=1e-12)

    def test_uncorrelated_pairs_add_up_as_squares(self) -> None:
        low, high = wilson_interval(20, 40)
        reach = math.hypot(high - 0.5, 0.5 - low)
        assert paired_interval(10, 10, 10, 10) == pytest.approx((-reach, reach))

    def test_runs_that_never_differ_are_not_known_to_be_the_same(self) -> None:
        low, high = paired_interval(12, 0, 0, 8)
        assert low < 0 < high
        assert paired_interval(1200, 0, 0, 800)[1] < high

    @pytest.mark.parametrize("law", [(0.5, 0.1, 0.1, 0.3), (0.05, 0.1, 0.02, 0.83), (0.9, 0.05, 0.01, 0.04)])
    def test_covers_the_true_difference(self, law: tuple[float, float, float, float]) -> None:
        tables = np.random.default_rng(0).multinomial(60, law, size=2000)
        ends = np.array([paired_interval(*table) for table in tables.tolist()])
        truth = law[1] - law[2]
        assert 0.92 < np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])) < 0.99

    @pytest.mark.parametrize("table", [(0, 0, 0, 0), (1, -1, 2, 2)])
    def test_refuses_impossible_counts(self, table: tuple[int, int, int, int]) -> None:
        with pytest.raises(ValueError, match="must be at least 0"):
            paired_interval(*table)
