"""Downloads files of public data sets, resumes interrupted downloads, and verifies checksums.

A file has the same path in the data folder whether it was downloaded or mirrored by the user. Its SHA-256 is compared
with that of its source; without one, the SHA-256 at first use is stored in `checksums.json` in the data folder and
compared from then on.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from dsmath_jax.data import web
from dsmath_jax.workdir import UserError, atomic_path, hash_file, json_object, write_json

CHECKSUMS = "checksums.json"
LISTINGS = {"datasets": ".datasets.json", "models": ".models.json"}  # of one folder, if both have one name
HUGGING_FACE = "https://huggingface.co"
MAX_LISTING_BYTES = 1 << 28
MAX_FILES_SHOWN = 8  # of a repository, in an error
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclasses.dataclass(frozen=True)
class File:
    """One file of a data set.

    Attributes:
      path: below the data set's folder.
      url: where it is downloaded from if it is missing; "" if it cannot be downloaded.
      sha256: hexadecimal, from its source; "" if unknown.
    """

    path: str
    url: str = ""
    sha256: str = ""


def fetch(file: File, folder: Path, data_dir: Path) -> Path:
    """Returns the path of a complete file, after downloading it if it is missing, and verifying its checksum.

    An interrupted download leaves `.NAME.part`, which the next one resumes. Processes that need the same file wait for
    the one that downloads it.

    Args:
      folder: of the data set.
      data_dir: the data folder, which has the folder and the checksums.

    Raises:
      UserError: it cannot be downloaded, or its checksum differs.
    """
    path = folder / file.path
    if not path.exists():
        if not file.url:
            raise UserError(f"{path} is missing and cannot be downloaded; put it there, or fix --config.data_dir.")
        _download(file, path)
    digest = hash_file(path)
    if file.sha256:
        known, advice = file.sha256, "as its source states; download the file again"
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
        # The last byte is requested again, so that the range of a complete part is valid.
        position = max(0, out.tell() - 1)
        out.truncate(position)
        with contextlib.closing(web.HttpStream(file.url, position, _token(file.url))) as stream:
            while piece := stream.read(web.READ_BYTES):
                out.write(piece)
        out.flush()
        os.fsync(out.fileno())
        if file.sha256 and (digest := hash_file(part)) != file.sha256:
            part.unlink()
            raise UserError(
                f"{file.url} gave a file of SHA-256 {digest[:16]}..., but {file.sha256[:16]}... is stated; "
                "it was removed, run again."
            )
        os.replace(part, path)


def recorded(name: str, digest: str, data_dir: Path) -> str:
    """Returns the recorded checksum of a file of the data folder, after recording `digest` if there is none."""
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
    """A public data set or model: files of a Hugging Face repository.

    Attributes:
      name: of the repository; "" where downloads need a login, so that only a mirror is read.
      files: pattern of the paths in it.
      license: as its publisher states it; the user must comply with it.
      kind: "datasets" or "models".
    """

    name: str
    files: str
    license: str
    kind: ClassVar[str] = "datasets"

    def matching(self, paths: Sequence[str]) -> list[str]:
        """Returns the paths of its files among those of the repository, sorted."""
        return sorted(fnmatch.filter(paths, self.files))

    def listing(self, folder: Path) -> Path:
        """Returns the stored list of the repository's files."""
        return folder / LISTINGS[self.kind]

    def find(self, folder: Path) -> tuple[File, ...]:
        """Returns the files, sorted: those of the stored list in `folder`, else those of a mirror there.

        A mirror has them under their paths in the repository, or all in the folder itself. Without either, only the
        list is downloaded.

        Raises:
          UserError: the list cannot be downloaded, no file in it matches, or a required mirror is missing.
        """
        if not self.listing(folder).exists() and (mirrored := self._mirrored(folder)):
            return tuple(map(File, mirrored))
        if not self.name:
            raise UserError(f"{folder} has no file {self.files}, and they need a login ({self.license}); mirror them.")
        listed = _listing(self.kind, self.name, self.listing(folder))
        paths = self.matching([*listed])
        if not paths:
            known = ", ".join([*listed][:MAX_FILES_SHOWN])
            raise UserError(
                f"{self.name} has no file {self.files} (its files are {known}); correct the name, or mirror it in "
                f"{folder}."
            )
        return tuple(File(path, listed[path]["url"], listed[path]["sha256"]) for path in paths)

    def local_files(self, folder: Path) -> tuple[File, ...]:
        """Returns the files; none if the list or one of the files is yet to be downloaded.

        Raises:
          UserError: a required mirror is missing.
        """
        needs_list = self.name and not self.listing(folder).exists() and not self._mirrored(folder)
        files = () if needs_list else self.find(folder)
        return files if all((folder / file.path).is_file() for file in files) else ()

    def _mirrored(self, folder: Path) -> list[str]:
        if is_downloaded(folder):
            return []
        paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        shown = [path for path in paths if not path.startswith(".") and "/." not in path]
        flat = f"*{self.files.rpartition('*')[2]}"
        return self.matching(shown) or [path for path in fnmatch.filter(shown, flat) if "/" not in path]


def is_downloaded(folder: Path) -> bool:
    """Whether the files in a folder are those of downloads, of a data set or of a model, instead of the user's."""
    return any((folder / name).exists() for name in LISTINGS.values())


def _listing(kind: str, repository: str, path: Path) -> dict[str, dict[str, str]]:
    """Returns the files of a Hugging Face repository, `{path: {"url", "sha256"}}`, stored in the file `path`.

    `repository` is OWNER/NAME or OWNER/NAME@REVISION. URLs are pinned to the commit of the revision at the time of the
    download of the list.
    """
    if path.exists():
        listed: dict[str, dict[str, str]] = json_object(path.read_bytes(), str(path), "that file")
        return listed
    root = _endpoint()
    name, _, revision = repository.partition("@")
    address = f"{root}/api/{kind}/{name}/revision/{urllib.parse.quote(revision or 'main', safe='%')}?blobs=true"
    with contextlib.closing(web.HttpStream(address, token=_token(address))) as stream:
        answer = json_object(stream.read(MAX_LISTING_BYTES), address, "what it answers")
    try:
        base = f"{root}/{'' if kind == 'models' else f'{kind}/'}{name}/resolve/{answer['sha']}"
        files = {
            file["rfilename"]: {
                "url": f"{base}/{urllib.parse.quote(file['rfilename'])}",
                "sha256": (file.get("lfs") or {}).get("sha256", ""),
            }
            for file in answer["siblings"]
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{address} gives no list of files ({error!r}); mirror {repository} instead.") from None
    write_json(path, files)
    return files


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", HUGGING_FACE).rstrip("/")


def _token(url: str) -> str | None:
    """Returns the user's token of the Hub (HF_TOKEN, or `hf auth login`) for a URL there; None for other hosts."""
    if not url.startswith(f"{_endpoint()}/"):
        return None
    from huggingface_hub import get_token  # its import takes a while

    return get_token()


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the top-level folder of a tar file as `folder`, which appears when it is complete.

    Raises:
      UserError: the archive is damaged.
    """

    def below(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        name = member.name.removeprefix("./").partition("/")[2]
        return tarfile.data_filter(member.replace(name=name), path) if name else None

    try:
        with atomic_path(folder) as temporary, tarfile.open(archive) as tar:
            temporary.mkdir()
            tar.extractall(temporary, filter=below)
    except tarfile.TarError as error:
        raise UserError(f"{archive} cannot be unpacked ({error}); download it again.") from None
