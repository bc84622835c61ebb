"""The files of a workdir: atomic writes, hashes, JSON, user errors and the lock of a run.

The files of a stage are in `workdir/<stage>/`. `started.json` is written before its first file and `manifest.json`
after its last one; both contain the stage's fingerprint (see `dsmath_jax.runner`).
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

INTERRUPTED = 130  # exit code, as in shells after Ctrl-C
STARTED = "started.json"
MANIFEST = "manifest.json"
FORMAT = 3  # of a workdir's files; increased by changes after which older files cannot be read
# As JSON writes them: escaped (mostly halves of a pair) or as bytes that are invalid in UTF-8.
SURROGATE = re.compile(rb"\\u[dD][89abcdefABCDEF]|\xed[\xa0-\xbf]")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # a pair has become one character
LARGE_FILE = 64 << 20  # bytes; `file_fingerprint` does not hash larger files
# Also after `Path`, which turns gs://bucket/run into the relative path gs:/bucket/run.
ADDRESS = re.compile(r"\w[\w+.-]*://|(?:gs|s3|az|abfs|hdfs|https?|file):/")


class UserError(Exception):
    """An error that the user can fix; its sentence says what is wrong, where, and what to do."""

    code = 2  # exit code of the process
    on_all_processes = False  # whether all processes of a run raise it at the same point


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file next to `path` and renames it to `path` if the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path for a library to write to; renames it to `path` if the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if path.is_dir():
            remove(path)
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def remove(path: Path) -> None:
    """Deletes a file or a folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Deletes the temporary files and folders that killed processes left, below `folder` and next to it."""
    for path in [*folder.parent.glob(f".{folder.name}.*.tmp"), *folder.rglob(".*.tmp")]:
        remove(path)


def write_json(path: str | Path, value: Any) -> None:
    """Writes a JSON file, atomically."""
    with atomic_write(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.write("\n")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_jsonl(path: str | Path, rows: Any) -> None:
    """Writes a JSON object per line, atomically."""
    with atomic_write(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: str | Path) -> Iterator[dict]:
    """Yields the objects of a JSONL file.

    Raises:
      UserError: the file cannot be read, or a line is not a JSON object.
    """
    try:
        with open(path, "rb") as file:
            yield from (row for _, row in json_lines(path, file))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({os.strerror(error.errno or errno.EIO)}); check the path.") from None


def json_lines(path: str | Path, lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the line number, from 1, and the object of each line of a JSONL file; skips blank lines.

    Lone surrogates, which JSON can encode and UTF-8 cannot, become U+FFFD; a warning says in how many lines.

    Raises:
      UserError: a line is not a JSON object.
    """
    repaired = 0
    for number, line in enumerate(lines, 1):
        if line.strip():
            row = json_object(line, f"{path}, line {number}", "that line")
            clean = without_surrogates(row) if SURROGATE.search(line) else row
            repaired += clean != row
            yield number, clean
    if repaired:
        logging.warning("%s: lone surrogates in %d lines became U+FFFD.", path, repaired)


def without_surrogates(value: Any) -> Any:
    """Replaces lone surrogates in the strings of a JSON value by U+FFFD."""
    if isinstance(value, dict):
        return {without_surrogates(name): without_surrogates(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_surrogates(item) for item in value]
    return LONE_SURROGATE.sub("\ufffd", value) if isinstance(value, str) else value


def json_object(data: bytes, where: str, which: str) -> dict[str, Any]:
    """Parses a JSON object.

    Raises:
      UserError: it is not a JSON object; the error says `where` it is and `which` thing to fix or remove.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{where}: not a JSON object; fix or remove {which}.")
    return value


def hash_file(path: str | Path) -> str:
    """Returns the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_fingerprint(path: Path) -> str:
    """Returns the SHA-256 of a file or, if it is large, its size and modification time."""
    stat = path.stat()
    return hash_file(path) if stat.st_size <= LARGE_FILE else f"{stat.st_size} bytes of {stat.st_mtime_ns}"


def hash_json(value: Any) -> str:
    """Returns the SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def full_disk(error: BaseException | None) -> str | None:
    """Returns the system's message if `error` was caused by a full disk, quota or file size limit, else None.

    Libraries raise it again as other exceptions, which only contain the message.
    """
    while error is not None:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
                return os.strerror(number)
        error = error.__cause__ or error.__context__
    return None


def explain(error: BaseException) -> tuple[str, int] | None:
    """Returns the sentence and the exit code of a `UserError`, an interrupt or a full disk; None for a bug."""
    if isinstance(error, UserError):
        return str(error), error.code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; run the same command again to resume.", INTERRUPTED
    reason = full_disk(error)
    if reason is None:
        return None
    return (
        f"A file cannot be written ({reason}); free space and run the same command again to resume.",
        UserError.code,
    )


def exit_code(command: Callable[[], object]) -> int:
    """Runs a command; returns 0, or prints the error that `explain` knows to stderr and returns its code."""
    try:
        command()
        return 0
    except (Exception, KeyboardInterrupt) as error:
        explained = explain(error)
        if explained is None:
            raise
    sentence, code = explained
    print(f"error: {sentence}", file=sys.stderr)
    return code


def exit_now(code: int) -> NoReturn:
    """Ends the process at once, since threads of libraries may hang or abort an orderly exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def lock(workdir: Path, option: str = "--workdir") -> Iterator[None]:
    """Locks the workdir for this process; the kernel releases the lock when the process ends, even by a kill.

    Args:
      workdir: the folder, created if it does not exist.
      option: the option that names it, for the error.

    Raises:
      UserError: another run has locked it, or it is not writable.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / ".lock").touch()
    except OSError as error:
        raise UserError(f"The folder {workdir} cannot be used ({error.strerror}); give another {option}.") from None
    with open(workdir / ".lock", "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "another run"
            raise UserError(
                f"The folder {workdir} is in use by {holder}; wait for it to end, or give another {option}."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def local_path(path: str | Path, name: str = "") -> Path:
    """Returns the path of a local or shared file or folder.

    Args:
      path: the user's path, or "hf:DIR" of a model.
      name: the field or the option that it is for, for the error.

    Raises:
      UserError: it is an address such as gs://bucket/run, which `Path` would turn into a folder called `gs:`.
    """
    if ADDRESS.match(str(path).removeprefix("hf:")) or ADDRESS.match(str(path)):
        raise UserError(
            f"{f'{name} is ' if name else ''}{path}{',' if name else ' is'} an address, and object storage is not "
            "supported yet; give a local or shared path."
        )
    return Path(path)


def folder_name(name: str) -> str:
    """Returns the name of the folder of a model or task: "hf_Qwen_Qwen2.5-0.5B" of "hf:Qwen/Qwen2.5-0.5B"."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._")


def data_folder(data_dir: str, workdir: Path) -> Path:
    """Returns the folder of a recipe's `data_dir`; for "toy", the one that the corpus stage generates."""
    return workdir / "corpus" / "toy" if data_dir == "toy" else Path(data_dir)
