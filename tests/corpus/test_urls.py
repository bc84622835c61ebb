"""Canonical URLs and prefixes."""

import json

import pytest

from dsmath_jax.corpus.urls import canonical, canonical_prefix, folders, host


@pytest.mark.parametrize(
    "other",
    [
        "https://A.test/x/",
        "http://a.test:80/x",
        "https://a.test:443/x?utm_source=b&fbclid=c",
        "https://a.test/x#part",
        "https://a.test/x/index.html",
        "https://a.test/x;jsessionid=AB12",
        "https://a.test/%78?PHPSESSID=12",
    ],
)
def test_addresses_of_one_page_are_equal(other):
    assert canonical(other) == canonical("http://a.test/x") == "a.test/x/"


def test_addresses_of_different_pages_differ():
    urls = [
        "http://a.test/x?id=1",
        "http://a.test/x?id=2",
        "http://a.test/X",
        "http://a.test:8080/x",
        "http://b.test/x",
    ]
    assert len({canonical(url) for url in urls}) == len(urls)
    assert canonical("http://a.test/x?b=1&a=2") == canonical("http://a.test/x?a=2&b=1")
    assert canonical("http://[broken") == "http://[broken"


@pytest.mark.parametrize(
    ("prefix", "url", "below"),
    [
        ("http://a.test/math/", "https://a.test/math/1.html", True),
        ("http://a.test/math/", "https://a.test/math", True),
        ("http://a.test/math/", "https://a.test/math/?id=3", True),
        ("http://a.test/math/", "https://a.test/mathjax/", False),
        ("http://a.test/part", "https://a.test/part1/x", True),
        ("http://a.test", "http://a.test/x", True),
        ("http://a.test", "http://a.test.b/x", False),
    ],
)
def test_prefixes(prefix, url, below):
    assert canonical(url).startswith(canonical_prefix(prefix)) is below


def test_host_and_folders():
    assert host("HTTPS://Me@A.Test.:81/x") == "a.test"
    assert host("no address") == ""
    assert folders("a.test/c/d/?q=1/2") == ["a.test/", "a.test/c/", "a.test/c/d/"]


def test_duplicates_of_the_real_crawl(crawl):
    rows = [json.loads(line) for line in (crawl / "duplicates.jsonl").read_text().splitlines()]
    missed = [row for row in rows if canonical(row["url"]) != canonical(row["dup_of"])]
    assert not missed
