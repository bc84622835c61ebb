"""Files of public data sets: fetched from their official addresses, resumed after a cut, and checked.

A file lies in the data folder under its own path, whether it was fetched or somebody put it there (a mirror). Its
SHA-256 is compared with the one that its source states; where none is stated, what was found at the first use is
written to `checksums.json` in the data folder and holds from then on.
"""

import contextlib
import dataclasses
import errno
import fcntl
import fnmatch
import logging
import os
import tarfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from dsmath_jax.data import web
from dsmath_jax.workdir import UserError, atomic_path, hash_file, json_object, write_json

CHECKSUMS = "checksums.json"
LISTING = ".files.json"
HUGGING_FACE = "https://huggingface.co"
LARGEST_LISTING = 1 << 28  # bytes
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclasses.dataclass(frozen=True)
class File:
    """One file of a data set.

    Attributes:
      path: below the data set's folder.
      url: where it is fetched from where it is not there; "" where it cannot be fetched.
      sha256: hexadecimal, as its source states it; "" where it states none.
    """

    path: str
    url: str = ""
    sha256: str = ""


def fetch(file: File, folder: Path, data_dir: Path) -> Path:
    """The path of a file that is there and whole: fetched if it was not there, its checksum compared.

    A killed or cut fetch leaves `.NAME.part`, which the next one goes on with. Processes that want the same file wait
    for the one that fetches it.

    Args:
      folder: of the data set.
      data_dir: the data folder, which that is in and which has the checksums.

    Raises:
      UserError: it cannot be fetched, or its checksum differs.
    """
    path = folder / file.path
    if not path.exists():
        if not file.url:
            raise UserError(f"{path} is missing and cannot be downloaded; put it there, or fix --config.data_dir.")
        _download(file, path)
    digest = hash_file(path)
    if file.sha256:
        known, advice = file.sha256, "as its source states; fetch the file anew"
    else:
        known = recorded(path.relative_to(data_dir).as_posix(), digest, data_dir)
        advice = f"as at its first use; put the file back, or delete its line in {data_dir / CHECKSUMS}"
    if digest != known:
        raise UserError(f"{path} has the SHA-256 {digest[:16]}... and not {known[:16]}..., {advice}.")
    return path


def _download(file: File, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with open(part, "ab") as out:
        fcntl.flock(out, fcntl.LOCK_EX)
        if path.exists():  # another process was first
            return
        # Asking again for the last byte that is there, a part that is whole is no error of the range.
        position = max(0, out.tell() - 1)
        out.truncate(position)
        with contextlib.closing(web.HttpStream(file.url, position)) as stream:
            while piece := stream.read(web.STEP):
                out.write(piece)
        out.flush()
        os.fsync(out.fileno())
        if file.sha256 and (digest := hash_file(part)) != file.sha256:
            part.unlink()
            raise UserError(
                f"{file.url} gave a file of SHA-256 {digest[:16]}..., but {file.sha256[:16]}... is stated; "
                "it was dropped, run again."
            )
        os.replace(part, path)


def recorded(name: str, digest: str, data_dir: Path) -> str:
    """The checksum on record for a file of the data folder; `digest` is put on record where there is none."""
    known = _checksums(data_dir).get(name)
    if known:
        return known
    try:
        with _locked(data_dir / f".{CHECKSUMS}.lock"):
            table = _checksums(data_dir)
            known = table.setdefault(name, digest)
            write_json(data_dir / CHECKSUMS, dict(sorted(table.items())))
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        logging.getLogger(__name__).warning("%s cannot be written: its files go unchecked.", data_dir / CHECKSUMS)
        return digest
    return known


def _checksums(data_dir: Path) -> dict[str, str]:
    path = data_dir / CHECKSUMS
    return json_object(path.read_bytes(), str(path), "that file") if path.exists() else {}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclasses.dataclass(frozen=True)
class Repository:
    """A public data set: files of a repository of Hugging Face.

    Attributes:
      name: of the repository; "" where fetching takes a login, so that only a mirror is read.
      files: pattern of the paths in it.
      licence: what its publisher says of it; it is the user's to keep to.
    """

    name: str
    files: str
    licence: str

    def find(self, folder: Path) -> tuple[File, ...]:
        """The files, sorted: those of the list in `folder` once there is one, else those that are mirrored there.

        A mirror has them under their paths in the repository, or all in the folder itself. Where neither is there, the
        list is fetched, and nothing else.

        Raises:
          UserError: the list cannot be had, no file in it matches, or only a mirror would do and there is none.
        """
        if not (folder / LISTING).exists() and (mirrored := self._mirrored(folder)):
            return tuple(map(File, mirrored))
        if not self.name:
            raise UserError(f"{folder} has no file {self.files}, and they take a login ({self.licence}); mirror them.")
        listed = _listing(self.name, folder / LISTING)
        found = sorted(fnmatch.filter(listed, self.files))
        if not found:
            raise UserError(f"{self.name} has no file {self.files} any more; mirror the data set in {folder}.")
        return tuple(File(path, listed[path]["url"], listed[path]["sha256"]) for path in found)

    def at_hand(self, folder: Path) -> tuple[File, ...]:
        """Those of the files that can be read without fetching anything.

        Raises:
          UserError: only a mirror would do and there is none.
        """
        asks_network = self.name and not (folder / LISTING).exists() and not self._mirrored(folder)
        found = () if asks_network else self.find(folder)
        return tuple(file for file in found if (folder / file.path).is_file())

    def _mirrored(self, folder: Path) -> list[str]:
        paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        shown = [path for path in paths if not path.startswith(".") and "/." not in path]
        flat = f"*{self.files.rpartition('*')[2]}"
        return fnmatch.filter(shown, self.files) or [path for path in fnmatch.filter(shown, flat) if "/" not in path]


def _listing(repository: str, path: Path) -> dict[str, dict[str, str]]:
    """The files of a Hugging Face data set, `{path in the repository: {"url", "sha256"}}`, kept in the file `path`.

    Addresses name the commit that was the newest when the list was made, so that a list stays true.
    """
    if path.exists():
        listed: dict[str, dict[str, str]] = json_object(path.read_bytes(), str(path), "that file")
        return listed
    root = os.environ.get("HF_ENDPOINT", HUGGING_FACE).rstrip("/")
    address = f"{root}/api/datasets/{repository}/revision/main?blobs=true"
    with contextlib.closing(web.HttpStream(address)) as stream:
        answer = json_object(stream.read(LARGEST_LISTING), address, "what it answers")
    try:
        base = f"{root}/datasets/{repository}/resolve/{answer['sha']}"
        files = {
            one["rfilename"]: {
                "url": f"{base}/{urllib.parse.quote(one['rfilename'])}",
                "sha256": (one.get("lfs") or {}).get("sha256", ""),
            }
            for one in answer["siblings"]
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{address} gives no list of files ({error!r}); mirror {repository} instead.") from None
    write_json(path, files)
    return files


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks what a tar file has in its topmost folder as `folder`, which appears when it is whole.

    Raises:
      UserError: the archive is broken.
    """

    def below(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        name = member.name.removeprefix("./").partition("/")[2]
        return tarfile.data_filter(member.replace(name=name), path) if name else None

    try:
        with atomic_path(folder) as temporary, tarfile.open(archive) as tar:
            temporary.mkdir()
            tar.extractall(temporary, filter=below)
    except tarfile.TarError as error:
        raise UserError(f"{archive} cannot be unpacked ({error}); fetch it anew.") from None
