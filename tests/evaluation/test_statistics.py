"""Statistics of an evaluation, held against enumeration, exact fractions, closed forms and textbook formulas."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.evaluation.statistics import majority, pass_at_k


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 300))
    return n, draw(st.integers(0, n)), draw(st.integers(1, n))


class TestPassAtK:
    @pytest.mark.parametrize(("n", "c", "k"), [(6, 2, 3), (7, 0, 2), (7, 7, 1), (5, 3, 3), (4, 1, 4)])
    def test_is_the_share_of_subsets_with_a_right_sample(self, n: int, c: int, k: int) -> None:
        subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-14)

    @given(counts())
    def test_equals_the_binomials_in_exact_arithmetic(self, case: tuple[int, int, int]) -> None:
        n, c, k = case
        exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
        assert pass_at_k(n, c, k) == pytest.approx(float(exact), rel=1e-11, abs=0.0)

    def test_keeps_its_digits_where_the_binomials_overflow_and_where_the_result_is_small(self) -> None:
        assert pass_at_k(10_000_000, 1, 3) == pytest.approx(3e-7, rel=1e-12)
        assert pass_at_k(100_000, 50_000, 1000) == 1.0

    @given(counts())
    def test_grows_with_k_and_with_the_right_samples(self, case: tuple[int, int, int]) -> None:
        n, c, k = case
        value = pass_at_k(n, c, k)
        assert 0.0 <= value <= 1.0
        assert pass_at_k(n, c, 1) == pytest.approx(c / n)
        assert pass_at_k(n, c, n) == (c > 0)
        if k < n:
            assert pass_at_k(n, c, k + 1) >= value - 1e-14
        if c < n:
            assert pass_at_k(n, c + 1, k) >= value - 1e-14

    def test_mean_over_draws_is_the_true_chance(self) -> None:
        """Unbiased: the expectation over c ~ Binomial(n, p) is 1 - (1-p)^k, exactly."""
        n, k, p = 8, 3, 0.3
        expected = sum(math.comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1))
        assert expected == pytest.approx(1 - (1 - p) ** k, abs=1e-12)

    def test_zero_is_plain_zero(self) -> None:
        assert math.copysign(1.0, pass_at_k(4, 0, 2)) == 1.0

    @pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5), (0, 0, 1)])
    def test_refuses_impossible_counts(self, n: int, c: int, k: int) -> None:
        with pytest.raises(ValueError, match=rf"n = {n}, c = {c}, k = {k}"):
            pass_at_k(n, c, k)


def same_number(a: str, b: str) -> bool:
    return Fraction(a) == Fraction(b)


class TestMajority:
    def test_counts_classes_not_strings(self) -> None:
        assert majority(["3", "1/2", "3", "0.5", "2/4"], same_number) == 1

    def test_what_was_not_extracted_never_wins(self) -> None:
        assert majority([None, None, None, "7"], same_number) == 3

    def test_all_missing_gives_a_missing_answer(self) -> None:
        assert [None, None][majority([None, None], same_number)] is None

    def test_ties_go_to_the_class_seen_first(self) -> None:
        assert majority(["2", "1", "1", "2"], same_number) == 0
        assert majority([None, "1", "2", "2", "1"], same_number) == 1

    def test_refuses_an_empty_vote(self) -> None:
        with pytest.raises(ValueError, match="at least one"):
            majority([], same_number)

    @given(st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=1, max_size=30))
    def test_equals_a_counter_where_equality_is_identity(self, answers: list[int | None]) -> None:
        winner = majority(answers, lambda a, b: a == b)
        ranking = Counter(answer for answer in answers if answer is not None).most_common(1)
        expected = ranking[0][0] if ranking else None  # most_common keeps the order of first sight among equals
        assert answers[winner] == expected
        assert answers.index(expected) == winner
