"""Your own data: records in files that a name in `data`, `tasks` or `examples` stands for.

    mine.jsonl, mine.csv.gz, mine/     a file or a folder below the data folder: JSONL, JSON, CSV, Parquet; .gz, .zst
    hf:OWNER/NAME/SPLIT                a split of a data set of the Hugging Face Hub (`hub`), or a name in `hub.PUBLIC`

All stages read them here, one record at a time. `columns` says which column of a file is which field of a record.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dsmath_jax.data import documents, hub
from dsmath_jax.data.dataset_formats import FIELDS, LISTS, BadField, Fields
from dsmath_jax.data.downloads import fetch
from dsmath_jax.workdir import UserError

T = TypeVar("T")
Columns = Mapping[str, str]  # column by field; "answer.0.text" is within lists and objects
NO_COLUMNS: Columns = {}
_LOCAL_ONLY = ContextVar("_LOCAL_ONLY", default=False)


class RecordFile(NamedTuple):
    """A file of records, and what their ids begin with: "mine" or, of several files, "folder/a.jsonl"."""

    path: Path
    id: str


def is_own(name: str) -> bool:
    """Whether a name is of this module's forms; a folder needs a slash at its end, which "gsm8k" lacks."""
    is_hub = name in hub.PUBLIC or name.startswith(hub.HUGGING_FACE)
    return is_hub or name.endswith("/") or documents.stem(name) != name


@contextlib.contextmanager
def local_only() -> Iterator[None]:
    """Makes `find` return what `find_local` does: a check neither downloads files nor computes their checksums."""
    token = _LOCAL_ONLY.set(True)
    try:
        yield
    finally:
        _LOCAL_ONLY.reset(token)


def find(name: str, data_dir: Path) -> list[RecordFile]:
    """Returns the files that a name stands for; those of the Hub are downloaded if they are missing.

    Raises:
      UserError: there is none, or it cannot be downloaded.
    """
    if _LOCAL_ONLY.get():
        return find_local(name, data_dir)
    if found := hub.data_set(name, data_dir):
        repository, folder = found
        paths = [fetch(file, folder, data_dir) for file in repository.find(folder)]
        return _named(name.removeprefix(hub.HUGGING_FACE), paths)
    return find_local(name, data_dir)


def find_local(name: str, data_dir: Path) -> list[RecordFile]:
    """Returns the files that a name stands for; none if one is yet to be downloaded. Raises as `find`."""
    if found := hub.data_set(name, data_dir):
        repository, folder = found
        paths = [folder / file.path for file in repository.local_files(folder)]
        return _named(name.removeprefix(hub.HUGGING_FACE), paths)
    return _named(documents.stem(name).rstrip("/"), user_files(name, data_dir))


def user_files(name: str, data_dir: Path) -> list[Path]:
    """Returns the user's files of a name; none of the Hub's.

    Raises:
      UserError: there is none.
    """
    path = data_dir / name
    if hub.data_set(name, data_dir):
        return []
    if not path.exists():
        raise UserError(f"There is no file or folder {path}; correct the name, or set data_dir.")
    files = [file for file in documents.files_below(path) if documents.file_format(file) in documents.RECORDS]
    if not files:
        raise UserError(f"{path} has no file of the formats {', '.join(documents.RECORDS)}; add one.")
    return files


def _named(base: str, paths: Sequence[Path]) -> list[RecordFile]:
    if len(paths) == 1:
        return [RecordFile(paths[0], base)]
    root = os.path.commonpath([path.parent for path in paths]) if paths else ""
    return [RecordFile(path, f"{base}/{path.relative_to(root).as_posix()}") for path in paths]


def load(name: str, data_dir: Path, columns: Columns, parse: Callable[[str, Fields], T]) -> Iterator[T]:
    """Yields what `parse` makes of the id and the fields of each record of a name; raises as `find` and `read`."""
    for file in find(name, data_dir):
        yield from read(file, columns, parse)


def read(file: RecordFile, columns: Columns, parse: Callable[[str, Fields], T]) -> Iterator[T]:
    """Yields what `parse` makes of the id and the fields of each record of a file.

    Raises:
      UserError: the file cannot be read or has no record, or `parse` raises `BadField`; the sentence names the file,
        the line or record, and the column.
    """
    place = ""
    for number, (place, fields) in enumerate(documents.records(file.path)):
        try:
            yield parse(f"{file.id}/{number}", renamed(fields, columns))
        except BadField as error:
            what = f"{file.path}, {place}: the field '{columns.get(error.field, error.field)}' {error.problem}"
            raise UserError(f"{what}; fix or remove it, or set columns.") from None
    if not place:
        raise UserError(f"The file {file.path} has no records.")


def renamed(fields: Fields, columns: Columns) -> Fields:
    """Returns the fields of a record: the named columns, and the columns that are not named, under their own names.

    Raises:
      BadField: a column is missing.
    """
    values = {field: _value(fields, field, column) for field, column in columns.items()}
    used = {*columns.values(), *({column.partition(".")[0] for column in columns.values()} & {*FIELDS})}
    values = {name: value for name, value in fields.items() if name not in used} | values
    return values | {name: _listed(values[name]) for name in LISTS if name in values}


def _value(fields: Fields, field: str, column: str) -> Any:
    if column in fields:
        return fields[column]
    value: Any = fields
    for part in column.split("."):
        try:
            value = value[int(part) if isinstance(value, list) else part]
        except (KeyError, IndexError, TypeError, ValueError):
            raise BadField(field, "is missing") from None
    return value


def _listed(value: Any) -> Any:
    """Parses a list that is written as JSON, as in a CSV file; returns other values as they are."""
    try:
        return json.loads(value) if isinstance(value, str) and value.startswith("[") else value
    except ValueError:
        return value
