"""How every stage keeps its files: atomic writes, hashes, manifests and the lock of a run.

A stage lives in `workdir/<stage>/`. `started.json` is written before its first file, `manifest.json` after its last
one; both carry the stage's fingerprint: the part of the config that it reads and the hashes of the stages before it.
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

INTERRUPTED = 130  # exit code, as shells have it for Ctrl-C
STARTED = "started.json"
MANIFEST = "manifest.json"
FORMAT = 3  # of a workdir's files: raised by a change after which older ones cannot be read
# As JSON writes them, escaped (most are halves of a pair) or as bytes that UTF-8 does not have.
SURROGATE = re.compile(rb"\\u[dD][89abcdefABCDEF]|\xed[\xa0-\xbf]")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # a pair is one character when it has been read
LARGE = 64 << 20  # bytes; above, `stamp` does not read a file
# Also as `Path` leaves one: Path("gs://bucket/run") is the relative path gs:/bucket/run.
ADDRESS = re.compile(r"\w[\w+.-]*://|(?:gs|s3|az|abfs|hdfs|https?|file):/")


class UserError(Exception):
    """Something that the user can fix, in one sentence: what was wrong, where, and what to do."""

    code = 2  # of the process that ends with it
    everywhere = False  # whether all processes of a run raise it at the same point


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path` and renames it to `path` when the block ends without an error."""
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
    """Hands out a temporary path (of a file or folder that a library opens itself), renamed when the block ends."""
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
    """Deletes a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Deletes what killed processes left of their temporary files and folders, below `folder` and of itself."""
    for path in [*folder.parent.glob(f".{folder.name}.*.tmp"), *folder.rglob(".*.tmp")]:
        remove(path)


def write_json(path: str | Path, value: Any) -> None:
    with atomic_write(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.write("\n")


def read_json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_jsonl(path: str | Path, rows: Any) -> None:
    """Writes one JSON object a line, atomically."""
    with atomic_write(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: str | Path) -> Iterator[dict]:
    """Yields the objects of a JSONL file; a line that is none is a `UserError` with its number."""
    try:
        with open(path, "rb") as file:
            yield from (row for _, row in json_lines(path, file))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({os.strerror(error.errno or errno.EIO)}); check the path.") from None


def json_lines(path: str | Path, lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the objects of the lines of a file with the lines' numbers from 1; blank lines are left out.

    Half a character (a lone surrogate, which JSON can write and UTF-8 cannot) becomes U+FFFD; a warning counts them.

    Raises:
      UserError: a line is no object.
    """
    repaired = 0
    for number, line in enumerate(lines, 1):
        if line.strip():
            row = json_object(line, f"{path}, line {number}", "that line")
            whole = without_surrogates(row) if SURROGATE.search(line) else row
            repaired += whole != row
            yield number, whole
    if repaired:
        logging.warning("%s: lone surrogates in %d lines became U+FFFD.", path, repaired)


def without_surrogates(value: Any) -> Any:
    """A JSON value, in whose texts U+FFFD takes the place of lone surrogates."""
    if isinstance(value, dict):
        return {without_surrogates(name): without_surrogates(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_surrogates(item) for item in value]
    return LONE_SURROGATE.sub("\ufffd", value) if isinstance(value, str) else value


def json_object(data: bytes, where: str, which: str) -> dict[str, Any]:
    """Reads a JSON object; what is none is a `UserError` that says where it is and which thing to fix or remove."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{where}: not a JSON object; fix or remove {which}.")
    return value


def hash_file(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Path) -> str:
    """What stands for a file's content: its SHA-256; of a large one, its size and the time of its last change."""
    found = path.stat()
    return hash_file(path) if found.st_size <= LARGE else f"{found.st_size} bytes of {found.st_mtime_ns}"


def hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def full_disk(error: BaseException | None) -> str | None:
    """The system's words for a disk, quota or file size that is used up, if that is what `error` comes from.

    Libraries raise it again as errors of their own kinds, in which only the text is left.
    """
    while error is not None:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
                return os.strerror(number)
        error = error.__cause__ or error.__context__
    return None


def explain(error: BaseException) -> tuple[str, int] | None:
    """The sentence and the exit code for the user's errors, an interrupt and a full disk; None for a bug.

    Errors of the user's kind may state another code.
    """
    if isinstance(error, UserError):
        return str(error), error.code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; run the same command again, it resumes.", INTERRUPTED
    reason = full_disk(error)
    if reason is None:
        return None
    return (
        f"A file cannot be written ({reason}); free space and run the same command again, it resumes.",
        UserError.code,
    )


def exit_code(command: Callable[[], object]) -> int:
    """Runs a command; returns 0, or the code of an error that `explain` knows, with its sentence on stderr."""
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
    """Ends the process at once: the threads of libraries, cut off in their work, may hang or abort an orderly end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def lock(workdir: Path, option: str = "--workdir") -> Iterator[None]:
    """Holds the workdir for this process; the kernel lets go of it when the process ends, however it ends.

    Args:
      workdir: a folder, which is made where it is not there.
      option: by which the user names it.

    Raises:
      UserError: another run holds it, or nothing can be written there.
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
    """The path of a local or shared file or folder.

    Args:
      path: what the user gave; a model's "hf:DIR" too.
      name: of the field or the option that it was given for, for the error.

    Raises:
      UserError: it is an address; `Path` would make of it a folder here that is called `gs:`.
    """
    if ADDRESS.match(str(path).removeprefix("hf:")) or ADDRESS.match(str(path)):
        raise UserError(
            f"{f'{name} is ' if name else ''}{path}{',' if name else ' is'} an address, and object storage is not "
            "supported yet; give a local or shared path."
        )
    return Path(path)


def data_folder(data_dir: str, workdir: Path) -> Path:
    """The mirror folder that a recipe's `data_dir` names; "toy" is the generated one, below the corpus stage."""
    return workdir / "corpus" / "toy" if data_dir == "toy" else Path(data_dir)
