import numpy as np

from dsmath_jax.corpus.dedup import bands, find_duplicates, groups_by_bucket
from dsmath_jax.corpus.normalize import Spans

RANDOM = np.random.default_rng(0)


def text(length: int) -> list[str]:
    return [f"w{number}" for number in RANDOM.integers(10_000, size=length)]


def buckets(words: list[str]) -> np.ndarray:
    return bands(Spans(" ".join(words)))


def shared(one: list[str], other: list[str]) -> bool:
    return bool((buckets(one) == buckets(other)).any())


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


def test_short_and_empty_pages():
    assert shared(["only", "three", "words"], ["only", "three", "words"])
    assert not shared(["only", "three", "words"], ["other", "three", "words"])
    assert len(buckets([])) == 0


def test_components_are_transitive():
    page_bands = np.array([[1, 10], [2, 20], [1, 30], [4, 20], [5, 30], [6, 60]], np.uint64)
    assert groups_by_bucket(page_bands).tolist() == [0, 1, 0, 1, 0, 5]
    chain = np.stack([np.arange(1000), np.arange(1000) + 1], axis=1)[RANDOM.permutation(1000)].astype(np.uint64)
    chain = np.stack([chain[:, 0] // 2, (chain[:, 1]) // 2], axis=1)
    assert set(groups_by_bucket(chain).tolist()) == {0}


def test_the_newest_then_the_longest_is_kept():
    page = text(200)
    pages = [page, text(200), [*page, "more"], page, page, []]
    urls = np.array(["a/", "a/", "b/", "c/", "d/", "e/"])
    dates = np.array(["2026-01", "2026-02", "2026-03", "2026-03", "2026-01", "2026-01"])
    lengths = np.array([len(words) for words in pages])
    by_url, kept = find_duplicates(urls, [buckets(words) for words in pages], dates, lengths)
    # Page 0 goes for the newer one under its URL; of the pages 2, 3, 4 the longer of the two newest stays.
    assert by_url.tolist() == [1, 1, 2, 3, 4, 5]
    assert kept.tolist() == [1, 1, 2, 2, 2, 5]
