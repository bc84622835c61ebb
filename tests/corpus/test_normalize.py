"""Normalized texts, and hashes of their n-grams."""

import numpy as np
import pytest

from dsmath_jax.corpus.normalize import Spans, normalize


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("He has 1,234 apples.", "he  has １２３４ **apples**"),
        ("$\\frac{a}{b}\\,+ x$", "\\( \\dfrac {a} {b} + x \\)"),
        ("\\left( \\mathrm{d} x \\right)", "(d x)"),
        ("小明有３个苹果，", "小明有 3 个苹果。"),
    ],
)
def test_layout_and_spelling_of_formulas_do_not_matter(one, other):
    assert normalize(one) == normalize(other)


def test_tokens():
    assert normalize("Don't_stop: 3.5%, 数学 \\alpha_1!") == "don t stop 3.5 数 学 \\alpha 1"
    assert normalize("1,2,3 and 1,000,000") == "1 2 3 and 1000000"
    assert "__label__" not in normalize("__label__math")


def test_equal_ngrams_have_equal_hashes_at_any_position():
    one, other = Spans(normalize("a b c 数 学 d e")), Spans(normalize("x 数 学 d b c"))
    shared = set(one.hashes(3).tolist()) & set(other.hashes(3).tolist())
    assert shared == {one.hashes(3)[3]}
    assert one.ngram(3, 3) == "数 学 d"
    assert len(one.hashes(7)) == 1
    assert len(one.hashes(8)) == 0
    assert len(np.unique(one.hashes(1))) == len(one) == 7


def test_an_empty_text():
    spans = Spans("")
    assert len(spans) == 0
    assert len(spans.hashes(1)) == 0
