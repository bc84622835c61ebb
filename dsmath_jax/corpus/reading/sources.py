"""Where input comes from: files, folders, globs and lists of paths, on local disks, the web and object stores."""

import contextlib
import glob
import gzip
import importlib
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from dsmath_jax.data.web import READ_BYTES, HttpStream
from dsmath_jax.workdir import UserError

COMMON_CRAWL = "https://data.commoncrawl.org/"
SUFFIXES = (*(f".{kind}{packed}" for kind in ("warc", "wet") for packed in ("", ".gz", ".zst")), ".parquet")
WEB = ("http://", "https://")
LISTS = (".paths", ".paths.gz")
EXTRAS = {"s3": "s3", "gs": "gcp"}  # the optional dependencies that bring each protocol
AHEAD = 1 << 23  # bytes that an object store's file is read ahead


class Stream(Protocol):
    """What can be read forwards."""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, none at the end."""


def find(spec: str | Sequence[str], data_dir: Path, root: str = COMMON_CRAWL) -> list[str]:
    """The input files that one or several specifications stand for, in their order, each file once.

    A specification is a file, a folder (everything with a known suffix below it), a glob, or a list of paths such as
    Common Crawl's `warc.paths.gz`; a local path (relative ones lie below `data_dir`) or an address of https, s3, gs or
    another protocol that fsspec knows. What a folder or a glob matches is sorted, a list keeps its order.

    Args:
      root: what relative paths in lists lie below: an address, or a folder.

    Raises:
      UserError: a specification matches nothing, cannot be read, or names a file of an unknown kind.
    """
    specs = [spec] if isinstance(spec, str) else list(spec)
    found = [source for one in specs for source in _find(one, data_dir, root)]
    if not found:
        raise UserError("No input is given; set --config.corpus.input to a file, folder, glob, list or address.")
    return list(dict.fromkeys(found))


def _find(spec: str, data_dir: Path, root: str) -> list[str]:
    if _path(spec).endswith(LISTS):
        return _read_list(_below(data_dir, spec), _below(data_dir, root))
    if spec.startswith(WEB):
        if "*" in _path(spec):
            raise UserError(f"{spec}: the web cannot be searched by a pattern; name a file or a list of paths.")
        found = [spec]
    else:
        found = _find_remote(spec) if "://" in spec else _find_local(spec, data_dir)
    known = _known(found)
    where = _below(data_dir, spec)
    if not found:
        raise UserError(f"No input file matches {where}; fix --config.data_dir or --config.corpus.input.")
    if not known:
        raise UserError(f"{where} is no input file: its name must end in one of {', '.join((*SUFFIXES, *LISTS))}.")
    return known


def _below(data_dir: Path, spec: str) -> str:
    """An address as it is, a local path below `data_dir`."""
    return spec if "://" in spec else str(data_dir / spec)


def _path(source: str) -> str:
    """An address of the web without its query; others, and local paths, as they are."""
    return source.partition("?")[0] if source.startswith(WEB) else source


def _known(sources: list[str]) -> list[str]:
    return [source for source in sources if _path(source).endswith(SUFFIXES)]


def _find_local(spec: str, data_dir: Path) -> list[str]:
    path = data_dir / spec
    if path.is_dir():
        return sorted(str(below) for below in path.rglob("*") if below.is_file())
    if path.is_file():
        return [str(path)]
    matches = (data_dir / match for match in glob.glob(spec, root_dir=data_dir, recursive=True))
    return sorted(str(match) for match in matches if match.is_file())


def _find_remote(spec: str) -> list[str]:
    """The files that an address stands for in an object store; that of a single file is not looked up."""
    with _told(spec):
        system, path = importlib.import_module("fsspec.core").url_to_fs(spec)
        if glob.has_magic(path):
            return sorted(system.unstrip_protocol(name) for name in system.glob(path))
        if spec.endswith(SUFFIXES):
            return [spec]
        return sorted(system.unstrip_protocol(name) for name in system.find(path))


def _read_list(source: str, root: str) -> list[str]:
    """The addresses in a list of paths, one a line, relative ones below `root`; empty lines are skipped."""
    root = root if root.endswith("/") else f"{root}/"
    try:
        with open_stream(source) as stream:
            content = b"".join(iter(lambda: stream.read(READ_BYTES), b""))
        names = (gzip.decompress(content) if _path(source).endswith(".gz") else content).decode("utf-8", "replace")
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"The list {source} is no whole gzip file; fetch it again.") from None
    found = []
    for number, line in enumerate(names.splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        if not _known([name]):
            raise UserError(f"{source}, line {number}: '{name[:200]}' is no path of a WARC or WET file; fix the list.")
        found.append(name if "://" in name or name.startswith("/") else root + name)
    if not found:
        raise UserError(f"The list {source} is empty; write paths or addresses into it, one a line.")
    return found


@contextlib.contextmanager
def open_stream(source: str) -> Iterator[Stream]:
    """Opens a local path or an address for reading forwards; nothing but what is asked for is kept.

    Over https a connection that is cut or refused for a while is taken up again where it was.

    Raises:
      UserError: the source cannot be opened, here, or cannot be read on, from `read`.
    """
    if source.startswith(WEB):
        with contextlib.closing(HttpStream(source)) as stream:
            yield stream
    else:
        with _told(source):
            opened = _open(source)
        with contextlib.closing(opened):
            yield _Told(opened, source)


def _open(source: str) -> BinaryIO:
    if "://" not in source:
        return open(source, "rb", buffering=0)
    system, path = importlib.import_module("fsspec.core").url_to_fs(source)
    return system.open(path, "rb", block_size=AHEAD)


class _Told:
    """A stream whose errors are told to the user."""

    def __init__(self, opened: Stream, source: str) -> None:
        self._opened = opened
        self._source = source

    def read(self, size: int) -> bytes:
        with _told(self._source):
            return self._opened.read(size)


@contextlib.contextmanager
def _told(source: str) -> Iterator[None]:
    """Turns what goes wrong with a file or an object store into a `UserError`."""
    protocol = source.partition("://")[0] if "://" in source else ""
    try:
        yield
    except ImportError as error:
        extra = f"pip install 'dsmath-jax[{EXTRAS[protocol]}]'" if protocol in EXTRAS else str(error)
        raise UserError(f"{source} needs a package that is not installed: {extra}.") from None
    except Exception as error:  # the libraries behind fsspec raise errors of their own, without a common class
        if not protocol and not isinstance(error, OSError):
            raise
        what = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else f"{error!r}"
        advice = "check the address and your access to it" if protocol else "check the path and its permissions"
        raise UserError(f"{source} cannot be read ({what}); {advice}.") from error
