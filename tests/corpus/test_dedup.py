"""MinHash bands, connected components, and which page of a group is kept."""

import itertools

import daft
import numpy as np
import pytest
from daft import DataType
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmath_jax.corpus.dedup import bands, components, duplicates
from dsmath_jax.corpus.normalize import Spans

RANDOM = np.random.default_rng(0)


def text(length: int) -> list[str]:
    return [f"w{number}" for number in RANDOM.integers(10_000, size=length)]


def buckets(words: list[str], *sizes: int) -> np.ndarray:
    return bands(Spans(" ".join(words)), *sizes)


def shared(one: list[str], other: list[str], *sizes: int) -> bool:
    return bool((buckets(one, *sizes) == buckets(other, *sizes)).any())


def test_near_duplicates_share_a_bucket_and_other_pages_do_not():
    near = far = 0
    for _ in range(50):
        page = text(300)
        edited = page[:150] + text(4) + page[154:]  # Jaccard similarity of 5-grams about 0.95
        half = page[:200] + text(100)  # about 0.49
        near += shared(page, edited)
        far += shared(page, half)
    assert near == 50
    assert far < 15


def test_the_number_of_bands_rows_and_the_shingle_can_be_chosen():
    page = text(300)
    half = page[:200] + text(100)
    assert len(buckets(page, 20, 3)) == 20
    assert shared(page, half, 20, 3)  # 1 - (1 - 0.49**3)**20 = 0.92
    assert not shared(page, half, 2, 20)
    assert shared(["a", "b", "c", "x"], ["a", "b", "c", "y"], 50, 1, 2)
    assert not shared(["a", "b", "c", "x"], ["a", "b", "c", "y"], 50, 1, 4)


def test_short_and_empty_pages():
    assert shared(["only", "three", "words"], ["only", "three", "words"])
    assert not shared(["only", "three", "words"], ["other", "three", "words"])
    assert len(buckets([])) == 0


def test_different_bands_share_no_bucket():
    values = np.concatenate([buckets(text(3)) for _ in range(50)])
    assert len(np.unique(values)) == len(values)


def roots(edges: list[tuple[int, int]]) -> dict[int, int]:
    columns = {"high": [max(edge) for edge in edges], "low": [min(edge) for edge in edges]}
    frame = daft.from_pydict(columns).select(*(daft.col(name).cast(DataType.int64()) for name in ("high", "low")))
    columns = components(frame).to_pydict()
    return dict(zip(columns["number"], columns["root"], strict=True))


def test_components_of_a_long_chain():
    order = RANDOM.permutation(300).tolist()
    assert roots(list(itertools.pairwise(order))) == dict.fromkeys(range(300), 0)


@given(st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)).filter(lambda edge: edge[0] != edge[1]), max_size=30))
@settings(max_examples=12)
def test_components_are_those_of_a_union_find(edges):
    parent = {node: node for edge in edges for node in edge}

    def root(node: int) -> int:
        return node if parent[node] == node else root(parent[node])

    for one, other in edges:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    assert roots(list(set(edges))) == {node: root(node) for node in parent}


@pytest.mark.parametrize("order", [range(6), range(5, -1, -1)])
def test_the_newest_then_the_longest_is_kept(order):
    page = text(200)
    pages = [page, text(200), [*page, "more"], page, page, []]
    columns = {
        "number": list(range(6)),
        "canonical_url": ["a/", "a/", "b/", "c/", "d/", "e/"],
        "date": ["2026-01", "2026-02", "2026-03", "2026-03", "2026-01", "2026-01"],
        "tokens": [len(words) for words in pages],
        "bands": [buckets(words).tolist() for words in pages],
    }
    frame = daft.from_pydict({name: [values[row] for row in order] for name, values in columns.items()})
    result = duplicates(frame.with_column("bands", daft.col("bands").cast(DataType.list(DataType.uint64()))))
    # Page 0 is older than page 1 under its URL; of the pages 2, 3, 4 the longer of the two newest is kept.
    assert result.to_pydict() == {"number": [0, 3, 4], "kept": [1, 2, 2], "same_url": [True, False, False]}


def test_a_page_kept_for_its_url_may_be_a_near_duplicate():
    page = text(200)
    columns = {
        "number": [0, 1, 2],
        "canonical_url": ["a/", "a/", "b/"],
        "date": ["2026-01", "2026-02", "2026-03"],
        "tokens": [9, 200, 200],
        "bands": [buckets(text(9)).tolist(), buckets(page).tolist(), buckets(page).tolist()],
    }
    frame = daft.from_pydict(columns).with_column("bands", daft.col("bands").cast(DataType.list(DataType.uint64())))
    assert duplicates(frame).to_pydict() == {"number": [0, 1], "kept": [2, 2], "same_url": [True, False]}
