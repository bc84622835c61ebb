"""Fixtures of the corpus tests: small WARC files, and the real crawl if it is on this machine."""

import gzip
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest


def plain(url: str, body: bytes, date: str = "2026-01-01T00:00:00Z", kind: str = "response", head: str = "") -> bytes:
    """One uncompressed WARC record; `head` replaces the HTTP header."""
    head = head or "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8"
    block = body if kind == "conversion" else head.encode() + b"\r\n\r\n" + body
    media = "text/plain" if kind == "conversion" else f"application/http; msgtype={kind}"
    fields = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: {date}\r\nContent-Type: {media}\r\n"
    )
    return f"{fields}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n"


def member(url: str, body: bytes, date: str = "2026-01-01T00:00:00Z", kind: str = "response", head: str = "") -> bytes:
    """One gzip member with one WARC record."""
    return gzip.compress(plain(url, body, date, kind, head), mtime=0)


@pytest.fixture
def record() -> Callable[..., bytes]:
    return member


@pytest.fixture
def plain_record() -> Callable[..., bytes]:
    return plain


@pytest.fixture
def write_warc(tmp_path: Path) -> Callable[[str, Sequence[bytes]], Path]:
    def write(name: str, members: Sequence[bytes]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(members))
        return path

    return write


@pytest.fixture
def crawl() -> Path:
    folder = Path(os.environ.get("DSMATH_DATA", Path(__file__).parents[2] / "../shared/data")) / "crawl"
    if not folder.is_dir():
        pytest.skip(f"the real crawl is not at {folder}; set DSMATH_DATA")
    return folder
