"""Finds and opens input: files, folders, globs and lists of paths, on local disks, the web and object stores."""

import contextlib
import glob
import gzip
import importlib
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from dsmath_jax.data.web import READ_BYTES, HttpStream
from dsmath_jax.extras import required_by
from dsmath_jax.workdir import UserError

COMMON_CRAWL = "https://data.commoncrawl.org/"
SUFFIXES = (*(f".{kind}{packed}" for kind in ("warc", "wet") for packed in ("", ".gz", ".zst")), ".parquet")
WEB = ("http://", "https://")
LISTS = (".paths", ".paths.gz")
STORES = {"s3": "s3fs", "gs": "gcsfs"}  # protocol -> the optional package that fsspec needs for it
READAHEAD = 1 << 23  # bytes, for files in object stores


class Stream(Protocol):
    """A stream that is read forward."""

    def read(self, size: int) -> bytes:
        """Returns up to `size` bytes, none at the end."""


def find(spec: str | Sequence[str], data_dir: Path, root: str = COMMON_CRAWL) -> list[str]:
    """Returns the input files of one or several specifications, in their order, each file once.

    A specification is a file, a folder (all files below it with a known suffix), a glob, or a list of paths such as
    Common Crawl's `warc.paths.gz`: a local path or a URL of https, s3, gs or another protocol of fsspec. The files
    of a folder or a glob are sorted; a list keeps its order.

    Args:
      spec: the specification or specifications.
      data_dir: the folder that relative local paths are relative to.
      root: the URL or folder that relative paths in lists are relative to.

    Raises:
      UserError: a specification matches nothing, cannot be read, or names a file of an unknown kind.
    """
    specs = [spec] if isinstance(spec, str) else list(spec)
    files = [file for one in specs for file in _find(one, data_dir, root)]
    if not files:
        raise UserError("No input is given; set --config.corpus.input to a file, folder, glob, list or URL.")
    return list(dict.fromkeys(files))


def _find(spec: str, data_dir: Path, root: str) -> list[str]:
    if _path(spec).endswith(LISTS):
        return _read_list(_below(data_dir, spec), _below(data_dir, root))
    if spec.startswith(WEB):
        if "*" in _path(spec):
            raise UserError(f"{spec}: an https URL cannot have a pattern; give a file or a list of paths.")
        files = [spec]
    else:
        files = _find_remote(spec) if "://" in spec else _find_local(spec, data_dir)
    known = _known(files)
    where = _below(data_dir, spec)
    if not files:
        raise UserError(f"No input file matches {where}; fix --config.data_dir or --config.corpus.input.")
    if not known:
        raise UserError(f"{where} is not an input file: its name must end in one of {', '.join((*SUFFIXES, *LISTS))}.")
    return known


def _below(data_dir: Path, spec: str) -> str:
    """Joins a local path to `data_dir`; returns a URL unchanged."""
    return spec if "://" in spec else str(data_dir / spec)


def _path(source: str) -> str:
    """Removes the query from an https URL; returns anything else unchanged."""
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


def import_store(source: str) -> None:
    """Raises a `UserError` where the package that a URL needs is not installed; other sources need none."""
    package = STORES.get(source.partition("://")[0])
    if package:
        with required_by(source):
            importlib.import_module(package)


def _file_system(source: str) -> tuple[Any, str]:
    """Returns the fsspec file system of a URL, and the path in it."""
    import_store(source)
    return importlib.import_module("fsspec.core").url_to_fs(source)


def _find_remote(spec: str) -> list[str]:
    """Returns the files of a URL in an object store; does not check that a single file exists."""
    with _user_errors(spec):
        system, path = _file_system(spec)
        if glob.has_magic(path):
            return sorted(system.unstrip_protocol(name) for name in system.glob(path))
        if spec.endswith(SUFFIXES):
            return [spec]
        return sorted(system.unstrip_protocol(name) for name in system.find(path))


def _read_list(source: str, root: str) -> list[str]:
    """Reads a list of paths or URLs, one per line, relative ones below `root`; skips empty lines."""
    root = root if root.endswith("/") else f"{root}/"
    try:
        with open_stream(source) as stream:
            content = b"".join(iter(lambda: stream.read(READ_BYTES), b""))
        names = (gzip.decompress(content) if _path(source).endswith(".gz") else content).decode("utf-8", "replace")
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"The list {source} is not a complete gzip file; download it again.") from None
    files = []
    for number, line in enumerate(names.splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        if not _known([name]):
            raise UserError(
                f"{source}, line {number}: '{name[:200]}' is not a path of a WARC or WET file; fix the list."
            )
        files.append(name if "://" in name or name.startswith("/") else root + name)
    if not files:
        raise UserError(f"The list {source} is empty; write paths or URLs into it, one per line.")
    return files


@contextlib.contextmanager
def open_stream(source: str) -> Iterator[Stream]:
    """Opens a local path or a URL as a stream.

    Over https, a connection that is cut or refused is retried and resumes at the same byte.

    Raises:
      UserError: the source cannot be opened, or, from `read`, cannot be read further.
    """
    if source.startswith(WEB):
        with contextlib.closing(HttpStream(source)) as stream:
            yield stream
    else:
        with _user_errors(source):
            opened = _open(source)
        with contextlib.closing(opened):
            yield _CheckedStream(opened, source)


def _open(source: str) -> BinaryIO:
    if "://" not in source:
        return open(source, "rb", buffering=0)
    system, path = _file_system(source)
    return system.open(path, "rb", block_size=READAHEAD)


class _CheckedStream:
    """A stream that raises its errors as `UserError`."""

    def __init__(self, stream: Stream, source: str) -> None:
        self._stream = stream
        self._source = source

    def read(self, size: int) -> bytes:
        with _user_errors(self._source):
            return self._stream.read(size)


@contextlib.contextmanager
def _user_errors(source: str) -> Iterator[None]:
    """Converts the errors of a file or an object store to `UserError`."""
    protocol = source.partition("://")[0] if "://" in source else ""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the libraries behind fsspec have no common error class
        if not protocol and not isinstance(error, OSError):
            raise
        what = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else f"{error!r}"
        advice = "check the URL and your access to it" if protocol else "check the path and its permissions"
        raise UserError(f"{source} cannot be read ({what}); {advice}.") from error
