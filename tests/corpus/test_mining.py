"""Selection, domain statistics and the rules that add pages to the seeds."""

import daft
import numpy as np
import pytest
from daft import DataType, col
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.corpus import domains
from dsmath_jax.corpus.annotations import Annotation
from dsmath_jax.corpus.pages import ROW_BITS
from dsmath_jax.corpus.select import top_tokens


def collected(scores: list[float], tokens: list[int], limit: int, floor: float = 0.0) -> list[int]:
    """Returns which pages of several shards are collected; checks that both forms of the cut agree."""
    numbers = [((row % 3) << ROW_BITS) + row for row in range(len(scores))]
    frame = daft.from_pydict({"number": numbers, "score": scores, "tokens": tokens}).select(
        col("number").cast(DataType.int64()),
        col("score").cast(DataType.float32()),
        col("tokens").cast(DataType.int64()),
    )
    cut = top_tokens(frame, limit, floor)
    numbers_collected = sorted(frame.where(cut.collected()).to_pydict()["number"])
    before = cut.is_collected(np.array(scores, np.float32), np.array(numbers))
    assert numbers_collected == sorted(np.array(numbers)[before].tolist())
    return [row for row, number in enumerate(numbers) if number in numbers_collected]


def test_top_tokens_takes_the_longest_prefix_of_the_ranking():
    scores, tokens = [0.5, 0.9, 0.0, 0.5, 0.8, 0.1], [10, 20, 100, 10, 5, 1]
    assert collected(scores, tokens, 35) == [0, 1, 4]  # a tie at 0.5: the first page
    assert collected(scores, tokens, 34) == [1, 4]  # no later, smaller page fills the room
    assert collected(scores, tokens, 46) == [0, 1, 3, 4, 5]
    assert collected(scores, tokens, 1000, floor=0.5) == [0, 1, 3, 4]
    assert collected(scores, tokens, 1000) == list(range(6))
    assert collected(scores, tokens, 0) == []


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.2500001, 0.5, 1.0]), st.integers(1, 20)), min_size=1, max_size=12),
    st.integers(0, 120),
)
def test_the_cut_is_that_of_a_sorted_list(pages, limit):
    scores, tokens = [score for score, _ in pages], [count for _, count in pages]
    rows = sorted(range(len(pages)), key=lambda row: (-np.float32(scores[row]), row % 3, row))
    expected, total = [], 0
    for row in rows:
        total += tokens[row]
        if total > limit:
            break
        expected.append(row)
    assert collected(scores, tokens, limit) == sorted(expected)


def scored(urls: list[str], hits: list[int]) -> daft.DataFrame:
    return daft.from_pydict(
        {
            "number": list(range(len(urls))),
            "canonical_url": urls,
            "host": [url.split("/")[0] for url in urls],
            "collected": [bool(hit) for hit in hits],
        }
    )


def test_a_domain_is_math_related_above_the_share():
    frame = scored(["a/"] * 10 + ["b/"] * 5 + ["c/"], [1] + [0] * 9 + [1, 1, 0, 0, 0] + [0])
    assert domains.hosts(frame, 0.1).to_pylist() == [
        {"host": "b", "pages": 5, "collected": 2, "share": 0.4, "math_related": True},
        {"host": "a", "pages": 10, "collected": 1, "share": 0.1, "math_related": False},
        {"host": "c", "pages": 1, "collected": 0, "share": 0.0, "math_related": False},
    ]


def test_prefixes_of_hosts_with_collected_pages_are_counted():
    frame = scored(["a/x/1/", "a/x/2/?q=1/2", "a/y/", "b/z/"], [1, 0, 1, 0])
    rows = domains.prefixes(frame, domains.hosts(frame, 0.1)).to_pylist()
    assert [(row["host"], row["prefix"], row["pages"], row["collected"]) for row in rows] == [
        ("a", "a/", 3, 2),
        ("a", "a/x/", 2, 1),
        ("a", "a/x/1/", 1, 1),
        ("a", "a/x/2/", 1, 0),
        ("a", "a/y/", 1, 1),
    ]


def joining(frame: daft.DataFrame, annotations: list[Annotation] | None, share: float = 0.1) -> list[int]:
    hosts = domains.hosts(frame, share)
    return sorted(
        domains.new_positives(frame, hosts, domains.prefixes(frame, hosts), annotations).to_pydict()["number"]
    )


def test_uncollected_pages_below_annotated_prefixes_are_taken():
    urls = ["a.test/math/1/", "a.test/math/2/", "a.test/math/news/1/", "a.test/x/", "b.test/math/1/"]
    frame = scored(urls, [1, 0, 0, 0, 0])
    annotations = [
        Annotation("a.test/", False),
        Annotation("a.test/math/", True),
        Annotation("a.test/math/news/", False),
        Annotation("b.test/", True),  # no page of it was collected, but it is annotated
    ]
    for order in (annotations, annotations[::-1]):
        assert joining(frame, order) == [1, 4]


def test_the_automatic_rule_takes_folders_that_were_mostly_collected():
    urls = (
        [f"a.test/math/{n}/" for n in range(5)]
        + [f"a.test/news/{n}/" for n in range(5)]
        + ["a.test/two/1/", "a.test/two/2/"]
    )
    frame = scored(urls, [1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 1, 0])
    assert joining(frame, None) == [4]
    assert joining(frame, None, share=0.7) == []  # 8 of 12: the domain is not math-related


def test_the_rules_are_named():
    assert domains.RULES[False].startswith("automatic")
    assert domains.RULES[True] == "annotations"


@pytest.mark.parametrize(("share", "related"), [(0.5, False), (0.49, True)])
def test_a_domain_with_exactly_the_share_is_not_math_related(share, related):
    frame = scored(["a/1/", "a/2/"], [1, 0])
    assert domains.hosts(frame, share).to_pylist()[0]["math_related"] is related
