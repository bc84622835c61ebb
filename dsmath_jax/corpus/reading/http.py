"""Decodes HTTP responses as crawlers store them: header fields, transfer and content encodings, character sets.

Headers are often wrong about the body (it is not compressed, chunks are already joined, the length is wrong), so the
bytes decide first, and the header only where they are ambiguous.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable

import backports.zstd as zstd
import brotli
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

LARGEST_BODY = 1 << 24  # bytes after each decoding: a page has a few 100 kB; stops decompression bombs
MAX_ENCODINGS = 4
HTML_TYPES = ("text/html", "application/xhtml+xml")
HEADERS_END = re.compile(rb"\r?\n\r?\n")
STATUS_LINE = re.compile(rb"HTTP/\d(?:\.\d)? +(\d{3})\b")
FOLDED = re.compile(r"\r?\n[ \t]+")
CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]{0,99})?\r?\n")
HTML_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>\s*)?<(?:!doctype\s+html|html)\b", re.IGNORECASE)
MARKUP_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*<[!?/a-zA-Z]")
HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
META_CHARSET = re.compile(
    rb"(?:<meta[^>]{0,200}?charset|<\?xml[^>]{0,100}?encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE
)
UTF16_MARKS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
CORRUPT = "corrupt content encoding"
CUT_SHORT = "body cut short (its beginning is kept)"


class Damaged(Exception):
    """A record that cannot be decoded; the message is the reason under which it is counted."""


def header_fields(lines: bytes) -> dict[str, str]:
    """Parses header fields by lower-case name; skips the first line and lines without a colon; the last repeat wins."""
    try:
        text = lines.decode()
    except UnicodeDecodeError:
        text = lines.decode("latin-1")
    if "\n " in text or "\n\t" in text:
        text = FOLDED.sub(" ", text)
    fields = {}
    for line in text.split("\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            fields[name.strip().lower()] = value.strip()
    return fields


def response_html(block: bytes, damage: Counter[str]) -> str | None:
    """Returns the decoded HTML of a successful response (status 200), or None if the response is something else.

    A bare HTML document without an HTTP header counts as a response, and so does one without a media type. A truncated
    body is returned up to its end and counted in `damage`.

    Raises:
      Damaged: the response cannot be decoded, or its body is empty or too large.
    """
    status = STATUS_LINE.match(block)
    end = HEADERS_END.search(block) if status else None
    if status and end:
        fields = header_fields(block[: end.start()])
        media, _, parameters = fields.get("content-type", "").partition(";")
        if status[1] != b"200" or (media and media.strip().lower() not in HTML_TYPES):
            return None
        body = decode_body(block[end.end() :], fields, damage)
    elif HTML_START.match(block, 0, 4096):
        media, parameters, body = HTML_TYPES[0], "", block
    else:
        raise Damaged("no HTTP header")
    if not body.strip():
        raise Damaged("empty body")
    if len(body) > LARGEST_BODY:
        raise Damaged("body larger than 16 MiB")
    return decode_text(body, parameters) if media or HTML_START.match(body, 0, 4096) else None


def decode_body(body: bytes, fields: dict[str, str], damage: Counter[str]) -> bytes:
    """Decodes the transfer and content encodings that a body really has, the last one first.

    Raises:
      Damaged: an encoding is corrupt, unknown or yields more than `LARGEST_BODY` bytes.
    """
    names = f"{fields.get('content-encoding', '')},{fields.get('transfer-encoding', '')}".lower().split(",")
    encodings = [name for name in map(str.strip, names) if name not in ("", "identity", "none")]
    if len(encodings) > MAX_ENCODINGS:
        raise Damaged("more than four content encodings")
    for encoding in reversed(encodings):
        if not body:
            return body
        if MARKUP_START.match(body):
            return body  # the header is wrong: this is HTML already
        body, complete = DECODERS.get(encoding, _not_encoded)(body)
        if not complete:
            damage[CUT_SHORT] += 1
    return body


def _chunks(body: bytes) -> tuple[bytes, bool]:
    """Joins the chunks of a chunked body; returns any other body unchanged."""
    chunks: list[bytes] = []
    position = 0
    while size := CHUNK_SIZE.match(body, position):
        start, length = size.end(), int(size[1], 16)
        if not length:
            return b"".join(chunks), True
        chunks.append(body[start : start + length])
        position = start + length
        position += len(body[position : position + 2]) - len(body[position : position + 2].lstrip(b"\r\n"))
    return (b"".join(chunks), False) if chunks else (body, True)


def _not_encoded(body: bytes) -> tuple[bytes, bool]:
    """Returns a body without the encoding that its header names, if it is valid UTF-8."""
    try:
        body.decode()
    except UnicodeDecodeError:
        raise Damaged("unknown content encoding") from None
    return body, True


def _gzip(body: bytes) -> tuple[bytes, bool]:
    """Decompresses a body of one or several gzip members."""
    pieces: list[bytes] = []
    while body.startswith(b"\x1f\x8b"):
        content, complete, body = _inflate(body, zlib.MAX_WBITS | 16, LARGEST_BODY - sum(map(len, pieces)))
        pieces.append(content)
        if not complete:
            return b"".join(pieces), False
    return (b"".join(pieces), True) if pieces else _not_encoded(body)


def _deflate(body: bytes) -> tuple[bytes, bool]:
    """Decompresses a body with the zlib header of the standard, or without it, as some servers send it."""
    try:
        content, complete, _ = _inflate(body, zlib.MAX_WBITS, LARGEST_BODY)
    except Damaged as reason:
        if str(reason) != CORRUPT:
            raise
        content, complete, _ = _inflate(body, -zlib.MAX_WBITS, LARGEST_BODY)
    return content, complete


def _inflate(body: bytes, window_bits: int, limit: int) -> tuple[bytes, bool, bytes]:
    """Returns the content, whether it is complete, and the bytes after it."""
    decompressor = zlib.decompressobj(window_bits)
    try:
        content = decompressor.decompress(body, limit + 1)
    except zlib.error:
        raise Damaged(CORRUPT) from None
    return _bounded(content, limit), decompressor.eof, decompressor.unused_data


def _brotli(body: bytes) -> tuple[bytes, bool]:
    decompressor = brotli.Decompressor()
    try:
        content = decompressor.process(body, output_buffer_limit=LARGEST_BODY + 1)
    except brotli.error:
        raise Damaged(CORRUPT) from None
    return _bounded(content, LARGEST_BODY), decompressor.is_finished()


def _zstd(body: bytes) -> tuple[bytes, bool]:
    """Decompresses a body of one or several frames."""
    pieces: list[bytes] = []
    while body.startswith(b"\x28\xb5\x2f\xfd"):
        decompressor = zstd.ZstdDecompressor()
        limit = LARGEST_BODY - sum(map(len, pieces))
        try:
            pieces.append(_bounded(decompressor.decompress(body, limit + 1), limit))
        except zstd.ZstdError:
            raise Damaged(CORRUPT) from None
        if not decompressor.eof:
            return b"".join(pieces), False
        body = decompressor.unused_data
    return (b"".join(pieces), True) if pieces else _not_encoded(body)


def _bounded(content: bytes, limit: int) -> bytes:
    if len(content) > limit:
        raise Damaged("body larger than 16 MiB")
    return content


DECODERS: dict[str, Callable[[bytes], tuple[bytes, bool]]] = {
    "chunked": _chunks,
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}


def decode_text(body: bytes, parameters: str) -> str:
    """Decodes bytes by a byte order mark, valid UTF-8, the header's charset, <meta> or detection, in this order.

    Args:
      body: the bytes, without content encodings.
      parameters: the Content-Type header after the media type.
    """
    if body[:2] in UTF16_MARKS:
        return body[2:].decode(UTF16_MARKS[body[:2]], "replace").replace("\x00", "")
    header = HEADER_CHARSET.search(parameters)
    meta = META_CHARSET.search(body, 0, 4096)
    in_header = _charset(header[1]) if header else ""
    in_body = _charset(meta[1].decode("ascii", "replace")) if meta else ""
    if in_body.startswith("utf-16"):
        in_body = ""  # a UTF-16 body would not match this tag
    declared = in_header or in_body
    if declared.startswith("utf-16"):
        return body.decode(declared, "replace").replace("\x00", "")
    body = body.removeprefix(b"\xef\xbb\xbf").replace(b"\x00", b"")
    if not declared.startswith("iso-2022"):  # escape sequences in ASCII, hence always valid UTF-8
        try:
            return body.decode()
        except UnicodeDecodeError as error:  # not UTF-8, or damaged UTF-8: the declaration decides
            whole = body[: error.start]
            if error.reason == "unexpected end of data" and not whole.isascii():
                return whole.decode()  # UTF-8 that is truncated within its last character
    name = declared or detect_encoding(body) or "utf-8"
    return bytes_to_str(body, name, errors="replace", fallback_encodings=())


def _charset(name: str) -> str:
    """Returns the name of a charset in the HTML standard, "" if it is unknown."""
    return map_encoding_to_html5(name, fallback_utf8=False) or ""
