"""Reads the HTML pages of WARC files (gzip per record), also of damaged ones.

Ready-made readers stop at the first damage. This one goes on at the next gzip member that opens with a WARC record, and
counts what it had to leave out by reason.
"""

import dataclasses
import gzip
import mmap
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

from dsmath_jax.workdir import UserError

MEMBER = b"\x1f\x8b\x08"
PIECE = 1 << 16
LARGEST_RECORD = 1 << 26
HTML_TYPES = ("text/html", "application/xhtml+xml")
HEADERS_END = re.compile(rb"\r?\n\r?\n")
STATUS_LINE = re.compile(rb"HTTP/\d(?:\.\d)? +(\d{3})\b")
META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Page:
    """One HTML response: its address, the crawl's date (ISO 8601, "" where missing) and its decoded HTML."""

    url: str
    date: str
    html: str


class Damaged(Exception):
    """A record that cannot be used; the message is the reason under which it is counted."""


def read_pages(path: Path, damage: Counter[str]) -> Iterator[Page]:
    """Yields the HTML pages of successful responses in file order; `damage` counts what was broken, by reason.

    Raises:
      UserError: the file cannot be opened or holds no WARC record at all.
    """
    records = pages = 0
    for headers, block in _records(path, damage):
        records += 1
        if headers.get("warc-type") != "response":
            continue
        try:
            page = _page(headers, block)
        except Damaged as reason:
            damage[str(reason)] += 1
            continue
        if page:
            pages += 1
            yield page
    if not records:
        raise UserError(f"{path} is not a WARC file compressed record by record with gzip; remove it from the input.")


def _records(path: Path, damage: Counter[str]) -> Iterator[tuple[dict[str, str], bytes]]:
    """Yields header and block of each whole record of each whole gzip member."""
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read; check the path and its permissions.")
    if not path.stat().st_size:
        raise UserError(f"{path} is empty; remove it from the input or fetch it again.")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        position = 0
        while position < len(data):
            try:
                content, position = _member(data, position)
            except Damaged as reason:
                damage[str(reason)] += 1
                position = _next_member(data, position + 1)
                continue
            yield from _split(content, damage)


def _member(data: mmap.mmap, start: int) -> tuple[bytes, int]:
    """Decompresses the gzip member at `start`; returns its content and where the next one begins."""
    if data[start : start + len(MEMBER)] != MEMBER:
        raise Damaged("bytes between records")
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    content, position = bytearray(), start
    while not inflate.eof:
        piece = inflate.unconsumed_tail or data[position : position + PIECE]
        if not piece:
            raise Damaged("file ends inside a record")
        position += 0 if inflate.unconsumed_tail else len(piece)
        try:
            content += inflate.decompress(piece, LARGEST_RECORD)
        except zlib.error as error:
            raise Damaged("wrong checksum" if "check" in str(error) else "corrupt compression") from None
        if len(content) > LARGEST_RECORD:
            raise Damaged("record larger than 64 MiB")
    return bytes(content), position - len(inflate.unused_data)


def _next_member(data: mmap.mmap, start: int) -> int:
    """Where the next gzip member whose content opens with a WARC record begins (the end, where there is none)."""
    while (start := data.find(MEMBER, start)) >= 0:
        try:
            if zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data[start : start + 4096], 5) == b"WARC/":
                return start
        except zlib.error:
            pass  # these three bytes stood there by chance: look further
        start += 1
    return len(data)


def _split(content: bytes, damage: Counter[str]) -> Iterator[tuple[dict[str, str], bytes]]:
    """Yields the records of one member's content (mostly one)."""
    position = 0
    while position < len(content):
        end = HEADERS_END.search(content, position)
        if not content.startswith(b"WARC/", position) or not end:
            damage["no WARC header"] += 1
            return
        headers = _headers(content[position : end.start()])
        length = headers.get("content-length", "")
        block_end = end.end() + int(length) if length.isascii() and length.isdigit() else -1
        after = content[block_end : block_end + 9] if 0 <= block_end <= len(content) else None
        if after is None or not (after.strip(b"\r\n") == b"" or after.lstrip(b"\r\n").startswith(b"WARC/")):
            damage["wrong WARC length"] += 1
            return
        yield headers, content[end.end() : block_end]
        position = block_end + len(after) - len(after.lstrip(b"\r\n"))


def _headers(lines: bytes) -> dict[str, str]:
    """Header fields by lower-case name; lines that are none (the first one, broken ones) are passed over."""
    fields = (line.split(b":", 1) for line in lines.splitlines()[1:] if b":" in line)
    return {name.strip().lower().decode("latin-1"): value.strip().decode("latin-1") for name, value in fields}


def _page(record: dict[str, str], block: bytes) -> Page | None:
    """Turns a response into a page, or None where it is no successful HTML response."""
    url = record.get("warc-target-uri", "").strip("<>")
    if not url:
        raise Damaged("no target URI")
    status = STATUS_LINE.match(block)
    end = HEADERS_END.search(block)
    if not status or not end:
        raise Damaged("no HTTP header")
    headers = _headers(block[: end.start()])
    media, _, parameters = headers.get("content-type", "").partition(";")
    if status[1] != b"200" or media.strip().lower() not in HTML_TYPES:
        return None
    body = _decode_body(block[end.end() :], headers)
    if not body.strip():
        raise Damaged("empty body")
    return Page(url, record.get("warc-date", ""), _decode_text(body, parameters))


def _decode_body(body: bytes, headers: dict[str, str]) -> bytes:
    """Undoes transfer and content encoding where the body really has them (headers often claim too much)."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _dechunk(body)
    encoding = headers.get("content-encoding", "").lower()
    try:
        if "gzip" in encoding and body.startswith(b"\x1f\x8b"):
            return gzip.decompress(body)
        if "deflate" in encoding and not body.lstrip().startswith(b"<"):
            return zlib.decompress(body, zlib.MAX_WBITS if body[:1] == b"\x78" else -zlib.MAX_WBITS)
    except (zlib.error, EOFError, OSError):
        raise Damaged("corrupt content encoding") from None
    if encoding in ("br", "zstd") and not body.lstrip().startswith(b"<"):
        raise Damaged(f"content encoding {encoding}")
    return body


def _dechunk(body: bytes) -> bytes:
    """Joins the chunks of a chunked body; a body that is not chunked comes back as it is."""
    chunks: list[bytes] = []
    position = 0
    while True:
        end = body.find(b"\r\n", position, position + 100)
        size = body[position:end].split(b";")[0].strip() if end >= 0 else b""
        if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", size):
            return b"".join(chunks) if chunks else body
        if not int(size, 16):
            return b"".join(chunks)
        chunks.append(body[end + 2 : end + 2 + int(size, 16)])
        position = end + 2 + int(size, 16) + 2


def _decode_text(body: bytes, parameters: str) -> str:
    """Bytes to text: valid UTF-8 is taken as such, else header, <meta> and detection are asked in this order."""
    header = re.search(r"charset\s*=\s*[\"']?\s*([\w.:-]+)", parameters, re.IGNORECASE)
    meta = META_CHARSET.search(body[:4096])
    names = [header[1] if header else "", meta[1].decode("ascii", "replace") if meta else ""]
    declared = [name for name in (map_encoding_to_html5(name, fallback_utf8=False) for name in names if name) if name]
    if not any(name.startswith(("utf-16", "iso-2022")) for name in declared):
        try:
            return body.decode("utf-8-sig").replace("\x00", "")
        except UnicodeDecodeError:
            pass  # not UTF-8, or UTF-8 with damage: what is declared decides
    name = declared[0] if declared else detect_encoding(body)
    return bytes_to_str(body, name or "utf-8", errors="replace", fallback_encodings=()).replace("\x00", "")
