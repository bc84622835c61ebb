"""Tests statistics against enumeration, exact fractions, closed forms and textbook formulas."""

import itertools
import math
import random
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.evaluation.statistics import doublings, maj_at_k, mcnemar, pass_at_k


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 300))
    return n, draw(st.integers(0, n)), draw(st.integers(1, n))


class TestPassAtK:
    @pytest.mark.parametrize(("n", "c", "k"), [(6, 2, 3), (7, 0, 2), (7, 7, 1), (5, 3, 3), (4, 1, 4)])
    def test_is_the_share_of_subsets_with_a_correct_sample(self, n: int, c: int, k: int) -> None:
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
    def test_grows_with_k_and_with_the_correct_samples(self, case: tuple[int, int, int]) -> None:
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


def ids(answers: str) -> tuple[list[int | None], list[bool]]:
    """Returns the classes of one-letter answers, of which "7" is correct and " " is no answer."""
    return [None if one == " " else answers.index(one) for one in answers], [one == "7" for one in answers]


def chance_of_a_right_vote(answers: str, gold: str, k: int) -> float:
    """Computes maj@k over every ordered choice of k answers; Counter breaks ties by first occurrence."""
    chosen = list(itertools.permutations(answers, k))
    voted = (Counter(answer for answer in one if answer != " ").most_common(1) for one in chosen)
    return sum(bool(found) and found[0][0] == gold for found in voted) / len(chosen)


class TestMajAtK:
    @given(st.text("753 ", min_size=1, max_size=6))
    def test_is_the_mean_over_every_choice_in_every_order(self, answers: str) -> None:
        votes, correct = ids(answers)
        ks = list(range(1, len(answers) + 1))
        exact = [chance_of_a_right_vote(answers, "7", k) for k in ks]
        assert maj_at_k(votes, correct, ks) == pytest.approx(exact, abs=1e-12)

    @given(st.text("7531 ", min_size=1, max_size=24), st.randoms(use_true_random=False))
    def test_does_not_depend_on_the_order_of_the_samples(self, answers: str, random: random.Random) -> None:
        ks, mixed = list(range(1, len(answers) + 1)), "".join(random.sample(answers, len(answers)))
        assert maj_at_k(*ids(answers), ks) == pytest.approx(maj_at_k(*ids(mixed), ks), abs=1e-12)

    @given(st.text("7531 ", min_size=1, max_size=40))
    def test_chances_of_all_classes_and_of_no_vote_add_up_to_one(self, answers: str) -> None:
        votes, _ = ids(answers)
        ks, missing = list(range(1, len(answers) + 1)), answers.count(" ")
        found = np.sum([maj_at_k(votes, [one == name for one in answers], ks) for name in "7531"], axis=0)
        silent = [math.comb(missing, k) / math.comb(len(answers), k) for k in ks]
        assert found + silent == pytest.approx(np.ones(len(ks)), abs=1e-12)

    def test_for_one_is_the_share_of_correct_samples_and_for_all_the_majority(self) -> None:
        assert maj_at_k(*ids("3377 757"), [1, 8]) == pytest.approx([4 / 8, 1.0])
        assert maj_at_k(*ids("3777533 "), [1, 8]) == pytest.approx([3 / 8, 1 / 2])  # a tie

    def test_several_correct_classes_add_their_chances(self) -> None:
        """Answers that equal the gold answer, but were not found equal to each other."""
        assert maj_at_k([0, 1, 1, 0, 4], [True, True, True, True, False], [5]) == pytest.approx([1.0])

    def test_keeps_its_digits_with_many_samples(self) -> None:
        votes, correct = ids("7" * 501 + "3" * 499)
        found = maj_at_k(votes, correct, [1, 999, 1000])
        assert found == pytest.approx([0.501, 1.0, 1.0], rel=1e-9)

    @pytest.mark.parametrize("ks", [[0], [3], [1, 3]])
    def test_refuses_more_than_all_samples(self, ks: list[int]) -> None:
        with pytest.raises(ValueError, match="needs 1 <= k <= n"):
            maj_at_k([0, 1], [True, False], ks)

    def test_mean_over_draws_is_the_true_chance(self) -> None:
        """Unbiased: the expectation over n samples of three answers equals the chance of k fresh ones, exactly."""
        n, k, law = 6, 3, {"7": 0.45, "3": 0.35, " ": 0.2}
        expected = sum(
            math.prod(law[one] for one in answers) * maj_at_k(*ids("".join(answers)), [k])[0]
            for answers in itertools.product(law, repeat=n)
        )
        fresh = sum(
            math.prod(law[one] for one in answers) * maj_at_k(*ids("".join(answers)), [k])[0]
            for answers in itertools.product(law, repeat=k)
        )
        assert expected == pytest.approx(fresh, abs=1e-12)


def test_doublings_end_with_the_count() -> None:
    assert [doublings(count) for count in (0, 1, 2, 6, 64)] == [
        [], [1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8, 16, 32, 64]
    ]  # fmt: skip


class TestMcNemar:
    @given(st.integers(0, 40), st.integers(0, 40))
    def test_equals_the_enumerated_law(self, first: int, second: int) -> None:
        """Returns the chance of a split at least as uneven under a fair coin."""
        n = first + second
        as_uneven = sum(math.comb(n, i) for i in range(n + 1) if abs(2 * i - n) >= abs(first - second))
        assert mcnemar(first, second) == pytest.approx(float(Fraction(as_uneven, 2**n)), rel=1e-14)

    def test_known_values(self) -> None:
        assert mcnemar(1, 7) == 0.0703125  # Bentur et al. 2009, as Fagerland et al. 2013 quote it
        assert mcnemar(0, 0) == mcnemar(5, 5) == 1.0
        assert mcnemar(0, 3000) == pytest.approx(2.0**-2999, rel=1e-12, abs=0.0)

    def test_refuses_impossible_counts(self) -> None:
        with pytest.raises(ValueError, match="0 or more"):
            mcnemar(-1, 3)
