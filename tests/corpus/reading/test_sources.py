"""Finding inputs and reading them from disks, object stores and servers that fail."""

import gzip
import http.server
import random
import ssl
import sys
import urllib.error
import urllib.request
from collections import Counter

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile

from dsmath_jax.corpus.reading.sources import find, open_stream
from dsmath_jax.corpus.reading.warc import read_pages
from dsmath_jax.workdir import UserError
from tests.web_server import serving

CONTENT = random.Random(0).randbytes(300_000)


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.fixture
def data(tmp_path):
    touch(tmp_path, "b.warc.gz", "a.warc.zst", "c/a.wet", "c/d/b.warc", "c/pages.parquet", "c/notes.txt", "[odd].warc")
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("b.warc.gz", ["b.warc.gz"]),
        ("[odd].warc", ["[odd].warc"]),
        ("c", ["c/a.wet", "c/d/b.warc", "c/pages.parquet"]),
        (".", ["[odd].warc", "a.warc.zst", "b.warc.gz", "c/a.wet", "c/d/b.warc", "c/pages.parquet"]),
        ("*.warc.*", ["a.warc.zst", "b.warc.gz"]),
        ("*", ["[odd].warc", "a.warc.zst", "b.warc.gz"]),
        ("**/b.*", ["b.warc.gz", "c/d/b.warc"]),
        (["c/d", "a.*", "*.gz", "c/**/*.warc"], ["c/d/b.warc", "a.warc.zst", "b.warc.gz"]),
    ],
)
def test_local_inputs(data, spec, names):
    assert find(spec, data) == [str(data / name) for name in names]
    if isinstance(spec, str):  # absolute paths ignore the data folder
        assert find(str(data / spec), data / "elsewhere") == [str(data / name) for name in names]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("none.warc.gz", "No input file matches .*none.warc.gz"),
        ("none/*.warc.gz", "No input file matches .*none"),
        ("c/notes.txt", r"notes.txt is not an input file: its name must end in one of .warc, .warc.gz"),
        ("c/*.txt", "is not an input file"),
        ("https://a.test/page.html", r"https://a.test/page.html is not an input file"),
        ("https://a.test/*.warc.gz", r"https://a.test/\*.warc.gz: .* give a file or a list"),
        ("memory://nothing/here", "No input file matches memory://nothing/here"),
        ("memory://nothing/*.warc", "No input file matches memory"),
        ("nowhere://a/b.warc", "nowhere://a/b.warc cannot be read .*Protocol not known"),
        ("none.paths", r"none.paths cannot be read \(No such file"),
        ([], "No input is given"),
    ],
)
def test_invalid_inputs_are_refused(data, spec, message):
    with pytest.raises(UserError, match=message):
        find(spec, data)


@pytest.mark.parametrize(("protocol", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcp")])
@pytest.mark.parametrize("rest", ["a/*.warc.gz", "a/b.warc.gz"])
def test_a_missing_package_is_named_by_its_extra(monkeypatch, data, protocol, package, extra, rest):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"^{protocol}://.* needs the package {package}: .*\[{extra}\]'.$"):
        find(f"{protocol}://{rest}", data)


LISTED = "crawl-data/x/warc/a.warc.gz\n\n  crawl-data/x/warc/b.warc.gz\r\nhttps://c.test/d.warc.zst?key=1\n/e/f.wet\n"


@pytest.mark.parametrize("name", ["warc.paths", "warc.paths.gz"])
@pytest.mark.parametrize(
    ("root", "below"),
    [
        (None, "https://data.commoncrawl.org"),
        ("s3://commoncrawl/", "s3://commoncrawl"),
        ("/mirror", "/mirror"),
        ("mirror", "{data}/mirror"),
    ],
)
def test_lists_of_paths(tmp_path, name, root, below):
    (tmp_path / name).write_bytes(gzip.compress(LISTED.encode(), mtime=0) if name.endswith(".gz") else LISTED.encode())
    below = below.format(data=tmp_path)
    expected = [f"{below}/crawl-data/x/warc/{shard}.warc.gz" for shard in "ab"]
    expected += ["https://c.test/d.warc.zst?key=1", "/e/f.wet"]
    assert find(name, tmp_path, *([root] if root else [])) == expected
    assert find(str(tmp_path / name), tmp_path, *([root] if root else [])) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "list .* is empty"),
        (b"a.warc.gz\n<html>\n", "line 2: '<html>' is not a path of a WARC or WET file"),
        (b"\xff\xfe", "line 1"),
    ],
)
def test_invalid_lists_are_refused(tmp_path, content, message):
    (tmp_path / "a.paths").write_bytes(content)
    with pytest.raises(UserError, match=message):
        find("a.paths", tmp_path)


@pytest.mark.parametrize(
    "content", [b"a.warc.gz\n", gzip.compress(b"a.warc.gz\n" * 99, mtime=0)[:-9], b"\x1f\x8b\x08\0\0\0\0\0\0\3\xff"]
)
def test_a_list_that_is_no_gzip_file_is_refused(tmp_path, content):
    (tmp_path / "a.paths.gz").write_bytes(content)
    with pytest.raises(UserError, match="not a complete gzip file"):
        find("a.paths.gz", tmp_path)


def read(source, step=70_000):
    with open_stream(source) as stream:
        return b"".join(iter(lambda: stream.read(step), b""))


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_object_stores(memory, tmp_path, record):
    memory.pipe({"/in/b.warc.gz": record("http://a.test/", b"<p>1"), "/in/deep/a.warc.gz": CONTENT, "/in/c.txt": b"c"})
    memory.pipe("/in/warc.paths", b"in/b.warc.gz\n")
    every = ["memory:///in/b.warc.gz", "memory:///in/deep/a.warc.gz"]
    assert find("memory://in/*.warc.gz", tmp_path) == every[:1]
    assert find("memory://in/**/*.warc.gz", tmp_path) == every
    assert find("memory://in", tmp_path) == every
    assert find("memory://in/b.warc.gz", tmp_path) == ["memory://in/b.warc.gz"]
    assert find("memory://in/warc.paths", tmp_path, root="memory://") == ["memory://in/b.warc.gz"]
    assert read(every[1]) == CONTENT
    assert [page.body for page in read_pages(every[0], Counter())] == ["<p>1"]


def slow_down(*_):
    raise RuntimeError("slow down")


def test_sources_that_cannot_be_opened_or_read(memory, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"none.warc cannot be read \(No such file or directory\); check the path"):
        read(str(tmp_path / "none.warc"))
    with pytest.raises(UserError, match=r"memory://none.warc cannot be read"):
        read("memory://none.warc")
    memory.pipe("/a.warc", CONTENT)
    with open_stream("memory://a.warc") as stream:
        monkeypatch.setattr(MemoryFile, "read", slow_down)
        with pytest.raises(UserError, match=r"memory://a.warc cannot be read \(RuntimeError.*check the URL"):
            stream.read(1)


class Server(http.server.ThreadingHTTPServer):
    """A server with a list of behaviors, one per request; without one it answers correctly."""

    behaviors: list
    ranges: list


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        range_header = self.headers.get("Range")
        self.server.ranges.append(range_header)
        behavior = self.server.behaviors.pop(0) if self.server.behaviors else {}
        if "status" in behavior:
            self.send_response(behavior["status"])
            self.send_header("Content-Length", "0")
            for name, value in behavior.get("headers", {}).items():
                self.send_header(name, value)
            self.end_headers()
            return
        content = behavior.get("content", CONTENT)
        start = int(range_header[len("bytes=") : -1]) if range_header and not behavior.get("no_ranges") else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if not behavior.get("no_length"):
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : behavior.get("until", len(content))])
        self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    with serving(Server(("127.0.0.1", 0), Handler), monkeypatch) as running:
        running.behaviors, running.ranges = [], []
        yield running


def address(server, name="a.warc.gz"):
    return f"http://127.0.0.1:{server.server_port}/{name}"


@pytest.mark.parametrize(
    ("behaviors", "ranges"),
    [
        ([], [None]),
        ([{"no_length": True}], [None]),
        ([{"until": 100_001}], [None, "bytes=100001-"]),
        ([{"until": 1}, {"until": 200_000}, {"until": 200_000}], [None, "bytes=1-", "bytes=200000-", "bytes=200000-"]),
        ([{"until": 100_000}, {"no_ranges": True}], [None, "bytes=100000-"]),
        ([{"until": 100_000}, {"no_ranges": True, "until": 50_000}], [None, "bytes=100000-", "bytes=100000-"]),
        ([{"status": 503}, {"status": 429, "headers": {"Retry-After": "99"}}, {"status": 403}], [None] * 4),
        ([{"until": 100_000}, {"status": 503}], [None, "bytes=100000-", "bytes=100000-"]),
        ([{"status": 302, "headers": {"Location": "/b"}}], [None, None]),
    ],
)
def test_https_resumes_after_cuts_and_refusals(server, behaviors, ranges):
    server.behaviors = list(behaviors)
    assert read(address(server)) == CONTENT
    assert server.ranges == ranges


def test_an_address_is_not_requested_again_after_its_end(server):
    with open_stream(address(server)) as stream:
        assert stream.read(len(CONTENT)) == CONTENT
        stream.close()
        assert stream.read(1) == b""
    assert server.ranges == [None]


@pytest.mark.parametrize(
    ("behaviors", "message"),
    [
        ([{"status": 404}], "a.warc.gz answers 404 Not Found; check the URL"),
        ([{"status": 503}] * 8, r"cannot be read \(503 Service Unavailable, 8 times in a row\); try again later"),
        ([{"until": 9}] + [{"until": 9}] * 8, r"cut after 9 of 300000 bytes, 8 times"),
        ([{"until": 9}, {"content": CONTENT + b"x"}], "has changed while it was read"),
    ],
)
def test_https_gives_up_with_a_one_sentence_error(server, behaviors, message):
    server.behaviors = list(behaviors)
    with pytest.raises(UserError, match=message):
        read(address(server))
    assert not server.behaviors[1:]


@pytest.mark.parametrize("source", ["http://a.test/a b.warc.gz", "https://[a/b.warc.gz", "https://a.test/数.warc.gz"])
def test_an_invalid_address_fails_at_once(tmp_path, source):
    with pytest.raises(UserError, match="not a valid URL"):
        read(find(source, tmp_path)[0])


def test_an_invalid_certificate_fails_at_once(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError(ssl.SSLCertVerificationError("self-signed"))

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(UserError, match="no valid certificate"):
        read("https://a.test/a.warc.gz")


def test_a_server_that_refuses_connections(server):
    gone = address(server)
    server.server_close()
    with pytest.raises(UserError, match="refused, 8 times"):
        read(gone)


def test_pages_and_lists_over_https(server, tmp_path, record):
    shard = b"".join(record(f"http://a.test/{number}", b"<p>" + CONTENT[:9_000].hex().encode()) for number in range(9))
    server.behaviors = [{"content": b"a.warc.gz\n"}, {"content": shard, "until": 9_999}, {"content": shard}]
    (source,) = find(address(server, "warc.paths"), tmp_path, root=address(server, ""))
    damage = Counter()
    assert len(list(read_pages(source, damage))) == 9
    assert server.ranges == [None, None, "bytes=9999-"]
    assert not damage
