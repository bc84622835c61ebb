import numpy as np
import pytest

from dsmath_jax.corpus import classifier, domains
from dsmath_jax.corpus.decontaminate import Benchmarks
from dsmath_jax.corpus.normalize import normalize
from dsmath_jax.corpus.select import top_tokens
from dsmath_jax.data.benchmarks import Record
from dsmath_jax.workdir import UserError

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
    match = Benchmarks(PROBLEMS).find(normalize(page))
    assert (match and match.record) == record


def test_the_matching_ngram_is_told():
    match = Benchmarks(PROBLEMS).find(normalize(QUESTION))
    assert match.ngram == "anna has 12 red apples and gives \\frac 1 3"


def test_texts_below_the_smallest_ngram_do_not_count():
    assert Benchmarks(PROBLEMS, min_ngram=4).find("solve 2 x") is None


def test_top_tokens_takes_the_longest_prefix_of_the_ranking():
    scores = np.array([0.5, 0.9, np.nan, 0.5, 0.8, 0.1])
    tokens = np.array([10, 20, 1, 10, 5, 1])
    assert top_tokens(scores, tokens, 35).nonzero()[0].tolist() == [0, 1, 4]  # tie at 0.5: the first page
    assert top_tokens(scores, tokens, 34).nonzero()[0].tolist() == [1, 4]  # no smaller page is taken out of turn
    assert top_tokens(scores, tokens, 1000).nonzero()[0].tolist() == [0, 1, 3, 4, 5]
    assert top_tokens(scores, tokens, 1000, floor=0.5).nonzero()[0].tolist() == [0, 1, 3, 4]
    assert not top_tokens(scores, tokens, 0).any()


def test_a_domain_is_math_related_above_the_share():
    hosts = ["a"] * 10 + ["b"] * 5 + ["c"]
    collected = np.array([1] + [0] * 9 + [1, 1, 0, 0, 0] + [0], bool)
    rows = domains.statistics(hosts, collected, 0.1)
    assert rows == [
        {"host": "b", "pages": 5, "collected": 2, "share": 0.4, "math_related": True},
        {"host": "a", "pages": 10, "collected": 1, "share": 0.1, "math_related": False},
        {"host": "c", "pages": 1, "collected": 0, "share": 0.0, "math_related": False},
    ]


def test_the_longest_annotated_prefix_decides():
    annotations = [
        domains.Annotation("a.test/", False),
        domains.Annotation("a.test/math/", True),
        domains.Annotation("a.test/math/news/", False),
    ]
    urls = ["a.test/x/", "a.test/math/1/", "a.test/math/news/2/", "b.test/"]
    for order in (annotations, annotations[::-1]):
        assert domains.annotated_pages(urls, order).tolist() == [False, True, False, False]


def test_the_automatic_rule_takes_folders_that_were_mostly_collected():
    urls = (
        [f"a.test/math/{n}/" for n in range(5)]
        + [f"a.test/news/{n}/" for n in range(5)]
        + ["a.test/two/1/", "a.test/two/2/"]
    )
    collected = np.array([1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1], bool)
    assert domains.majority_pages(urls, collected).tolist() == [True] * 5 + [False] * 7


def test_annotation_lines_are_checked(tmp_path):
    path = tmp_path / "annotations.jsonl"
    path.write_text(
        '{"prefix": "http://a.test/", "math": true, "note": ""}\n{"prefix": "http://a.test/", "math": "yes"}\n'
    )
    with pytest.raises(UserError, match="line 2"):
        domains.read_annotations(path)


SETTINGS = {"dim": 16, "lr": 0.5, "word_ngrams": 2, "min_count": 1, "epochs": 200, "bucket": 5000}


def test_the_classifier_learns_and_is_reproducible(tmp_path):
    math = ["prove that \\sum x is even", "let x be a prime number", "解 方 程 x", "the integral of x \\alpha"]
    other = ["the weather in town is fine", "buy shoes at half the price", "今 天 天 气 好", "goal in the last minute"]
    examples = [
        (is_math, text)
        for pair in zip(math, other, strict=True)
        for is_math, text in zip((True, False), pair, strict=True)
    ]
    runs = [
        list(classifier.scores(classifier.train(examples, SETTINGS, 3, tmp_path / name), math + other)) for name in "ab"
    ]
    assert runs[0] == runs[1]
    assert (tmp_path / "a/model.bin").read_bytes() == (tmp_path / "b/model.bin").read_bytes()
    assert min(runs[0][:4]) > 0.7 > 0.3 > max(runs[0][4:])
    assert max(runs[0]) <= 1.0


def test_a_failing_training_is_told(tmp_path):
    with pytest.raises(RuntimeError, match="fastText"):
        classifier.train([], SETTINGS, 0, tmp_path)
