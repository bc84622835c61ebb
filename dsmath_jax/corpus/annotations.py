"""URL prefixes that a person annotated as mathematics or not (paper section 2.1), and their file.

The file is JSON lines, `{"prefix": "https://a.org/b/", "math": true, "note": ""}`, and may be edited by hand:
a change of one prefix leaves all other lines byte for byte. The longest prefix of a URL decides; of several lines with
the same prefix the last one does.
"""

import dataclasses
import errno
import hashlib
import io
import json
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dsmath_jax.corpus import urls
from dsmath_jax.workdir import UserError, atomic_write


@dataclasses.dataclass(frozen=True)
class Annotation:
    """An annotated URL prefix (canonical form): whether all pages below it are mathematics."""

    prefix: str
    math: bool


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the file: its bytes with the line end, and its annotation or an error message.

    An empty line has neither. `row` is the whole JSON object.
    """

    raw: bytes
    annotation: Annotation | None = None
    row: dict | None = None
    error: str = ""

    @property
    def note(self) -> str:
        """The note of the annotation, "" without one."""
        note = (self.row or {}).get("note")
        return note if isinstance(note, str) else ""

    @property
    def host(self) -> str:
        """The host of the prefix, "" without an annotation."""
        return urls.host(self.row["prefix"]) if self.row else ""


def read_annotations(path: Path) -> list[Annotation]:
    """Reads an annotation file.

    Raises:
      UserError: the file is missing or a line is invalid.
    """
    try:
        lines = parse_lines(path.read_bytes(), path)
    except OSError as error:
        raise _unreadable(path, error) from None
    for line in lines:
        if line.error:
            raise UserError(line.error)
    return [line.annotation for line in lines if line.annotation]


def parse_lines(content: bytes, path: Path) -> list[Line]:
    """Parses the lines of an annotation file; error messages name `path`."""
    return [_parse(raw, f"{path}, line {number}") for number, raw in enumerate(io.BytesIO(content), 1)]


def annotated_pages(canonical_urls: Sequence[str], annotations: Sequence[Annotation]) -> np.ndarray:
    """Returns bool [pages]: whether the longest annotated prefix of a page is mathematics."""
    names = np.array(canonical_urls)
    math = np.zeros(len(names), bool)
    for annotation in sorted(annotations, key=lambda annotation: len(annotation.prefix)):
        math[np.strings.startswith(names, annotation.prefix)] = annotation.math
    return math


def outermost(prefixes: Iterable[str]) -> list[str]:
    """Returns the canonical prefixes that are below no other one, sorted. They cover the same pages."""
    result: list[str] = []
    for prefix in sorted(prefixes):
        if not (result and prefix.startswith(result[-1])):
            result.append(prefix)
    return result


@dataclasses.dataclass(frozen=True)
class Change:
    """The lines of a prefix before a mark (with their indices in the file) and after it."""

    prefix: str
    host: str
    before: list[tuple[int, bytes]]
    after: list[bytes]


class Store:
    """Reads and writes the annotation file, which an editor may change at the same time.

    Every method reads the file again; `mark` returns once the mark is saved. No method writes while the file has an
    invalid line. Thread-safe.

    Attributes:
      path: absolute, links resolved (renaming a file onto a link would replace the link).
      version: a hash of the content that `lines` last read.
    """

    def __init__(self, path: Path):
        self.path = path.resolve()
        self.version = ""
        self._lock = threading.RLock()
        self._content: bytes | None = None
        self._lines: list[Line] = []
        self._changes: list[Change] = []

    def lines(self) -> list[Line]:
        """Returns the current lines of the file, none if it does not exist.

        Raises:
          UserError: the file exists but cannot be read.
        """
        with self._lock:
            try:
                content = self.path.read_bytes()
            except FileNotFoundError:
                content = b""
            except OSError as error:
                raise _unreadable(self.path, error) from None
            if content != self._content:
                self._content, self._lines = content, parse_lines(content, self.path)
                self.version = hashlib.sha256(content).hexdigest()
            return self._lines

    def errors(self) -> list[str]:
        """Returns the error message of each invalid line."""
        return [line.error for line in self.lines() if line.error]

    def marks(self) -> dict[str, Line]:
        """Returns the line that decides for each canonical prefix, in the order of the file."""
        return {line.annotation.prefix: line for line in self.lines() if line.annotation}

    def mark(self, prefix: str, math: bool | None, note: str | None = None) -> None:
        """Annotates a URL prefix (with scheme); math=None removes the annotation, note=None keeps the note.

        A prefix that has a line keeps its position, its spelling and its other fields.

        Raises:
          UserError: a line is invalid, or the file cannot be written.
        """
        with self._lock:
            lines = self._readable_lines()
            canonical = urls.canonical_prefix(prefix)
            before = _lines_of(canonical, lines)
            raws = [line.raw for line in lines]
            if math is None:
                raws = [raw for index, raw in enumerate(raws) if index not in dict(before)]
            elif before:
                index = before[-1][0]
                row = {**(lines[index].row or {}), "math": math}
                raws[index] = _encode(row if note is None else {**row, "note": note}, lines[index].raw)
            else:
                raws.append(_encode({"prefix": prefix, "math": math, "note": note or ""}, b"\n"))
            if raws != [line.raw for line in lines]:
                self._write(raws)
                after = [raw for _, raw in _lines_of(canonical, self.lines())]
                self._changes.append(Change(canonical, urls.host(prefix), before, after))

    def can_undo(self) -> bool:
        """Returns whether this store has a mark to undo."""
        return bool(self._changes)

    def undo(self) -> Change:
        """Reverts the last mark of this store and returns it.

        Raises:
          UserError: there is none, its line was edited meanwhile, or the file cannot be read or written.
        """
        with self._lock:
            if not self._changes:
                raise UserError("There is no mark of this session to undo; press m, n or u to make one.")
            lines = self._readable_lines()
            change = self._changes[-1]
            present = dict(_lines_of(change.prefix, lines))
            if [raw.strip() for raw in present.values()] != [raw.strip() for raw in change.after]:
                self._changes.pop()
                raise UserError(f"{change.prefix} was changed elsewhere since it was marked; mark it again instead.")
            raws = [line.raw for index, line in enumerate(lines) if index not in present]
            for index, raw in change.before:
                raws.insert(index, raw)
            self._write(raws)
            return self._changes.pop()

    def _readable_lines(self) -> list[Line]:
        errors = self.errors()
        if errors:
            raise UserError(f"Nothing was saved, so that no line is lost: {errors[0]}")
        return self._lines

    def _write(self, raws: list[bytes]) -> None:
        content = b"".join(raw if raw.endswith(b"\n") else raw + b"\n" for raw in raws)
        try:
            with atomic_write(self.path, "wb") as file:
                file.write(content)
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO)
            raise UserError(f"{self.path} cannot be written ({reason}); fix that and mark again.") from None
        self.lines()


def _parse(raw: bytes, where: str) -> Line:
    if not raw.strip():
        return Line(raw)
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        return Line(raw, error=f"{where}: not a JSON object; fix or remove that line.")
    prefix, math = row.get("prefix"), row.get("math")
    if not isinstance(prefix, str) or not urls.host(prefix) or not isinstance(math, bool):
        return Line(raw, error=f"{where}: an annotation needs a URL in 'prefix' and true or false in 'math'; fix it.")
    return Line(raw, Annotation(urls.canonical_prefix(prefix), math), row)


def _lines_of(prefix: str, lines: list[Line]) -> list[tuple[int, bytes]]:
    """Returns index and bytes of the lines of a canonical prefix."""
    return [(i, line.raw) for i, line in enumerate(lines) if line.annotation and line.annotation.prefix == prefix]


def _encode(row: dict, like: bytes) -> bytes:
    """Encodes a row as one line with the line end of the line `like`."""
    end = b"\r\n" if like.endswith(b"\r\n") else b"\n"
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + end  # lone surrogates


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read ({os.strerror(error.errno or errno.EIO)}); check the path.")
