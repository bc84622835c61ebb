"""JAX's persistent compilation cache, from which a restarted run loads its programs."""

import hashlib
import logging
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

import jax
from jax._src.compilation_cache import decompress_executable  # no public function checks an entry
from jax.experimental.compilation_cache import compilation_cache

FOLDER = ".compilation_cache"
OFF = "off"
LIMIT = 10 << 30  # bytes of programs that a starting run keeps
FOLDERS, ENTRIES = "jaxlib-*", "*-cache"
CPUINFO = Path("/proc/cpuinfo")


def use_compilation_cache(setting: str, workdir: Path) -> None:
    """Enables JAX's compilation cache, in a folder for each version of jaxlib and processor type of the host.

    Must be called before anything is compiled. A folder that cannot be used only causes a warning.

    Args:
      setting: the folder; "" for one in the workdir on TPUs and GPUs and none on CPUs, "off" for none. The environment
        variable JAX_COMPILATION_CACHE_DIR takes precedence over "".
      workdir: the run's workdir, shared by all processes; only process 0 writes.
    """
    jax.config.update("jax_enable_compilation_cache", setting != OFF)
    if setting == OFF or (
        not setting and (jax.config.values["jax_compilation_cache_dir"] or jax.default_backend() == "cpu")
    ):
        return
    root = Path(setting) if setting else workdir / FOLDER
    folder = root / f"jaxlib-{version('jaxlib')}-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if jax.process_index() == 0:
            drop_half_written(folder)
            drop_oldest(root, LIMIT)
    except OSError as error:
        logging.warning(
            "The compilation cache %s cannot be used (%s); all programs are compiled.", folder, error.strerror
        )
        return
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(folder))


def drop_half_written(folder: Path) -> None:
    """Removes the newest entry if a kill truncated it; JAX would reject it at every start and never replace it."""
    newest = max(folder.glob(ENTRIES), key=lambda path: path.stat().st_mtime, default=None)
    if newest is not None:
        try:
            decompress_executable(newest.read_bytes())
        except Exception:  # of any compression library
            newest.unlink(missing_ok=True)


def drop_oldest(root: Path, limit: int) -> None:
    """Removes the least recently used programs, until the others have at most `limit` bytes.

    Other files in the folder, which may be the user's, are neither counted nor removed.
    """
    entries = [(path, path.stat()) for path in root.glob(f"{FOLDERS}/{ENTRIES}") if path.is_file()]
    for path, stat in sorted(entries, key=lambda entry: -max(entry[1].st_atime, entry[1].st_mtime)):
        limit -= stat.st_size
        if limit < 0:
            path.unlink(missing_ok=True)


def _processor() -> str:
    """Returns an identifier of the processor type, since CPU programs use its instruction set."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    known = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    return hashlib.sha256("\n".join([platform.machine(), *sorted(known)]).encode()).hexdigest()[:12]
