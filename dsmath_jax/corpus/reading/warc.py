"""Reads the pages of WARC and WET files (gzip, zstd or uncompressed), even if they are damaged.

Other readers stop at the first damage. This one resumes at the beginning of the next record and counts what it skipped
by reason. It reads forward only and keeps at most one record and a few blocks of the stream in memory.

A compressed file is a sequence of members (in zstd: frames), mostly one per record, but possibly a single one. A record
is yielded once the data after it is valid: the next record, or the end and the checksum of the member.
"""

import dataclasses
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

import backports.zstd as zstd

from dsmath_jax.corpus.reading.http import HEADERS_END, Damaged, header_fields, response_html
from dsmath_jax.corpus.reading.sources import open_stream
from dsmath_jax.workdir import UserError

BLOCK = 1 << 20  # bytes read from the stream at a time
PIECE = 1 << 14  # compressed bytes passed to the decompressor at a time: about a record
CONTENT = 1 << 20  # decompressed bytes that it returns at most at a time
KEPT = 1 << 20  # compressed bytes that are kept to be searched again if the member is corrupt
FIRST_HEADER = 1 << 10
LARGEST_HEADER = 1 << 16
LARGEST_RECORD = 1 << 26
LARGEST_DICTIONARY = 1 << 24
RECORD = b"WARC/"
RECORD_START = re.compile(rb"WARC/\d\.\d+\r?\n(?=[\w-]+:)")
START_SIZE = 64  # bytes that are enough to match RECORD_START
RECORD_END = b"\r\n\r\n"
NEWLINES = b"\r\n"
SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
DICTIONARY = b"\x5d\x2a\x4d\x18"

Record = tuple[dict[str, str], bytes]


@dataclasses.dataclass(frozen=True)
class Page:
    """One page: its URL, the date of the crawl (ISO 8601, "" if missing) and its HTML, or plain text in WET files."""

    url: str
    date: str
    body: str
    is_html: bool


class Corrupt(Damaged):
    """A member that cannot be decompressed any further."""


def read_pages(source: str, damage: Counter[str]) -> Iterator[Page]:
    """Yields the HTML pages of successful responses and the texts of conversion records, in file order.

    Args:
      source: a path or a URL, see `sources.open_stream`.
      damage: counts the damage that was skipped, by reason.

    Raises:
      UserError: the source cannot be read or has no WARC record.
    """
    empty = True
    with open_stream(source) as stream:
        window = Window(lambda: stream.read(BLOCK))
        if not window.have(1):
            raise UserError(f"{source} is empty; remove it from the input or download it again.")
        for fields, block in _read_records(window, source, damage):
            empty = False
            try:
                page = _page(fields, block, damage)
            except Damaged as reason:
                damage[str(reason)] += 1
                continue
            if page:
                yield page
    if empty:
        raise UserError(f"{source} is not a WARC file, or no record of it can be read; remove it from the input.")


def _page(fields: dict[str, str], block: bytes, damage: Counter[str]) -> Page | None:
    """Converts a record to a page; returns None for records of other kinds."""
    kind = fields.get("warc-type", "").lower()
    is_text = kind == "conversion" and fields.get("content-type", "").lower().startswith("text/plain")
    if kind != "response" and not is_text:
        return None
    url = fields.get("warc-target-uri", "").strip("<>")
    if not url:
        raise Damaged("no target URI")
    if not url.lower().startswith(("http://", "https://")):
        return None  # crawlers also store DNS answers
    if not is_text:
        html = response_html(block, damage)
        return None if html is None else Page(url, fields.get("warc-date", ""), html, True)
    if not block.strip():
        raise Damaged("empty body")
    return Page(url, fields.get("warc-date", ""), block.decode("utf-8", "replace").replace("\x00", ""), False)


class Window:
    """A buffer over a forward-only stream: `data` from `position` on; bytes before it may be dropped."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        """Wraps `read`, which returns the next bytes of the stream, none at its end."""
        self._read = read
        self._ended = False
        self.data = b""
        self.position = 0

    def have(self, size: int) -> bool:
        """Reads until `size` bytes follow the position; returns whether they do. May shift `data` and `position`."""
        missing = self.position + size - len(self.data)
        pieces = []
        while missing > 0 and not self._ended:
            piece = self._read()
            self._ended = not piece
            if piece:
                pieces.append(piece)
                missing -= len(piece)
        if pieces:
            if self.position < len(self.data):
                pieces.insert(0, self.data[self.position :])
            self.data = b"".join(pieces) if len(pieces) > 1 else pieces[0]
            self.position = 0
        return missing <= 0

    def starts(self, prefix: bytes) -> bool:
        """Returns whether the next bytes are `prefix`."""
        return self.have(len(prefix)) and self.data.startswith(prefix, self.position)

    def ahead(self, start: int, size: int) -> bytes:
        """Returns up to `size` bytes that begin `start` bytes after the position."""
        self.have(start + size)
        return self.data[self.position + start : self.position + start + size]


class Decompressor(Protocol):
    """Decompresses one member; the interface of `zstd.ZstdDecompressor`."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class GzipDecompressor:
    """zlib's decompressor for one gzip member, which keeps its unconsumed input."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 16)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


@dataclasses.dataclass(frozen=True)
class Format:
    """A compression format: the magic bytes of its members, and their decompressor."""

    magic: bytes
    probe: int  # compressed bytes that suffice to decompress the beginning: zstd needs a whole block
    decompressor: Callable[[], Decompressor]

    def opens_record(self, window: Window) -> bool:
        """Returns whether a member begins at the position and its content begins with a WARC record."""
        if not window.starts(self.magic):
            return False
        try:
            return self.decompressor().decompress(window.ahead(0, self.probe), len(RECORD)) == RECORD
        except (zlib.error, zstd.ZstdError):
            return False  # the magic bytes are a coincidence


GZIP = Format(b"\x1f\x8b\x08", 1 << 12, GzipDecompressor)
ZSTD = Format(b"\x28\xb5\x2f\xfd", (1 << 17) + (1 << 10), zstd.ZstdDecompressor)


def _read_records(window: Window, source: str, damage: Counter[str]) -> Iterator[Record]:
    """Yields the complete records of a file. Its first bytes tell the format; if they are damaged, its name does."""
    if RECORD_START.match(window.ahead(0, START_SIZE)):
        return _split(window, damage)
    for form in (GZIP, ZSTD):
        if form.opens_record(window):
            return _members(window, form, damage)
    if source.endswith((".warc", ".wet")):
        return _split(window, damage)
    if source.endswith(".zst") or (window.starts(DICTIONARY) and not source.endswith(".gz")):
        return _members(window, _with_dictionary(window, damage), damage)
    return _members(window, GZIP, damage)


def _with_dictionary(window: Window, damage: Counter[str]) -> Format:
    """Returns the zstd format of a file, with the dictionary that some writers put into the first frame."""
    if not window.starts(DICTIONARY):
        return ZSTD
    size = int.from_bytes(window.ahead(4, 4), "little")
    content = window.ahead(8, min(size, LARGEST_DICTIONARY))
    try:
        if content.startswith(ZSTD.magic):
            content = zstd.ZstdDecompressor().decompress(content, LARGEST_DICTIONARY)
        dictionary = zstd.ZstdDict(content)
    except (zstd.ZstdError, ValueError):
        damage["corrupt dictionary"] += 1
        return ZSTD
    return dataclasses.replace(ZSTD, decompressor=lambda: zstd.ZstdDecompressor(dictionary))


def _members(window: Window, form: Format, damage: Counter[str]) -> Iterator[Record]:
    """Yields the records of a compressed file's members."""
    while window.have(1):
        try:
            if not window.starts(form.magic):
                raise Corrupt("bytes between records")
            yield from _split(Window(Member(window, form.decompressor()).read), damage)
        except Corrupt as reason:
            if form.magic != ZSTD.magic or not SKIPPABLE.match(window.ahead(0, 4)):  # a skippable frame
                damage[str(reason)] += 1
            _seek_member(window, form)


def _seek_member(window: Window, form: Format) -> None:
    """Moves to the next member whose content begins with a WARC record, or to the end."""
    window.position += 1
    while window.have(len(form.magic)):
        start = window.data.find(form.magic, window.position)
        if start < 0:
            window.position = len(window.data) - len(form.magic) + 1
            continue
        window.position = start
        if form.opens_record(window):
            return
        window.position += 1
    window.position = len(window.data)


class Member:
    """The content of the member at a window's position; the position moves past it once its checksum is verified."""

    def __init__(self, window: Window, decompressor: Decompressor) -> None:
        self._window = window
        self._decompressor = decompressor
        self._taken = 0  # bytes after the window's position that were passed to the decompressor
        self._ended = False

    def read(self) -> bytes:
        """Returns the next bytes of content, none at the end.

        Raises:
          Corrupt: the compressed data or the checksum is wrong, or the stream ends within the member.
        """
        content = b""
        while not content and not self._ended:
            piece = self._take() if self._decompressor.needs_input else b""
            try:
                content = self._decompressor.decompress(piece, CONTENT)
            except (zlib.error, zstd.ZstdError) as error:
                checksum = any(word in str(error) for word in ("check", "incorrect length"))
                raise Corrupt("wrong checksum" if checksum else "corrupt compression") from None
            if self._decompressor.eof:
                self._ended = True
                self._window.position += self._taken - len(self._decompressor.unused_data)
        return content

    def _take(self) -> bytes:
        if self._taken > KEPT + BLOCK:
            self._window.position += self._taken - KEPT
            self._taken = KEPT
        piece = self._window.ahead(self._taken, PIECE)
        if not piece:
            raise Corrupt("file ends inside a record")
        self._taken += len(piece)
        return piece


def _split(content: Window, damage: Counter[str]) -> Iterator[Record]:
    """Yields the records of a member's content, or of an uncompressed file."""
    while _skip_newlines(content):
        try:
            record = _record(content)
        except Corrupt:
            raise
        except Damaged as reason:
            damage[str(reason)] += 1
            _seek_record(content)
        else:
            yield record


def _skip_newlines(content: Window) -> bool:
    """Skips newlines; returns whether anything follows."""
    while content.have(1):
        if content.data[content.position] not in NEWLINES:
            return True
        content.position += 1
    return False


def _record(content: Window) -> Record:
    """Reads the record at the position and moves past it, or past its header if its length is wrong."""
    header = _header(content)
    fields = header_fields(header)
    length = fields.get("content-length", "")
    known = length.isascii() and length.isdigit() and len(length) < 16
    if not known or int(length) > LARGEST_RECORD:
        content.position += len(header)
        raise Damaged("record larger than 64 MiB" if known else "wrong WARC length")
    size = len(header) + int(length)
    complete = content.have(size)
    after = content.ahead(size, START_SIZE)
    rest = after.lstrip(NEWLINES)
    if not complete or not (
        after.startswith(RECORD_END) or rest.startswith(RECORD) or (not rest and len(after) < START_SIZE)
    ):
        content.position += len(header)
        raise Damaged("wrong WARC length" if complete else "record shorter than its WARC length")
    start = content.position
    content.position += size
    return fields, content.data[start + len(header) : start + size]


def _header(content: Window) -> bytes:
    """Returns the header of the record at the position, with the empty line that ends it."""
    size = FIRST_HEADER if content.starts(RECORD) else 0
    while 0 < size <= LARGEST_HEADER:
        complete = content.have(size)
        start = content.position
        empty_line = HEADERS_END.search(content.data, start, start + size)
        end = empty_line.end() if empty_line else start + size
        if RECORD_START.search(content.data, start + len(RECORD), end):
            break
        if empty_line:
            return content.data[start:end]
        size = 4 * size if complete else 0
    content.position += 1
    raise Damaged("no WARC header")


def _seek_record(content: Window) -> None:
    """Moves to the next bytes that look like the beginning of a record, or to the end."""
    while content.have(1):
        match = RECORD_START.search(content.data, content.position)
        if match:
            content.position = match.start()
            return
        content.position = max(content.position, len(content.data) - START_SIZE)
        if not content.have(START_SIZE + 1):
            content.position = len(content.data)
