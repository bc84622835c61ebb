"""Writes WARC 1.1 files with one gzip member per record; the same records give the same bytes."""

import base64
import dataclasses
import gzip
import hashlib
import random
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from dsmath_jax.workdir import atomic_write

REASONS = {200: "OK", 301: "Moved Permanently", 302: "Found", 404: "Not Found"}
CHUNK_BYTES = 1000


@dataclasses.dataclass(frozen=True)
class Capture:
    """One response of a web server.

    Attributes:
      date: UTC, as in 2024-05-01T10:20:30Z.
      body: the decoded body.
      coding: "identity", "gzip" (Content-Encoding) or "chunked" (Transfer-Encoding).
    """

    url: str
    date: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    coding: str = "identity"


def write_warc(path: Path, captures: Sequence[Capture], rng: random.Random) -> None:
    """Writes a warcinfo record, then a request, a response and a metadata record for each capture."""
    with atomic_write(path, "wb") as file:
        info = b"software: dsmath-jax toy web\r\nformat: WARC File Format 1.1\r\n"
        date = max((capture.date for capture in captures), default="2024-01-01T00:00:00Z")
        head = [("WARC-Filename", path.name), ("Content-Type", "application/warc-fields")]
        file.write(_record("warcinfo", date, head, info, rng)[0])
        for capture in captures:
            for member in _members(capture, rng):
                file.write(member)


def _members(capture: Capture, rng: random.Random) -> Iterable[bytes]:
    target = ("WARC-Target-URI", capture.url)
    scheme, _, rest = capture.url.partition("://")
    host, _, path = rest.partition("#")[0].partition("/")
    request = f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: toy-crawler\r\nAccept: */*\r\n\r\n".encode()
    head = [target, ("Content-Type", "application/http; msgtype=request")]
    yield _record("request", capture.date, head, request, rng)[0]
    head = [
        target,
        ("Content-Type", "application/http; msgtype=response"),
        ("WARC-Payload-Digest", _digest(capture.body)),
    ]
    response, name = _record("response", capture.date, head, _http(capture), rng)
    yield response
    head = [target, ("WARC-Refers-To", name), ("Content-Type", "application/warc-fields")]
    fields = f"fetchTimeMs: {rng.randint(20, 900)}\r\nscheme: {scheme}\r\n".encode()
    yield _record("metadata", capture.date, head, fields, rng)[0]


def _http(capture: Capture) -> bytes:
    headers = [*capture.headers]
    body = capture.body
    if capture.coding == "gzip":
        body = gzip.compress(body, mtime=0)
        headers.append(("Content-Encoding", "gzip"))
    if capture.coding == "chunked":
        pieces = [body[start : start + CHUNK_BYTES] for start in range(0, len(body), CHUNK_BYTES)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        headers.append(("Transfer-Encoding", "chunked"))
    else:
        headers.append(("Content-Length", str(len(body))))
    lines = [f"HTTP/1.1 {capture.status} {REASONS[capture.status]}", *(f"{key}: {value}" for key, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def _record(kind: str, date: str, head: list[tuple[str, str]], block: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Returns the gzip member of one record, and the record's id."""
    name = f"<urn:uuid:{uuid.UUID(int=rng.getrandbits(128), version=4)}>"
    fields = [
        ("WARC-Type", kind),
        ("WARC-Record-ID", name),
        ("WARC-Date", date),
        *head,
        ("WARC-Block-Digest", _digest(block)),
        ("Content-Length", str(len(block))),
    ]
    header = "WARC/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in fields) + "\r\n"
    return gzip.compress(header.encode() + block + b"\r\n\r\n", compresslevel=6, mtime=0), name


def _digest(data: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(data).digest()).decode()
