"""Reading WARC and WET files: formats, encodings, and every kind of damage."""

import contextlib
import gzip
import io
import json
import random
import tracemalloc
import zlib
from collections import Counter

import brotli
import pytest
from backports import zstd
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dsmath_jax.corpus.reading import http, warc
from dsmath_jax.corpus.reading.warc import Page, read_pages
from dsmath_jax.workdir import UserError

HTML = "HTTP/1.1 200 OK\r\nContent-Type: text/html"
CHECKSUM = {zstd.CompressionParameter.checksum_flag: 1}


def read(path):
    damage = Counter()
    return {page.url: page for page in read_pages(str(path), damage)}, damage


def test_only_html_responses_are_read(record, write_warc):
    path = write_warc(
        "a.warc.gz",
        [
            record("http://a.test/page", b"<p>yes"),
            record("http://a.test/xhtml", b"<p>yes", head="HTTP/1.1 200 OK\r\nContent-Type: application/xhtml+xml"),
            record("http://a.test/sniffed", b"\n<!DOCTYPE html><p>yes", head="HTTP/1.1 200 OK\r\nServer: a"),
            record("http://a.test/unknown", b"yes?", head="HTTP/1.1 200 OK\r\nServer: a"),
            record(
                "dns:a.test", b"20260101 a.test. 300 IN A 127.0.0.1", head="HTTP/1.1 200 OK\r\nContent-Type: text/html"
            ),
            record("http://a.test/request", b"<p>no", kind="request"),
            record("http://a.test/revisit", b"<p>no", kind="revisit"),
            record("http://a.test/pdf", b"%PDF", head="HTTP/1.1 200 OK\r\nContent-Type: application/pdf"),
            record("http://a.test/gone", b"<p>no", head="HTTP/1.1 404 Not Found\r\nContent-Type: text/html"),
            record("http://a.test/moved", b"<p>no", head="HTTP/1.1 301\r\nContent-Type: text/html"),
            record(
                "http://a.test/数",
                b"<p>yes",
                head="HTTP/1.1 200 OK\r\nX-Long: a\r\n b: c\r\nContent-Type:\r\n\ttext/html",
            ),
        ],
    )
    pages, damage = read(path)
    assert list(pages) == [f"http://a.test/{name}" for name in ("page", "xhtml", "sniffed", "数")]
    assert pages["http://a.test/page"] == Page("http://a.test/page", "2026-01-01T00:00:00Z", "<p>yes", True)
    assert not damage


def one_by_one(records):
    return [gzip.compress(record, 1, mtime=0) for record in records]


def one_frame_each(records):
    return [zstd.compress(record, options=CHECKSUM) for record in records]


def with_dictionary(records, packed=True):
    dictionary = zstd.train_dict([bytes(record) for record in records] * 20, 4_000).dict_content
    frame = zstd.compress(dictionary) if packed else dictionary
    frames = [zstd.compress(record, zstd_dict=zstd.ZstdDict(dictionary)) for record in records]
    return [b"\x5d\x2a\x4d\x18", len(frame).to_bytes(4, "little"), frame, *frames]


PACKINGS = {
    "warc": lambda records: records,
    "warc.gz": one_by_one,
    "one-member.warc.gz": lambda records: [gzip.compress(b"".join(records), mtime=0)],
    "warc.zst": one_frame_each,
    "one-frame.warc.zst": lambda records: [zstd.compress(b"".join(records))],
    "dictionary.warc.zst": with_dictionary,
    "plain-dictionary.warc.zst": lambda records: with_dictionary(records, packed=False),
    "skippable.warc.zst": lambda records: [b"\x50\x2a\x4d\x18\x03\0\0\0abc".join(one_frame_each(records))],
    "named-otherwise": one_frame_each,
}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("kind", ["response", "conversion"])
def test_every_packing_gives_the_same_pages(plain_record, write_warc, packing, kind):
    bodies = [f"<p>page {number}, 数 {'text ' * number**3}</p>" for number in range(30)]
    records = [plain_record("", b"software: x", kind="warcinfo")]
    records += [plain_record(f"http://a.test/{number}", body.encode(), kind=kind) for number, body in enumerate(bodies)]
    pages, damage = read(write_warc(packing, PACKINGS[packing](records)))
    assert [page.body for page in pages.values()] == bodies
    assert {page.is_html for page in pages.values()} == {kind == "response"}
    assert not damage


def test_conversions_other_than_plain_text_are_skipped(plain_record, write_warc):
    record = plain_record("http://a.test/", b"%PDF", kind="conversion")
    empty = plain_record("http://a.test/empty", b"\n", kind="conversion")
    pages, damage = read(write_warc("a.wet", [record.replace(b"text/plain", b"application/pdf"), empty]))
    assert not pages
    assert damage == {"empty body": 1}


def test_the_reader_resumes_after_each_kind_of_damage(record, write_warc):
    corrupt = bytearray(record("http://a.test/corrupt", bytes(range(256)) * 40))
    corrupt[200:240] = bytes(255 - byte for byte in corrupt[200:240])
    wrong_sum = record("http://a.test/sum", b"<p>no")[:-8] + bytes(8)
    wrong_length = gzip.compress(
        gzip.decompress(record("http://a.test/length", b"<p>no")).replace(b"\r\n\r\nHTTP", b"9\r\n\r\nHTTP")
    )
    short = gzip.compress(
        gzip.decompress(record("http://a.test/short", b"<p>no and no")).replace(b"ngth: 7", b"ngth: 6")
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
            short,
            record("http://a.test/4", b"<p>4"),
            record("http://a.test/empty", b""),
            record("", b"<p>no address"),
            gzip.compress(b"no record", mtime=0),
            record("http://a.test/5", b"<p>5"),
            record("http://a.test/cut", b"<p>no")[:-20],
        ],
    )
    pages, damage = read(path)
    assert list(pages) == [f"http://a.test/{number}" for number in range(1, 6)]
    once = ["record shorter than its WARC length", "wrong WARC length", "empty body", "no target URI", "no WARC header"]
    assert [damage.pop(reason) for reason in [*once, "file ends inside a record"]] == [1] * 6
    assert damage.total() == 3  # the bytes before the first member, the corrupt member, the wrong checksum


@pytest.mark.parametrize("packing", ["warc", "one-member.warc.gz", "one-frame.warc.zst"])
def test_wrong_lengths_among_records_of_one_member(plain_record, write_warc, packing):
    records = [plain_record(f"http://a.test/{number}", b"<p>body" * 9) for number in range(6)]
    records[1] = records[1].replace(b"Content-Length: 1", b"Content-Length: 91")
    records[3] = records[3].replace(b"Content-Length: 1", b"Content-Length: ")
    records[4] = records[4].replace(b"Content-Length: 1", b"Content-Length: 1000000000000")
    pages, damage = read(write_warc(packing, PACKINGS[packing](records)))
    assert list(pages) == ["http://a.test/0", "http://a.test/2", "http://a.test/5"]
    reasons = ["record shorter than its WARC length", "wrong WARC length", "record larger than 64 MiB"]
    assert damage == dict.fromkeys(reasons, 1)


def test_junk_between_uncompressed_records_loses_none(plain_record, write_warc):
    records = [plain_record(f"http://a.test/{number}", b"<p>body") for number in range(3)]
    pages, damage = read(write_warc("a.warc", [records[0], b"junk", records[1], b"\nWARC/1.0 junk\n", records[2]]))
    assert list(pages) == [f"http://a.test/{number}" for number in range(3)]
    assert damage == {"no WARC header": 2}


def test_a_header_without_an_end_does_not_include_the_next_record(plain_record, write_warc):
    records = [plain_record(f"http://a.test/{number}", b"<p>body %d" % number) for number in range(3)]
    records[0] = records[0].replace(b"\r\n\r\n", b"\r\n").replace(b"Content-Length", b"Length")
    records[1] = records[1].replace(b"WARC-Target-URI", b"URI")
    pages, damage = read(write_warc("a.warc", records))
    assert list(pages) == ["http://a.test/2"]
    assert damage == {"no WARC header": 1, "no target URI": 1}


def test_a_valid_zstd_frame_with_a_long_first_block_is_found(plain_record, write_warc):
    noise = random.Random(0).randbytes(200_000).hex().encode()
    frames = one_frame_each([plain_record(f"http://a.test/{number}", noise) for number in range(3)])
    pages, damage = read(write_warc("a.warc.zst", [frames[0], b"garbage", frames[1], frames[2][:-1]]))
    assert list(pages) == ["http://a.test/0", "http://a.test/1"]
    assert damage == {"bytes between records": 1, "file ends inside a record": 1}


def test_a_damaged_dictionary_is_counted(plain_record, write_warc):
    records = [plain_record(f"http://a.test/{number}", b"<p>body" * 9) for number in range(6)]
    broken = [b"\x5d\x2a\x4d\x18", (4).to_bytes(4, "little"), b"none", *one_frame_each(records)]
    pages, damage = read(write_warc("a.warc.zst", broken))
    assert len(pages) == 6
    assert damage == {"corrupt dictionary": 1}


TEXT = "数学题"
BODY = TEXT.encode()


def chunked(body):
    return (
        b"".join(b"%x;a=b\r\n%s\r\n" % (len(body[at : at + 4]), body[at : at + 4]) for at in range(0, len(body), 4))
        + b"0\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (f"{HTML}; charset=gbk", TEXT.encode("gbk")),
        (f"{HTML}; charset=iso-8859-1", BODY),  # a server's default, contradicted by the bytes
        (HTML, b'<meta charset="gbk">' + TEXT.encode("gbk")),
        (HTML, b'<?xml version="1.0" encoding="gbk"?>' + TEXT.encode("gbk")),
        (HTML, b"\xef\xbb\xbf" + BODY),
        (HTML, TEXT.encode("utf-16")),
        (f"{HTML}; charset=utf-16", TEXT.encode("utf-16-le")),
        (HTML, b'<meta charset="utf-16">' + BODY),  # bytes that match this are not UTF-16
        (f"{HTML}; charset=utf8", "数学\x00题".encode()),
        (f"{HTML}; charset=iso-8859-1", BODY + "数".encode()[:2]),  # cut within a character
        (f"{HTML}\r\nContent-Encoding: gzip", gzip.compress(BODY, mtime=0)),
        (
            f"{HTML}\r\nContent-Encoding: x-gzip",
            gzip.compress(BODY[:3], mtime=0) + gzip.compress(BODY[3:], mtime=0) + b"\0",
        ),
        (f"{HTML}\r\nContent-Encoding: gzip", BODY),
        (f"{HTML}\r\nContent-Encoding: deflate", zlib.compress(BODY)),
        (f"{HTML}\r\nContent-Encoding: deflate", zlib.compress(BODY)[2:-4]),
        (f"{HTML}\r\nContent-Encoding: deflate", b"<p>" + BODY),
        (f"{HTML}\r\nContent-Encoding: br", brotli.compress(BODY)),
        (f"{HTML}\r\nContent-Encoding: br", b"\n<p>" + BODY),
        (f"{HTML}\r\nContent-Encoding: zstd", zstd.compress(BODY[:3]) + zstd.compress(BODY[3:])),
        (f"{HTML}\r\nContent-Encoding: gzip, br", brotli.compress(gzip.compress(BODY, mtime=0))),
        (f"{HTML}\r\nContent-Encoding: utf-8", BODY),
        (f"{HTML}\r\nTransfer-Encoding: chunked", chunked(BODY)),
        (f"{HTML}\r\nTransfer-Encoding: chunked", BODY),
        (f"{HTML}\r\nTransfer-Encoding: gzip, chunked", chunked(gzip.compress(BODY, mtime=0))),
        (f"{HTML}\r\nContent-Encoding: zstd\r\nTransfer-Encoding: chunked", chunked(zstd.compress(BODY))),
    ],
)
def test_bodies_are_decoded(record, write_warc, head, body):
    pages, damage = read(write_warc("a.warc.gz", [record("http://a.test/", body, head=head)]))
    html = pages["http://a.test/"].body
    assert html.endswith(TEXT)
    assert "\ufffd" not in html
    assert not damage


LONG = b"<p>" + random.Random(0).randbytes(30_000).hex().encode()


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("Content-Encoding: gzip", gzip.compress(LONG, mtime=0)),
        ("Content-Encoding: deflate", zlib.compress(LONG)),
        ("Content-Encoding: br", brotli.compress(LONG)),
        ("Content-Encoding: zstd", zstd.compress(LONG, options={zstd.CompressionParameter.window_log: 10})),
        ("Transfer-Encoding: chunked", chunked(LONG)),
    ],
)
def test_the_beginning_of_a_truncated_body_is_kept_and_counted(record, write_warc, head, body):
    member = record("http://a.test/", body[: len(body) // 2], head=f"{HTML}\r\n{head}")
    pages, damage = read(write_warc("a.warc.gz", [member]))
    html = pages["http://a.test/"].body.encode()
    assert LONG.startswith(html)
    assert len(html) > 1_000
    assert damage == {http.CUT_SHORT: 1}


@pytest.mark.parametrize(
    ("head", "body", "reason"),
    [
        ("Content-Encoding: gzip", b"\x1f\x8b\x08\0" + bytes(range(200)), http.CORRUPT),
        ("Content-Encoding: deflate", b"\xff" * 99, http.CORRUPT),
        ("Content-Encoding: br", b"\xff" * 99, http.CORRUPT),
        ("Content-Encoding: zstd", b"\x28\xb5\x2f\xfd" + b"\xff" * 99, http.CORRUPT),
        ("Content-Encoding: compress", b"\x1f\x9d\x90\xff", "unknown content encoding"),
        ("Content-Encoding: gzip", b"\xff\x01\x02", "unknown content encoding"),
        ("Content-Encoding: gzip, gzip, gzip, gzip, gzip", b"a", "more than four content encodings"),
        ("Content-Encoding: gzip", gzip.compress(bytes(1 << 25), mtime=0), "body larger than 16 MiB"),
        ("Content-Encoding: br", brotli.compress(bytes(1 << 25)), "body larger than 16 MiB"),
        ("Content-Encoding: zstd", zstd.compress(bytes(1 << 25)), "body larger than 16 MiB"),
        ("Content-Encoding: deflate", zlib.compress(bytes(1 << 25)), "body larger than 16 MiB"),
        ("Content-Encoding: gzip", b"".join([gzip.compress(bytes(1 << 23), mtime=0)] * 3), "body larger than 16 MiB"),
        ("Server: a", b"<p>" * (1 << 23), "body larger than 16 MiB"),
    ],
)
def test_bodies_that_cannot_be_decoded_are_counted(record, write_warc, head, body, reason):
    members = [record("http://a.test/no", body, head=f"{HTML}\r\n{head}"), record("http://a.test/yes", b"<p>yes")]
    pages, damage = read(write_warc("a.warc.gz", members))
    assert list(pages) == ["http://a.test/yes"]
    assert damage == {reason: 1}


def test_damaged_utf8_and_undeclared_latin1(record, write_warc):
    body = "où l'été à Genève était très agréable, déjà vu par les élèves".encode("latin-1")
    members = [
        record("http://a.test/latin", body, head=HTML),
        record("http://a.test/last", "café".encode("latin-1"), head=f"{HTML}; charset=iso-8859-1"),
        record("http://a.test/utf8", "数".encode() + b"\xff<p>x"),
    ]
    pages, _ = read(write_warc("a.warc.gz", members))
    assert pages["http://a.test/latin"].body == body.decode("latin-1")
    assert pages["http://a.test/last"].body == "café"
    assert pages["http://a.test/utf8"].body == "数\ufffd<p>x"


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.warc.zst"])
@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"plain text", "not a WARC"), (b"\x1f\x8b", "not a WARC"), (b"\x5d\x2a\x4d\x18", "not a WARC")],
)
def test_files_without_a_warc_record_are_refused(write_warc, name, content, words):
    with pytest.raises(UserError, match=words):
        read(write_warc(name, [content]))


def test_the_damaged_real_crawl(crawl):
    expected = [json.loads(line) for line in (crawl / "crawl-damaged.expected.jsonl").read_text().splitlines()]
    pages, damage = read(crawl / "crawl-damaged.warc.gz")
    must = {row["url"] for row in expected if row["must_return"] is True}
    assert must <= set(pages)
    assert not set(pages) & {row["url"] for row in expected if row["must_return"] is False}
    assert set(pages) <= {row["url"] for row in expected}
    optional = {row["kind"] for row in expected if row["must_return"] == "optional" and row["url"] in pages}
    assert optional == {"no-http-headers", "truncated-content-encoding", "false-content-encoding"}
    assert damage["bytes between records"] == 1
    gbk = next(page for url, page in pages.items() if url.endswith("enc=gbk-meta"))
    assert "的行格式" in gbk.body


class Generated:
    """A stream whose bytes are generated while it is read."""

    def __init__(self, pieces):
        self.pieces = filter(None, pieces)
        self.left = b""

    def read(self, size):
        while len(self.left) < size and (piece := next(self.pieces, b"")):
            self.left += piece
        taken, self.left = self.left[:size], self.left[size:]
        return taken


def stream_in(monkeypatch, pieces):
    monkeypatch.setattr(warc, "open_stream", lambda _: contextlib.nullcontext(Generated(pieces)))


@contextlib.contextmanager
def at_most(size):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


def one_member(records):
    compressor = zlib.compressobj(1, wbits=31)
    yield from (compressor.compress(record) for record in records)
    yield compressor.flush()


@pytest.mark.parametrize("packed", [iter, one_by_one, one_frame_each, one_member])
def test_memory_does_not_grow_with_the_stream(monkeypatch, plain_record, packed):
    noise = random.Random(0).randbytes(150_000).hex().encode()
    records = (plain_record(f"http://a.test/{number}", noise[number:]) for number in range(200))
    if packed in (one_by_one, one_frame_each):
        pieces = (piece for record in records for piece in packed([record]))
    else:
        pieces = packed(records)
    stream_in(monkeypatch, pieces)
    with at_most(12 << 20):
        assert sum(page.is_html for page in read_pages("stream", Counter())) == 200


@pytest.mark.parametrize("packed", [iter, one_by_one, one_member])
def test_a_claimed_gigabyte_is_not_allocated(monkeypatch, plain_record, packed):
    huge = plain_record("http://a.test/huge", b"x" * 10_000).replace(b"Content-Length: 1", b"Content-Length: 107374182")
    stream_in(monkeypatch, packed([huge, plain_record("http://a.test/next", b"<p>next")]))
    damage = Counter()
    with at_most(4 << 20):
        assert [page.url for page in read_pages("stream", damage)] == ["http://a.test/next"]
    assert damage == {"record larger than 64 MiB": 1}


def test_a_too_large_member_is_skipped_in_pieces(monkeypatch, plain_record):
    header = (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.test/bomb\r\nContent-Length: 200000000\r\n\r\n"
    )
    bomb = one_member([header, *[bytes(1 << 20)] * 200])
    stream_in(monkeypatch, [*bomb, *one_by_one([plain_record("http://a.test/next", b"<p>next")])])
    with at_most(8 << 20):
        assert [page.url for page in read_pages("stream", Counter())] == ["http://a.test/next"]


def test_a_long_member_with_a_wrong_checksum_loses_only_itself(monkeypatch, plain_record):
    noise = random.Random(0).randbytes(4 << 20).hex().encode()
    broken, good = one_by_one([plain_record(f"http://a.test/{number}", noise) for number in range(2)])
    stream_in(monkeypatch, [broken[:-8] + bytes(8), good])
    damage = Counter()
    assert [page.url for page in read_pages("stream", damage)] == ["http://a.test/1"]
    assert damage == {"wrong checksum": 1}


BODIES = [
    b"",
    b"short",
    b"blank\r\n\r\nlines\n\n",
    b"numbers 1 2 3 " * 50,
    random.Random(1).randbytes(3_000).hex().encode(),
]
FORMATS = {"a.warc.gz": one_by_one, "a.warc.zst": one_frame_each, "a.warc": list}
hits = st.tuples(
    st.sampled_from(["flip", "insert", "cut"]), st.floats(0, 1), st.integers(1, 400), st.binary(min_size=1, max_size=40)
)


def hit_pieces(pieces, hit):
    """Damages a file of pieces (bytes, undamaged); returns its pieces with the damaged ones marked False."""
    kind, where, length, junk = hit
    at = int(where * sum(len(content) for content, _ in pieces))
    result, start = [], 0
    for content, whole in pieces:
        low, high = max(at - start, 0), at + length - start
        start += len(content)
        if kind == "insert" and 0 <= at - (start - len(content)) < len(content):
            result += [(junk, False), (content, whole)] if low == 0 else [(content[:low] + junk + content[low:], False)]
        elif kind != "insert" and low < len(content) and high > low:
            replacement = bytes(byte ^ 255 for byte in content[low:high]) if kind == "flip" else b""
            result.append((content[:low] + replacement + content[high:], False))
        else:
            result.append((content, whole))
    return result


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(FORMATS)), st.lists(hits, min_size=1, max_size=4), st.sampled_from([1, 5, 64, 1 << 20]))
@example("a.warc", [("flip", 0.0, 3, b"x"), ("cut", 0.5, 3, b"x")], 1)
@example("a.warc.gz", [("flip", 0.0, 3, b"x"), ("cut", 0.5, 3, b"x")], 1)
@example("a.warc.zst", [("cut", 0.97, 400, b"x")], 1 << 20)
def test_damage_loses_no_record_that_it_does_not_touch(monkeypatch, plain_record, name, hits, step):
    for size in ("BLOCK", "PIECE", "CONTENT"):  # block boundaries must not matter
        monkeypatch.setattr(warc, size, step)
    pages = [
        Page(f"http://a.test/{n}", "2026-01-01T00:00:00Z", f"<p>{n}{b.decode()}", True) for n, b in enumerate(BODIES)
    ]
    records = [plain_record(page.url, page.body.encode()) for page in pages]
    pieces = [(content, True) for content in FORMATS[name](records)]
    for hit in hits:
        pieces = hit_pieces(pieces, hit)
    content = b"".join(content for content, _ in pieces)
    monkeypatch.setattr(warc, "open_stream", lambda _: contextlib.nullcontext(io.BytesIO(content)))
    untouched = [pages[FORMATS[name](records).index(content)] for content, whole in pieces if whole]
    read_back = []
    try:
        read_back += read_pages(name, Counter())
    except UserError:
        assert not untouched
    assert [page for page in read_back if page in untouched] == untouched
    if name == "a.warc":  # without a checksum a damaged record may look valid
        assert len(read_back) <= len(pages)
    else:
        assert [page for page in pages if page in read_back] == read_back


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([*sorted(FORMATS), "other"]),
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x1f\x8b\x08", b"WARC/1.0\r\n"]),
)
def test_any_bytes_are_read_or_refused(monkeypatch, name, content, magic):
    monkeypatch.setattr(warc, "open_stream", lambda _: contextlib.nullcontext(io.BytesIO(magic + content)))
    with contextlib.suppress(UserError):
        assert not list(read_pages(name, Counter()))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 4_000))
def test_a_truncated_single_member_gives_the_records_before_the_cut(monkeypatch, plain_record, kept):
    urls = [f"http://a.test/{number}" for number in range(20)]
    content = gzip.compress(
        b"".join(plain_record(url, random.Random(url).randbytes(200).hex().encode()) for url in urls)
    )
    monkeypatch.setattr(warc, "open_stream", lambda _: contextlib.nullcontext(io.BytesIO(content[:kept])))
    found = []
    with contextlib.suppress(UserError):
        found += [page.url for page in read_pages("a.warc.gz", Counter())]
    assert found == urls[: len(found)]
    assert len(found) >= 20 * kept / len(content) - 3
