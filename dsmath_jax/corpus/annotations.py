"""Which URL prefixes a person judged to hold mathematics (paper section 2.1), and the file that keeps it.

The file is JSON lines, `{"prefix": "https://a.org/b/", "math": true, "note": ""}`, meant to be edited by hand as well:
a line that is not about the prefix in question stays as it is, byte for byte. Where prefixes lie in each other the
longest one decides; of lines with the same prefix the last one.
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
    """A person's judgement of all pages below a URL prefix (canonical form)."""

    prefix: str
    math: bool


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the file: its bytes with the line end, and what it says or why it says nothing.

    An empty line has neither `annotation` nor `error`. `row` is the whole JSON object.
    """

    raw: bytes
    annotation: Annotation | None = None
    row: dict | None = None
    error: str = ""

    @property
    def note(self) -> str:
        note = (self.row or {}).get("note")
        return note if isinstance(note, str) else ""

    @property
    def host(self) -> str:
        return urls.host(self.row["prefix"]) if self.row else ""


def read_annotations(path: Path) -> list[Annotation]:
    """Reads JSON lines with the fields `prefix` and `math`.

    Raises:
      UserError: the file is missing or a line lacks a field.
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
    """The lines of an annotation file; `path` is for the sentences about those that cannot be read."""
    return [_parse(raw, f"{path}, line {number}") for number, raw in enumerate(io.BytesIO(content), 1)]


def annotated_pages(canonical_urls: Sequence[str], annotations: Sequence[Annotation]) -> np.ndarray:
    """bool [pages]: pages whose longest annotated prefix is judged to be mathematics."""
    names = np.array(canonical_urls)
    math = np.zeros(len(names), bool)
    for annotation in sorted(annotations, key=lambda annotation: len(annotation.prefix)):
        math[np.strings.startswith(names, annotation.prefix)] = annotation.math
    return math


def outermost(prefixes: Iterable[str]) -> list[str]:
    """Those canonical prefixes that lie below no other one, sorted: together they cover the same pages."""
    kept: list[str] = []
    for prefix in sorted(prefixes):
        if not (kept and prefix.startswith(kept[-1])):
            kept.append(prefix)
    return kept


@dataclasses.dataclass(frozen=True)
class Change:
    """What one mark did to the lines of a prefix: `before` with their places in the file, `after` without."""

    prefix: str
    host: str
    before: list[tuple[int, bytes]]
    after: list[bytes]


class Store:
    """The annotation file under a person's hands and an editor's at the same time.

    Every method looks at the file anew; every mark is saved before `mark` returns. No method writes while the file
    holds a line that cannot be read. Safe to call from several threads.

    Attributes:
      path: absolute, links resolved (a rename onto a link would cut it).
      version: stands for the content as `lines` last found it.
    """

    def __init__(self, path: Path):
        self.path = path.resolve()
        self.version = ""
        self._lock = threading.RLock()
        self._content: bytes | None = None
        self._lines: list[Line] = []
        self._changes: list[Change] = []

    def lines(self) -> list[Line]:
        """What the file holds now, nothing where there is none.

        Raises:
          UserError: the file is there but cannot be read.
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
        """One sentence for each line that cannot be read."""
        return [line.error for line in self.lines() if line.error]

    def marks(self) -> dict[str, Line]:
        """The line that decides, by canonical prefix, in the order of the file."""
        return {line.annotation.prefix: line for line in self.lines() if line.annotation}

    def mark(self, prefix: str, math: bool | None, note: str | None = None) -> None:
        """Judges a URL prefix (with scheme), or with None takes the judgement back; None leaves the note as it is.

        A prefix that has a line keeps its place, its spelling and its other fields.

        Raises:
          UserError: a line cannot be read, or the file not be written.
        """
        with self._lock:
            lines = self._readable_lines()
            canonical = urls.canonical_prefix(prefix)
            before = _places(lines, canonical)
            raws = [line.raw for line in lines]
            if math is None:
                raws = [raw for place, raw in enumerate(raws) if place not in dict(before)]
            elif before:
                place = before[-1][0]
                row = {**(lines[place].row or {}), "math": math}
                raws[place] = _encode(row if note is None else {**row, "note": note}, lines[place].raw)
            else:
                raws.append(_encode({"prefix": prefix, "math": math, "note": note or ""}, b"\n"))
            if raws != [line.raw for line in lines]:
                self._write(raws)
                after = [raw for _, raw in _places(self.lines(), canonical)]
                self._changes.append(Change(canonical, urls.host(prefix), before, after))

    def can_undo(self) -> bool:
        return bool(self._changes)

    def undo(self) -> Change:
        """Takes the last mark of this store back; returns it.

        Raises:
          UserError: there is none, its line was changed by another hand, or the file cannot be read or written.
        """
        with self._lock:
            if not self._changes:
                raise UserError("There is no mark of this session to undo; press m, n or u to make one.")
            lines = self._readable_lines()
            change = self._changes[-1]
            present = dict(_places(lines, change.prefix))
            if [raw.strip() for raw in present.values()] != [raw.strip() for raw in change.after]:
                self._changes.pop()
                raise UserError(f"{change.prefix} was changed elsewhere since it was marked; mark it anew instead.")
            raws = [line.raw for place, line in enumerate(lines) if place not in present]
            for place, raw in change.before:
                raws.insert(place, raw)
            self._write(raws)
            return self._changes.pop()

    def _readable_lines(self) -> list[Line]:
        errors = self.errors()
        if errors:
            raise UserError(f"Nothing was saved, so that no line is lost: {errors[0]}")
        return self._lines

    def _write(self, raws: list[bytes]) -> None:
        ended = [raw if raw.endswith(b"\n") else raw + b"\n" for raw in raws]
        try:
            with atomic_write(self.path, "wb") as file:
                file.write(b"".join(ended))
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
        return Line(raw, error=f"{where}: an annotation wants a URL in 'prefix' and true or false in 'math'; fix it.")
    return Line(raw, Annotation(urls.canonical_prefix(prefix), math), row)


def _places(lines: list[Line], canonical: str) -> list[tuple[int, bytes]]:
    return [
        (place, line.raw) for place, line in enumerate(lines) if line.annotation and line.annotation.prefix == canonical
    ]


def _encode(row: dict, like: bytes) -> bytes:
    """A row as one line that ends as the line `like` does."""
    end = b"\r\n" if like.endswith(b"\r\n") else b"\n"
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + end  # half a surrogate pair


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read ({os.strerror(error.errno or errno.EIO)}); check the path.")
