"""Exact n-gram matches between pages and benchmark records."""

import pytest

from dsmath_jax.corpus.decontaminate import Benchmarks, remove_matches
from dsmath_jax.corpus.normalize import normalize
from dsmath_jax.data.datasets import Record

QUESTION = "Anna has 12 red apples and gives $\\frac{1}{3}$ of them to Ben before lunch; how many are left?"
PROBLEMS = [
    Record("b/0", QUESTION, "She gives 4. So 12 - 4 = 8 remain. The answer is 8.", "8"),
    Record("b/1", "What is 7 times 8?", "", "56"),
    Record("b/2", "小明有3个苹果又买了5个现在有几个", "", "8"),
    Record("b/3", "Solve: 2x", "", "the only answer there is"),
]


@pytest.mark.parametrize(
    ("page", "record"),
    [
        (f"Homework. {QUESTION} Write it down.", "b/0"),
        ("gives \\( \\dfrac13 \\) no", None),
        ("ANNA has １２ *red* apples, and gives \\( \\frac {1} {3} \\) of\nthem to Bob", "b/0"),
        ("Anna has 12 red apples and gives \\frac 1 of them", None),  # 9 tokens of 10
        ("she gives 4 so 12 4 8 remain the answer here", "b/0"),
        ("I asked: what is 7 TIMES 8, dear?", "b/1"),
        ("what is 7 times 9", None),
        ("已知小明有 3 个苹果，又买了 5 个。现在有几", "b/2"),
        ("小红有3个苹果又买", None),
        ("solve 2 x at once", "b/3"),
        ("the only answer there is", None),
        ("", None),
    ],
)
def test_contamination(page, record):
    matches = list(Benchmarks(PROBLEMS).matches(normalize(page)))
    assert (matches[0].gram.record if matches else None) == record


def test_a_match_has_its_ngram_and_position():
    match = next(Benchmarks(PROBLEMS).matches(normalize(f"So: {QUESTION}")))
    assert match.gram.ngram == "anna has 12 red apples and gives \\frac 1 3"
    assert (match.start, match.stop) == (1, 11)


def test_texts_below_the_smallest_ngram_do_not_count():
    assert not list(Benchmarks(PROBLEMS, min_ngram=4).matches("solve 2 x"))


def test_a_shorter_ngram_finds_more():
    page = normalize("Anna has 12 red apples and gives none away")
    assert not list(Benchmarks(PROBLEMS).matches(page))
    assert next(Benchmarks(PROBLEMS, ngram=5).matches(page)).gram.record == "b/0"


def test_only_the_lines_of_a_match_are_removed():
    first, second = QUESTION.split(" before ")
    page = f"Homework.\n{first}\nbefore {second}\nWrite it down.\n\nDone."
    matches = list(Benchmarks(PROBLEMS).matches(normalize(page)))
    assert remove_matches(page, matches) == "Homework.\nWrite it down.\n\nDone."
    assert remove_matches(page, []) == page


def test_runs_of_bare_numbers_and_letters_do_not_count():
    question = "What comes after 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 in x_1, x_2, x_3, x_4, x_5, x_6?"
    known = Benchmarks([Record("b/4", question, "", "12")])
    assert not list(known.matches(normalize("let x_1, x_2, x_3, x_4, x_5 be")))
    assert not list(known.matches(normalize("1 2 3 4 5 6 7 8 9 10 11 12")))
    assert list(known.matches(normalize("And what comes after 1 2 3 4 5 6 7?")))
