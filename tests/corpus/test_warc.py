import gzip
import json
from collections import Counter

import pytest

from dsmath_jax.corpus.warc import read_pages
from dsmath_jax.workdir import UserError

HTML = "HTTP/1.1 200 OK\r\nContent-Type: text/html"


def read(path):
    damage = Counter()
    return {page.url: page for page in read_pages(path, damage)}, damage


def test_only_html_responses_come_back(record, write_warc):
    path = write_warc(
        "a.warc.gz",
        [
            record("http://a.test/page", b"<p>yes"),
            record("http://a.test/xhtml", b"<p>yes", head="HTTP/1.1 200 OK\r\nContent-Type: application/xhtml+xml"),
            record("http://a.test/request", b"<p>no", kind="request"),
            record("http://a.test/revisit", b"<p>no", kind="revisit"),
            record("http://a.test/pdf", b"%PDF", head="HTTP/1.1 200 OK\r\nContent-Type: application/pdf"),
            record("http://a.test/gone", b"<p>no", head="HTTP/1.1 404 Not Found\r\nContent-Type: text/html"),
            record("http://a.test/moved", b"<p>no", head="HTTP/1.1 301\r\nContent-Type: text/html"),
        ],
    )
    pages, damage = read(path)
    assert list(pages) == ["http://a.test/page", "http://a.test/xhtml"]
    assert pages["http://a.test/page"].date == "2026-01-01T00:00:00Z"
    assert not damage


def test_the_reader_goes_on_after_each_kind_of_damage(record, write_warc):
    corrupt = bytearray(record("http://a.test/corrupt", bytes(range(256)) * 40))
    corrupt[200:240] = bytes(255 - byte for byte in corrupt[200:240])
    wrong_sum = record("http://a.test/sum", b"<p>no")[:-8] + bytes(8)
    wrong_length = gzip.compress(
        gzip.decompress(record("http://a.test/length", b"<p>no")).replace(b"ngth: 6", b"ngth: 9")
    )
    path = write_warc(
        "a.warc.gz",
        [
            b"\x1f\x8b\x08 no member at all",
            record("http://a.test/1", b"<p>1"),
            bytes(corrupt),
            record("http://a.test/2", b"<p>2"),
            wrong_sum,
            record("http://a.test/3", b"<p>3"),
            wrong_length,
            record("http://a.test/4", b"<p>4"),
            record("http://a.test/empty", b""),
            record("", b"<p>no address"),
            record("http://a.test/5", b"<p>5"),
            record("http://a.test/cut", b"<p>no")[:-20],
        ],
    )
    pages, damage = read(path)
    assert list(pages) == [f"http://a.test/{number}" for number in range(1, 6)]
    assert damage.pop("file ends inside a record") == 1
    assert damage.pop("wrong WARC length") == damage.pop("empty body") == damage.pop("no target URI") == 1
    assert damage.total() == 3  # what stood before the first member, the corrupt one, the one with a wrong checksum


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (f"{HTML}; charset=gbk", "数学题".encode("gbk")),
        (f"{HTML}; charset=iso-8859-1", "数学题".encode()),  # a server's default, contradicted by the bytes
        (HTML, b'<meta charset="gbk">' + "数学题".encode("gbk")),
        (HTML, b"\xef\xbb\xbf" + "数学题".encode()),
        (f"{HTML}; charset=utf8", "数学\x00题".encode()),
        (f"{HTML}\r\nContent-Encoding: gzip", gzip.compress("数学题".encode())),
        (f"{HTML}\r\nContent-Encoding: gzip", "数学题".encode()),
        (f"{HTML}\r\nTransfer-Encoding: chunked", b"3\r\n\xe6\x95\xb0\r\n6\r\n\xe5\xad\xa6\xe9\xa2\x98\r\n0\r\n\r\n"),
        (f"{HTML}\r\nTransfer-Encoding: chunked", "数学题".encode()),
    ],
)
def test_bodies_are_decoded(record, write_warc, head, body):
    pages, damage = read(write_warc("a.warc.gz", [record("http://a.test/", body, head=head)]))
    html = pages["http://a.test/"].html
    assert html.endswith("数学题")
    assert "\ufffd" not in html
    assert not damage


def test_damaged_utf8_and_undeclared_latin1(record, write_warc):
    body = "où l'été à Genève était très agréable, déjà vu par les élèves".encode("latin-1")
    members = [
        record("http://a.test/latin", body, head=HTML),
        record("http://a.test/utf8", "数".encode() + b"\xff<p>x"),
    ]
    pages, _ = read(write_warc("a.warc.gz", members))
    assert pages["http://a.test/latin"].html == body.decode("latin-1")
    assert pages["http://a.test/utf8"].html == "数\ufffd<p>x"


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "empty"), (b"plain text", "not a WARC"), (b"\x1f\x8b", "not a WARC")]
)
def test_what_is_no_warc_is_refused(write_warc, content, words):
    with pytest.raises(UserError, match=words):
        read(write_warc("a.warc.gz", [content]))


def test_the_damaged_real_crawl(crawl):
    expected = [json.loads(line) for line in (crawl / "crawl-damaged.expected.jsonl").read_text().splitlines()]
    pages, damage = read(crawl / "crawl-damaged.warc.gz")
    must = {row["url"] for row in expected if row["must_return"] is True}
    assert must <= set(pages)
    assert not set(pages) & {row["url"] for row in expected if row["must_return"] is False}
    assert set(pages) <= {row["url"] for row in expected}
    assert damage["bytes between records"] == 1
    gbk = next(page for url, page in pages.items() if url.endswith("enc=gbk-meta"))
    assert "的行格式" in gbk.html
