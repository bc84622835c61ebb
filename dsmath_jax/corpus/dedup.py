"""De-duplication: one page per URL, then one page per group of near-duplicates (MinHash with banding)."""

import numpy as np

from dsmath_jax.corpus.normalize import Spans, mix

SHINGLE = 5
BANDS, ROWS = 14, 8
# Odd multipliers and offsets, fixed for ever, make a family of hash functions out of one.
MULTIPLIERS = mix(np.arange(1, BANDS * ROWS + 1, dtype=np.uint64)) | np.uint64(1)
OFFSETS = mix(np.arange(10_001, BANDS * ROWS + 10_001, dtype=np.uint64))


def bands(spans: Spans) -> np.ndarray:
    """uint64 [14]: one bucket per band of 8 minima over the hashed 5-gram shingles; [0] for a page without text.

    Two pages with Jaccard similarity s share a bucket with probability 1 - (1 - s**8)**14: 0.99 at 0.85, 0.05 at 0.5.
    A text of fewer than five tokens is one shingle.
    """
    if not len(spans):
        return np.zeros(0, np.uint64)
    shingles = np.unique(spans.hashes(min(SHINGLE, len(spans))))
    minima = np.array(
        [(shingles * factor + offset).min() for factor, offset in zip(MULTIPLIERS, OFFSETS, strict=True)], np.uint64
    ).reshape(BANDS, ROWS)
    buckets = np.zeros(BANDS, np.uint64)
    for row in minima.T:
        buckets = mix(buckets ^ row)
    return buckets


def groups_by_bucket(page_bands: np.ndarray) -> np.ndarray:
    """Connected components of pages that share a bucket.

    Args:
      page_bands: uint64 [pages, bands].

    Returns:
      int64 [pages]: the smallest page number of each page's component.
    """
    pages = len(page_bands)
    ones, others = [], []
    for column in page_bands.T:
        order = np.argsort(column, kind="stable")
        same = column[order][1:] == column[order][:-1]
        ones.append(order[:-1][same])
        others.append(order[1:][same])
    one, other = (np.concatenate(ends) if pages else np.zeros(0, np.int64) for ends in (ones, others))
    label = np.arange(pages)
    while True:
        # Every edge lowers the label of its ends' roots; pointer jumping then shortens the paths.
        lower = np.minimum(label[one], label[other])
        before = label.copy()
        for end in (one, other):
            np.minimum.at(label, before[end], lower)
        while (label[label] != label).any():
            label = label[label]
        if (label == before).all():
            return label


def representatives(group: np.ndarray, dates: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """For each page the page that is kept of its group: the newest, then the longest, then the first read.

    Args:
      group: [pages] any sortable group key.
      dates: [pages] ISO dates as strings.
      lengths: int64 [pages], tokens.

    Returns:
      int64 [pages] page numbers.
    """
    _, group_number = np.unique(group, return_inverse=True)
    _, newest_last = np.unique(dates, return_inverse=True)
    best_first = np.lexsort((np.arange(len(group)), -lengths, -newest_last, group_number))
    groups, first = np.unique(group_number[best_first], return_index=True)
    kept = np.zeros(len(groups), np.int64)
    kept[groups] = best_first[first]
    return kept[group_number]


def find_duplicates(
    canonical_urls: np.ndarray, page_bands: list[np.ndarray], dates: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns int64 [pages] twice: the page kept for each page's URL, and the page kept in the end for each page."""
    by_url = representatives(canonical_urls, dates, lengths)
    pages = np.arange(len(by_url))
    textual = np.array([page for page in pages if by_url[page] == page and len(page_bands[page])], np.int64)
    kept = pages.copy()
    if len(textual):
        group = groups_by_bucket(np.stack([page_bands[page] for page in textual]))
        kept[textual] = textual[representatives(group, dates[textual], lengths[textual])]
    return by_url, kept[by_url]
